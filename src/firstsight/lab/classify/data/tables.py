"""Texts and labels out of CSV, TSV and JSONL files of any size, in bounded memory.

A file is read once, row by row. What is kept is a sample: every row draws a number, and those with the smallest numbers
stay, as many as ``max_rows`` and ``MOST_BYTES`` allow. So the sample is uniform, and a file that fits is kept whole.
"""

import csv
import heapq
import json
import math
import random
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from firstsight.errors import InputError
from firstsight.lab.data.lines import read_lines
from firstsight.lab.system.progress import Bar

TSV, JSONL = (".tsv", ".tab"), (".jsonl", ".ndjson")
MOST_BYTES = 1 << 29
"""Bytes of text that are kept, at most: 200,000 texts may have 2,700 characters each (our decision)."""
MOST_LABELS = 1_000_000
"""Labels that are counted over the whole of a file; past it only those of the sample are known (our decision)."""
PARTS = {"train": "train", "test": "test"} | dict.fromkeys(("valid", "validation", "dev", "val"), "valid")
"""The words of a split column, in any case."""
_EVERY = 20_000  # rows between two looks at the progress
_LABELS = ("label", "class", "category", "target")  # which of two columns is the label

Cells = Iterator[tuple[int, list[str]]]
"""The line where a row begins, and its text, label and perhaps part."""


@dataclass(frozen=True)
class Table:
    """What was kept of a file.

    Attributes:
        texts, labels, part: N each, in the order of the file; part where a split column was named.
        notes: what reading found, in sentences.
        counts: "of_file" rows that the file has, "empty_text" and "no_label": those left out for it.
        all_labels: how often each label is in the file; None past ``MOST_LABELS`` of them.
        columns: the names of those of the texts and the labels.
    """

    texts: list[str]
    labels: list[str]
    part: list[str] | None
    notes: list[str]
    counts: dict[str, int]
    all_labels: Counter[str] | None
    columns: dict[str, str]


def read_table(path: Path, *, text: str | None, label: str | None, split: str | None, max_rows: int) -> Table:
    """Read a .csv, .tsv or .jsonl file in UTF-8, with or without a byte order mark; the suffix says which it is.

    Args:
        text, label: the columns; where they are not given and only one guess is open, it is taken and noted.
        split: the column that says "train", "valid" or "test" of each row.
        max_rows: rows to keep, at most.

    Raises:
        InputError: no such columns, a line that is broken or not UTF-8, an unknown word in the split column, labels
            that are lists, an empty file.
    """
    counts, labels, notes = Counter(of_file=0, empty_text=0, no_label=0), Counter[str](), list[str]()
    sample, size = _Sample(max_rows), path.stat().st_size
    if size == 0:
        raise InputError(f"{path}: this file is empty. Expected a row of column names, and rows of texts and labels.")
    with open(path, "rb") as file, Bar(f"reading {path.name}", size, unit="bytes") as bar:
        opened = (_Json if path.suffix.lower() in JSONL else _Csv)(path, read_lines(file, str(path), ends=True), notes)
        chosen = _choose(path, opened.columns, text, label, split, notes)
        for line, cells in opened.cells(chosen):
            counts["of_file"] += 1
            if counts["of_file"] % _EVERY == 0:
                bar.update(file.tell())
            if not cells[0].strip():
                counts["empty_text"] += 1
            elif not cells[1].strip():
                counts["no_label"] += 1
            else:
                if split is not None:
                    cells[2] = _part(path, line, cells[2])
                if len(labels) <= MOST_LABELS:
                    labels[cells[1]] += 1
                sample.offer(cells)
    return _table(path, sample, counts, labels, notes, dict(zip(("text", "label"), chosen, strict=False)))


