"""Settings of the memories at test time, chosen on the validation split of a trained run's corpus."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from firstsight import __version__
from firstsight.errors import InputError
from firstsight.lab.data.tokens import text_hash
from firstsight.lab.lm.run import Run, open_run
from firstsight.lab.reading import grids
from firstsight.lab.reading.memories import MEMORIES, Use, names_of, reader_of
from firstsight.lab.reading.stored import fingerprint
from firstsight.lab.reading.tables import bands_before
from firstsight.lab.reading.tuned import best_of, choose_cache, choose_mbpa, choose_mixtures, edge_warnings
from firstsight.lab.runs.result import best_part
from firstsight.lab.system.devices import AUTO
from firstsight.lab.system.files import read_json, write_json
from firstsight.lab.system.folder import RUN, hold
from firstsight.lab.system.machine import provenance
from firstsight.lab.system.manifest import forget
from firstsight.lab.system.progress import say
from firstsight.lab.system.replace import check_no_folder
from firstsight.lab.system.shape import OBJECT, Named
from firstsight.memory import KNNGrid, UnboundedCacheGrid
from firstsight.memory.store import Memory

FIRST = 10_000  # tokens that fill the memories: the paper's size


def sweep_memory(
    folder: str | Path,
    *,
    memory: str = "cache,mbpa",
    split_tokens: int | None = None,
    first: int | None = None,
    tokens: int = 5000,
    two_step_tokens: int = 500,
    store: str | Path | None = None,
    checkpoint: str = "best",
    data: str | Path | None = None,
    device: str = AUTO,
) -> dict[str, Any]:
    """Choose the memories' settings on validation, and write ``memory/sweep.json``.

    The cache: the grid of the paper's appendix A.2, 105 points, in one reading of the whole split. The others on
    ``tokens`` after ``first`` that only fill them. MbPA, with as many pairs as the cache that was chosen: neighbours,
    rate and both weights. The paper gives its rate, 0.3, and no grid of it; ours is our decision, since the step that a
    rate makes grows with the square of the activations' length, which differs between models. Two steps cost K x V x D
    a token, too much for a whole split: they are held against one, at the rate that one chose, on the first
    ``two_step_tokens``, and not chosen. Dynamic evaluation: rule, rate and decay. Then the weights of every mixture of
    what was chosen, exact, on the same tokens: see :func:`firstsight.memory.fit_weights`.
    Each part is saved when it is done, and the same command goes on after it.

    Args:
        memory: names of ``MEMORIES``, separated by commas, the cache among them.
        split_tokens: tokens of validation to use; by default all.
        first: tokens that fill the memories before they are measured, 0 or more; by default ``FIRST``, or half of a
            shorter text.
        tokens: tokens that they are measured on, 1 or more; fewer where validation ends.
        two_step_tokens: the first of these, that two steps are measured on; 0: none.
        store: of kNN-LM; by default the one in the run's folder.
        folder, checkpoint, data, device: as :func:`firstsight.lab.lm.run.open_run`.

    Raises:
        InputError: the run or its data are missing or damaged, or do not belong together; a number is outside its
            range; validation ends before the memories are measured; the model has diverged.
    """
    for name, value, least in (
        ("split-tokens", split_tokens, 1), ("first", first, 0), ("tokens", tokens, 1),
        ("two-step-tokens", two_step_tokens, 0),
    ):  # fmt: skip
        if value is not None and value < least:
            raise InputError(f"{name} is {value}; expected {least} or more tokens.")
    names = names_of(memory)
    if "cache" not in names:
        raise InputError(f"--memory is {memory!r}; expected the cache among them, beside which the others are chosen.")
    with hold(folder, RUN, make=False):
        run = open_run(folder, checkpoint, data, device)
        check_no_folder(run.folder / "memory" / "sweep.json")
        text = np.asarray(run.corpus.split("valid")[:split_tokens])
        first = min(FIRST, len(text) // 2) if first is None else first
        if len(text) <= first:
            raise InputError(
                f"the text has {len(text):,} tokens, and first, {first:,}, leaves none of them to measure the memories "
                "on. Lower --first."
            )
        weights = run.weights()
        stages = _Stages(run.folder / "memory" / "sweep.partial.json", _common(weights["sha256"], text))
        asked = _Asked(names, {"first": first, "tokens": min(tokens, len(text) - first)}, two_step_tokens, store)
        found = _grids(run, text, stages, asked)
        mixtures = found["chosen"]["mixtures"]
        found = {
            **best_part("memory", run.corpus.name, found["chosen"], min(one["perplexity"] for one in mixtures)),
            "run": run.name,
            "vocabulary_hash": run.vocabulary.hash,
            "checkpoint": weights,
            "tokens": len(text),
            **found,
            **provenance(run.device),
        }
        write_json(run.folder / "memory" / "sweep.json", found)
        forget(stages.path)
        return found


@dataclass(frozen=True)
class _Asked:
    """Which memories, on which tokens: ``first`` that fill them, and the ``tokens`` after these."""

    names: list[str]
    where: dict[str, int]
    two_steps: int
    store: str | Path | None


def _common(checkpoint: str, text: np.ndarray) -> dict[str, Any]:
    """What every part depends on."""
    values = (grids.THETAS, grids.SIZES, grids.CACHE_WEIGHTS, grids.KS, grids.LRS, grids.MBPA_WEIGHTS)
    kept = [[*map(float, one)] for one in values]
    return {"checkpoint": checkpoint, "text": text_hash(text), "firstsight": __version__, "grids": kept}


def _grids(run: Run, text: np.ndarray, stages: "_Stages", asked: _Asked) -> dict[str, Any]:
    """The grids, what is chosen from them, and what to warn of, which is said too."""
    found: dict[str, Any] = dict.fromkeys(MEMORIES)
    chosen: dict[str, Any] = dict.fromkeys(MEMORIES)
    found["cache"] = stages.run("cache", {}, lambda: grids.cache_grid(run, text))
    chosen["cache"], warnings = choose_cache(found["cache"]["grid"])
    if "mbpa" in asked.names:
        found["mbpa"], chosen["mbpa"], more = _mbpa(run, text, stages, asked, chosen["cache"])
        warnings += more
    use = Use(run, text, asked.store)
    for name in (name for name in ("unbounded", "knn") if name in asked.names):
        found[name], chosen[name], more = _nearest(name, use, stages, asked)
        warnings += more
    if "dynamic" in asked.names:
        axes = {rule: [[*one] for one in axes] for rule, axes in grids.DYNAMIC.items()}
        of = {**asked.where, "axes": axes}
        found["dynamic"] = stages.run("dynamic", of, lambda: grids.dynamic_grid(run, text, **asked.where))
        best = best_of(found["dynamic"]["grid"])
        chosen["dynamic"] = dict(MEMORIES["dynamic"].settings) | {key: best[key] for key in ("rule", "lr", "decay")}
        same = [row for row in found["dynamic"]["grid"] if row["rule"] == best["rule"]]
        warnings += edge_warnings("dynamic evaluation", same, best, ["lr"])
    of = {**asked.where, "chosen": chosen}
    if "knn" in asked.names:
        of["store"] = fingerprint(use.datastore)
    mixed = stages.run("mixed", of, lambda: _mixed(use, chosen, **asked.where))
    for warning in (warnings := warnings + mixed.pop("warnings")):
        say(f"warning: {warning}")
    seconds = mixed.pop("seconds")
    return {**found, "mixed": {**asked.where, "seconds": seconds}, "chosen": chosen | mixed, "warnings": warnings}


def _mbpa(
    run: Run, text: np.ndarray, stages: "_Stages", asked: _Asked, cache: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, Any], list[str]]:
    """MbPA's grid with that of two steps, what is chosen of it, and what to warn of."""
    of = {**asked.where, **cache}
    found = stages.run("mbpa", of, lambda: grids.mbpa_grid(run, text, **of))
    chosen, warnings = choose_mbpa(found["grid"], cache["size"])
    few = of | {"tokens": min(asked.two_steps, of["tokens"]), "lr": chosen["lr"]}
    two = stages.run("two_steps", few, lambda: grids.two_steps(run, text, **few)) if few["tokens"] else None
    return found | {"two_steps": two}, chosen, warnings


