"""The report of a search for settings."""

from firstsight.lab.report.sweep.page import write_sweep_report

__all__ = ["write_sweep_report"]
