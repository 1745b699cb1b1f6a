"""What learning curves come to, in rows of text: a head, and a row for each line."""

import statistics
from collections.abc import Sequence

from firstsight.lab.report.figures.draw import Found
from firstsight.lab.report.study import format_difference, spread
from firstsight.lab.report.tables import DASH, format_perplexity, relative

QUARTERS = {"1/4": 0.25, "1/2": 0.5, "3/4": 0.75, "the end": 1.0}
FAR = 1000.0  # percent


def end_rows(found: Found) -> list[list[str]]:
    """Of each line: how many of its runs are done, its perplexity at the end, its difference to its panel's first line
    as training goes on, and at the end that to the same line of the first panel.

    Perplexity is mean ± sample standard deviation over the seeds that are done; differences are paired by seed.
    """
    first, *others = found["panels"]
    head = ["", "runs", "at the end", *(f"to {first['lines'][0]['name']}, {name}" for name in QUARTERS)]
    rows = [[*head, f"to {first['title']}"] if others else head]
    for panel in found["panels"]:
        base = panel["lines"][0]
        for line in panel["lines"]:
            name = f"{panel['title']}, {line['name']}" if others else line["name"]
            changes = [_difference(line, base, share, found["tokens"]) for share in QUARTERS.values()]
            row = [name, _states(line), at_the_end(line), *([DASH] * len(QUARTERS) if line is base else changes)]
            twin = next((one for one in first["lines"] if one["name"] == line["name"]), None)
            if others:
                row.append(DASH if twin is None or panel is first else _difference(line, twin, 1.0, found["tokens"]))
            rows.append(row)
    return rows


def _states(line: Found) -> str:
    """``3``, ``2 of 3``, ``0 of 3, 1 under way``, ``2 of 3, 1 diverged``."""
    states = [run["state"] for run in line["runs"].values()]
    done = states.count("done")
    others = [f"{states.count(state)} {state}" for state in ("under way", "diverged") if state in states]
    return ", ".join([f"{done}" if done == len(states) else f"{done} of {len(states)}", *others])


def _is_done(line: Found) -> bool:
    return any(run["state"] == "done" for run in line["runs"].values())


def _curves(line: Found) -> dict[str, dict[int, float]]:
    """The curve of each seed that is drawn: of those that are done, or where none is, of those under way."""
    if not line["curve"]:
        return {}
    tokens, seeds = line["curve"]["tokens"], line["curve"]["seeds"]
    return {seed: dict(zip(tokens, values, strict=True)) for seed, values in seeds.items()}


def at_the_end(line: Found) -> str:
    """Perplexity at the last point of the seeds that are done: ``74.5 ± 0.3``; where none is, ``412 so far``."""
    values = [curve[max(curve)] for curve in _curves(line).values()]
    return with_spread(values) + ("" if _is_done(line) or not values else " so far")


def with_spread(values: Sequence[float]) -> str:
    """``74.5 ± 0.3``; a dash of no values."""
    if not values:
        return DASH
    mean, deviation = spread(values)
    return format_perplexity(mean) + (f" ± {format_perplexity(deviation)}" if len(values) > 1 else "")


def _difference(line: Found, base: Found, share: float, tokens: int) -> str:
    """At the last point that both have and that is not past this share of the training, which both have reached."""
    own, others = _curves(line), _curves(base)
    reached = [max(max(curve) for curve in curves.values()) for curves in (own, others) if curves]
    if not (_is_done(line) and _is_done(base)) and min(reached, default=0) < share * tokens * 0.9999:
        return DASH
    found = []
    for seed in own:
        common = [at for at in own[seed] if at in others.get(seed, {}) and at <= share * tokens * 1.0001]
        if common:
            found.append(relative(own[seed][common[-1]], others[seed][common[-1]]))
    if found and statistics.fmean(found) >= FAR:
        return f"{1 + statistics.fmean(found) / 100:,.0f} times"
    return format_difference(found, percent=True) or DASH


def core_hours(found: Found) -> float:
    """Of all runs behind a figure; those it shares with others included."""
    return float(found["core_seconds"]) / 3600


def minutes(line: Found) -> float | None:
    """Of a run, the mean of those that are done."""
    seconds = [run["seconds"] for run in line["runs"].values() if run["state"] == "done"]
    return statistics.fmean(seconds) / 60 if seconds else None