def _nearest(name: str, use: Use, stages: "_Stages", asked: _Asked) -> tuple[dict[str, Any], dict[str, Any], list[str]]:
    """The grid of kNN-LM or of the unbounded cache, what is chosen of it, and what to warn of."""
    label, of = MEMORIES[name].label, {**asked.where, "ks": [*grids.NEAREST], "temperatures": [*grids.TEMPERATURES]}
    store = use.datastore if name == "knn" else None
    if store is not None:
        of["store"] = fingerprint(store)

    def measured() -> dict[str, Any]:
        axes = (grids.NEAREST, grids.TEMPERATURES)
        memory: Memory = (
            UnboundedCacheGrid(*axes) if store is None else KNNGrid(store, *axes, approximate=store.index is not None)
        )
        return grids.nearest_grid(use, label, memory, **asked.where)

    found = stages.run(name, of, measured)
    best = best_of(found["grid"])
    chosen = {"k": best["k"], "temperature": best["temperature"]}
    return found, chosen, edge_warnings(label, found["grid"], best, ["temperature"])


def _mixed(use: Use, chosen: dict[str, Any], first: int, tokens: int) -> dict[str, Any]:
    """The weights of every mixture of the memories that were chosen, all read at once."""
    run, text = use.run, use.text
    readers = {name: reader_of(name, use, settings) for name, settings in chosen.items() if settings is not None}
    nll = grids.measure(run, text[: first + tokens], "sweep mixtures", readers, first)
    bands = bands_before(text[: first + tokens], run.vocabulary.counts, run.vocabulary.eos_id)[first:]
    found, warnings = choose_mixtures(nll, bands)
    return {**found, "warnings": warnings}


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
