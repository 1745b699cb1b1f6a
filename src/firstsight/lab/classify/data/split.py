"""Who trains, who is asked, and which classes come later: drawn once, before anything is learnt from a text.

Our decisions, and why:

* Classes that come later have 15 examples or more, all different: 10 that are shown and 5 or more that are asked, so
  that every number of shots asks the same queries, and no more than ten times as many as a class has in the mean: a
  class that is a third of all rows would speak for all new ones, and be missing among the old. They are drawn, in two
  groups (to choose on, to judge on), from such classes at random: each group has no more than a quarter of them, and of
  all classes, so that old classes of every size remain.
* Of each old class ``test_share`` of its rows is asked at the end and half as much in the choice; what is not a whole
  number is rounded by chance, so that classes of few examples are asked in proportion too. One row at least trains.
* A row whose text or vector is also in training is not asked, whatever its label: it would measure memory, and methods
  that store examples (nearest neighbours) would gain by it. So accuracies are those of texts never seen. Nor is a row
  of the choice asked that is in the test. Their number is given back.
* With a split of the user's own, old rows follow it (a missing validation part is drawn from training), and a class
  can come later if 10 of its rows are there to be shown and 5 to be asked: those of the test, or else of test and
  validation together.
"""

import hashlib
from collections import defaultdict
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from firstsight.errors import InputError
from firstsight.lab.classify.data.source import Source
from firstsight.lab.classify.settings import ASKED, MOST_ASKED, SHOTS, Trial

SHOWN = max(SHOTS)
LEAST_GROUP = 2
"""Classes that come later in each group, at least."""
LARGE = 10
"""Times the mean number of examples: larger classes do not come later."""
GROUP_SHARE = 4
"""One of so many classes, at most, is in a group."""

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Split:
    """Rows of a source by what they are for.

    Attributes:
        classes: the V old classes, sorted.
        new_valid, new_test: U classes each that come later, sorted: to choose on, and to judge on.
        train, valid, test: rows of old classes, ascending; each class has one in ``train`` or more.
        shown_valid, shown_test: [U, 10] rows of the new classes; the first k are the examples when k are shown.
        asked_valid, asked_test: rows of their queries, the same for every k, class by class.
        y_N: of every row: 0 to V - 1, V on for the new classes of either part, -1 for rows that have no part.
    """

    classes: list[str]
    new_valid: list[str]
    new_test: list[str]
    train: Rows
    valid: Rows
    test: Rows
    shown_valid: Rows
    shown_test: Rows
    asked_valid: Rows
    asked_test: Rows
    y_N: Rows

    def y_of(self, rows: Rows) -> Rows:
        """The classes of rows of any shape: 0 to V - 1 old ones, V on the new ones of the part."""
        y = self.y_N[rows]
        if y.size and y.min() < 0:
            raise ValueError("rows that are in no part have no class")
        return y


_NEW = ("shown_valid", "shown_test", "asked_valid", "asked_test")
ARRAYS = ("train", "valid", "test", *_NEW, "y_N")
"""The arrays of a split."""


@dataclass(frozen=True)
class Duplicates:
    """Rows that are there more than once, by text (in other blanks and capitals too) or by vector.

    Attributes:
        rows: those beyond the first of their kind.
        across: those of them that would have been asked though they are in training, or in the other part: not asked.
    """

    rows: int
    across: int


def make_split(source: Source, settings: Trial) -> tuple[Split, Duplicates, list[str]]:
    """Draw the split; also what is there twice, and notes.

    Raises:
        InputError: too few classes, or too few of them with examples enough to come later; nothing left to ask.
    """
    draw = _Draw(source, settings)
    new = draw.new_classes()
    old, parts = draw.old_classes(set().union(*new))
    y_N = np.full(len(source), -1)
    index = {label: i for i, label in enumerate(old)}
    for own in parts.values():
        y_N[own] = [index[source.labels[row]] for row in own]
    shown, asked = [], []
    for group in new:
        shown.append(np.array([draw.shown[label] for label in group]))
        asked.append(np.concatenate([draw.asked[label] for label in group]))
        for i, label in enumerate(group):
            y_N[[*draw.shown[label], *draw.asked[label]]] = len(old) + i
    rows: dict[str, Rows] = parts | dict(zip(_NEW, shown + asked, strict=True))
    split = Split(classes=old, new_valid=new[0], new_test=new[1], y_N=y_N, **rows)
    return split, Duplicates(len(source) - len(set(draw.keys)), draw.across), draw.notes


def keys_of(source: Source) -> list[bytes]:
    """Of each row 16 bytes that are the same for the same vector, or for the same text in other blanks and capitals."""
    if source.vectors is not None:
        rows = (row.tobytes() for row in source.vectors + np.float32(0))  # -0.0 becomes 0.0
    else:
        assert source.texts is not None
        rows = (" ".join(text.split()).casefold().encode() for text in source.texts)
    return [hashlib.blake2b(row, digest_size=16).digest() for row in rows]


