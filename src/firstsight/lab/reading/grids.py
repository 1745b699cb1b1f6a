"""The grid of each memory at test time, measured on a text.

Shape suffixes: N tokens, T temperatures, S sizes, K numbers of neighbours, L rates.
"""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from firstsight.lab.lm.evaluation import exp_or_inf
from firstsight.lab.lm.reader import Reader, read
from firstsight.lab.lm.run import Run
from firstsight.lab.reading.memories import CHUNK, MEMORIES, Use, check_finite, mixture, model_and, reader_of
from firstsight.lab.reading.tuned import Rows, best_of, fitted
from firstsight.lab.system.progress import Bar
from firstsight.lab.system.shape import finite_or_none
from firstsight.memory import CacheGrid, MbPAGrid, NeuralCache
from firstsight.memory.store import Memory

# The grids of appendix A.2, but for the rates: of these the paper gives only its choice.
THETAS = (0.1, 0.2, 0.3)
SIZES = (1000, 5000, 8000, 9000, 10_000)
CACHE_WEIGHTS = (0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35)
KS = (512, 1024)
LRS = (0.1, 0.3, 1.0, 3.0)
MBPA_WEIGHTS = (0.02, 0.04, 0.06, 0.08, 0.1)
# Our decision: Krause et al. give their choice for each corpus, and their gradients are of other batches.
DYNAMIC = {"rms": ((1e-4, 2e-4, 5e-4, 1e-3), (0.0, 1e-3)), "sgd": ((0.05, 0.1, 0.2), (0.0,))}  # rates, decays
# Khandelwal et al. take 1,024 and 1; how far activations are apart differs from model to model.
NEAREST = (64, 256, 1024)
TEMPERATURES = (1.0, 3.0, 10.0, 30.0, 100.0, 300.0)

STEP_CHUNK = 8  # tokens between two updates of the bar where MbPA takes two steps: each costs seconds


def cache_grid(run: Run, text: np.ndarray) -> dict[str, Any]:
    """Every point of A.2's grid: the caches share one reading, and the weights cost nothing."""
    nll = measure(run, text, "sweep cache", {"cache": CacheGrid(THETAS, SIZES)})
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
    nll = measure(run, text[: first + tokens], "sweep MbPA", memories, first)
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
        name: measure(run, text, f"sweep MbPA, {name}", _both(size, theta, (lr,), steps), first, step)
        for name, steps, step in (("one", 1, None), ("two", 2, STEP_CHUNK))
    }

    def best(name: str, i: int) -> dict[str, Any]:
        nll = found[name]
        rows = weighted(nll["model"], nll["cache"], nll["mbpa"][i, 0])
        return best_of([row for row in rows if row["mbpa_weight"]])

    rows = [{"k": k, "lr": lr, **{name: best(name, i) for name in found}} for i, k in enumerate(KS)]
    return {"tokens": tokens, "model": mean_nll(found["one"]["model"], []), "grid": rows}


def dynamic_grid(run: Run, text: np.ndarray, first: int, tokens: int) -> dict[str, Any]:
    """Every rule, rate and decay, each in place of the model: how much of it to mix in is chosen later."""
    usual = MEMORIES["dynamic"].settings
    points = [
        {"rule": rule, "lr": lr, "decay": decay}
        for rule, axes in DYNAMIC.items()
        for lr, decay in itertools.product(*axes)
    ]
    use = Use(run, text)
    readers = {str(i): reader_of("dynamic", use, {**usual, **point}) for i, point in enumerate(points)}
    nll = measure(run, text[: first + tokens], "sweep dynamic", readers, first)
    rows = [point | mean_nll(nll[str(i)], []) for i, point in enumerate(points)]
    return {"first": first, "tokens": tokens, "model": mean_nll(nll["model"], []), "grid": rows}


def nearest_grid(use: Use, title: str, memory: Memory, first: int, tokens: int) -> dict[str, Any]:
    """Every k and temperature of kNN-LM or the unbounded cache, from one search, each with its best weight."""
    nll = measure(use.run, use.text[: first + tokens], f"sweep {title}", {"memory": memory}, first)
    rows = []
    for i, k in enumerate(NEAREST):
        for j, temperature in enumerate(TEMPERATURES):
            found = fitted({"model": nll["model"], "memory": nll["memory"][i, j]}, ["memory"])
            best = {"best_weight": found["weights"]["memory"], "nll": found["nll"], "perplexity": found["perplexity"]}
            rows.append({"k": k, "temperature": temperature, **best})
    return {"first": first, "tokens": tokens, "model": mean_nll(nll["model"], []), "grid": rows}


def _both(size: int, theta: float, lrs: Sequence[float], steps: int) -> dict[str, Memory]:
    beta = MEMORIES["mbpa"].settings["beta"]
    return {"cache": NeuralCache(size, theta), "mbpa": MbPAGrid(size, KS, lrs, beta, steps)}


def measure(
    run: Run,
    tokens: np.ndarray,
    title: str,
    memories: Mapping[str, Memory | Reader],
    first: int = 0,
    step: int | None = None,
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
