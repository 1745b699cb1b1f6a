"""A passage of text that was read with memories: as a section of a report, and on a page of its own to look inside."""

from firstsight.lab.report.passage.section import draw_passage, passage_style

__all__ = ["draw_passage", "passage_style"]
