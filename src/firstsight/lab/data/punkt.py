"""Sentences and words by NLTK, as the paper's script cuts them (section A.3.2), in less time.

The script calls ``nltk.word_tokenize(s)`` for each ``s`` of ``nltk.sent_tokenize(text)``. What comes out here is the
same; the tests hold it against NLTK on any text. What is saved:

* ``word_tokenize`` looks for sentences inside the sentence once more. Punkt can only find one at a sign of ``. ? !``
  that something follows, so it is asked only where there is one.
* NLTK's words come from some thirty regular expressions, run over each sentence. All of them look no further than the
  blanks around a chunk of text between blanks, but for those at the sentence's end and those that meet quotation marks
  standing alone. So a chunk is cut once, by NLTK, and remembered; sentences with such quotation marks go to NLTK whole.
"""

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

from firstsight.errors import InputError
from firstsight.lab.system.progress import say

_MODEL = "tokenizers/punkt_tab/english/"
_ENDS = re.compile(r"[.?!][^\w,.\-]")  # where a sentence may end inside a text, and many places more
_QUOTES = frozenset("'\"`“”‘’„«»")
_BORDER = "\ue000"  # a private character, which no regular expression of NLTK's names
_REMEMBERED = 200_000  # chunks, of 300 bytes or so each
_BATCH = 4096  # chunks cut by one call


def sentences(text: str) -> Iterator[list[str]]:
    """The words of each sentence: ``nltk.word_tokenize(s) for s in nltk.sent_tokenize(text)``."""
    import nltk

    find_model()
    _lift_time_limit()
    found = [nltk.sent_tokenize(s) if _ENDS.search(s) else [s.rstrip()] for s in nltk.sent_tokenize(text)]
    words = _words()
    words.learn(chunk for parts in found for part in parts for chunk in part.split(" ")[:-1])
    for parts in found:
        yield [word for part in parts for word in words.cut(part)]


@cache
def _lift_time_limit() -> None:
    """NLTK 3.10 stops a regular expression after five seconds, as an attack: a dense text of 4 MB takes as long."""
    try:
        from nltk import redos
    except ImportError:  # before 3.10
        return
    redos.DEFAULT_TIMEOUT = None


@cache
def _words() -> "_Words":
    return _Words()


class _Words:
    """``NLTKWordTokenizer`` with a memory for chunks of text between blanks."""

    def __init__(self) -> None:
        from nltk.tokenize import NLTKWordTokenizer

        self.tokenize: Callable[[str], list[str]] = NLTKWordTokenizer().tokenize
        self.known: dict[str, list[str] | None] = {}  # None: does not stand by itself
        self.last: dict[str, list[str] | None] = {}

    def learn(self, chunks: Iterable[str]) -> None:
        """Cut the chunks that are not known yet, many in one call."""
        for known in (self.known, self.last):
            if len(known) > _REMEMBERED:
                known.clear()
        new = iter(dict.fromkeys(chunk for chunk in chunks if chunk not in self.known))
        while batch := list(islice(new, _BATCH)):
            alone = [chunk for chunk in batch if _stands_alone(chunk)]
            self.known.update(dict.fromkeys(batch))
            cut = self.tokenize(f"{_BORDER} " + f" {_BORDER} ".join(alone) + f" {_BORDER}")
            borders = [i for i, word in enumerate(cut) if word == _BORDER]
            if len(borders) == len(alone) + 1:
                spans = pairwise(borders)
                self.known.update((chunk, cut[a + 1 : b]) for chunk, (a, b) in zip(alone, spans, strict=True))

    def cut(self, sentence: str) -> list[str]:
        """The words of a sentence whose chunks, but for the last, have been learnt."""
        *chunks, end = sentence.split(" ")
        if not chunks or not chunks[0] or _QUOTES.issuperset(chunks[0][:2]):  # NLTK has a rule for the first quote
            return self.tokenize(sentence)
        found: list[str] = []
        for chunk in chunks:
            cut = self.known.get(chunk)  # another text in between may have cleared the memory
            if cut is None:
                return self.tokenize(sentence)
            found += cut
        if end not in self.last:
            self.last[end] = self._cut_last(end)
        cut = self.last[end]
        return self.tokenize(sentence) if cut is None else found + cut

    def _cut_last(self, chunk: str) -> list[str] | None:
        """Without a letter or digit it might close what the chunk before it opens, as in ``go. "``."""
        if not _stands_alone(chunk) or not any(map(str.isalnum, chunk)):
            return None
        border, *words = self.tokenize(f"{_BORDER} {chunk}")
        return words if border == _BORDER else None


def _stands_alone(chunk: str) -> bool:
    """Whether what NLTK makes of a chunk depends on nothing beyond the blanks around it."""
    if not chunk:
        return True
    plain = len(chunk.split()) == 1 and chunk.split()[0] == chunk and _BORDER not in chunk
    return plain and (any(map(str.isalnum, chunk)) or not _QUOTES.intersection(chunk))


@cache
def find_model() -> Path:
    """The folder of NLTK's English sentence model, downloaded where no path that NLTK searches has it."""
    import nltk

    try:
        return _folder(nltk.data.find(_MODEL))
    except LookupError:
        say("NLTK's sentence model (punkt_tab) is not on this machine: downloading it, 4 MB")
    try:
        nltk.download("punkt_tab", quiet=True)  # returns False, or raises, where there is no network
        return _folder(nltk.data.find(_MODEL))
    except (LookupError, OSError) as error:
        raise InputError(
            "NLTK's sentence model punkt_tab is neither on a path that NLTK searches nor to be downloaded. With a "
            "network, run: python -m nltk.downloader punkt_tab. Without one, copy the folder tokenizers/punkt_tab of "
            "another machine's nltk_data, and set NLTK_DATA to the nltk_data folder above it."
        ) from error


def _folder(found: Any) -> Path:
    if not isinstance(found, str):  # a place inside of a zip file
        raise InputError(
            f"NLTK's sentence model is there as a zip file only ({found}). Unzip punkt_tab.zip beside itself."
        )
    return Path(found)


def versions() -> dict[str, Any]:
    """What decides the cut: NLTK's version, and the SHA-256 of the model's files in the order of their names."""
    import nltk

    digest = hashlib.sha256()
    for path in sorted(path for path in find_model().iterdir() if path.is_file()):
        digest.update(path.read_bytes())
    return {"nltk": nltk.__version__, "punkt_tab": digest.hexdigest()}
