"""The vocabulary of a corpus: which token has which id, and how often training saw it.

Legend: V is the size of the vocabulary, N a number of tokens.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from firstsight.errors import InputError
from firstsight.lab.system.files import naming, read_json, write_json
from firstsight.lab.system.shape import TEXT, Kind, check_shape, shown

UNK, EOS = "<unk>", "<eos>"
_SHAPE = {  # looked at as a whole: there may be a million
    "tokenizer": TEXT,
    "tokens": Kind(lambda value: isinstance(value, list) and set(map(type, value)) <= {str}, "a list of text"),
    "counts": Kind(
        lambda value: isinstance(value, list) and set(map(type, value)) <= {int} and all(0 <= n < 2**63 for n in value),
        "a list of whole numbers",
    ),
}
_FORMAT, _VERSION = "firstsight vocabulary", 1


class Vocabulary:
    """Tokens by id: ``<unk>`` is 0, ``<eos>`` is 1, the others follow as built: by falling count, ties by their text.

    In a cleaned corpus the order is that of the corpus before, and a count may be zero.

    Attributes:
        tokens: the V tokens, in the order of their ids.
        counts: int64 [V], occurrences in the *training* split.
        tokenizer: how text became these tokens, a name that ``firstsight.lab.data.tokenize`` knows.
    """

    unk_id, eos_id = 0, 1

    def __init__(self, tokens: list[str], counts: npt.ArrayLike, tokenizer: str) -> None:
        self.tokens = list(tokens)
        self.counts: npt.NDArray[np.int64] = np.asarray(counts, dtype=np.int64)
        self.tokenizer = tokenizer
        self._ids = {token: index for index, token in enumerate(self.tokens)}
        if self.tokens[:2] != [UNK, EOS]:
            raise InputError(f"A vocabulary begins with {UNK} and {EOS}; this one begins with {self.tokens[:2]}.")
        if len(self._ids) != len(self.tokens):
            raise InputError(f"A vocabulary of {len(self.tokens)} tokens holds only {len(self._ids)} different ones.")
        if self.counts.shape != (len(self.tokens),):
            raise InputError(f"{len(self.tokens)} tokens need as many counts; given were {self.counts.shape}.")

    @classmethod
    def build(
        cls, counter: Mapping[str, int], *, tokenizer: str, min_count: int = 1, max_size: int | None = None
    ) -> "Vocabulary":
        """The vocabulary of a training split.

        Args:
            counter: occurrences of each type in training, ``<eos>`` (and ``<unk>``, where the text has it) included.
            tokenizer: the name of the tokenizer that made the types.
            min_count: a type with fewer occurrences becomes ``<unk>``.
            max_size: the most tokens, ``<unk>`` and ``<eos>`` included; the rarest fall out. ``None``: no limit.

        The count of ``<unk>`` is what it swallowed plus its own occurrences, so the counts always add up to the
        tokens of training.

        Raises:
            InputError: ``min_count`` is below 1 or ``max_size`` below 3.
        """
        if min_count < 1:
            raise InputError(f"The smallest count of a word is {min_count}; expected 1 (keep every word) or more.")
        if max_size is not None and max_size < 3:
            raise InputError(f"The largest vocabulary is {max_size}; expected 3 or more: {UNK}, {EOS} and a word.")
        known = [(-n, token) for token, n in counter.items() if n >= min_count and token not in (UNK, EOS)]
        known.sort()
        if max_size is not None:
            del known[max_size - 2 :]
        counts = [-n for n, _ in known]
        eos = counter.get(EOS, 0)
        unk = sum(counter.values()) - eos - sum(counts)
        return cls([UNK, EOS] + [token for _, token in known], [unk, eos, *counts], tokenizer)

    def __len__(self) -> int:
        return len(self.tokens)

    def encode(self, tokens: Iterable[str]) -> npt.NDArray[np.uint32]:
        """The ids of N tokens, uint32 [N]; a token that is not in the vocabulary is ``<unk>``."""
        ids = self._ids
        return np.fromiter((ids.get(token, 0) for token in tokens), dtype=np.uint32)

    def decode(self, ids: Iterable[int]) -> list[str]:
        """The tokens of ids; what was unknown comes back as ``<unk>``.

        Raises:
            InputError: an id below 0 or past the vocabulary.
        """
        ids = list(ids)
        if bad := [index for index in ids if not 0 <= index < len(self)]:
            raise InputError(f"The id {bad[0]} is outside a vocabulary of {len(self):,} tokens. Is it another one's?")
        return [self.tokens[index] for index in ids]

    @cached_property
    def hash(self) -> str:
        """SHA-256, in hex, of the tokenizer's name and the tokens in order: equal where the same ids mean the same."""
        return _digest([self.tokenizer, *self.tokens])

    def save(self, path: str | Path) -> None:
        """Write the vocabulary as JSON, atomically."""
        body = {"tokenizer": self.tokenizer, "tokens": self.tokens, "counts": self.counts.tolist()}
        head = {"format": _FORMAT, "version": _VERSION, "hash": self.hash, "sha256": _digest(body)}
        write_json(path, {**head, **body})

    @classmethod
    def load(cls, path: str | Path) -> "Vocabulary":
        """Read what ``save`` wrote.

        Raises:
            InputError: the file is missing, is not a vocabulary, is of another version, or was altered.
        """
        values = read_json(path, "the vocabulary of a corpus", mend="Prepare the data again.")
        if not isinstance(values, dict) or values.get("format") != _FORMAT:
            raise InputError(f"{path}: this is not a vocabulary. Expected the vocabulary.json of a data or run folder.")
        if values.get("version") != _VERSION:
            raise InputError(
                f"{path}: this vocabulary has version {shown(values.get('version'))} and this firstsight reads version "
                f"{_VERSION}. Prepare the data again with this firstsight, or use the firstsight that wrote it."
            )
        body = {name: values.get(name) for name in ("tokenizer", "tokens", "counts")}
        if _digest(body) != values.get("sha256"):
            raise InputError(
                f"{path}: this vocabulary was damaged or edited: its content does not fit the checksum it was written "
                "with. Ids would mean other words, so prepare the data again, or restore the file from a copy."
            )
        check_shape(values, _SHAPE, str(path), "Prepare the data again.")
        with naming(path, "the vocabulary of a corpus", "Prepare the data again."):
            vocabulary = cls(values["tokens"], values["counts"], values["tokenizer"])
        if vocabulary.hash != values.get("hash"):
            raise InputError(f"{path}: the vocabulary's hash does not fit its tokens. Prepare the data again.")
        return vocabulary


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()
