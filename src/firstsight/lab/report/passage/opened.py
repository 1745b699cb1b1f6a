"""A ``passage.json``, opened: checked, and its numbers as words and contexts."""

import math
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from firstsight.lab.reading.memories import MEMORIES
from firstsight.lab.reading.passage.written import ALL, BEFORE
from firstsight.lab.report.passage.checked import MEND, check_passage
from firstsight.lab.report.sights import format_nats
from firstsight.lab.report.tables import DASH
from firstsight.lab.system.files import read_json
from firstsight.lab.system.manifest import check_there
from firstsight.lab.system.progress import say, shown
from firstsight.lab.system.shape import as_dict

EOS = "<eos>"
EOS_SIGN = "¶"
# Nats from which on a colour is the next deeper one: page.html has a colour for each.
STEPS = (0.03, 0.1, 0.3, 1.0, 3.0)
LOST = 3  # steps that the scale shows of losses; a weight of 0.3 cannot lose more than 0.36


class Neighbour(NamedTuple):
    """A pair that a memory recalled: the words before it, its label, and how much of the memory it made up."""

    before: str
    word: str
    right: bool
    """whether the label is the token's word"""
    where: str
    """``512 ago``, or ``training token 4,096``"""
    share: float
    distance: float


@dataclass(frozen=True)
class Passage:
    """What :func:`firstsight.lab.reading.passage.write_passage` wrote of an evaluation."""

    data: Mapping[str, Any]

    def __len__(self) -> int:
        """Tokens."""
        return len(self.data["tokens"])

    @property
    def run(self) -> str:
        """The run's name, to be shown."""
        return shown(self.data["run"])

    @property
    def used(self) -> list[str]:
        """The memories that took part."""
        return [name for name in MEMORIES if self.data["settings"].get(name)]

    @property
    def views(self) -> list[str]:
        """What a token can be looked at with: all memories together where there are several, and each of them."""
        return [ALL, *self.used] if len(self.used) > 1 else self.used

    def label(self, view: str) -> str:
        """What a view is called."""
        return MEMORIES[view].label if view != ALL else "both" if len(self.used) == 2 else "all"

    def weights(self, view: str) -> dict[str, float]:
        """The memories of a view with their shares of the mixture."""
        return {name: self.data["settings"][name]["weight"] for name in self.used if view in (name, ALL)}

    def word(self, index: int) -> str:
        """A word by its number, with what would act on a screen or turn its text around as escapes."""
        return shown(self.data["words"][str(index)])

    def is_stored(self, name: str) -> bool:
        """Whether a memory's pairs are of the training text."""
        return name in self.data["stored"]

    def neighbours(self, name: str, at: int) -> list[Neighbour]:
        """The pairs that a memory recalled at a token; none of a memory that recalls no pairs."""
        rows = self.data["neighbours"].get(name)
        return [] if rows is None else [self._neighbour(name, at, pair) for pair in rows[at]]

    def _neighbour(self, name: str, at: int, pair: list[Any]) -> Neighbour:
        place, label, share, distance = pair
        held = self._held["train" if self.is_stored(name) else "text"]
        before = [held[p] for p in range(place - BEFORE, place) if p in held] if held.get(place) == label else []
        ago = self.data["first"] + at - place
        where = f"training token {place + 1:,}" if self.is_stored(name) else f"{ago:,} ago"
        right = label == self.data["tokens"][at]
        return Neighbour(" ".join(map(self.word, before)), self.word(label), right, where, share, distance)

    @cached_property
    def _held(self) -> dict[str, dict[int, int]]:
        """Of each text the words that are shown, by their place."""
        return {
            text: {begin + j: index for begin, ids in runs for j, index in enumerate(ids)}
            for text, runs in self.data["contexts"].items()
        }

    def mean(self, name: str, count: int | None = None) -> float | None:
        """The mean of the model's NLL ("model"), or of what a view gains, over the first tokens, or over all."""
        values = self.data["nll"]["model"] if name == "model" else self.data["gain"][name]
        values = values[:count]
        return None if None in values else math.fsum(values) / len(values)


def open_passage(folder: Path, result: Mapping[str, Any]) -> Passage | None:
    """The passage of a run's folder; None if it has none of this evaluation, or one that an earlier version wrote.

    Raises:
        InputError: the file is damaged.
    """
    path = folder / "passage.json"
    check_there(path)
    if not path.exists():
        return None
    data = read_json(path, "a passage and what the memories gained on it")
    if "format" not in as_dict(data) and isinstance(as_dict(data).get("mean"), dict):
        say(f"{path} is of an earlier firstsight and is not shown. {MEND}")
        return None
    check_passage(data, path)
    memory = {key: value for key, value in (result.get("memory") or {}).items() if key != "variants"}
    return Passage(data) if (data["split"], data["settings"]) == (result.get("split"), memory) else None


def colour(gain: float | None) -> str:
    """The name of the colour of a change of log-probability, "" for none."""
    step = 0 if gain is None else bisect_right(STEPS, abs(gain))
    if not gain or not step:
        return ""
    return f"gain-{step}" if gain > 0 else f"loss-{min(step, LOST)}"


def scale() -> str:
    """The colours with the numbers where each begins, as HTML."""
    names = [f"loss-{i}" for i in range(LOST, 0, -1)] + ["", *(f"gain-{i + 1}" for i in range(len(STEPS)))]
    edges = [f"−{step:g}" for step in reversed(STEPS[:LOST])] + [f"{step:g}" for step in STEPS]
    swatches = "".join(
        f"<span{f' style=background:var(--{name})' if name else ''}>{f'<i>{edge}</i>' if edge else ''}</span>"
        for name, edge in zip(names, ["", *edges], strict=True)
    )
    return f"<div class=colours><b>loses</b><div>{swatches}</div><b>gains, in nats</b></div>"


def told(passage: Passage, view: str, count: int | None = None) -> str:
    """A view's settings, and what it gains over the first tokens of the passage and over the whole split."""
    split, weights = passage.data["split"], passage.weights(view)
    settings = passage.data["settings"][view] if view != ALL else {}
    values = [f"{name} {value:,}" if isinstance(value, int) else f"{name} {value}" for name, value in settings.items()]
    text = f" ({', '.join(values)})" if values else ""
    text += f": {nats(passage.mean(view, count))} nats a token here, {nats(passage.data['split_mean'][view])} over the"
    lost = 1 - sum(weights.values())
    text += f" whole {split} split."
    return text + (f" A token can lose {-math.log(lost):.3f} at most." if 0 < lost < 1 else "")


def percent(share: float) -> str:
    """``34%``, ``4.1%``, ``0.031%``; below 0.001%, which is less than a hundred-thousandth, only that."""
    if share < 1e-5:
        return "< 0.001%"
    digits = 0 if share >= 0.1 else 1 if share >= 0.01 else 2 if share >= 0.001 else 3
    return f"{100 * share:.{digits}f}%"


def nats(value: float | None) -> str:
    """A change, with its sign."""
    return DASH if value is None else format_nats(value)
