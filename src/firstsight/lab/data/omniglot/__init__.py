"""Omniglot: the two archives checked and read, and their drawings as one array of small images."""

from firstsight.lab.data.omniglot.drawings import (
    TEST_DRAWINGS,
    Omniglot,
    holds_omniglot,
    open_omniglot,
    prepare,
    summary,
)

__all__ = ["TEST_DRAWINGS", "Omniglot", "holds_omniglot", "open_omniglot", "prepare", "summary"]
