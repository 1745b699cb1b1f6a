"""Searches of a second, and what their storage holds."""

from collections import Counter
from pathlib import Path
from typing import Any

import optuna
import yaml
from optuna.trial import TrialState

from firstsight.lab.data import Corpus
from firstsight.lab.studies.search.points import fill
from firstsight.lab.studies.search.space import Search, load_search
from firstsight.lab.studies.search.storage import found_study, locked, storage_url
from firstsight.lab.studies.search.work import work

BASE = {"embedding": 8, "hidden": 8, "batch": 4, "length": 10, "lr": 0.01, "steps": 20, "eval_every": 5}
BASE |= {"head": "softmax", "dropout": 0.1, "checkpoint_every": 5}


def write_search(folder: Path, base: dict[str, Any] | None = None, **values: Any) -> Path:
    path = folder / "search.yaml"
    path.write_text(yaml.safe_dump({"base": {**BASE, **(base or {})}, **values}, sort_keys=False))
    return path


class Kept:
    """A search in a file of its own, begun and not worked at."""

    def __init__(self, folder: Path, corpus: Corpus, base: dict[str, Any] | None = None, **values: Any) -> None:
        self.out, self.corpus, self.url = folder / "out", corpus, storage_url(None, folder / "out")
        self.search: Search = load_search(write_search(folder, base, **values))
        self.study = self.found(self.search)

    def found(self, search: Search, **about: str) -> optuna.Study:
        known = {"dataset": self.corpus.name, "vocabulary_hash": self.corpus.vocabulary.hash, **about}
        with locked(self.url):
            return found_study(self.url, "mine", search, known, 1)

    def fill(self, again: bool = False) -> Counter:
        with locked(self.url):
            return fill(self.study, again)

    def work(self) -> int:
        """What a worker's process does, in this one."""
        about = {"study": "mine", "data": str(self.corpus.folder), "out": str(self.out), "heartbeat": 1}
        return work({"storage": self.url.render_as_string(hide_password=False), **about})

    def states(self) -> Counter:
        return Counter(trial.state for trial in self.study.get_trials())


def finished_once(study: optuna.Study, points: int) -> bool:
    """Whether each point has one trial that came to an end of its own, and no more."""
    ended = [t for t in study.get_trials() if t.state in (TrialState.COMPLETE, TrialState.PRUNED)]
    return Counter(t.user_attrs["point"] for t in ended) == Counter(range(points))
