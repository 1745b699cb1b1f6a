"""Project Gutenberg, as in section A.3 of the paper."""

from engram.data.gutenberg.corpus import prepare
from engram.data.gutenberg.script import process_text

__all__ = ["prepare", "process_text"]
