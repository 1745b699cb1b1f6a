"""Numbers of a trained run that goes on writing while it reads: a split of its corpus, or the user's own text."""

import dataclasses
import itertools
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from firstsight.errors import InputError
from firstsight.heads.kept.moments import Moments
from firstsight.heads.rules import RuleName
from firstsight.lab.lm.evaluation import token_nll
from firstsight.lab.lm.lstm import LanguageModel
from firstsight.lab.lm.reader import read, reading
from firstsight.lab.lm.results import read_words
from firstsight.lab.lm.run import Run, open_run
from firstsight.lab.reading.moments import measure_moments
from firstsight.lab.reading.open_words import number, open_results
from firstsight.lab.reading.tables import mean_of, sight_table, summary
from firstsight.lab.reading.writing import Writing, Written, WrittenRows, adapted_nll, block_text
from firstsight.lab.system.devices import AUTO
from firstsight.lab.system.machine import provenance
from firstsight.lab.system.progress import Bar

RARE = 100  # words that training had less often are the ones whose sights are followed
MOMENTS_OF = 20_000  # tokens of training text that the activations' moments are measured on
TUNED: tuple[RuleName, ...] = ("scaled", "centered", "whitened")
GRID = [
    Writing(rule=rule, gamma=gamma, max_count=max_count)
    for rule, max_count, gamma in itertools.product(TUNED, (100, 1000, 10_000), (0.01, 0.03, 0.1, 0.2))
]


def adapt_run(
    folder: str | Path,
    split: str,
    writing: Writing | None,
    *,
    text: str | Path | None = None,
    forget: bool = True,
    tune_tokens: int = 20_000,
    checkpoint: str = "best",
    data: str | Path | None = None,
    device: str = AUTO,
) -> dict[str, Any]:
    """A run on a text, as trained and written while it reads: overall, by band, and by sight.

    Args:
        split: "valid" or "test".
        writing: the settings; None: those of ``GRID`` that are best on the first ``tune_tokens`` of validation.
        text: a UTF-8 file to read in place of the split.
        forget: put the rows back where a document begins, if the corpus knows where.
        tune_tokens: tokens of validation that the choice is made on.
        folder, checkpoint, data, device: as :func:`firstsight.lab.lm.run.open_run`.

    Raises:
        InputError: the run, its data or the file are missing or damaged, or do not belong together, or there is no
            text.
    """
    bench = _Bench(open_run(folder, checkpoint, data, device))
    run, vocabulary = bench.run, bench.run.vocabulary
    if text is None:
        tokens, starts = np.asarray(run.corpus.split(split)), bench.starts(split, forget)
    else:
        tokens, starts = vocabulary.encode(read_words(text, vocabulary)), []
    writing, tuned = bench.chosen(writing, forget, tune_tokens)
    began = time.perf_counter()
    with Bar(f"adapt {run.folder.name}", len(tokens)) as bar:
        adapted_N = adapted_nll(run.model, tokens, writing, **bench.known, starts=starts, progress=bar.update)
    model_N = token_nll(run.model, tokens, eos_id=vocabulary.eos_id)
    count_N = vocabulary.counts[tokens]
    return {
        "run": run.name,
        "dataset": run.corpus.name,
        **({"split": split} if text is None else {"file": str(text)}),
        "tokens": len(tokens),
        "writing": {**dataclasses.asdict(writing), "documents": len(starts)},
        "model": summary(model_N, count_N),
        "adapted": summary(adapted_N, count_N),
        "sights": sight_table({"model": model_N, "adapted": adapted_N}, tokens, count_N < RARE, starts),
        "tuned": tuned,
        "checkpoint": {"name": run.checkpoint, "step": run.step},
        "seconds": time.perf_counter() - began,
        **provenance(run.device),
    }


