"""Project Gutenberg, as in section A.3 of the paper."""

from firstsight.lab.data.gutenberg.books import prepare
from firstsight.lab.data.gutenberg.script import process_text

__all__ = ["prepare", "process_text"]
