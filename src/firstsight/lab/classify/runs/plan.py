"""How much of the trial fits the time that there is.

A unit of each kind of work is timed, and seeds, then rates, then epochs, then the dearest rivals are left out until the
estimate fits.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from firstsight import HebbianSoftmax, Softmax
from firstsight.fitting import LEAST_STEPS, fit_head
from firstsight.lab.classify.methods.base import asked, linear_answer
from firstsight.lab.classify.methods.catalogue import EPOCH, METHODS, REPLAY, RETRAINED, Method
from firstsight.lab.classify.methods.rivals import ALL_DATA
from firstsight.lab.classify.methods.task import Task
from firstsight.lab.classify.methods.trained import WIDTH, body_of
from firstsight.lab.classify.settings import SHOTS, Trial
from firstsight.lab.system.shape import COUNT, TEXT, TRUTH, WHOLE, Kind, Shape, is_whole

FEW = (1, 5)  # shots at which what takes a training loop is measured, beside settings.shots
TIMED, ROUNDS = 20, 3  # steps that are timed, and how often: the fastest counts, what else the machine does does not
MOST_LOGITS = 2**28  # that scikit-learn may hold in each of a few arrays: 1 GB in float32
START_SECONDS = 5.0  # of a process, until it trains
LOGISTIC = 60.0  # epochs of a softmax that a logistic regression takes, on the ICD texts 20 to 40


_METHOD = Kind(lambda name: isinstance(name, str) and name in METHODS, "the name of a method")
_NUMBER = Kind(lambda value: is_whole(value, 1) and value < 2**63, "a whole number from 1")
PLAN_SHAPE: dict[str, Shape] = {**dict.fromkeys(("seeds", "rates", "epochs", "workers"), _NUMBER), "methods": [_METHOD]}
PLAN_SHAPE |= {"replay": TRUTH, "retrain": TRUTH, "budget": COUNT, "estimate": COUNT, "left_out": [TEXT]}
UNITS_SHAPE: dict[str, Shape] = {**dict.fromkeys(("step", "writing", "ask", "kept"), COUNT)}
UNITS_SHAPE |= dict.fromkeys(("steps", "rows", "logits"), WHOLE)
"""Of ``Plan`` and ``Units`` in a file."""


@dataclass(frozen=True)
class Plan:
    """What is run.

    Attributes:
        seeds: trainings of each method.
        rates: settings of each that are tried on the first seed.
        epochs: of a training.
        methods: names of all that take part.
        replay: whether fine-tuning with replay does.
        retrain: whether anything is trained when classes come.
        budget: minutes there were.
        estimate: minutes that it was taken for.
        workers: jobs at a time.
        left_out: what was, for people.
    """

    seeds: int
    rates: int
    epochs: int
    methods: tuple[str, ...]
    replay: bool
    retrain: bool
    budget: float
    estimate: float
    workers: int
    left_out: tuple[str, ...] = ()

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Plan":
        """The reverse of ``to_dict``."""
        known: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        return cls(**known)

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}

    def arrivals(self, method: Method) -> tuple[str, ...]:
        """The ways in which classes come to it here."""
        left_out = (*(() if self.replay else (REPLAY,)), *(() if self.retrain else RETRAINED))
        return tuple(name for name in method.arrivals if name not in left_out)

    def said(self) -> str:
        """For people."""
        left = "; left out for the time: " + ", ".join(self.left_out) if self.left_out else ""
        over = "" if self.estimate <= self.budget else ", more than asked for, and nothing is left to leave out"
        numbers = {"setting": self.rates, "seed": self.seeds, "epoch": self.epochs}
        settings, seeds, epochs = (f"{n} {name}{'' if n == 1 else 's'}" for name, n in numbers.items())
        return (
            f"{len(self.methods)} methods, {settings} each on the first seed, {seeds}, {epochs}: "
            f"about {self.estimate:.{int(bool(over))}f} min of {self.budget:g}{over}{left}"
        )


@dataclass(frozen=True)
class Units:
    """Seconds of one thread: a step of training, an example asked, and sizes.

    Attributes:
        step: of Adam on a batch, for a plain softmax.
        writing: the same for a layer that writes.
        ask: one example, of all classes.
        steps: of an epoch.
        rows: examples asked of one part, about.
        logits: training examples x classes.
        kept: examples that neighbours are looked for among, in units of classes: what a search costs in ``ask``.
    """

    step: float
    writing: float
    ask: float
    steps: int
    rows: int
    logits: int
    kept: float

    def at_shots(self, ways: Iterable[str], method: Method, settings: Trial, shots: int) -> float:
        """Seconds of these arrivals at so many shots, to one part."""
        seconds = 0.0
        for arrival in ways:
            seconds += self.rows * self.ask * (self.kept if method.name == "knn" else 1)
            if arrival in (REPLAY, EPOCH) and shots in shots_of(arrival, settings):
                seconds += self._step(method) * (ALL_DATA.steps if arrival == REPLAY else self.steps)
        return seconds

    def _step(self, method: Method) -> float:
        return self.writing if method.ours else self.step

    def training(self, plan: Plan, method: Method) -> float:
        """Seconds of one training, with the start of its process."""
        if method.name == "logistic":
            return START_SECONDS + LOGISTIC * self.steps * self.step
        return START_SECONDS + (
            max(plan.epochs * self.steps, LEAST_STEPS) * self._step(method) if method.trained else 0.0
        )

    def choosing(self, plan: Plan, method: Method, settings: Trial) -> float:
        """Seconds of a job that tries one setting: see ``jobs``."""
        ways = [name for name in plan.arrivals(method) if name != EPOCH]
        return self.training(plan, method) + self.at_shots(ways, method, settings, settings.shots)

    def measuring(self, plan: Plan, method: Method, settings: Trial, first: bool, ways: Sequence[str]) -> float:
        """Seconds of a job that measures: see ``jobs``."""
        begin = START_SECONDS if first or not method.trained else self.training(plan, method)
        return begin + 2 * sum(self.at_shots(ways, method, settings, shots) for shots in SHOTS)

    def all_measuring(self, plan: Plan, method: Method, settings: Trial, first: bool) -> float:
        """Seconds of a seed's jobs that measure, at most: with another setting for each arrival at once."""
        ways = plan.arrivals(method)
        more = START_SECONDS if first or not method.trained else self.training(plan, method)
        return self.measuring(plan, method, settings, first, ways) + max(0, len(set(ways) - {EPOCH}) - 1) * more

    def minutes(self, plan: Plan, settings: Trial) -> float:
        """Of the whole plan."""
        seconds = 0.0
        for method in (METHODS[name] for name in plan.methods):
            seconds += min(plan.rates, len(method.settings)) * self.choosing(plan, method, settings)
            seconds += self.all_measuring(plan, method, settings, True)
            seconds += (plan.seeds - 1) * self.all_measuring(plan, method, settings, False) if method.trained else 0
        return seconds / plan.workers / 60


