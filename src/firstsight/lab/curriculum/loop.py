"""The loop of a curriculum.

Shapes: n classes introduced so far, B drawings, S pixels a side, D width of the head.
"""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from firstsight.errors import InputError
from firstsight.lab.curriculum.binding import Binding
from firstsight.lab.curriculum.draws import Drawings
from firstsight.lab.curriculum.model import Classifier, build_optimizer
from firstsight.lab.curriculum.settings import Curriculum
from firstsight.lab.runs.checkpoint import TENSORS, load_checkpoint, load_optimizer, load_weights, save_checkpoint
from firstsight.lab.system.files import write_json
from firstsight.lab.system.folder import CURRICULUM, hold
from firstsight.lab.system.interrupt import ending_signals
from firstsight.lab.system.machine import provenance
from firstsight.lab.system.manifest import check_there
from firstsight.lab.system.shape import COUNT, NUMBER, OBJECT, TEXT, WHOLE, Kind, check_shape, fault

MILESTONES = (100, 200, 400)
MAY_CHANGE = ("max_steps", "save_seconds")  # in a run that goes on
_RECORD = {"event": TEXT, "step": WHOLE, "classes": NUMBER, "accuracy": NUMBER}
_OF_EVENT = {"bound": {"first": WHOLE, "presentations": WHOLE}, "oldest": {"among_themselves": NUMBER}}
RECORDS = [
    Kind(
        lambda one: fault(one, _RECORD) is None and fault(one, _OF_EVENT.get(one["event"], {})) is None,
        "an event with its step, classes and accuracy",
    )
]
_LOOP_STATE = {"step": WHOLE, "n": WHOLE, "reason": TEXT, "records": RECORDS}
_LOOP_STATE |= {"seconds": {"train": COUNT, "check": COUNT, "measure": COUNT}}
_CHECKPOINT = {"images": OBJECT, "model": TENSORS, "optimizer": OBJECT, "binding": OBJECT, "loop": _LOOP_STATE}
_MEND = "Put a copy of it back, or give another folder."
Record = dict[str, Any]


def run_curriculum(
    images: npt.NDArray[np.uint8],
    settings: Curriculum,
    *,
    progress: Callable[[Record], None] | None = None,
    out: Path | None = None,
    device: torch.device | str = "cpu",
) -> dict[str, Any]:
    """Train from ``settings.start`` classes on, with new classes whenever performance passes the threshold.

    A step trains on a batch of training drawings of the classes so far. Every ``check_every`` steps the accuracy is
    measured on a fresh sample of the test drawings of *all* classes so far; where it reaches the threshold the head
    grows by ``add`` classes, and is measured again at once on another sample, so that neither the distance of the
    checks nor the size of an addition limits the pace. A class not yet introduced has no row, and so no probability.
    It ends when the threshold is reached with all classes, after ``max_steps``, with a loss that is not finite, or
    by SIGINT or SIGTERM.

    A check of 200 drawings costs about as much as a step with a batch of 50, so that checks take about a third as long
    as training at the defaults, the ones right after additions included. A sample's luck counts: of a learner at 60%,
    200 drawings have a standard deviation of 3.5%, and one that takes many checks from an addition to the next has
    more chances at luck. ``check_images=0`` is exact, and at 400 classes costs ten times as much.

    Killed in any way it goes on from the last checkpoint in ``out`` when it is called again; on a CPU, bit for bit as
    if nothing had happened (the times apart).

    Args:
        images: [classes, drawings, S, S] uint8, ink above 0; the first 5 drawings of each class test.
        settings: everything else.
        progress: called with each record.
        out: a folder for ``checkpoint.pt``, and ``result.json`` at the end. None: nothing is saved.
        device: where it trains.

    Returns:
        What can be written as JSON: ``settings``; ``images``, what they were; ``steps``; ``classes``; ``reason``
        ("classes", "steps", "diverged", or the name of a signal); ``seconds`` by purpose; ``steps_to`` 100, 200 and
        400 classes, None where they were not reached; ``binding``: ``Binding.summary``; ``final``, of the end: as
        "oldest" below, and ``accuracy_all``, on all test drawings of all classes so far; versions, machine and
        command; and ``records``, each with ``event``, ``step`` and ``seconds``:

        - "check": ``classes``, ``images``, ``accuracy``;
        - "addition": ``classes``, the new ones among them, and the ``accuracy`` that earned them;
        - "bound": see ``Binding``;
        - "oldest", before the first addition and as 100, 200 and 400 classes are reached: ``accuracy`` on all test
          drawings of the classes of the start, against all ``classes``, and ``among_themselves``, the others left
          out, which tells forgetting from a choice that has become harder. Runs compare at equal ``classes``.

    Raises:
        InputError: images or settings that do not fit; a checkpoint that is damaged, of other settings or images, or of
            more steps than ``max_steps``.
    """
    with (
        nullcontext() if out is None else hold(out, CURRICULUM),
        torch.random.fork_rng(),
        ending_signals() as received,
    ):
        run = _Loop(images, settings, progress or (lambda record: None), out, device)
        if out is not None:
            check_there(out / "checkpoint.pt")
            if (out / "checkpoint.pt").exists():
                run.resume(out / "checkpoint.pt")
        return run.run(received)


