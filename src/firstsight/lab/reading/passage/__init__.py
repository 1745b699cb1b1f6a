"""A passage of a text: what model and memories made of each token, and which rows came last or moved most."""

from firstsight.lab.reading.passage.written import write_passage

__all__ = ["write_passage"]
