"""Grids of the memories at test time, on the validation split of a trained run's corpus.

Shape suffixes: N tokens, T temperatures, S sizes, K numbers of neighbours, L rates.
"""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from firstsight import __version__
from firstsight.errors import InputError
from firstsight.lab.lm.evaluation import exp_or_inf
from firstsight.lab.lm.reader import read
from firstsight.lab.lm.run import Run, open_run
from firstsight.lab.reading.memories import CHUNK, MEMORIES, check_finite, mixture, model_and
from firstsight.lab.reading.recalled import text_hash
from firstsight.lab.reading.tuned import Rows, best_of, choose_cache, choose_mbpa
from firstsight.lab.runs.result import best_part
from firstsight.lab.system.devices import AUTO
from firstsight.lab.system.files import read_json, write_json
from firstsight.lab.system.folder import RUN, hold
from firstsight.lab.system.machine import provenance
from firstsight.lab.system.manifest import forget
from firstsight.lab.system.progress import Bar, say
from firstsight.lab.system.shape import OBJECT, Named, finite_or_none
from firstsight.memory import CacheGrid, MbPAGrid, NeuralCache
from firstsight.memory.store import Memory

# The grids of appendix A.2, but for the rates: of these the paper gives only its choice.
THETAS = (0.1, 0.2, 0.3)
SIZES = (1000, 5000, 8000, 9000, 10_000)
CACHE_WEIGHTS = (0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35)
KS = (512, 1024)
LRS = (0.1, 0.3, 1.0, 3.0)
MBPA_WEIGHTS = (0.02, 0.04, 0.06, 0.08, 0.1)

FIRST = 10_000  # tokens that fill the memories: the paper's size
STEP_CHUNK = 8  # tokens between two updates of the bar where MbPA takes two steps: each costs seconds


