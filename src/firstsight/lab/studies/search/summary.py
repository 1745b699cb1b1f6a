"""What a search has found so far, in plain values."""

import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from firstsight.lab.data import Corpus
from firstsight.lab.lm.dry_run.account import build, operations
from firstsight.lab.runs.result import best_part
from firstsight.lab.studies.search.points import LEFT, State, state_of, telling, trials_of
from firstsight.lab.studies.search.space import Search
from firstsight.lab.studies.search.storage import search_of

ORDER: tuple[State, ...] = ("done", "pruned", "running", "waiting", "diverged", "failed")


def summarise(study: optuna.Study) -> dict[str, Any]:
    """What ``sweep.json`` holds of a search.

    ``points`` stand by their mean perplexity, the best first, then those that have none; ``states`` says how many are
    how far; ``seconds_left`` is None until one is finished; ``best`` and what is beside it are common to all sweeps.
    """
    search, kept = search_of(study), study.user_attrs["search"]
    settings = search.points()
    points = [_point(number, trials, search, settings[number]) for number, trials in trials_of(study).items()]
    states = Counter(point["state"] for point in points)
    points.sort(key=lambda point: (ORDER.index(point["state"]), point["perplexity"] or 0.0, point["point"]))
    best = points[0] if points and points[0]["state"] == "done" else None
    return {
        **best_part("lm", kept["dataset"], *((best["settings"], best["perplexity"]) if best else (None, None))),
        "vocabulary_hash": kept["vocabulary_hash"],
        "study": study.study_name,
        **search.to_dict(),
        "states": {state: states[state] for state in ORDER if states[state]},
        "left": sum(states[state] for state in LEFT),
        "seconds_left": _seconds_left(points),
        "points": points,
    }


def _point(number: int, trials: Sequence[FrozenTrial], search: Search, decided: Mapping[str, Any]) -> dict[str, Any]:
    """A point as its trials tell it. ``validations`` of the trial: [step, mean of the runs so far] each."""
    trial, state = telling(trials), state_of(trials)
    attrs: Mapping[str, Any] = {} if trial is None else trial.user_attrs
    seeds = {seed: found["perplexity"] for seed, found in attrs.get("seeds", {}).items()}
    done = state == "done"
    return {
        "point": number,
        "state": state,
        "settings": _settings(trial, search, decided),
        "perplexity": statistics.fmean(seeds.values()) if done else None,
        "deviation": statistics.stdev(seeds.values()) if done and len(seeds) > 1 else None,
        "seeds": seeds,
        "tokens": sum(found["tokens"] for found in attrs.get("seeds", {}).values()),
        "seconds": _seconds(trials),
        "validations": [] if trial is None else [list(one) for one in sorted(trial.intermediate_values.items())],
        "attempts": sum(trial.state != TrialState.WAITING for trial in trials),
        "worker": attrs.get("worker"),
        "message": attrs.get("message")
        or next((t.user_attrs["failure"] for t in reversed(trials) if _failed(t)), None),
    }


def _failed(trial: FrozenTrial) -> bool:
    return "failure" in trial.user_attrs


def _settings(trial: FrozenTrial | None, search: Search, decided: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the point, in the order of the search; of one that was not drawn yet none."""
    found = decided if search.sampler == "grid" else trial.params if trial else {}
    return {name: found[name] for name in search.space if name in found}


def _seconds(trials: Sequence[FrozenTrial]) -> float:
    """That its attempts took, as far as they have ended."""
    spans = [(trial.datetime_start, trial.datetime_complete) for trial in trials]
    return sum((end - begin).total_seconds() for begin, end in spans if begin and end)


def _seconds_left(points: Sequence[Mapping[str, Any]]) -> float | None:
    """At the pace of the points that are finished, for as many workers as there are at work now."""
    took = [point["seconds"] for point in points if point["state"] in ("done", "pruned")]
    running = sum(point["state"] == "running" for point in points)
    left = sum(point["state"] in LEFT for point in points)
    return statistics.fmean(took) * left / max(1, running) if took else None


def costs(search: Search, corpus: Corpus) -> list[float]:
    """Floating-point operations of training each point's runs, by an account; of ranges those of their middle."""
    points = search.points()
    known: dict[str, float] = {}
    for point in points:
        if str(point) not in known:
            config = search.config(point, search.seeds[0])
            model = build(len(corpus.vocabulary), config)
            tokens = config.steps * config.batch * config.length * len(search.seeds)
            known[str(point)] = operations(model, corpus.vocabulary.counts)["total"] * tokens
    return [known[str(point)] for point in points]