def open_text(
    folder: str | Path,
    text: str | Path,
    writing: Writing | None,
    *,
    offset: float = 0.0,
    tune_tokens: int = 20_000,
    checkpoint: str = "best",
    data: str | Path | None = None,
    device: str = AUTO,
) -> dict[str, Any]:
    """A plain text under a run, its new words as ``<unk>`` and as classes of their own from their first sight on.

    It gives what ``open_words.open_results`` does, and where that comes from.

    Args:
        offset: added to the bias of new classes, in nats.
        folder, text, writing, tune_tokens, checkpoint, data, device: as ``adapt_run``.
    """
    bench = _Bench(open_run(folder, checkpoint, data, device))
    run, moments = bench.run, bench.known["moments"]
    ids = number(read_words(text, run.vocabulary), run.vocabulary)
    writing, tuned = bench.chosen(writing, True, tune_tokens)
    found = open_results(run, ids, writing, moments=moments, offset=offset)
    return {"run": run.name, "file": str(text), **found, "tuned": tuned, **provenance(run.device)}


def tune(
    model: LanguageModel,
    tokens: np.ndarray,
    *,
    counts: np.ndarray,
    eos_id: int,
    moments: Moments | None,
    grid: list[Writing],
    starts: Iterable[int] = (),
    progress: Callable[[int], object] | None = None,
) -> dict[str, Any]:
    """Read a text, part of validation, once with each setting of the grid; the best is that of the lowest mean NLL.

    The activations, which no setting changes, are made once and held: N x D numbers.

    Returns:
        ``{"tokens", "model": {"nll", "rare"}, "table": [{**setting, "nll", "rare"}], "best": setting}``, "rare" being
        the mean NLL of words that training had fewer than 100 times.
    """
    blocks = {writing.block for writing in grid}
    if len(blocks) != 1:
        raise InputError(f"the settings to choose from have the blocks {sorted(blocks)}; give one block for all.")
    head, rare_N = model.head, counts[tokens] < RARE
    table: list[dict[str, Any]] = []

    def found(nll_N: np.ndarray) -> dict[str, float | None]:
        return {"nll": mean_of(nll_N, np.ones_like(rare_N)), "rare": mean_of(nll_N, rare_N)}

    text = block_text(model, tokens, grid[0], eos_id=eos_id, starts=starts)
    with reading(model):
        segments = list(text)
    for done, writing in enumerate(grid, start=1):
        rows = WrittenRows(model.rows, head.bias, counts, writing, moments)
        nll_N = read(text, {"adapted": Written(rows)}, segments=segments)["adapted"]
        table.append({**dataclasses.asdict(writing), **found(nll_N)})
        if progress is not None:
            progress(done)
    order = [np.inf if row["nll"] is None else row["nll"] for row in table]
    best = dataclasses.asdict(grid[int(np.argmin(order))])
    unwritten = found(token_nll(model, tokens, eos_id=eos_id))
    return {"tokens": len(tokens), "model": unwritten, "table": table, "best": best}


class _Bench:
    """A run, and what all its readings of a text that is written have in common."""

    def __init__(self, run: Run) -> None:
        self.run = run
        eos_id, tokens = run.vocabulary.eos_id, np.asarray(run.corpus.split("train")[:MOMENTS_OF])
        moments = measure_moments(run.model, tokens, eos_id=eos_id)
        self.known: dict[str, Any] = {"counts": run.vocabulary.counts, "eos_id": eos_id, "moments": moments}

    def starts(self, split: str, forget: bool) -> list[int]:
        documents = self.run.corpus.documents(split) if forget else None
        return [] if documents is None else documents.starts[:-1].tolist()

    def chosen(self, writing: Writing | None, forget: bool, tokens: int) -> tuple[Writing, dict[str, Any] | None]:
        """The settings given, or the best on the first tokens of validation, and how they were found."""
        if writing is not None:
            return writing, None
        part, starts = np.asarray(self.run.corpus.split("valid")[:tokens]), self.starts("valid", forget)
        with Bar("tune", len(GRID)) as bar:
            tuned = tune(self.run.model, part, **self.known, starts=starts, grid=GRID, progress=bar.update)
        return Writing(**tuned["best"]), tuned