def sweep_memory(
    folder: str | Path,
    *,
    split_tokens: int | None = None,
    mbpa: bool = True,
    mbpa_first: int | None = None,
    mbpa_tokens: int = 5000,
    two_step_tokens: int = 500,
    checkpoint: str = "best",
    data: str | Path | None = None,
    device: str = AUTO,
) -> dict[str, Any]:
    """Choose the memories' settings on validation, and write ``memory/sweep.json``.

    The cache: the grid of the paper's appendix A.2, 105 points, in one reading. MbPA, with as many pairs as the cache
    that was chosen: neighbours, rate and both weights on ``mbpa_tokens`` after ``mbpa_first`` that only fill the
    memories. The paper gives its rate, 0.3, and no grid of it; ours is our decision, since the step that a rate makes
    grows with the square of the activations' length, which differs between models. Two steps cost K x V x D a
    token, too much for a whole split: they are held against one, at the rate that one chose, on the first
    ``two_step_tokens``, and not chosen.
    Each part is saved when it is done, and the same command goes on after it.

    Args:
        split_tokens: tokens of validation to use; by default all.
        mbpa: False: the cache alone.
        mbpa_first: tokens that fill the memories before MbPA is measured, 0 or more; by default ``FIRST``, or half of a
            shorter text.
        mbpa_tokens: tokens that MbPA is measured on, 1 or more; fewer where validation ends.
        two_step_tokens: the first of these, that two steps are measured on; 0: none.
        folder, checkpoint, data, device: as :func:`firstsight.lab.lm.run.open_run`.

    Raises:
        InputError: the run or its data are missing or damaged, or do not belong together; a number is outside its
            range; validation ends before MbPA is measured; the model has diverged.
    """
    for name, value, least in (
        ("split-tokens", split_tokens, 1), ("mbpa-first", mbpa_first, 0), ("mbpa-tokens", mbpa_tokens, 1),
        ("two-step-tokens", two_step_tokens, 0),
    ):  # fmt: skip
        if value is not None and value < least:
            raise InputError(f"{name} is {value}; expected {least} or more tokens.")
    with hold(folder, RUN, make=False):
        run = open_run(folder, checkpoint, data, device)
        tokens = np.asarray(run.corpus.split("valid")[:split_tokens])
        mbpa_first = min(FIRST, len(tokens) // 2) if mbpa_first is None else mbpa_first
        if mbpa and len(tokens) <= mbpa_first:
            raise InputError(
                f"the text has {len(tokens):,} tokens, and mbpa-first, {mbpa_first:,}, leaves none of them to measure "
                "MbPA on. Lower --mbpa-first, or choose for the cache alone with --no-mbpa."
            )
        weights = run.weights()
        values_of = [[*map(float, values)] for values in (THETAS, SIZES, CACHE_WEIGHTS, KS, LRS, MBPA_WEIGHTS)]
        common = {
            "checkpoint": weights["sha256"],
            "text": text_hash(tokens),
            "firstsight": __version__,
            "grids": values_of,
        }
        stages = _Stages(run.folder / "memory" / "sweep.partial.json", common)
        grids = _grids(run, tokens, stages, mbpa, mbpa_first, mbpa_tokens, two_step_tokens)
        widest = grids["mbpa"] or grids["cache"]  # of all memories that were chosen, on the tokens it was measured on
        best = best_of([widest["model"], *widest["grid"]])["perplexity"]
        found = {
            **best_part("memory", run.corpus.name, grids["chosen"], best),
            "run": run.name,
            "vocabulary_hash": run.vocabulary.hash,
            "checkpoint": weights,
            "tokens": len(tokens),
            **grids,
            **provenance(run.device),
        }
        write_json(run.folder / "memory" / "sweep.json", found)
        forget(stages.path)
        return found


def _grids(
    run: Run, tokens: np.ndarray, stages: "_Stages", mbpa: bool, first: int, measured: int, two_step: int
) -> dict[str, Any]:
    """The grids, what is chosen from them, and what to warn of, which is said too."""
    cache = stages.run("cache", {}, lambda: cache_grid(run, tokens))
    chosen, warnings = choose_cache(cache["grid"], cache["model"]["nll"])
    found = None
    if mbpa:
        asked = {"first": first, "tokens": min(measured, len(tokens) - first), **chosen["cache"]}
        found = stages.run("mbpa", asked, lambda: mbpa_grid(run, tokens, **asked))
        warnings += choose_mbpa(chosen, found["grid"])
        few = asked | {"tokens": min(two_step, asked["tokens"]), "lr": chosen["mbpa"]["lr"]}
        both = stages.run("two_steps", few, lambda: two_steps(run, tokens, **few)) if few["tokens"] else None
        found = found | {"two_steps": both}
    for warning in warnings:
        say(f"warning: {warning}")
    return {"cache": cache, "mbpa": found, "chosen": chosen, "warnings": warnings}


def cache_grid(run: Run, text: np.ndarray) -> dict[str, Any]:
    """Every point of A.2's grid: the caches share one reading, and the weights cost nothing."""
    nll = _measure(run, text, "sweep cache", {"cache": CacheGrid(THETAS, SIZES)})
    rows = [
        {"theta": theta, "size": size, "weight": weight, **mean_nll(nll["model"], [(nll["cache"][t, s], weight)])}
        for t, theta in enumerate(THETAS)
        for s, size in enumerate(SIZES)
        for weight in CACHE_WEIGHTS
    ]
    return {"model": mean_nll(nll["model"], []), "grid": rows}


def mbpa_grid(run: Run, text: np.ndarray, first: int, tokens: int, size: int, theta: float) -> dict[str, Any]:
    """One step: every k, rate and pair of weights."""
    memories = _both(size, theta, LRS, 1)
    nll = _measure(run, text[: first + tokens], "sweep MbPA", memories, first)
    rows = [
        {"k": k, "lr": lr, **row}
        for i, k in enumerate(KS)
        for j, lr in enumerate(LRS)
        for row in weighted(nll["model"], nll["cache"], nll["mbpa"][i, j])
    ]
    return {"first": first, "tokens": tokens, "model": mean_nll(nll["model"], []), "grid": rows}


def two_steps(
    run: Run, text: np.ndarray, first: int, tokens: int, size: int, theta: float, lr: float
) -> dict[str, Any]:
    """One step and two on the same tokens: at every k, each with its best weights, MbPA's above 0."""
    text = text[: first + tokens]
    found = {
        name: _measure(run, text, f"sweep MbPA, {name}", _both(size, theta, (lr,), steps), first, step)
        for name, steps, step in (("one", 1, None), ("two", 2, STEP_CHUNK))
    }

    def best(name: str, i: int) -> dict[str, Any]:
        nll = found[name]
        rows = weighted(nll["model"], nll["cache"], nll["mbpa"][i, 0])
        return best_of([row for row in rows if row["mbpa_weight"]])

    rows = [{"k": k, "lr": lr, **{name: best(name, i) for name in found}} for i, k in enumerate(KS)]
    return {"tokens": tokens, "model": mean_nll(found["one"]["model"], []), "grid": rows}


def _both(size: int, theta: float, lrs: Sequence[float], steps: int) -> dict[str, Memory]:
    beta = MEMORIES["mbpa"].settings["beta"]
    return {"cache": NeuralCache(size, theta), "mbpa": MbPAGrid(size, KS, lrs, beta, steps)}


def _measure(
    run: Run, tokens: np.ndarray, title: str, memories: dict[str, Memory], first: int = 0, step: int | None = None
) -> dict[str, np.ndarray]:
    """NLL of the tokens after ``first`` that fill the memories: the model's, and by memory of each of its settings."""
    readers = model_and(memories, run.model.head)
    with Bar(title, len(tokens) - first) as bar:
        text = run.text(tokens, chunk=CHUNK)
        found = read(text, readers, start=first, step=step, progress=lambda done: bar.update(done - first))
    nll = {name: nll_N[..., first:] for name, nll_N in found.items()}
    check_finite(nll["model"])
    return nll


def weighted(nll_N: np.ndarray, cache_N: np.ndarray, mbpa_N: np.ndarray) -> Rows:
    """A row for every pair of weights, 0 among them."""
    return [
        {"cache_weight": c, "mbpa_weight": m, **mean_nll(nll_N, [(cache_N, c), (mbpa_N, m)])}
        for m in (0.0, *MBPA_WEIGHTS)
        for c in (0.0, *CACHE_WEIGHTS)
    ]


def mean_nll(nll_N: np.ndarray, parts: list[tuple[np.ndarray, float]]) -> dict[str, float | None]:
    """Mean NLL and perplexity of a mixture, None where they are not finite."""
    nll = float(mixture(nll_N, parts).mean(dtype=np.float64))
    return {"nll": finite_or_none(nll), "perplexity": finite_or_none(exp_or_inf(nll))}


_SAVED = Named({"of": OBJECT, "found": OBJECT})


class _Stages:
    """Parts of a sweep that are saved when they are done, each with what it depends on."""

    def __init__(self, path: Path, common: dict[str, Any]) -> None:
        self.path, self.common = path, common
        self.saved: dict[str, Any] = {}
        if path.exists():
            try:
                self.saved = read_json(path, "a sweep that was cut off", _SAVED, "It is of no use; starting anew.")
            except InputError as error:
                say(str(error))

    def run(self, name: str, asked: dict[str, Any], make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """What ``make`` gives, and the seconds it took; from the file where that is of the same question."""
        asked, saved = {**self.common, **asked}, self.saved.get(name)
        if saved is not None and saved["of"] == asked:
            say(f"sweep: {name} was done before")
            return dict(saved["found"])
        if saved is not None:
            say(f"{self.path}: {name} is of another checkpoint, text or setting; doing it anew")
        began = time.perf_counter()
        found = make() | {"seconds": time.perf_counter() - began}
        self.saved[name] = {"of": asked, "found": found}
        write_json(self.path, self.saved)
        return found
