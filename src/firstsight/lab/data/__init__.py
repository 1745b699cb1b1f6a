"""Corpora: vocabularies, token files, and one module for each place that text comes from."""

from firstsight.lab.data.corpus import Corpus, open_corpus, summary, write_corpus
from firstsight.lab.data.tokenize import tokenize
from firstsight.lab.data.tokens import open_tokens, write_tokens
from firstsight.lab.data.vocabulary import EOS, UNK, Vocabulary

__all__ = [
    "EOS",
    "UNK",
    "Corpus",
    "Vocabulary",
    "open_corpus",
    "open_tokens",
    "summary",
    "tokenize",
    "write_corpus",
    "write_tokens",
]
