"""Corpora: vocabularies, token files, and one module for each place that text comes from."""

from engram.data.corpus import Corpus, open_corpus, summary, write_corpus
from engram.data.tokenize import tokenize
from engram.data.tokens import open_tokens, write_tokens
from engram.data.vocabulary import EOS, UNK, Vocabulary

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
