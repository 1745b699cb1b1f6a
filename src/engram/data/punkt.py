"""Sentences and words by NLTK, as the paper's script cuts them (section A.3.2)."""

import hashlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from engram.errors import InputError
from engram.progress import say

_MODEL = "tokenizers/punkt_tab/english/"
_ENDS = (".", "?", "!")


def sentences(text: str) -> Iterator[list[str]]:
    """The words of each sentence: ``nltk.word_tokenize(s) for s in nltk.sent_tokenize(text)``.

    ``word_tokenize`` looks for sentences inside the sentence once more. Punkt can only find one at a sign of
    ``. ? !`` that something follows, so where there is none, the words are cut at once.
    """
    import nltk
    from nltk.tokenize import NLTKWordTokenizer

    find_model()
    words = NLTKWordTokenizer()
    for sentence in nltk.sent_tokenize(text):
        inner = sentence[:-1]
        if any(end in inner for end in _ENDS):
            yield nltk.word_tokenize(sentence)
        else:
            yield words.tokenize(sentence.rstrip())


@cache
def find_model() -> Path:
    """The folder of NLTK's English sentence model, downloaded where it is missing.

    Raises:
        InputError: it is on no path that NLTK searches (``NLTK_DATA`` is one), and cannot be downloaded.
    """
    import nltk

    try:
        return Path(nltk.data.find(_MODEL))
    except LookupError:
        say("NLTK's sentence model (punkt_tab) is not on this machine: downloading it, 4 MB")
    try:
        nltk.download("punkt_tab", quiet=True)  # returns False, or raises, where there is no network
        return Path(nltk.data.find(_MODEL))
    except (LookupError, OSError, ValueError) as error:
        raise InputError(
            "NLTK's sentence model punkt_tab is neither on a path that NLTK searches nor to be downloaded. With a "
            "network, run: python -m nltk.downloader punkt_tab. Without one, copy the folder tokenizers/punkt_tab of "
            "another machine's nltk_data, and set NLTK_DATA to the nltk_data folder above it."
        ) from error


def versions() -> dict[str, Any]:
    """What decides the cut: NLTK's version, and the SHA-256 of the model's files in the order of their names."""
    import nltk

    digest = hashlib.sha256()
    for path in sorted(path for path in find_model().iterdir() if path.is_file()):
        digest.update(path.read_bytes())
    return {"nltk": nltk.__version__, "punkt_tab": digest.hexdigest()}