class _Loop:
    def __init__(
        self,
        images: npt.NDArray[np.uint8],
        settings: Curriculum,
        progress: Callable[[Record], None],
        out: Path | None,
        device: torch.device | str,
    ) -> None:
        self.settings, self.progress, self.out = settings, progress, out
        self.draws = Drawings(images, settings.seed, device)
        self.total = settings.num_classes(len(images))
        self.draws.seed_weights()
        self.model = Classifier(images.shape[2], settings).to(device)
        self.optimizer = build_optimizer(self.model, settings)
        self.model.head.attach(self.optimizer, group=False)
        self.binding = Binding(settings.start, settings.add, self.total)
        self.step, self.n, self.reason = 0, settings.start, ""
        self.records: list[Record] = []
        self.seconds = {"train": 0.0, "check": 0.0, "measure": 0.0}

    def run(self, received: list[str]) -> dict[str, Any]:
        """Train until one of the ends is reached."""
        settings, saved_at = self.settings, time.monotonic()
        if self.reason == "steps" and self.step < settings.max_steps:
            self.reason = ""
        while not self.reason and not received:
            if self.step >= settings.max_steps:
                self.reason = "steps"
                break
            self._train()
            if settings.save_seconds and time.monotonic() - saved_at > settings.save_seconds:
                self._save()
                saved_at = time.monotonic()
        self._save()
        result = self._result(self.reason or received[0])
        if self.out is not None and self.reason:
            write_json(self.out / "result.json", result)
        return result

    def _train(self) -> None:
        """A step, and what is due after it."""
        with self._timed("train"):
            images_BSS, label_B = self.draws.batch(self.step, self.n, self.settings.batch)
            self.draws.seed_dropout(self.step)
            loss = self.model.loss(images_BSS, label_B)
            if not math.isfinite(loss.item()):
                self.reason = "diverged"
                return
            loss.backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()
            self.optimizer.zero_grad()
        self.step += 1
        with self._timed("measure"):
            self._measure_new(label_B)
        if self.step % self.settings.check_every == 0:
            self._check()

    def _check(self) -> None:
        for _ in range(self.settings.additions):
            with self._timed("check"):
                images_BSS, label_B = self.draws.check(self.step, self.n, self.settings.check_images)
                accuracy = float(self.model.right(images_BSS, label_B).double().mean())
            self._record({"event": "check", "classes": self.n, "images": len(label_B), "accuracy": accuracy})
            if not self.settings.passes(accuracy):
                return
            if self.n == self.total:
                self.reason = "classes"
                return
            self._add(accuracy)

    def _add(self, accuracy: float) -> None:
        settings, before = self.settings, self.n
        if before == settings.start:
            self._record({"event": "oldest", "classes": before, **self._oldest()})
        self.n = min(before + settings.add, self.total)
        with self._timed("train"):
            self.draws.seed_rows(before)
            self.model.head.add_classes(self.n - before)
        self._record({"event": "addition", "classes": self.n, "accuracy": accuracy})
        if any(before < milestone <= self.n for milestone in MILESTONES):
            self._record({"event": "oldest", "classes": self.n, **self._oldest()})

    def _measure_new(self, label_B: Tensor) -> None:
        due = self.binding.present(label_B)
        if not len(due):
            return
        images_BSS, labels_B = self.draws.tests_of(due)
        accuracies = self.model.right(images_BSS, labels_B).double().view(len(due), -1).mean(1)
        for record in self.binding.measured(due, accuracies, self.n):
            self._record(record)

    def _oldest(self) -> dict[str, float]:
        with self._timed("measure"):
            images_BSS, label_B = self.draws.tests_of(np.arange(self.settings.start))
            against = {"accuracy": self.n, "among_themselves": self.settings.start}
            return {
                name: float(self.model.right(images_BSS, label_B, classes).double().mean())
                for name, classes in against.items()
            }

    def _record(self, record: Record) -> None:
        record |= {"step": self.step, "seconds": round(sum(self.seconds.values()), 3)}
        self.records.append(record)
        self.progress(record)

    @contextmanager
    def _timed(self, purpose: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[purpose] += time.perf_counter() - start

    def _save(self) -> None:
        if self.out is None:
            return
        state = {
            "curriculum": self.settings.to_dict(),
            "images": self.draws.facts,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "binding": self.binding.state(),
            "loop": {name: getattr(self, name) for name in _LOOP_STATE},
        }
        save_checkpoint(self.out / "checkpoint.pt", state)

    def resume(self, path: Path) -> None:
        """Go back to a checkpoint. What chance decides needs no state: see ``Drawings``."""
        state = load_checkpoint(path)
        check_checkpoint(state, self.settings, self.draws.facts, path)
        begin = self.settings.start
        if not begin <= state["loop"]["n"] <= self.total:
            raise InputError(f"{path}: the classes of this checkpoint are not from {begin} to {self.total}. {_MEND}")
        check_shape(state["binding"], self.binding.shape, f"{path}: binding", _MEND)
        for name in _LOOP_STATE:
            setattr(self, name, state["loop"][name])
        if self.n > self.settings.start:
            self.model.head.add_classes(self.n - self.settings.start)
        load_weights(self.model, state, path, diverged=self.reason == "diverged")
        load_optimizer(self.optimizer, state, path)
        self.binding.restore(state["binding"])

    def _result(self, reason: str) -> dict[str, Any]:
        images_BSS, label_B = self.draws.check(self.step, self.n, 0)
        everything = float(self.model.right(images_BSS, label_B).double().mean())
        return {
            "settings": self.settings.to_dict(),
            "images": self.draws.facts,
            "steps": self.step,
            "classes": self.n,
            "reason": reason,
            "steps_to": {str(milestone): self._steps_to(milestone) for milestone in MILESTONES},
            "binding": self.binding.summary(),
            "final": {**self._oldest(), "accuracy_all": everything},
            "seconds": {purpose: round(seconds, 3) for purpose, seconds in self.seconds.items()},
            **provenance(),
            "records": self.records,
        }

    def _steps_to(self, classes: int) -> int | None:
        if self.settings.start >= classes:
            return 0
        reached = (r["step"] for r in self.records if r["event"] == "addition" and r["classes"] >= classes)
        return next(reached, None)


def check_checkpoint(state: Record, settings: Curriculum, facts: Record, path: Path) -> None:
    """Refuse a checkpoint that a run of these settings and images cannot go on from."""
    if "curriculum" not in state:
        raise InputError(f"{path}: this checkpoint is of another kind of run. Give another folder.")
    check_shape(state, _CHECKPOINT, str(path), _MEND)
    saved = Curriculum.from_dict(state["curriculum"], str(path))
    if what := saved.changes(settings, MAY_CHANGE):
        raise InputError(
            f"{path} is of a run with other settings: {what}. A run that goes on may change only "
            f"{', '.join(MAY_CHANGE)}. Put the others back, or give another folder."
        )
    if state["images"] != facts:
        raise InputError(f"{path}: the run was trained on other images than these. Give those, or another folder.")
    if (done := state["loop"]["step"]) > settings.max_steps:
        raise InputError(
            f"{path}: the run has done {done} steps, more than the {settings.max_steps} that are wanted. Give "
            "max_steps that are no fewer, or another folder."
        )
