"""A trained run on a split of its corpus, with memories of the text before.

Shape suffix: N tokens of the text.
"""

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from firstsight import __version__
from firstsight.errors import InputError
from firstsight.lab.data.arrays import load_array, load_arrays
from firstsight.lab.data.tokens import text_hash
from firstsight.lab.lm.reader import read
from firstsight.lab.lm.results import write_result
from firstsight.lab.lm.run import Run, open_run
from firstsight.lab.reading.memories import (
    CHUNK,
    MEMORIES,
    Mixture,
    Recipe,
    Use,
    check_finite,
    choose_recipe,
    memory_of,
)
from firstsight.lab.reading.passage import write_passage
from firstsight.lab.reading.stored import fingerprint, stored_told
from firstsight.lab.reading.tables import bands_before, summary
from firstsight.lab.reading.tuned import check_tuned, read_tuned
from firstsight.lab.system.devices import AUTO
from firstsight.lab.system.files import atomic_write, parse_json
from firstsight.lab.system.folder import RUN, hold
from firstsight.lab.system.manifest import forget
from firstsight.lab.system.progress import Bar, say
from firstsight.lab.system.shape import OBJECT, shown

SAVE_EVERY = 60.0  # seconds between two savings of what has been read


def recall_run(
    folder: str | Path,
    split: str,
    memory: str,
    *,
    tuned: str | Path | None = None,
    by_band: bool = False,
    by_document: bool = False,
    store: str | Path | None = None,
    checkpoint: str = "best",
    data: str | Path | None = None,
    device: str = AUTO,
) -> dict[str, Any]:
    r"""Evaluate a run on a split in one stream with memories of the text before, and write ``result.json``.

    .. math:: p = \Big(1 - \sum_i \lambda_i\Big)\, p_\mathrm{model} + \sum_i \lambda_i\, p_i

    over the memories i. The text is read once: each mixture is made from the same likelihoods of every token.
    Perplexity and bands are those of the whole mixture; ``memory`` holds its settings and all mixtures, the model alone
    as the first. While a memory is empty, at the first token, it says what the model says. What has been read is saved
    every minute in ``memory/partial-SPLIT.npz``, and the same command goes on from there. The passage that the report
    shows is written too.

    Args:
        split: "valid" or "test".
        memory: names of ``MEMORIES``, separated by commas.
        tuned: the file of ``firstsight sweep memory``; without it the paper's settings are used.
        by_band: weights of the whole mixture by the band of the word before, as that file has them.
        by_document: forget what a document said where the next one begins; dynamic evaluation goes on.
        store: of kNN-LM; by default the one in the run's folder.
        folder, checkpoint, data, device: as :func:`firstsight.lab.lm.run.open_run`.

    Raises:
        InputError: the run, the data or the tuned file are missing or damaged, or do not belong together; or the
            activations are not finite.
    """
    began, folder = time.perf_counter(), Path(folder)
    chosen = None if tuned is None else read_tuned(tuned)
    recipe = choose_recipe(memory, chosen, str(tuned), by_band)
    with hold(folder, RUN, make=False):
        run = open_run(folder, checkpoint, data, device)
        tokens, weights = np.asarray(run.corpus.split(split)), run.weights()
        if tuned is not None and chosen is not None:
            check_tuned(chosen, tuned, folder, weights)
        use = Use(run, tokens, store, by_document)
        starts = _starts(run, split) if by_document else ()
        partial = Partial(folder / "memory" / f"partial-{split}.npz", weights["sha256"], recipe, use)
        nll = _read(use, starts, recipe, partial, f"eval {folder.name} {split} {recipe.mixtures[-1].name}")
        counts = run.vocabulary.counts
        band_N = bands_before(tokens, counts, run.vocabulary.eos_id)
        table = [_row(mixture, mixture.nll(nll, band_N), counts[tokens]) for mixture in recipe.mixtures]
        found = {"tokens": len(tokens), **{key: table[-1][key] for key in ("nll", "perplexity", "bands")}, "streams": 1}
        whole = recipe.mixtures[-1].weights
        told: dict[str, Any] = {
            name: {**recipe.settings[name], "weight": whole[name]} if name in whole else None for name in MEMORIES
        }
        if "knn" in recipe.settings:
            found["store"] = stored_told(use.datastore)
        told |= {"tuned": None if tuned is None else str(tuned), "seconds": time.perf_counter() - began}
        held = {name: memory_of(name, use, settings) for name, settings in recipe.settings.items()}
        shown_of = {name: memory for name, memory in held.items() if memory is not None}
        write_passage(run, tokens, split, told, nll, shown_of, by_document)
        result = write_result(run, split, found | {"seconds": told["seconds"]}, {**told, "variants": table})
        forget(partial.path)
        return result


