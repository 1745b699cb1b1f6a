"""Learning curves of language models, several lines with several seeds on one corpus: their jobs, and their numbers."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from firstsight.lab.data import Corpus
from firstsight.lab.lm.config import Config
from firstsight.lab.runs.jobs import Ended
from firstsight.lab.runs.metrics import read_metrics
from firstsight.lab.runs.result import MEND
from firstsight.lab.studies.study import StudyJob, read_outcome, read_result
from firstsight.lab.system.progress import readable
from firstsight.lab.system.shape import OBJECT, TEXT, TEXT_OR_NULL, Shape, check_shape, finite_or_none

Measure = Literal["valid", "test_sample"]
"""What a curve shows: the perplexity of the validation split, or of test documents drawn anew for each point."""
State = Literal["done", "diverged", "under way", "waiting"]


@dataclass(frozen=True)
class CurveJob(StudyJob):
    """A run of which every validation is drawn; ``split`` may be "", for no evaluation at its end."""

    measure: Measure = "valid"

    @property
    def state(self) -> State:
        """How far it is; under way from its first validation on."""
        outcome, result = read_outcome(self), read_result(self)
        if outcome.get("reason") == "diverged":
            return "diverged"
        if outcome and (result or not self.split):
            return "done"
        return "under way" if self.metrics() else "waiting"

    def metrics(self) -> list[dict[str, Any]]:
        """Its validations so far."""
        return read_metrics(self.folder / "metrics.jsonl")

    def ended(self) -> Ended | None:
        """Trained and evaluated, or known to diverge."""
        state, curve = self.state, self.curve()
        if state not in ("done", "diverged"):
            return None
        seconds, last = self.seconds(), list(curve.values())[-1:]
        text = f"perplexity {readable(last[0])}" if last and state == "done" else state
        return Ended(f"{text}, {seconds:.0f} s", whole=state == "done")

    def seconds(self) -> float:
        """Of training so far."""
        last = [line.get("seconds") for line in self.metrics()[-1:]]
        return float(read_outcome(self).get("seconds") or (last[0] if last and last[0] else 0.0))

    def curve(self) -> dict[int, float]:
        """The perplexity by tokens trained, where it is finite."""
        found = {}
        for line in self.metrics():
            held = line if self.measure == "valid" else line.get("test_sample", {})
            value = finite_or_none(held.get("valid_perplexity" if self.measure == "valid" else "perplexity"))
            if value is not None:
                found[int(line["tokens"])] = value
        return found


def make_jobs(
    variants: Mapping[str, Config],
    seeds: Sequence[int],
    corpus: Corpus,
    scale: str,
    out: Path,
    split: str,
    measure: Measure,
) -> list[CurveJob]:
    """All runs, seed by seed, so that whole comparisons come first: ``out/VARIANT/SEED``."""
    data = corpus.folder.resolve().name
    return [
        CurveJob(
            data,
            scale,
            name,
            seed,
            config.replace(seed=seed),
            str(corpus.folder),
            out / name / str(seed),
            split,
            measure,
        )
        for seed in seeds
        for name, config in variants.items()
    ]


def summarise_line(jobs: Sequence[CurveJob]) -> dict[str, Any]:
    """One line of a figure, from its runs.

    Returns:
        ``settings`` without the seed; ``runs`` by seed (see below); ``curve``: ``tokens`` at which all its seeds have a
        value, their ``mean``, ``low`` and ``high``, and ``seeds`` with each one's own values; ``classes``: the shares
        of classes that were ``seen`` and that are ``past_T`` at ``tokens``. The curve's seeds are those that are done;
        where none is, those under way; a run that diverged is in ``runs`` alone.

        Of a run: ``state``, ``tokens``, ``seconds``, ``perplexity``, the last of its curve, and ``test``: ``_test``.
    """
    states = {job.seed: job.state for job in jobs}
    curves = {job.seed: job.curve() for job in jobs}
    runs = {}
    for job in jobs:
        last, metrics = list(curves[job.seed].values())[-1:], job.metrics()
        runs[str(job.seed)] = {
            "state": states[job.seed],
            "tokens": metrics[-1]["tokens"] if metrics else 0,
            "seconds": round(job.seconds(), 1),
            "perplexity": last[0] if last else None,
            "test": _test(job),
        }
    drawn = [job for job in jobs if states[job.seed] == "done"] or [
        job for job in jobs if states[job.seed] == "under way" and curves[job.seed]
    ]
    return {
        "settings": {name: value for name, value in jobs[0].config.to_dict().items() if name != "seed"},
        "runs": runs,
        "curve": _band({str(job.seed): curves[job.seed] for job in drawn}),
        "classes": _classes(drawn[0]) if drawn else None,
    }


def _band(curves: Mapping[str, Mapping[int, float]]) -> dict[str, Any] | None:
    """The seeds' curves where all have a value; None where there is no such place."""
    tokens = sorted(set.intersection(*(set(curve) for curve in curves.values()))) if curves else []
    if not tokens:
        return None
    seeds = {seed: [_short(curve[at]) for at in tokens] for seed, curve in curves.items()}
    columns = list(zip(*seeds.values(), strict=True))
    return {
        "tokens": tokens,
        "mean": [_short(statistics.fmean(column)) for column in columns],
        "low": [min(column) for column in columns],
        "high": [max(column) for column in columns],
        "seeds": seeds,
    }


def _short(value: float) -> float:
    return float(f"{value:.6g}")


def _classes(job: CurveJob) -> dict[str, Any]:
    lines = [line for line in job.metrics() if "classes_seen" in line]
    shares = {name: [_short(line[f"classes_{name}"]) for line in lines] for name in ("seen", "past_T")}
    return {"T": job.config.T, "tokens": [line["tokens"] for line in lines], **shares}


_ORIGIN: Shape = {"checkpoint": OBJECT, "git_commit": TEXT_OR_NULL, "machine": TEXT}


def _test(job: CurveJob) -> dict[str, Any] | None:
    """The evaluation of a run at its end: ``perplexity`` and ``bands`` of the model alone, and, where it was evaluated
    with memories, ``memories``: perplexity by the name of the mixture."""
    result = read_result(job)
    if result is None:
        return None
    check_shape(result, _ORIGIN, str(job.folder / "result.json"), MEND)
    mixtures = {one["name"]: one for one in (result.get("memory") or {}).get("variants", [])}
    model = mixtures.pop("model", result)
    return {
        "split": result["split"],
        "checkpoint": result["checkpoint"],
        "git_commit": result["git_commit"],
        "machine": result["machine"],
        "perplexity": model["perplexity"],
        "bands": model["bands"],
        "memories": {name: one["perplexity"] for name, one in mixtures.items()},
    }
