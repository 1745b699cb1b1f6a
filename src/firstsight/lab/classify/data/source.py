"""What somebody has: N examples as vectors [N, D] and labels in an ``.npz`` file, or as texts and labels in a table."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from firstsight.errors import InputError
from firstsight.lab.classify.data.tables import JSONL, ONE_LABEL, PARTS, TSV, read_table
from firstsight.lab.data.arrays import opened_zip
from firstsight.lab.system.files import regular_file, sha256

MAX_ROWS = 200_000
"""Rows that a trial takes, at most: more of them say the same in more hours (our decision)."""
MULTI = 0.05
"""From this share of rows on, labels that are put together of other labels are refused."""

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Source:
    """Labelled examples, checked.

    Attributes:
        name: of the file, or "docstrings".
        labels: N labels as text.
        vectors: [N, D] float32, finite and none of them zero, where there are vectors; else None.
        texts: N texts; None where there are vectors without texts.
        part: N of "train", "valid", "test" where the data bring a split of their own.
        notes: what reading found and did, in sentences.
        checksum: SHA-256 of the file; of the content where there is none.
        integers: whether the labels were whole numbers.
        counts: "of_file" (rows of the file), "empty_text", "no_label", "zero" (rows left out for it).
        columns: names in the file of "label", and of "text" where there are texts; none where there is no file.
    """

    name: str
    labels: list[str]
    vectors: Floats | None
    texts: list[str] | None
    part: list[str] | None
    notes: list[str]
    checksum: str
    integers: bool
    counts: dict[str, int] = field(default_factory=dict)
    columns: dict[str, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.labels)


def read_source(
    path: str | Path,
    *,
    text: str | None = None,
    label: str | None = None,
    split: str | None = None,
    max_rows: int = MAX_ROWS,
) -> Source:
    """Read a file of labelled examples: .npz with ``h`` and ``y``, .csv, .tsv, .jsonl with texts and labels.

    Args:
        text, label, split: names of columns; of an .npz file, of the arrays ("h" is always the vectors). An array
            ``split`` or ``text`` of an .npz file is taken without being named.
        max_rows: of a larger file so many rows are drawn, and a note says so.

    Raises:
        InputError: no such file, another kind of file, or its content cannot be tried: each with what to do about it.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(f"{path}: there is no such file. Expected {_KINDS}.")
    regular_file(path, "examples and their labels")
    kind = path.suffix.lower()
    if kind == ".npz":
        return _read_npz(path, text or "text", label or "y", split or "split", max_rows, named=(text, split))
    if kind not in (".csv", *TSV, *JSONL):
        raise InputError(f"{path}: the name ends with {kind or 'no suffix'}. Expected {_KINDS}.")
    table = read_table(path, text=text, label=label, split=split, max_rows=max_rows)
    counted = table.all_labels or Counter(table.labels)
    notes = table.notes + check_labels(str(path), counted) + _check_single(str(path), counted)
    check_classes(str(path), table.labels)
    integers = all(map(_is_integer, set(table.labels)))
    return Source(
        path.name,
        table.labels,
        None,
        table.texts,
        table.part,
        notes,
        sha256(path),
        integers,
        dict(table.counts),
        table.columns,
    )


_KINDS = "an .npz file with h [N, D] and y [N], or a .csv, .tsv or .jsonl file with texts and labels"


def check_labels(name: str, labels: Iterable[str]) -> list[str]:
    """Refuse labels that differ by blanks only; a note for those that differ by case only."""
    alike: dict[str, set[str]] = defaultdict(set)
    for label in labels:
        alike[" ".join(label.split()).casefold()].add(label)
    twins = [sorted(group) for group in alike.values() if len(group) > 1]
    blanks = [group for group in twins if any(label != " ".join(label.split()) for label in group)]
    if blanks:
        pairs = "; ".join(" and ".join(map(repr, group[:3])) for group in blanks[:5])
        raise InputError(
            f"{name}: {len(blanks):,} labels are there in several spellings that differ by blanks: {pairs}. Expected "
            "one spelling a class: take the blanks off, for example with df['label'] = df['label'].str.strip()."
        )
    if not twins:
        return []
    pairs = "; ".join(" and ".join(map(repr, group[:3])) for group in twins[:3])
    return [f"{len(twins):,} labels differ from another by capitals only, and count as classes of their own: {pairs}."]