def _table(
    path: Path, sample: "_Sample", counts: Counter[str], labels: Counter[str], notes: list[str], columns: dict[str, str]
) -> Table:
    for name, what in (("empty_text", "whose text is empty"), ("no_label", "whose label is empty")):
        if counts[name]:
            notes.append(f"{counts[name]:,} rows {what} are left out.")
    kept, all_labels = sample.rows(), labels if len(labels) <= MOST_LABELS else None
    offered = counts["of_file"] - counts["empty_text"] - counts["no_label"]
    if not kept:
        raise InputError(f"{path}: there is no row with a text and a label in it. Expected one row an example.")
    if len(kept) < offered:
        found = f"all {len(labels):,} labels" if all_labels is not None else f"more than {MOST_LABELS:,} labels"
        notes.append(
            f"A SAMPLE: {len(kept):,} of the file's {offered:,} rows, drawn uniformly with a fixed seed, so that "
            f"memory stays bounded; the file has {found}, the sample {len({row[1] for row in kept}):,}. What is "
            "said of classes by their number of examples is said of the sample."
        )
    part = [row[2] for row in kept] if len(kept[0]) == 3 else None
    return Table([row[0] for row in kept], [row[1] for row in kept], part, notes, dict(counts), all_labels, columns)


class _Sample:
    """The rows with the smallest random numbers, as many as fit."""

    def __init__(self, max_rows: int) -> None:
        self.max_rows, self.bytes = max_rows, 0
        self.below = 1.0  # a row whose number is not below is not kept, now or later
        self.random = random.Random(0)
        self.heap: list[tuple[float, int, list[str]]] = []  # numbers are negative: the largest is on top
        self.offered = 0
        self.words: dict[str, str] = {}  # one object for each label

    def offer(self, row: list[str]) -> None:
        number = self.random.random()
        self.offered += 1
        if number >= self.below:
            return
        row[1:] = [self.words.setdefault(word, word) for word in row[1:]] if len(self.words) < MOST_LABELS else row[1:]
        self.bytes += sys.getsizeof(row[0])
        heapq.heappush(self.heap, (-number, self.offered, row))
        while len(self.heap) > self.max_rows or (self.bytes > MOST_BYTES and len(self.heap) > 1):
            number, _, gone = heapq.heappop(self.heap)
            self.bytes -= sys.getsizeof(gone[0])
            self.below = -number

    def rows(self) -> list[list[str]]:
        """In the order of the file."""
        return [row for _, _, row in sorted(self.heap, key=lambda kept: kept[1])]


def _part(path: Path, line: int, word: str) -> str:
    part = PARTS.get(word.strip().lower())
    if part is None:
        raise InputError(
            f"{path}: line {line:,}: the split column says {word[:40]!r}; expected train, valid (or validation, dev, "
            "val) or test. Name the parts so, or leave --split out and a split is drawn."
        )
    return part


def _choose(
    path: Path, columns: list[str], text: str | None, label: str | None, split: str | None, notes: list[str]
) -> tuple[str, ...]:
    """The names of the columns of text, label and perhaps split."""
    listed = ", ".join(map(repr, columns[:30])) + (", ..." if len(columns) > 30 else "")
    for flag, name in (("--text", text), ("--label", label), ("--split", split)):
        if name is not None and columns.count(name) != 1:
            what = "there are several columns" if columns.count(name) else "there is no column"
            raise InputError(
                f"{path}: {what} {name!r} ({flag}); the columns, by the file's first line, are {listed}. Name one of "
                "them, or put the names of the columns into the first line."
            )
    free = [name for name in columns if name not in (text, label, split)]
    guess = {kind: kind for kind, name in (("text", text), ("label", label)) if name is None}
    if len(guess) == len(free) == len(set(free)):  # one column is left for each
        if "label" in guess:
            guess["label"] = next((name for word in _LABELS for name in free if name.lower() == word), free[-1])
        if "text" in guess:
            guess["text"] = next(name for name in free if name != guess.get("label"))
    if any(columns.count(name) != 1 for name in guess.values()):
        wanted = " and ".join(f"the {kind}s (--{kind})" for kind, name in guess.items() if columns.count(name) != 1)
        raise InputError(f"{path}: which column holds {wanted}? The columns, by the file's first line, are {listed}.")
    if guess:
        taken = ", ".join(f"the {kind} is column {name!r}" for kind, name in guess.items())
        notes.append(f"Taken from the names of the columns: {taken}.")
    chosen = [text or guess["text"], label or guess["label"], *([split] if split is not None else [])]
    if len(set(chosen)) < len(chosen):
        raise InputError(
            f"{path}: the columns of texts, labels and split are {', '.join(chosen)}; expected different ones."
        )
    if split is None and (other := [name for name in columns if name.lower() == "split" and name not in chosen]):
        notes.append(f"The column {other[0]!r} is not used: with --split {other[0]} it decides what is tested.")
    return tuple(chosen)


