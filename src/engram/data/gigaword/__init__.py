"""English GigaWord v5, as in section A.4 of the paper."""

from engram.data.gigaword.corpus import prepare
from engram.data.gigaword.document import Document, Tally
from engram.data.gigaword.reader import read_documents

__all__ = ["Document", "Tally", "prepare", "read_documents"]