def shots_of(arrival: str, settings: Trial) -> tuple[int, ...]:
    """The numbers of examples at which an arrival is measured: fewer where each takes a training loop."""
    if arrival in (REPLAY, EPOCH):
        return tuple(sorted({*FEW, settings.shots}))
    return SHOTS


def timed(task: Task, settings: Trial) -> Units:
    """Time a few steps and answers, on one thread, as each job has."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        writing, step = (_step(task, settings, head) for head in (HebbianSoftmax, Softmax))
        D, V = task.train_h.shape[1], task.num_classes
        answer = linear_answer((torch.zeros(V, D), torch.zeros(V)))
        few = slice(0, TIMED * settings.batch)
        ask = _fastest(lambda: asked(answer, task.train_h[few], task.train_y[few], V)) / len(task.train_y[few])
    finally:
        torch.set_num_threads(threads)
    rows = (len(task.valid.old_y) + len(task.valid.new_y) + len(task.test.old_y) + len(task.test.new_y)) // 2
    kept = max(1.0, len(task.train_y) / task.num_classes)
    steps, logits = -(-len(task.train_y) // settings.batch), len(task.train_y) * task.num_classes
    return Units(step, writing, ask, steps, rows, logits, kept)


def _step(task: Task, settings: Trial, made: type[Softmax]) -> float:
    """Seconds of a step of training."""
    few = slice(0, TIMED * settings.batch)
    D, body = task.train_h.shape[1], body_of(task.train_h.shape[1]) if settings.body == "mlp" else None
    head = made(D if body is None else WIDTH, task.num_classes)

    def steps() -> None:
        fit_head(
            head,
            task.train_h[few],
            task.train_y[few],
            rate=1e-3,
            epochs=1,
            batch_size=settings.batch,
            least_steps=TIMED,
            body=body,
        )

    return _fastest(steps) / max(TIMED, -(-len(task.train_y[few]) // settings.batch))


def _fastest(work: Callable[[], object]) -> float:
    seconds = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - began)
    return min(seconds)


def make_plan(units: Units, settings: Trial, budget: float, workers: int) -> Plan:
    """The first of the plans, from all to little, that fits ``budget`` minutes; the last where none does."""
    plan = None
    for plan in _plans(units, settings, budget, workers):
        plan = replace(plan, estimate=round(units.minutes(plan, settings), 2))
        if plan.estimate <= budget:
            break
    assert plan is not None
    return plan


def _plans(units: Units, settings: Trial, budget: float, workers: int) -> Iterator[Plan]:
    """From all to little."""
    rates = max(len(method.settings) for method in METHODS.values())
    plan = Plan(
        settings.seeds, rates, settings.epochs, tuple(METHODS), settings.retrain, settings.retrain, budget, 0.0, workers
    )
    left: list[str] = []
    without = tuple(name for name in METHODS if name != "logistic")
    if units.logits > MOST_LOGITS:
        left.append("logistic regression (scikit-learn's holds examples x classes in memory)")
        plan = replace(plan, methods=without, left_out=tuple(left))
    yield plan

    def less(what: str, **changes: Any) -> Plan:
        nonlocal plan
        left.append(what)
        plan = replace(plan, **changes, left_out=tuple(left))
        return plan

    for seeds in range(settings.seeds - 1, 0, -1):
        yield less(f"seed {seeds + 1}", seeds=seeds)
    for number in range(rates - 1, 0, -1):
        yield less(f"setting {number + 1} of each method", rates=number)
    for part in (2, 4):
        epochs = max(1, settings.epochs // part)
        if max(epochs * units.steps, LEAST_STEPS) < max(plan.epochs * units.steps, LEAST_STEPS):
            yield less(f"epochs after {epochs}", epochs=epochs)
    if "logistic" in plan.methods:
        yield less("logistic regression", methods=without)
    if plan.replay:
        yield less("fine-tuning with replay", replay=False)
