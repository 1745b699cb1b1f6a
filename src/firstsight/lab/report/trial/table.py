"""The table of methods: everything on test, mean and sample standard deviation over trainings."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from firstsight.lab.classify.judgement.wording import ARRIVALS, DASH, mean, seconds, select, titles, values
from firstsight.lab.classify.settings import SHOTS

Trial = Mapping[str, Any]


@dataclass(frozen=True)
class Row:
    """A method and a way in which new classes come to it.

    Attributes:
        chosen: "ours" or "rival" where it is one of the two that were compared, else empty.
        cells: the table's, from the method's name on.
    """

    method: str
    arrival: str
    chosen: str
    cells: list[str]


def head(trial: Trial) -> list[str]:
    """The table's columns."""
    shots = trial["choice"]["shots"]
    share = f"{100 * trial['choice']['new_share']:g}%"
    return [
        "method",
        "new classes by",
        f"old, {shots} shown",
        *[f"new, {k} shown" for k in SHOTS],
        f"mixed, {share} new",
        "NLL",
        "calibration error",
        "to train",
        "to learn the new",
    ]


def pairs(trial: Trial, *, at_once: bool = True) -> list[tuple[str, str]]:
    """Methods with the ways classes come to them, best first by the validation part's mixed accuracy.

    Args:
        trial: the content of ``trial.json``.
        at_once: those that answer at once; else those after one more epoch.
    """
    shots = trial["choice"]["shots"]
    found = dict[tuple[str, str], float]()
    for line in select(trial, part="valid", shots=shots):
        key = line["method"], line["arrival"]
        if line["arrival"] != "none" and (line["arrival"] != "epoch") is at_once:
            of = select(trial, part="valid", shots=shots, method=key[0], arrival=key[1])
            found[key] = mean(of, "mixed") or 0.0
    return sorted(found, key=lambda key: -found[key])


def trial_rows(trial: Trial, *, at_once: bool = True) -> list[Row]:
    """The table's rows in the order of ``pairs``."""
    return [_row(trial, *pair) for pair in pairs(trial, at_once=at_once)]


def _row(trial: Trial, method: str, arrival: str) -> Row:
    shots, known = trial["choice"]["shots"], {one["name"]: one for one in trial["methods"]}
    own = select(trial, method=method, arrival=arrival)
    chosen = [line for line in own if line["shots"] == shots]
    chosen_ones = {(trial["choice"][s]["method"], trial["choice"][s]["arrival"]): s for s in ("ours", "rival")}
    side = chosen_ones.get((method, arrival), "")
    title = titles(trial).get(method, method)
    if known.get(method, {}).get("converged") is False:
        title += " (not converged)"
    cells = [
        title,
        ARRIVALS.get(arrival, arrival),
        spread(values(chosen, "old_micro")),
        *[spread(values([line for line in own if line["shots"] == k], "new_micro")) for k in SHOTS],
        spread(values(chosen, "mixed")),
        number(mean(chosen, "nll"), 2),
        number(mean(chosen, "ece"), 3),
        seconds(mean(chosen, "seconds_train")),
        seconds(mean(chosen, "seconds")),
    ]
    return Row(method, arrival, side, cells)


def spread(shares: Sequence[float]) -> str:
    """``81.3 ± 0.4``: percent, mean and sample standard deviation over trainings; the mean alone of one."""
    if not shares:
        return DASH
    text = f"{100 * statistics.fmean(shares):.1f}"
    return f"{text} ± {100 * statistics.stdev(shares):.1f}" if len(shares) > 1 else text


def number(value: float | None, places: int) -> str:
    """With so many places, or a dash."""
    return DASH if value is None else f"{value:.{places}f}"
