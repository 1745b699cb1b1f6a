"""The points of a search and the trials that were made of them: which are done, and which are to be tried again.

A point is one set of settings, numbered from 0, and each of its trials names it. Optuna's own sampler of grids hands
out points twice where several workers ask at once, so that points are put in its queue instead, under the storage's
lock: a worker takes trials from there and makes none.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Literal, TypeAlias

import optuna
from optuna.trial import FrozenTrial, TrialState

from firstsight.lab.studies.search.storage import search_of
from firstsight.lab.system.progress import say

FAILURES = 2  # a point that failed so often is left, and named
DEATHS = 5  # as often a worker may die over a point: it may be what kills them, by its memory say

State: TypeAlias = Literal["waiting", "running", "done", "pruned", "diverged", "failed"]
LEFT: tuple[State, ...] = ("waiting", "running")  # states of points that are still to be finished


def trials_of(study: optuna.Study) -> dict[int, list[FrozenTrial]]:
    """All trials by their point, in the order in which they were made."""
    found: dict[int, list[FrozenTrial]] = {point: [] for point in range(study.user_attrs["trials"])}
    for trial in study.get_trials(deepcopy=False):
        if "point" in trial.user_attrs:
            found.setdefault(trial.user_attrs["point"], []).append(trial)
    return found


def state_of(trials: Sequence[FrozenTrial]) -> State:
    """How far a point is, by its trials."""
    trial = telling(trials)
    if trial is None:
        return "waiting"
    if trial.state == TrialState.PRUNED:
        return "diverged" if trial.user_attrs.get("ended") == "diverged" else "pruned"
    if trial.state == TrialState.FAIL:
        return "failed" if _given_up(trials) else "waiting"
    names: dict[TrialState, State] = {TrialState.COMPLETE: "done", TrialState.RUNNING: "running"}
    return names.get(trial.state, "waiting")


def telling(trials: Sequence[FrozenTrial]) -> FrozenTrial | None:
    """The trial that says how a point is: the first that came to an end of its own, else the last."""
    ended = [trial for trial in trials if trial.state in (TrialState.COMPLETE, TrialState.PRUNED)]
    return next(iter([*ended, *reversed(trials)]), None)


def _given_up(trials: Sequence[FrozenTrial]) -> bool:
    latest = max(trial.user_attrs.get("round", 0) for trial in trials)
    ends = Counter(_end(trial) for trial in trials if trial.user_attrs.get("round", 0) == latest)
    return ends["failure"] >= FAILURES or ends["death"] >= DEATHS


def _end(trial: FrozenTrial) -> str:
    """Why a trial did not end well: a failure, a death of its worker, or a signal, after which it goes on."""
    return "failure" if "failure" in trial.user_attrs else "signal" if "ended" in trial.user_attrs else "death"


def fill(study: optuna.Study, again: bool = False) -> Counter[State]:
    """Put every point in the queue that is to be tried and is not there; gives how many points are how far.

    The lock has to be held. What a death in its midst left undone, the next call does.

    Args:
        study: that of a search.
        again: try points once more that were left as failed.
    """
    counts: Counter[State] = Counter()
    settings = search_of(study).points()
    for trial in study.get_trials(deepcopy=False, states=[TrialState.RUNNING]):
        if "worker" not in trial.user_attrs:  # taken by a worker that died before it said who it was
            study.tell(trial.number, state=TrialState.FAIL)
    for point, trials in trials_of(study).items():
        state, last = state_of(trials), telling(trials)
        if again and state == "failed":
            state = "waiting"
        counts[state] += 1
        if state == "waiting" and not any(trial.state == TrialState.WAITING for trial in trials):
            kept = {} if last is None else last.user_attrs
            about = {"point": point, "round": kept.get("round", 0) + (again and state_of(trials) == "failed")}
            done = {"seeds": kept["seeds"]} if "seeds" in kept else {}
            drawn = settings[point] if last is None else last.params or last.system_attrs.get("fixed_params", {})
            study.enqueue_trial(drawn, user_attrs={**about, **done})
            if last is not None:
                say(f"point {point} is tried again, after {_why(last)}")
    return counts


def _why(trial: FrozenTrial) -> str:
    attrs = trial.user_attrs
    return str(attrs.get("failure") or attrs.get("ended") or "the death of its worker")
