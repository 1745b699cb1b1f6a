"""A search for settings of the language model, from its start to ``sweep.json``: its workers are jobs like others."""

import math
import os
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
import torch
from sqlalchemy.engine import URL

from firstsight.errors import InputError
from firstsight.lab.data import Corpus, open_corpus
from firstsight.lab.lm.config import save_config
from firstsight.lab.lm.dry_run import dry_run, run_seconds
from firstsight.lab.runs.jobs import Ended, Job, JobsFailedError, check_workers, run_all
from firstsight.lab.studies.cost import one_thread, say_seconds
from firstsight.lab.studies.search.points import fill
from firstsight.lab.studies.search.space import Search
from firstsight.lab.studies.search.storage import (
    found_study,
    locked,
    open_storage,
    open_study,
    reached,
    search_of,
    shown,
)
from firstsight.lab.studies.search.summary import costs, summarise
from firstsight.lab.system.files import write_json
from firstsight.lab.system.folder import SEARCH, hold
from firstsight.lab.system.machine import cores, provenance
from firstsight.lab.system.progress import say

Found = dict[str, Any]

RESULT, WINNER = "sweep.json", "best.yaml"
LOOK = 2.0  # seconds between two looks at how far a search is


@dataclass(frozen=True)
class Worker(Job):
    """A process that takes trials until none is left."""

    number: int
    url: URL
    study: str
    data: str
    out: Path
    heartbeat: int
    folder: Path
    does = "firstsight.lab.studies.search.work:work"
    work = 1.0

    @property
    def title(self) -> str:
        """``worker 1``."""
        return f"worker {self.number}"

    def told(self) -> Mapping[str, Any]:
        """See ``work.work``."""
        url = self.url.render_as_string(hide_password=False)
        about = {"storage": url, "study": self.study, "data": self.data, "out": str(self.out)}
        return {**about, "heartbeat": self.heartbeat}

    def ended(self) -> Ended | None:
        """Done when all of the search is, whoever did it."""
        found = summarise(open_study(open_storage(self.url), self.study))
        return None if found["left"] else Ended(f"nothing is left of {self.study}")


def run_search(
    search: Search,
    data: str,
    out: Path,
    url: URL,
    study: str,
    *,
    workers: int | None = None,
    heartbeat: int = 15,
    again: bool = False,
    look: Callable[[Found], None] = lambda found: None,
) -> Found:
    """Work at a search until nothing is left of it, and keep what was found in ``sweep.json`` and ``best.yaml``.

    The same call elsewhere, with the same storage, works at the same search; see ``jobs.run_all`` for how it ends.
    Trials that a signal ended go on, those of a worker that died are run again, and none that is finished is.

    Args:
        search: what is searched.
        data: the data folder.
        out: the folder of this machine's runs, and of the result.
        url: the storage.
        study: the search's name there.
        workers: trials at a time on this machine; by default one a core, or one where there is a GPU.
        heartbeat: seconds between a worker's signs of life; one that gives none for four times as long is taken for
            dead.
        again: try points once more that had failed.
        look: called with what ``sweep.json`` holds whenever it was written, every few seconds.

    Returns:
        What ``sweep.json`` holds, and ``"interrupted": signal`` if a signal ended it.

    Raises:
        InputError: the data is missing or not that of the search; another search is at work in ``out``; the storage
            cannot be reached, or holds another search of that name; ``workers`` or ``heartbeat`` below 1.
        JobsFailedError: workers ended and left something undone; or points failed, each twice, and all else is done.
    """
    check_workers(workers)
    if heartbeat < 1:
        raise InputError(f"heartbeat is {heartbeat}; expected 1 second or more.")
    corpus = open_corpus(data)
    about = {"dataset": corpus.name, "vocabulary_hash": corpus.vocabulary.hash}
    with hold(out, SEARCH):
        with locked(url):
            kept = found_study(url, study, search, about, heartbeat)
            fill(kept, again)
        return _work(search, corpus, kept, data, out, url, workers, heartbeat, look)