def _check_single(name: str, counted: Mapping[str, int]) -> list[str]:
    """Refuse labels that are lists of other labels ("a;b" where "a" and "b" are labels too)."""
    for sign in ";|,":
        joined = {label: n for label, n in counted.items() if sign in label}
        made = {label: n for label, n in joined.items() if all(p.strip() in counted for p in label.split(sign))}
        share = sum(made.values()) / sum(counted.values())
        if not made or 2 * sum(made.values()) < sum(joined.values()):
            continue
        example = max(made, key=lambda label: made[label])
        found = f"{share:.1%} of the rows have a label like {example!r}, whose parts are labels by themselves"
        if share >= MULTI:
            raise InputError(f"{name}: {found}. {ONE_LABEL}")
        return [f"{found}; each counts as a class of its own."]
    return []


def check_classes(name: str, labels: list[str]) -> None:
    """Refuse one class, and classes without examples enough to learn from one and ask another."""
    counted = Counter(labels)
    if len(counted) < 2:
        raise InputError(
            f"{name}: all {len(labels):,} rows have one label, {labels[0][:40]!r}. Expected two classes at the very "
            "least, and for a trial with new ones many: is this the right column?"
        )
    if max(counted.values()) < 2:
        raise InputError(
            f"{name}: {len(labels):,} rows have {len(counted):,} different labels, no label twice. Expected several "
            "examples of a class: is this the right column, or is the label a name of the row, or a quantity?"
        )


def _is_integer(label: str) -> bool:
    return label.isascii() and label.removeprefix("-").isdecimal() and str(int(label)) == label


def _read_npz(
    path: Path, text: str, label: str, split: str, max_rows: int, named: tuple[str | None, str | None]
) -> Source:
    wanted = {"h": "the vectors [N, D]", label: "the labels [N]"}
    with opened_zip(
        path, "this is no .npz file, or it was cut short", "Save it anew with np.savez(path, h=h, y=y)"
    ) as z:
        have = [name.removesuffix(".npy") for name in z.namelist()]
        for name in [*wanted, *(name for name in named if name)]:
            if name not in have:
                what = wanted.get(name, "what was asked for")
                raise InputError(
                    f"{path}: there is no array {name!r} in it ({what}); it holds {', '.join(have) or 'nothing'}. Save "
                    "it anew with np.savez(path, h=h, y=y)."
                )
        arrays = {name: _array(path, z, name) for name in (*wanted, text, split) if name in have}
    h_ND, notes = arrays["h"], list[str]()
    if h_ND.ndim != 2 or h_ND.dtype.kind not in "fiu" or 0 in h_ND.shape:
        raise InputError(f"{path}: h is {h_ND.dtype} {list(h_ND.shape)}; expected numbers [N, D], a row an example.")
    labels, integers = _labels_of(path, label, arrays[label], len(h_ND), notes)
    texts, part = (_words_of(path, name, arrays.get(name), len(h_ND)) for name in (text, split))
    if part is not None:
        if unknown := sorted({word for word in part if word.strip().lower() not in PARTS}):
            raise InputError(f"{path}: {split} holds {unknown[0]!r}; expected train, valid or test.")
        part = [PARTS[word.strip().lower()] for word in part]
    rows, zero = _usable(path, h_ND, max_rows, notes)
    labels = [labels[i] for i in rows]
    notes += check_labels(str(path), set(labels))
    check_classes(str(path), labels)
    return Source(
        path.name,
        labels,
        h_ND[rows].astype(np.float32),
        None if texts is None else [texts[i] for i in rows],
        None if part is None else [part[i] for i in rows],
        notes,
        sha256(path),
        integers,
        {"of_file": len(h_ND), "zero": zero},
        {"label": label},
    )


def _array(path: Path, archive: Any, name: str) -> npt.NDArray[Any]:
    """An array whose bytes fit their CRC; objects are never unpickled."""
    with archive.open(f"{name}.npy") as file:
        try:
            array = np.asarray(np.lib.format.read_array(file, allow_pickle=False))
        except ValueError as error:
            if "allow_pickle" not in str(error):
                raise
            raise InputError(
                f"{path}: {name} is an array of Python objects, and is not read: it could run any program. Save "
                "numbers or text: np.stack(list(h)) for vectors, np.array(y, dtype=str) for labels."
            ) from error
        except MemoryError as error:  # a header that promises more than there can be
            raise ValueError(str(error)) from error
        if file.read(1):  # at the end the CRC is looked at
            raise ValueError(f"{name} has more bytes than its header says")
    return array


