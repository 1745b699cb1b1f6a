"""English GigaWord v5, as in section A.4 of the paper."""

from firstsight.lab.data.gigaword.articles import prepare
from firstsight.lab.data.gigaword.document import Document, Tally
from firstsight.lab.data.gigaword.reader import read_documents

__all__ = ["Document", "Tally", "prepare", "read_documents"]