class _Draw:
    def __init__(self, source: Source, settings: Trial) -> None:
        self.source, self.settings = source, settings
        self.rng = np.random.default_rng(settings.seed)
        self.keys = keys_of(source)
        self.notes: list[str] = []
        self.across = 0
        self.of_class: dict[str, list[int]] = defaultdict(list)
        for row, label in enumerate(source.labels):
            self.of_class[label].append(row)
        self.shown: dict[str, list[int]] = {}
        self.asked: dict[str, list[int]] = {}

    def new_classes(self) -> tuple[list[str], list[str]]:
        """The two groups that come later; ``shown`` and ``asked`` know the rows of each class that could."""
        labels_of: dict[bytes, set[str]] = defaultdict(set)
        for key, label in zip(self.keys, self.source.labels, strict=True):
            labels_of[key].add(label)
        most_rows = LARGE * len(self.source) / len(self.of_class)
        for label in sorted(label for label, rows in self.of_class.items() if len(rows) <= most_rows):
            own: dict[bytes, int] = {}  # of a text that is there twice the first row, of one with two labels none
            for row in self.rng.permutation(self.of_class[label]).tolist():
                if len(labels_of[self.keys[row]]) == 1:
                    own.setdefault(self.keys[row], row)
            shown, asked = self._pools(list(own.values()))
            if len(shown) >= SHOWN and len(asked) >= ASKED:
                self.shown[label], self.asked[label] = shown[:SHOWN], sorted(asked[:MOST_ASKED])
        enough, V, wanted = sorted(self.shown), len(self.of_class), self.settings.new_classes
        most = min(max(len(enough) // GROUP_SHARE, LEAST_GROUP), V // GROUP_SHARE, wanted)
        if most < LEAST_GROUP or len(enough) < 2 * LEAST_GROUP:
            raise self._too_few(len(enough))
        if most < wanted:
            self.notes.append(
                f"{most} classes come later in each group, not {wanted}: of the {len(enough):,} classes that have "
                f"examples enough, and of all {V:,}, no more than a quarter."
            )
        drawn = [enough[i] for i in self.rng.permutation(len(enough))[: 2 * most]]
        return sorted(drawn[:most]), sorted(drawn[most:])

    def _pools(self, rows: list[int]) -> tuple[list[int], list[int]]:
        """Of the rows of a class, in random order, those that can be shown, and those that can be asked."""
        part = self.source.part
        if part is None:
            return rows[:SHOWN], rows[SHOWN:]
        test = [row for row in rows if part[row] == "test"]
        if len(test) >= ASKED:
            return [row for row in rows if part[row] != "test"], test
        return [row for row in rows if part[row] == "train"], [row for row in rows if part[row] != "train"]

    def _too_few(self, enough: int) -> InputError:
        where = "" if self.source.part is None else f" ({SHOWN} outside of your split's test part, {ASKED} in it)"
        return InputError(
            f"{self.source.name}: {enough:,} of {len(self.of_class):,} classes have {SHOWN + ASKED} or more different "
            f"examples{where} (and no more than {LARGE} times the mean), and new_classes is "
            f"{self.settings.new_classes}. Expected {2 * LEAST_GROUP} such classes of {LEAST_GROUP * GROUP_SHARE} "
            f"in all at the least, and {LEAST_GROUP} or more for new_classes: some come "
            "later to choose a method on, as many others to judge it on. Give more examples, or wider classes."
        )

    def old_classes(self, new: set[str]) -> tuple[list[str], dict[str, Rows]]:
        """The old classes, and their rows by part."""
        old, rows = [], {"train": list[int](), "valid": list[int](), "test": list[int]()}
        for label in sorted(set(self.of_class) - new):
            mine = self._drawn(label) if self.source.part is None else self._theirs(label)
            if mine["train"]:
                old.append(label)
                for name, own in mine.items():
                    rows[name] += own
        if missing := len(self.of_class) - len(new) - len(old):
            self.notes.append(f"{missing:,} classes have no training row in your split, and are left out.")
        seen = {self.keys[row] for row in rows["train"]}
        for name in ("test", "valid"):
            fresh = [row for row in rows[name] if self.keys[row] not in seen]
            self.across += len(rows[name]) - len(fresh)
            rows[name] = fresh
            seen |= {self.keys[row] for row in fresh}
        if self.across:
            self.notes.append(
                f"{self.across:,} rows of the test and of the choice are not asked, for their text or vector is in "
                "training too (or in both): they would measure memory. The accuracies are those of examples never seen."
            )
        if not (rows["train"] and rows["valid"] and rows["test"]):
            raise InputError(
                f"{self.source.name}: {len(rows['train']):,} rows of old classes train, {len(rows['valid']):,} are "
                f"there to choose on, {len(rows['test']):,} to judge on. Expected some of each: more different "
                "examples a class (one alone only trains), a larger test_share, or a split of your own with both."
            )
        return old, {name: np.array(sorted(own), dtype=np.int64) for name, own in rows.items()}

    def _drawn(self, label: str) -> dict[str, list[int]]:
        share = self.settings.test_share
        return self._cut(self.of_class[label], {"test": share, "valid": share / 2})

    def _theirs(self, label: str) -> dict[str, list[int]]:
        part = self.source.part
        assert part is not None
        mine = {name: [row for row in self.of_class[label] if part[row] == name] for name in ("train", "valid", "test")}
        if "valid" in part:
            return mine
        return mine | self._cut(mine["train"], {"valid": self.settings.test_share / 2})

    def _cut(self, rows: list[int], shares: dict[str, float]) -> dict[str, list[int]]:
        """Rows drawn for each share, what is no whole number rounded by chance, and at least one left to train."""
        left: list[int] = self.rng.permutation(rows).tolist() if rows else []
        cut = {}
        for name, share in shares.items():
            n = min(int(len(rows) * share + self.rng.random()), max(len(left) - 1, 0))
            cut[name], left = left[:n], left[n:]
        return cut | {"train": left}
