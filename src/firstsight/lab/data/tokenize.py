"""From a line of text to its tokens."""

import re
from collections.abc import Iterable, Iterator

from firstsight.errors import InputError
from firstsight.lab.data.punkt import sentences

TOKENIZERS = ("words", "words-lower", "whitespace", "whitespace-lower", "nltk-lower")
"""Every tokenizer. ``-lower`` is part of the name, so that a vocabulary says all that is needed to tokenise like it."""

# U+0300-U+036F are the combining accents: without them a decomposed "é" would end its word.
_LETTERS = r"\w[\w\u0300-\u036f]*"
_WORD = re.compile(rf"{_LETTERS}(?:['’-]{_LETTERS})*|[^\w\s]")


def tokenize(line: str, tokenizer: str) -> list[str]:
    """Cut one line into tokens; no ``<eos>`` is added.

    ``whitespace``
        what stands between blanks, as in corpora which were tokenised before (WikiText).
    ``words``
        runs of letters, digits and underscores, with single apostrophes and hyphens inside them kept
        ("don't", "well-known"), and every other sign that is not a blank by itself. Scripts that write
        vowels as signs of their own (Devanagari, Thai) come apart: tokenise these beforehand and use
        ``whitespace``.
    ``nltk-lower``
        NLTK's words, as the paper's script cuts them (section A.3.2), then put in lower case. The script finds
        sentences first, across lines: see ``tokenize_lines``.

    With ``-lower`` behind either of the first two the line is put in lower case first. The rules are our decision: the
    paper's corpora come tokenised, or go through its own script.
    """
    if tokenizer not in TOKENIZERS:
        raise InputError(f"The tokenizer is {tokenizer!r}; expected one of {', '.join(TOKENIZERS)}.")
    if tokenizer == "nltk-lower":
        return [word.lower() for sentence in sentences(line) for word in sentence]
    if tokenizer.endswith("-lower"):
        line = line.lower()
    return _WORD.findall(line) if tokenizer.startswith("words") else line.split()


def tokenize_lines(lines: Iterable[str], tokenizer: str) -> Iterator[list[str]]:
    """The tokens of each line of a text; with ``nltk-lower``, which joins all lines first, those of each sentence."""
    if tokenizer == "nltk-lower":
        yield from ([word.lower() for word in sentence] for sentence in sentences(" ".join(lines)))
    else:
        yield from (tokenize(line, tokenizer) for line in lines)