def _row(mixture: Mixture, nll_N: np.ndarray, count_N: np.ndarray) -> dict[str, Any]:
    """A mixture as a row of ``memory.variants``."""
    weights = {f"{name}_weight": mixture.weights.get(name, 0.0) for name in MEMORIES}
    banded = {} if mixture.by_band is None else {"by_band": [dict(one) for one in mixture.by_band]}
    return {"name": mixture.name, **summary(nll_N, count_N), **weights, **banded}


def _starts(run: Run, split: str) -> list[int]:
    """Where the documents of a split begin."""
    if (documents := run.corpus.documents(split)) is None:
        raise InputError(
            f"{run.corpus.folder} does not know where the documents of its {split} split begin, where --by-document "
            "forgets. Leave it out, or take a corpus of books or articles."
        )
    return [int(start) for start in documents.starts[:-1]]


def _read(use: Use, starts: Sequence[int], recipe: Recipe, partial: "Partial", title: str) -> dict[str, np.ndarray]:
    """The NLL [N] of every token under the model and each memory, float32; resumed where ``partial`` ends."""
    readers = recipe.readers(use)
    done = partial.load()
    with Bar(title, len(use.text), start=done) as bar:
        text = use.run.text(use.text, chunk=CHUNK, starts=starts)
        read(text, readers, found=partial.nll, start=done, progress=bar.update, save=partial.save)
    check_finite(partial.nll["model"])
    for name, nll_N in partial.nll.items():
        if (lost_N := np.isnan(nll_N)).any():
            raise InputError(
                f"{MEMORIES[name].label} gives {int(lost_N.sum()):,} of {len(nll_N):,} tokens no number, the first at "
                f"{int(lost_N.argmax()):,}: it has diverged. Choose a lower rate for it."
            )
    return partial.nll


def _are_nll(nll: np.ndarray, total: int) -> bool:
    return nll.dtype == np.float32 and nll.ndim == 1 and 0 < len(nll) <= total


class Partial:
    """What an evaluation that was cut off has read, with what it belongs to."""

    def __init__(self, path: Path, checkpoint: str, recipe: Recipe, use: Use) -> None:
        self.path, self._total, self._saved = path, len(use.text), time.monotonic()
        known: dict[str, Any] = {name: recipe.settings.get(name) for name in MEMORIES}
        text, tokens = text_hash(use.text), use.text
        known |= {"by_document": use.by_document}
        if "knn" in recipe.settings:
            known["store"] = fingerprint(use.datastore)
        self.header = {"checkpoint": checkpoint, "text": text, "chunk": CHUNK, "firstsight": __version__, **known}
        self.nll = {name: np.empty(len(tokens), dtype=np.float32) for name in ("model", *recipe.settings)}

    def load(self) -> int:
        """Take in what the file holds; how many tokens that is, 0 without a file that fits."""
        if not self.path.exists():
            return 0
        what, mend = "this part of an evaluation", "It is of no use."
        try:
            text = load_array(self.path, "header", what, mend)
            header = parse_json(str(text), str(self.path), what, OBJECT, mend)
            parts = load_arrays(self.path, self.nll, what, mend) if header == self.header else {}
            shapes = {(part.dtype, part.shape) for part in parts.values()}
            if parts and (len(shapes) > 1 or not _are_nll(parts["model"], self._total)):
                raise InputError(f"{self.path}: {what} holds {shown(shapes)}. {mend}")
        except InputError as error:
            say(f"{self.path} is of no use, starting anew: {error}")
            return 0
        if header != self.header:
            differing = [name for name in self.header if header.get(name) != self.header[name]]
            say(f"{self.path} is of another evaluation ({', '.join(differing)} differ); starting anew")
            return 0
        for name, part in parts.items():
            self.nll[name][: len(part)] = part
        done = len(parts["model"])
        say(f"{self.path}: going on after {done:,} tokens")
        return done

    def save(self, done: int, now: bool) -> None:
        """Write what has been read so far, whole or not at all, if it is time, or ``now`` if there is anything."""
        due = done if now else time.monotonic() - self._saved > SAVE_EVERY and done < self._total
        if not due:
            return
        known: dict[str, Any] = {name: nll_N[:done] for name, nll_N in self.nll.items()}
        with atomic_write(self.path, "wb") as file:
            np.savez(file, header=np.array(json.dumps(self.header)), **known)
        self._saved = time.monotonic()
