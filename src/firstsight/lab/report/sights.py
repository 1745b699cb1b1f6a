"""Sight curves, the learning curve of a class: its loss against how often it had been seen before.

Training puts ``"sights": [{"seen": k, "tokens": n, "nll": x}, ...]`` into each line of ``metrics.jsonl``. Of the steps
since the line before, bucket k = 0, 1, 2, 4, 8, ... holds the n targets whose class had been a target k to 2k - 1
times before their step (0: never), and x is their mean negative log-likelihood in nats, as the model in training
gave it before the step. The buckets are our decision.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from firstsight.errors import InputError
from firstsight.lab.report.runs import Run
from firstsight.lab.report.tables import DASH, baseline

Bucket = tuple[int, float]
MEND = "Delete the line, or train anew."


def sight_curve(
    metrics: Sequence[Mapping[str, Any]], since: float = 0.0, source: str = "metrics.jsonl"
) -> list[tuple[int, int, float]]:
    """Add up the buckets of a run's lines, each weighted by its tokens.

    ``tokens_k = sum_i n_ik`` and ``nll_k = sum_i n_ik x_ik / tokens_k`` over the lines i. Lines without sights, as
    runs had before they were recorded, add nothing; neither does a bucket whose mean is null or not finite.

    Args:
        metrics: the lines of ``metrics.jsonl``.
        since: only lines all of whose steps lie after this fraction of the run's; 0 for the whole training.
        source: where the lines come from, for messages.

    Returns:
        ``(k, tokens, nll)``, k rising, nll in nats; empty without sights.

    Raises:
        InputError: the sights of a line are not as described above.
    """
    tokens: dict[int, int] = {}
    nats: dict[int, float] = {}
    before = 0
    for line in metrics:
        # Dividing, unlike multiplying, makes 7 of 100 steps exactly the 0.07 that a user writes.
        counts = not since or before / metrics[-1]["step"] >= since
        before = line["step"]
        for seen, count, nll in _buckets(line, source):
            if counts and nll is not None and math.isfinite(nll):
                tokens[seen] = tokens.get(seen, 0) + count
                nats[seen] = nats.get(seen, 0.0) + count * nll
    return [(seen, tokens[seen], nats[seen] / tokens[seen]) for seen in sorted(tokens)]


def _buckets(line: Mapping[str, Any], source: str) -> Iterator[tuple[int, int, float | None]]:
    if "sights" not in line:
        return
    where, last, entries = f"{source}, the line of step {line['step']}", -1, line["sights"]
    if not isinstance(entries, list):
        raise InputError(f"{where}: sights is {entries!r}; expected a list of buckets. {MEND}")
    for entry in entries:
        values: Any = entry if isinstance(entry, dict) else {}
        seen, tokens, nll = values.get("seen"), values.get("tokens"), values.get("nll", "missing")
        sound = _is_whole(seen, 0) and _is_whole(tokens, 1) and seen & (seen - 1) == 0
        if not sound or not (nll is None or (isinstance(nll, (int, float)) and not isinstance(nll, bool))):
            raise InputError(
                f"{where}: a bucket of sights is {entry!r}; expected seen (0, 1, 2, 4, 8, ...), tokens (1 or more) and "
                f"nll (a number or null). {MEND}"
            )
        if seen <= last:
            raise InputError(f"{where}: in sights, {seen} comes after {last}; expected rising values of seen. {MEND}")
        last = seen
        yield seen, tokens, nll


def _is_whole(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


@dataclass(frozen=True)
class SightCurves:
    """The curves of several runs, and which of them may be subtracted.

    Attributes:
        curves: name -> k -> (tokens, nll in nats), in the order of the runs.
        base: the run that differences refer to.
        unlike: name -> in what the targets of a run differ from those of ``base``, a clause; only runs that do.
    """

    curves: dict[str, dict[int, Bucket]]
    base: str
    unlike: dict[str, str]

    @property
    def seen(self) -> list[int]:
        """Every k that a run has, rising."""
        return sorted({seen for curve in self.curves.values() for seen in curve})

    @property
    def differences(self) -> dict[str, dict[int, float]]:
        """Name -> k -> nats more than ``base`` on the same targets; only runs that were trained on these."""
        base = self.curves[self.base]
        return {
            name: {seen: nll - base[seen][1] for seen, (_, nll) in curve.items()}
            for name, curve in self.curves.items()
            if name != self.base and name not in self.unlike
        }


def compare_sights(runs: Sequence[Run]) -> SightCurves | None:
    """The sight curves of the runs that have one, or None.

    Raises:
        InputError: sights in the ``metrics.jsonl`` of a run are damaged.
    """
    curves = {}
    for run in runs:
        curve = sight_curve(run.metrics, source=str(run.folder / "metrics.jsonl"))
        if curve:
            curves[run.name] = {seen: (tokens, nll) for seen, tokens, nll in curve}
    if not curves:
        return None
    with_curve = {run.name: run for run in runs if run.name in curves}
    base = baseline({name: {"config": run.config.to_dict()} for name, run in with_curve.items()})
    differing = {name: _differing(run, with_curve[base], curves) for name, run in with_curve.items()}
    return SightCurves(curves, base, {name: what for name, what in differing.items() if what})


def _differing(run: Run, base: Run, curves: Mapping[str, Mapping[int, Bucket]]) -> str:
    """In what the targets of two runs differ; nothing where they are the same, step by step.

    The order of the training text does not depend on the seed: data, batch and length decide every step's targets.
    """
    settings = [("data", run.data, base.data)]
    settings += [(name, getattr(run.config, name), getattr(base.config, name)) for name in ("batch", "length")]
    for name, ours, theirs in settings:
        if ours != theirs:
            return f"{name}: {ours} against {theirs}"
    tokens, base_tokens = ({seen: n for seen, (n, _) in curves[name].items()} for name in (run.name, base.name))
    total, base_total = sum(tokens.values()), sum(base_tokens.values())
    if total != base_total:
        return f"targets measured: {total:,} against {base_total:,}"
    return "" if tokens == base_tokens else "targets in a bucket"


def sight_table(sights: SightCurves) -> list[list[str]]:
    """The curves as rows of text, the header first: k to 2k - 1, tokens, then each run's nats and their difference.

    A run with other targets than the baseline has a column of its own tokens instead of a difference.
    """
    differences = sights.differences
    header = ["times seen before", "tokens"]
    for name in sights.curves:
        header += [f"tokens, {name}"] if name in sights.unlike else []
        header += [name, "difference"] if name in differences else [name]
    table = [header]
    for seen in sights.seen:
        row = [str(seen) if seen < 2 else f"{seen:,}–{2 * seen - 1:,}", _count(sights.curves[sights.base].get(seen))]
        for name, curve in sights.curves.items():
            bucket = curve.get(seen)
            row += [_count(bucket)] if name in sights.unlike else []
            row.append(f"{bucket[1]:.3f}" if bucket else DASH)
            if name in differences:
                row.append(format_nats(differences[name][seen]) if seen in differences[name] else DASH)
        table.append(row)
    return table


def _count(bucket: Bucket | None) -> str:
    return f"{bucket[0]:,}" if bucket else DASH


def format_nats(difference: float) -> str:
    """``−0.084``, ``+1.200``, ``0.000``."""
    text = f"{difference:+.3f}"
    return "0.000" if float(text) == 0 else text.replace("-", "−")