def _labels_of(path: Path, name: str, y: npt.NDArray[Any], rows: int, notes: list[str]) -> tuple[list[str], bool]:
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if y.ndim != 1:
        raise InputError(
            f"{path}: {name} is {list(y.shape)}. {ONE_LABEL} If each row is 0 but for one 1, give {name}.argmax(1)."
        )
    if len(y) != rows:
        raise InputError(f"{path}: h has {rows:,} rows and {name} {len(y):,}; expected a label for each row.")
    if y.dtype.kind == "f":
        if not (np.isfinite(y).all() and (y == np.rint(y)).all() and (np.abs(y) < 2**53).all()):
            bad = int(np.flatnonzero(~np.isfinite(y) | (y != np.rint(y)) | (np.abs(y) >= 2**53))[0])
            raise InputError(
                f"{path}: {name}[{bad}] is {y[bad]}. Expected whole numbers or text: a label names a class. To predict "
                "a quantity is another task."
            )
        notes.append(f"{name} holds floats, all of them whole: they count as whole numbers.")
        y = y.astype(np.int64)
    if y.dtype.kind == "S":
        y = _decoded(path, name, y)
    if y.dtype.kind not in "iubU":
        raise InputError(f"{path}: {name} is {y.dtype}; expected whole numbers or text.")
    labels = list(map(str, y.tolist()))
    if empty := sum(not label.strip() for label in labels):
        raise InputError(f"{path}: {empty:,} labels in {name} are empty. Leave these rows out, or name their class.")
    return labels, y.dtype.kind in "iu"


def _words_of(path: Path, name: str, array: npt.NDArray[Any] | None, rows: int) -> list[str] | None:
    if array is None:
        return None
    if array.dtype.kind == "S":
        array = _decoded(path, name, array)
    if array.dtype.kind != "U" or array.shape != (rows,):
        raise InputError(f"{path}: {name} is {array.dtype} {list(array.shape)}; expected text [{rows}].")
    words: list[str] = array.tolist()
    return words


def _decoded(path: Path, name: str, array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    try:
        return np.char.decode(array, "utf-8")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path}: {name} holds bytes that are not UTF-8 ({error}). Save it as text (dtype=str)."
        ) from error


def _usable(path: Path, h_ND: npt.NDArray[Any], max_rows: int, notes: list[str]) -> tuple[npt.NDArray[np.int64], int]:
    """Which rows to take, ascending, and how many were zero: those are left out, since they point nowhere."""
    blocks = range(0, len(h_ND), 4096)
    with np.errstate(over="ignore", invalid="ignore"):
        finite_N = np.concatenate([np.isfinite(h_ND[i : i + 4096].astype(np.float32)).all(1) for i in blocks])
    if bad := int((~finite_N).sum()):
        first = ", ".join(map(str, np.flatnonzero(~finite_N)[:5]))
        raise InputError(
            f"{path}: {bad:,} of {len(h_ND):,} rows of h hold NaN or infinity (or what float32 cannot hold): row "
            f"{first}{', ...' if bad > 5 else ''}, counted from 0. Leave them out (h[np.isfinite(h).all(1)], and y "
            "alike), or mend what made them."
        )
    zero_N = np.concatenate([~h_ND[i : i + 4096].astype(np.float32).any(1) for i in blocks])
    zero, rows = int(zero_N.sum()), np.flatnonzero(~zero_N)
    if zero == len(h_ND):
        raise InputError(
            f"{path}: all {zero:,} rows of h are zero. Expected vectors that an encoder made: save them anew."
        )
    if zero:
        notes.append(f"{zero:,} rows of h are zero and left out: they point nowhere. Look for what made them.")
    if (h_ND[rows] == h_ND[rows[0]]).all():
        raise InputError(f"{path}: all rows of h are the same vector. Expected vectors that tell the examples apart.")
    if len(rows) > max_rows:
        notes.append(
            f"A SAMPLE: {max_rows:,} of the file's {len(rows):,} rows, drawn uniformly with a fixed seed. What is said "
            "of classes by their number of examples is said of the sample."
        )
        rows = np.sort(np.random.default_rng(0).permutation(rows)[:max_rows])
    return rows, zero