def _work(
    search: Search,
    corpus: Corpus,
    kept: optuna.Study,
    data: str,
    out: Path,
    url: URL,
    workers: int | None,
    heartbeat: int,
    look: Callable[[Found], None],
) -> Found:
    """Have workers do what is left of a search whose folder is held."""
    count = workers or (1 if torch.cuda.is_available() else cores())
    _say_cost(search, corpus, summarise(kept)["left"], count)
    slot = out / "workers" / f"{socket.gethostname()}-{os.getpid()}"
    jobs = [Worker(n + 1, url, kept.study_name, data, out, heartbeat, slot / str(n + 1)) for n in range(count)]
    keeper = _Keeper(kept, url, data, out, look)
    failed: JobsFailedError | None = None
    interrupted = ""
    try:
        interrupted = run_all(
            jobs, slot, workers=count, changed=lambda job, failed: keeper.tick(now=True), tick=keeper.tick
        )
    except JobsFailedError as error:
        failed = error
    found = keeper.keep()
    if found["left"] and failed:
        raise failed
    if failed:
        say(f"Not every worker lived to the end, but nothing is left undone: {failed}")
    if lost := [point for point in found["points"] if point["state"] == "failed"]:
        raise JobsFailedError(_told(lost, len(found["points"])))
    return {**found, **({"interrupted": interrupted} if interrupted else {})}


def _told(lost: list[Found], of: int) -> str:
    told = "; ".join(f"point {point['point']}: {point['message'] or 'its worker died each time'}" for point in lost)
    return f"{len(lost)} of {of} points failed, the others are done. {told}. The same command with --again tries these."


class _Keeper:
    """Writes down how far a search is."""

    def __init__(self, study: optuna.Study, url: URL, data: str, out: Path, look: Callable[[Found], None]) -> None:
        self.study, self.url, self.data, self.out, self.look = study, url, data, out, look
        self.made, self.search, self.next = provenance(), search_of(study), 0.0
        if self.url.password:
            self.made["command"] = self.made["command"].replace(str(self.url.password), "***")

    def tick(self, now: bool = False) -> None:
        """Look now and then; a storage that is out of reach for a moment ends nothing."""
        if time.monotonic() < self.next and not now:
            return
        try:
            self.keep()
        except InputError as error:
            say(str(error))
            self.next = time.monotonic() + 30

    def keep(self) -> Found:
        """Write ``sweep.json``, and ``best.yaml`` once there is a best."""
        found = keep(self.study, self.url, self.data, self.out, self.made)
        self.look(found)
        self.next = time.monotonic() + LOOK
        return found


def keep(study: optuna.Study, url: URL, data: str, out: Path, made: Mapping[str, Any] | None = None) -> Found:
    """Write what a search has found so far into a folder: ``sweep.json``, and ``best.yaml``, which train takes."""
    with reached(url):
        found = {**summarise(study), "storage": shown(url), "folder": data, "config": None, **(made or provenance())}
    if found["best"]:
        search = search_of(study)
        config = search.config(found["best"]["settings"], search.seeds[0])
        save_config(out / WINNER, str(Path(data).resolve()), config)
        found["config"] = str(out / WINNER)
    write_json(out / RESULT, found)
    return found


def _say_cost(search: Search, corpus: Corpus, left: int, workers: int) -> None:
    """Say what the points that are left will take: one is tried, all are set beside it by their operations.

    Which of them are left to this machine nobody knows, so each counts as the mean of all.
    """
    work = costs(search, corpus)
    settings = search.points()[work.index(min(work))]
    with one_thread():
        seconds = run_seconds(corpus, search.config(settings, search.seeds[0])) * len(search.seeds)
    say_seconds([seconds * math.fsum(work) / len(work) / min(work)] * left, workers)


def list_search(search: Search, data: str, workers: int | None = None) -> Found:
    """The points of a search, and what it will cost: a few steps of one point are timed, the others are set beside it.

    Nothing is written.
    """
    check_workers(workers)
    corpus: Corpus = open_corpus(data)
    work = costs(search, corpus)
    middle = sorted(range(len(work)), key=work.__getitem__)[len(work) // 2]
    settings = search.points()[middle]
    estimate = dry_run(corpus, search.config(settings, search.seeds[0]))["estimate"]
    seconds = estimate["seconds"] * len(search.seeds)
    points = [
        {"point": point, "settings": of, "seconds": seconds * own / work[middle]}
        for point, (of, own) in enumerate(zip(search.points(), work, strict=True))
    ]
    count = workers or (1 if torch.cuda.is_available() else cores())
    whole = math.fsum(point["seconds"] for point in points)
    return {
        **search.to_dict(),
        "points": points,
        "measured": {"point": middle, "tokens_per_second": estimate["tokens_per_second"], "seconds": seconds},
        "tokens": estimate["tokens"] * len(search.seeds) * len(points),
        "workers": count,
        "seconds": whole,
        "seconds_left": whole / count,
    }