class _Csv:
    """Rows parted by commas, or by what the first line is parted by."""

    def __init__(self, path: Path, lines: Iterator[str], notes: list[str]) -> None:
        first = next(lines)
        self.path, self.delimiter = path, "\t" if path.suffix.lower() in TSV else ","
        other = next((sign for sign in ";\t" if sign in first), None)
        if self.delimiter == "," and "," not in first and other is not None:
            self.delimiter = other
            notes.append(f"The first line has no comma: columns are taken to be parted by {other!r}.")
        self.reader = csv.reader(chain([first], lines), delimiter=self.delimiter, strict=True)
        self.columns = self._next() or []

    def _next(self) -> list[str] | None:
        line = self.reader.line_num + 1
        try:
            return next(self.reader, None)
        except csv.Error as error:
            raise _broken_csv(self.path, line, error) from error

    def cells(self, names: Sequence[str]) -> Cells:
        at, width = [self.columns.index(name) for name in names], len(self.columns)
        while True:
            line = self.reader.line_num + 1
            row = self._next()
            if row is None:
                return
            if len(row) == width:
                yield line, [row[i] for i in at]
            elif row:  # a blank line is no row
                raise InputError(
                    f"{self.path}: the row on line {line:,} has {len(row)} columns, and the first line names {width}. "
                    f"Expected as many in each row, parted by {self.delimiter!r}; a text that holds this sign or a "
                    'line break stands between quotation marks (").'
                )


def _broken_csv(path: Path, line: int, error: Exception) -> InputError:
    if "field larger" in str(error):
        return InputError(
            f"{path}: the row that begins on line {line:,} has a field of more than {csv.field_size_limit():,} "
            "characters. Expected texts of some sentences: cut it, or close the quotation mark that was left open."
        )
    return InputError(
        f"{path}: the row that begins on line {line:,} is broken ({error}). Expected a field with quotation marks in "
        'it to stand between quotation marks, those inside doubled (""), and line ends \\n or \\r\\n. Or give the rows '
        "as JSONL, one object a line."
    )


class _Json:
    """An object in each line."""

    def __init__(self, path: Path, lines: Iterator[str], notes: list[str]) -> None:
        self.path = path
        self.rows: Iterator[tuple[int, Any]] = (
            (number, _json(path, number, line)) for number, line in enumerate(lines, 1) if line.strip()
        )
        first = next(self.rows, None)
        if first is None:
            raise InputError(f"{path}: there are only blank lines in this file. Expected a JSON object a line.")
        self.rows, self.columns = chain([first], self.rows), list(first[1])

    def cells(self, names: Sequence[str]) -> Cells:
        for line, row in self.rows:
            if missing := [name for name in names if name not in row]:
                raise InputError(
                    f"{self.path}: line {line:,} has no {missing[0]!r}, which the first line has. Expected it in every "
                    "line; null is a value that is missing."
                )
            yield line, [_text_of(self.path, line, name, row[name]) for name in names]


def _json(path: Path, number: int, line: str) -> Any:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"{path}: line {number:,} is not JSON ({error}). Expected an object in each line, like "
            '{"text": "...", "label": "..."}.'
        ) from error
    if not isinstance(row, dict):
        raise InputError(
            f"{path}: line {number:,} holds {type(row).__name__}, not an object. Expected lines like "
            '{"text": "...", "label": "..."}.'
        )
    return row


def _text_of(path: Path, line: int, name: str, value: Any) -> str:
    """A string as it is, a whole number as its digits, null as nothing."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()  # a lone surrogate is no UTF-8, and JSON can hold one
    if isinstance(value, list | dict):
        raise InputError(f"{path}: line {line:,}: {name!r} is a {type(value).__name__}. {ONE_LABEL}")
    if isinstance(value, float) and not (math.isfinite(value) and value == int(value)):
        raise InputError(
            f"{path}: line {line:,}: {name!r} is {value}. Expected text or a whole number: a label names a class. To "
            "predict a quantity is another task."
        )
    return str(int(value)) if isinstance(value, float) else str(value)


ONE_LABEL = (
    "Expected one label an example: data with several labels an example (multi-label) are not for this layer, whose "
    "softmax gives each example one class. Train a classifier for each label, or take the rows that have one."
)
"""What multi-label data are told."""
