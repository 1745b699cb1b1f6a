"""The process of a search: it takes trials, one after the other, until none is left."""

import math
import os
import socket
import statistics
import time
import traceback
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import TrialPruned, UpdateFinishedTrialError
from optuna.trial import FrozenTrial, Trial, TrialState
from sqlalchemy.engine import make_url

from firstsight.errors import InputError
from firstsight.lab.data import Corpus, open_corpus
from firstsight.lab.lm.config import Config
from firstsight.lab.lm.run import checkpoint_path
from firstsight.lab.lm.state import DivergedError
from firstsight.lab.lm.training import train
from firstsight.lab.runs.metrics import read_metrics
from firstsight.lab.runs.worker import exit_code
from firstsight.lab.studies.search.points import fill
from firstsight.lab.studies.search.space import readable_settings
from firstsight.lab.studies.search.storage import GRACE, locked, open_storage, open_study, reached, search_of
from firstsight.lab.system.folder import RUN, hold
from firstsight.lab.system.interrupt import ending_signals
from firstsight.lab.system.manifest import forget
from firstsight.lab.system.progress import readable, say

LOOK = 1.0  # seconds between two looks at a queue that is empty while others are at work
STARTUP = 5  # points that are finished before the first is pruned, or drawn with a model of the others


class _SignalError(Exception):
    """A signal ended the run in hand; its checkpoint is kept."""


def work(told: Mapping[str, Any]) -> int:
    """Work at a search until nothing of it is left. Gives the exit code of the process."""
    with ending_signals() as received:
        worker = _Worker(told, received)
        with reached(worker.url):
            while not received and worker.turn():
                pass
        return exit_code(received[0]) if received else 0


