"""Grids of the memories at test time, on the validation split of a trained run's corpus.

Shape suffixes: N tokens, T temperatures, S sizes, K numbers of neighbours, L rates.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from firstsight import __version__
from firstsight.errors import InputError
from firstsight.lab.lm.evaluation import evaluating, exp_or_inf, finite_or_none
from firstsight.lab.lm.results import open_with_data
from firstsight.lab.lm.run import Trained
from firstsight.lab.reading.memories import CHUNK, Chunk, check_finite, mixture, model_nll, read_chunks, text_hash
from firstsight.lab.reading.settings import (
    CACHE_WEIGHTS,
    KS,
    LRS,
    MBPA,
    MBPA_WEIGHTS,
    SIZES,
    THETAS,
    Rows,
    best_of,
    checkpoint_of,
    choose_cache,
    choose_mbpa,
)
from firstsight.lab.system.files import read_json, write_json
from firstsight.lab.system.machine import provenance
from firstsight.lab.system.progress import Bar, say
from firstsight.memory import CacheGrid, MbPAGrid, NeuralCache

FIRST = 10_000  # tokens that fill the memories: the paper's size
STEP_CHUNK = 8  # tokens between two updates of the bar where MbPA takes two steps: each costs seconds


def sweep_memory(
    folder: Path,
    *,
    split_tokens: int | None = None,
    mbpa: bool = True,
    mbpa_first: int | None = None,
    mbpa_tokens: int = 5000,
    two_step_tokens: int = 500,
    checkpoint: str = "best",
    data: str | None = None,
) -> dict[str, Any]:
    """Choose the memories' settings on validation, and write ``memory/sweep.json`` and its figures.

    The cache: the grid of the paper's appendix A.2, 105 points, in one reading. MbPA, with as many pairs as the cache
    that was chosen: neighbours, rate and both weights on ``mbpa_tokens`` after ``mbpa_first`` that only fill the
    memories. The paper gives its rate, 0.3, and no grid of it; ours is our decision, since the step that a rate makes
    grows with the square of the activations' length, which differs between models. Two steps cost K x V x D a
    token, too much for a whole split: they are held against one, at the rate that one chose, on the first
    ``two_step_tokens``, and not chosen.
    Each part is saved when it is done, and the same command goes on after it.

    Args:
        folder: the run.
        split_tokens: tokens of validation to use; by default all.
        mbpa: False: the cache alone.
        mbpa_first: tokens that fill the memories before MbPA is measured, 0 or more; by default ``FIRST``, or half of a
            shorter text.
        mbpa_tokens: tokens that MbPA is measured on, 1 or more; fewer where validation ends.
        two_step_tokens: the first of these, that two steps are measured on; 0: none.
        checkpoint, data: as :func:`firstsight.lab.lm.results.evaluate_run`.

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
    trained, corpus = open_with_data(folder, checkpoint, data)
    tokens = np.asarray(corpus.split("valid")[:split_tokens])
    mbpa_first = min(FIRST, len(tokens) // 2) if mbpa_first is None else mbpa_first
    if mbpa and len(tokens) <= mbpa_first:
        raise InputError(
            f"the text has {len(tokens):,} tokens, and mbpa-first, {mbpa_first:,}, leaves none of them to measure MbPA "
            "on. Lower --mbpa-first, or choose for the cache alone with --no-mbpa."
        )
    known = checkpoint_of(folder, trained)
    grids = [[*map(float, values)] for values in (THETAS, SIZES, CACHE_WEIGHTS, KS, LRS, MBPA_WEIGHTS)]
    common = {"checkpoint": known["sha256"], "text": text_hash(tokens), "firstsight": __version__, "grids": grids}
    stages = _Stages(folder / "memory" / "sweep.partial.json", common)
    found = {
        "run": folder.resolve().name,
        "vocabulary_hash": trained.vocabulary.hash,
        "checkpoint": known,
        "dataset": corpus.name,
        "split": "valid",
        "tokens": len(tokens),
        **_grids(_Bench(trained, tokens), stages, mbpa, mbpa_first, mbpa_tokens, two_step_tokens),
        **provenance(),
    }
    write_json(folder / "memory" / "sweep.json", found)
    from firstsight.lab.report.memory import sweep_plots

    for old in (folder / "memory").glob("memory_*.png"):
        old.unlink()
    for plot in sweep_plots(found):
        plot.save_png(folder / "memory")
    stages.path.unlink(missing_ok=True)
    return found


def _grids(
    bench: "_Bench", stages: "_Stages", mbpa: bool, mbpa_first: int, mbpa_tokens: int, two_step_tokens: int
) -> dict[str, Any]:
    """The grids, what is chosen from them, and what to warn of, which is said too."""
    cache = stages.run("cache", {}, bench.cache_grid)
    chosen, warnings = choose_cache(cache["grid"], cache["model"]["nll"])
    found = None
    if mbpa:
        asked = {"first": mbpa_first, "tokens": min(mbpa_tokens, len(bench.tokens) - mbpa_first), **chosen["cache"]}
        found = stages.run("mbpa", asked, lambda: bench.mbpa_grid(**asked))
        warnings += choose_mbpa(chosen, found["grid"])
        few = asked | {"tokens": min(two_step_tokens, asked["tokens"]), "lr": chosen["mbpa"]["lr"]}
        two_steps = stages.run("two_steps", few, lambda: bench.two_steps(**few)) if few["tokens"] else None
        found = found | {"two_steps": two_steps}
    for warning in warnings:
        say(f"warning: {warning}")
    return {"cache": cache, "mbpa": found, "chosen": chosen, "warnings": warnings}


@dataclass(frozen=True)
class _Bench:
    """A run and the text that its memories are tried on."""

    trained: Trained
    tokens: np.ndarray

    def cache_grid(self) -> dict[str, Any]:
        """Every point of A.2's grid: the caches share one reading, and the weights cost nothing."""
        grid, nll_N = CacheGrid(THETAS, SIZES), np.empty(len(self.tokens), dtype=np.float32)
        cache_TSN = np.empty((len(THETAS), len(SIZES), len(self.tokens)), dtype=np.float32)
        with self.reading("sweep cache", len(self.tokens), len(self.tokens)) as (chunks, bar):
            for chunk in chunks:
                here = slice(chunk.first, chunk.stop)
                nll_N[here] = model_nll(self.trained.model.head, chunk)
                cache_TSN[..., here] = grid.nll(chunk.hidden, chunk.target).cpu().numpy()
                bar.update(chunk.stop)
        check_finite(nll_N)
        cache_TSN[..., 0] = nll_N[0]  # they were empty
        rows = [
            {"theta": theta, "size": size, "weight": weight, **mean_nll(nll_N, [(cache_TSN[t, s], weight)])}
            for t, theta in enumerate(THETAS)
            for s, size in enumerate(SIZES)
            for weight in CACHE_WEIGHTS
        ]
        return {"model": mean_nll(nll_N, []), "grid": rows}

    def mbpa_grid(self, first: int, tokens: int, size: int, theta: float) -> dict[str, Any]:
        """One step: every k, rate and pair of weights."""
        nll_N, cache_N, mbpa_KLN = self.measure("sweep MbPA", first, tokens, size, theta, LRS, 1)
        rows = [
            {"k": k, "lr": lr, **row}
            for i, k in enumerate(KS)
            for j, lr in enumerate(LRS)
            for row in weighted(nll_N, cache_N, mbpa_KLN[i, j])
        ]
        return {"first": first, "tokens": tokens, "model": mean_nll(nll_N, []), "grid": rows}

    def two_steps(self, first: int, tokens: int, size: int, theta: float, lr: float) -> dict[str, Any]:
        """One step and two on the same tokens: at every k, each with its best weights, MbPA's above 0."""
        found = {
            name: self.measure(f"sweep MbPA, {name}", first, tokens, size, theta, (lr,), steps)
            for steps, name in ((1, "one"), (2, "two"))
        }

        def best(name: str, i: int) -> dict[str, Any]:
            nll_N, cache_N, mbpa_KLN = found[name]
            return best_of([row for row in weighted(nll_N, cache_N, mbpa_KLN[i, 0]) if row["mbpa_weight"]])

        rows = [{"k": k, "lr": lr, **{name: best(name, i) for name in found}} for i, k in enumerate(KS)]
        return {"tokens": tokens, "model": mean_nll(found["one"][0], []), "grid": rows}

    def measure(
        self, title: str, first: int, tokens: int, size: int, theta: float, lrs: Sequence[float], steps: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """NLL of ``tokens`` after ``first`` that fill the memories: the model's, the cache's, MbPA's [K, L, N]."""
        head, last = self.trained.model.head, first + tokens
        cache, mbpa = NeuralCache(size, theta), MbPAGrid(size, KS, lrs, MBPA["beta"], steps)
        nll_N, cache_N = np.empty(tokens, np.float32), np.empty(tokens, np.float32)
        mbpa_KLN = np.empty((len(KS), len(lrs), tokens), np.float32)
        with self.reading(title, last, tokens) as (chunks, bar):
            for chunk in chunks:
                before = chunk.part(0, first)
                if len(before.target):
                    cache.remember(before.hidden, before.target)
                    mbpa.remember(head, before.hidden, before.target)
                most = CHUNK if steps == 1 else STEP_CHUNK
                for start in range(max(first, chunk.first), chunk.stop, most):
                    part = chunk.part(start, start + most)
                    here = slice(start - first, part.stop - first)
                    nll_N[here] = model_nll(head, part)
                    cache_N[here] = cache.nll(part.hidden, part.target).cpu().numpy()
                    mbpa_KLN[..., here] = mbpa.nll(head, part.hidden, part.target).cpu().numpy()
                    bar.update(part.stop - first)
        check_finite(nll_N)
        if not first:
            cache_N[0], mbpa_KLN[..., 0] = nll_N[0], nll_N[0]  # they were empty
        return nll_N, cache_N, mbpa_KLN

    @contextmanager
    def reading(self, title: str, last: int, total: int) -> Iterator[tuple[Iterator[Chunk], Bar]]:
        """The activations of the first tokens, and a bar for ``total`` of them."""
        model, eos_id = self.trained.model, self.trained.vocabulary.eos_id
        with Bar(title, total) as bar, evaluating(model), torch.no_grad():
            yield read_chunks(model, self.tokens[:last], eos_id=eos_id), bar


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


class _Stages:
    """Parts of a sweep that are saved when they are done, each with what it depends on."""

    def __init__(self, path: Path, common: dict[str, Any]) -> None:
        self.path, self.common = path, common
        self.saved: dict[str, Any] = {}
        if path.exists():
            try:
                self.saved = dict(read_json(path, "a sweep that was cut off"))
            except (InputError, TypeError, ValueError) as error:
                say(f"{error} Starting anew.")

    def run(self, name: str, asked: dict[str, Any], make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """What ``make`` gives, and the seconds it took; from the file where that is of the same question."""
        asked, saved = {**self.common, **asked}, self.saved.get(name)
        if isinstance(saved, dict) and saved.get("of") == asked:
            say(f"sweep: {name} was done before")
            return dict(saved["found"])
        if saved is not None:
            say(f"{self.path}: {name} is of another checkpoint, text or setting; doing it anew")
        began = time.perf_counter()
        found = make() | {"seconds": time.perf_counter() - began}
        self.saved[name] = {"of": asked, "found": found}
        write_json(self.path, self.saved)
        return found
