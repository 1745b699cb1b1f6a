"""A dry run: the account of a training run, a few of its steps on this machine, and the time that it would take."""

import math
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

from firstsight.errors import InputError
from firstsight.lab.data import Corpus
from firstsight.lab.lm.config import Config
from firstsight.lab.lm.dry_run.account import build, memory, operations, parameters
from firstsight.lab.lm.evaluation import evaluate
from firstsight.lab.lm.training import VALID_STREAMS, rehearse
from firstsight.lab.system.devices import AUTO, find_device
from firstsight.lab.system.job import world_size
from firstsight.lab.system.machine import resident

# Steps that are timed, after as many that are not: by then the allocator has what it will have. More, while they are
# short; none after the longest time. On a CPU a step of more operations than the largest is tried with fewer sequences.
_STEPS, _SHORTEST, _LONGEST = 8, 4.0, 60.0
_LARGEST = 2e12
# Of what every run says of itself before it starts: so few and so small that they are nothing beside it.
_FEW, _SMALL = 2, 1e11
_VALID_TOKENS = 100 * VALID_STREAMS


def dry_run(corpus: Corpus, config: Config, *, ranks: int = 1, device: str = AUTO) -> dict[str, Any]:
    """Tell what training with these settings would take; nothing is written to disk.

    Args:
        corpus: the data.
        config: the settings of the run.
        device: where it would run, as ``find_device`` takes it.
        ranks: so many processes, each with a device like this one, that share each batch.

    Returns:
        Plain values: ``parameters`` and ``operations_per_token`` by part, ``memory`` by part for "cpu" and "cuda" (all
        as ``account`` has them), ``measured`` on this machine, and ``estimate`` of the whole run. Of several ranks
        memory and what is measured are those of one, with its share of the batch.

    Raises:
        InputError: the device is not there, the data does not fit the settings, ``ranks`` are more than sequences, or
            the command was started in several processes.
    """
    if world_size() > 1:
        raise InputError("a dry run was started in several processes. Start it without torchrun, with --ranks N.")
    if not 1 <= ranks <= config.batch:
        raise InputError(f"ranks is {ranks}; expected 1 to the sequences of a batch, {config.batch}.")
    model = build(len(corpus.vocabulary), config)
    counted, worked = parameters(model), operations(model, corpus.vocabulary.counts)
    own = _share(config, ranks)
    place = find_device(device)
    # Before what else would be loaded into this process's memory.
    measured = _measure(corpus, own, worked["total"], place, _STEPS, _SHORTEST, _LARGEST)
    return {
        "parameters": counted,
        "operations_per_token": worked,
        "memory": {device: memory(model, own, device) for device in ("cpu", "cuda")},
        "measured": measured,
        "estimate": _estimate(corpus, config, measured, 4 * counted["total"], ranks),
    }


def run_seconds(corpus: Corpus, config: Config, *, device: str = AUTO, done: int = 0) -> float:
    """About how long the steps of a run after the first ``done`` take here, by very few of them, with validations.

    Args:
        corpus, config, device: as ``dry_run``.
        done: steps that a resumed run has behind it.
    """
    model = build(len(corpus.vocabulary), config)
    worked = operations(model, corpus.vocabulary.counts)["total"]
    measured = _measure(corpus, config, worked, find_device(device), _FEW, 0.0, _SMALL)
    whole = float(_estimate(corpus, config, measured, 0, 1)["seconds"])
    left = whole * max(0.0, 1 - done / config.steps)
    return min(left, 60 * config.minutes) if config.minutes else left


def _share(config: Config, ranks: int) -> Config:
    """The settings of one rank's work: its sequences, in as many parts as it has."""
    batch, parts = math.ceil(config.batch / ranks), math.ceil(config.accumulate / ranks)
    parts = next(n for n in range(parts, batch + 1) if batch % n == 0)
    return config.replace(batch=batch, accumulate=parts)


def _measure(
    corpus: Corpus,
    config: Config,
    operations: int,
    place: torch.device,
    steps: int,
    shortest: float,
    largest: float,
) -> dict[str, Any]:
    """Steps of the very trainer, and a part of a validation."""
    whole, affordable = config.batch, max(1, int(largest / (operations * config.length)))
    if affordable < config.batch and place.type == "cpu":
        config = config.replace(batch=affordable, accumulate=1)
    before = resident("VmRSS")
    model, step = rehearse(corpus, config, str(place))
    begin, seconds = time.perf_counter(), list[float]()
    while len(seconds) < 2 * steps or sum(seconds) < shortest:
        seconds.append(_seconds(step))
        if len(seconds) > 1 and time.perf_counter() - begin > _LONGEST:
            break
    timed = seconds[len(seconds) // 2 :]
    peak = torch.cuda.max_memory_allocated(place) if place.type == "cuda" else resident("VmHWM") - before
    valid, vocabulary = corpus.split("valid")[:_VALID_TOKENS], corpus.vocabulary
    streams = min(VALID_STREAMS, len(valid))
    read = _seconds(lambda: evaluate(model, valid, vocabulary.counts, eos_id=vocabulary.eos_id, streams=streams))
    return {
        "device": place.type,
        "threads": torch.get_num_threads(),
        "batch": config.batch,
        "of": whole,
        "steps": len(timed),
        "seconds_per_step": statistics.median(timed),
        "tokens_per_second": config.batch * config.length / statistics.median(timed),
        "valid_tokens_per_second": len(valid) / read,
        "peak_bytes": peak,
    }


def _estimate(corpus: Corpus, config: Config, measured: dict[str, Any], gradient: int, ranks: int) -> dict[str, Any]:
    """The run's time, the last validation with it; of several ranks as if their exchange took none."""
    speed = ranks * measured["tokens_per_second"]
    training = config.steps * config.batch * config.length / speed
    validations = math.ceil(config.steps / config.eval_every)
    validating = validations * len(corpus.split("valid")) / (ranks * measured["valid_tokens_per_second"])
    return {
        "ranks": ranks,
        "steps": config.steps,
        "tokens": config.steps * config.batch * config.length,
        "tokens_per_second": speed,
        "training_seconds": training,
        "validations": validations,
        "validation_seconds": validating,
        "seconds": training + validating,
        "sent_bytes_per_step": 2 * (ranks - 1) * gradient // ranks,
    }


def _seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start
