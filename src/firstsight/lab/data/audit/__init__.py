"""Evaluation text that also stands in training text: found, measured, and left out."""

from firstsight.lab.data.audit.audit import audit_corpus
from firstsight.lab.data.audit.cleaning import MAX_SHARE, clean_corpus

__all__ = ["MAX_SHARE", "audit_corpus", "clean_corpus"]
