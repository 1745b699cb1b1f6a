"""Sight curves held against each other: the learning curve of a class, run by run (``firstsight.lab.lm.sights``)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from firstsight.lab.lm.record import Record
from firstsight.lab.lm.sights import Bucket, sight_curve
from firstsight.lab.report.tables import DASH, baseline


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


def compare_sights(runs: Sequence[Record]) -> SightCurves | None:
    """The sight curves of the runs that have one, or None."""
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


def _differing(run: Record, base: Record, curves: Mapping[str, Mapping[int, Bucket]]) -> str:
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