class _Worker:
    def __init__(self, told: Mapping[str, Any], received: list[str]) -> None:
        self.url, self.received, self.out = make_url(told["storage"]), received, Path(told["out"])
        self.patience = GRACE * told["heartbeat"]
        self.storage = open_storage(self.url, told["heartbeat"])
        self.study = open_study(self.storage, told["study"])
        self.search = search_of(self.study)
        self.corpus: Corpus = open_corpus(told["data"])
        if self.corpus.vocabulary.hash != self.study.user_attrs["search"]["vocabulary_hash"]:
            raise InputError(f"{told['data']}: this data has another vocabulary than the search was started with.")
        self.study.sampler = self._sampler()
        warm = self.search.base["steps"] // 4  # before that a run has hardly begun
        self.study.pruner = optuna.pruners.MedianPruner(n_startup_trials=STARTUP, n_warmup_steps=warm)
        self.name = f"{socket.gethostname()}:{os.getpid()}"
        self.held = ExitStack()

    def _sampler(self) -> optuna.samplers.BaseSampler:
        """That of the search. Of a grid all values are given, and none is asked."""
        if self.search.sampler == "tpe":
            return optuna.samplers.TPESampler(n_startup_trials=min(10, max(STARTUP, self.search.trials // 4)))
        return optuna.samplers.RandomSampler()

    def turn(self) -> bool:
        """Run the next trial, or wait a little where others are at work; False once nothing is left.

        The lock is held from the look at the queue until the trial bears the worker's name.
        """
        with ExitStack() as self.held:
            self.held.enter_context(locked(self.url))
            optuna.storages.fail_stale_trials(self.study)
            counts = fill(self.study)
            if counts["waiting"]:
                self.storage.beat.clear()
                return self._optimize()
        if counts["running"]:
            time.sleep(LOOK)
        return bool(counts["running"])

    def _optimize(self) -> bool:
        try:
            self.study.optimize(self._objective, n_trials=1, catch=(Exception,), callbacks=[self._tidy])
        except (ValueError, UpdateFinishedTrialError) as error:
            if not isinstance(error, UpdateFinishedTrialError) and "Cannot tell" not in str(error):
                raise
            say("this worker was taken for dead, and its trial is another's now: on with the next")
        return True

    def _objective(self, trial: Trial) -> float:
        """The mean perplexity of the point's runs. What ends it otherwise is noted in the trial, with the reason."""
        self.storage.beat.wait(self.patience)
        trial.set_user_attr("worker", self.name)
        self.held.close()  # from here the heartbeat says that somebody is at it
        settings = self.search.suggest(trial)
        say(f"point {trial.user_attrs['point']}: {readable_settings(settings)}")
        try:
            return self._mean(trial, settings)
        except DivergedError as error:  # it would diverge again
            trial.set_user_attr("message", str(error))
            trial.set_user_attr("ended", "diverged")
            raise TrialPruned from error
        except (TrialPruned, _SignalError, UpdateFinishedTrialError):
            raise
        except Exception as error:
            if not isinstance(error, InputError):
                traceback.print_exc()
            what = str(error) if isinstance(error, InputError) else f"{type(error).__name__}: {error}"
            say(f"point {trial.user_attrs['point']} failed: {what}")
            trial.set_user_attr("failure", what[:1000])
            raise

    def _mean(self, trial: Trial, settings: Mapping[str, Any]) -> float:
        seeds: dict[str, dict[str, Any]] = dict(trial.user_attrs.get("seeds", {}))
        for at, seed in enumerate(self.search.seeds):
            if str(seed) in seeds:  # of an earlier attempt at this point
                continue
            before = [one["perplexity"] for one in seeds.values()]
            seeds[str(seed)] = self._run(trial, self.search.config(settings, seed), before, at)
            trial.set_user_attr("seeds", seeds)
        return statistics.fmean(one["perplexity"] for one in seeds.values())

    def _run(self, trial: Trial, config: Config, before: list[float], at: int) -> dict[str, Any]:
        """One run, or the rest of it; what the storage keeps of it."""
        folder = run_folder(self.out, trial.user_attrs["point"], config.seed)
        reported: set[int] = set()

        def report() -> None:
            """The mean of the runs before and of the best so far of this one, at each of its validations."""
            best = math.inf
            for line in read_metrics(folder / "metrics.jsonl"):
                best = min(best, line["valid_perplexity"] or math.inf)
                if line["step"] not in reported and math.isfinite(best):
                    trial.report(statistics.fmean([*before, best]), at * config.steps + line["step"])
                reported.add(line["step"])

        def watch(_: Mapping[str, Any]) -> bool:
            report()
            return not (self.search.prune and trial.should_prune())

        with ExitStack() as stack:
            self._hold(folder, stack)
            outcome = train(self.corpus, folder, config, resume=True, watch=watch)
        if outcome.reason.startswith("SIG"):
            self.received.append(outcome.reason)
            trial.set_user_attr("ended", outcome.reason)
            raise _SignalError(outcome.reason)
        report()
        if outcome.reason == "stopped":
            say(f"point {trial.user_attrs['point']}: pruned at step {outcome.step:,}")
            raise TrialPruned
        if outcome.best_perplexity is None:
            raise DivergedError(f"no validation of {folder} gave a finite perplexity.")
        say(f"point {trial.user_attrs['point']}, seed {config.seed}: perplexity {readable(outcome.best_perplexity)}")
        return {"perplexity": outcome.best_perplexity, "seconds": outcome.seconds, "tokens": outcome.tokens}

    def _hold(self, folder: Path, stack: ExitStack) -> None:
        """The run's folder, which a worker that was wrongly taken for dead may hold for a while."""
        end = time.monotonic() + self.patience
        while True:
            try:
                stack.enter_context(hold(folder, RUN))
                return
            except InputError:
                if time.monotonic() > end:
                    raise
            time.sleep(LOOK)

    def _tidy(self, study: optuna.Study, trial: FrozenTrial) -> None:
        """Of a finished point only the best weights are kept, and none where it was pruned or diverged."""
        idle = {TrialState.PRUNED: ("last", "best"), TrialState.COMPLETE: ("last",)}.get(trial.state, ())
        for seed in self.search.seeds if idle else ():
            folder = run_folder(self.out, trial.user_attrs["point"], seed)
            if folder.is_dir():
                with hold(folder, RUN):
                    for name in idle:
                        forget(checkpoint_path(folder, name))
                    with suppress(OSError):  # which says that it is not empty
                        (folder / "checkpoints").rmdir()


def run_folder(out: Path, point: int, seed: int) -> Path:
    """Where the run of a point lies."""
    return out / "runs" / f"{point:04d}" / str(seed)
