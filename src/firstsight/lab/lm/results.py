"""Numbers of a trained run: on a split of its corpus, and on the user's own text."""

from pathlib import Path
from typing import Any

import numpy as np

from firstsight.errors import InputError
from firstsight.lab.data.lines import read_lines
from firstsight.lab.data.tokenize import tokenize_lines
from firstsight.lab.data.vocabulary import EOS, Vocabulary
from firstsight.lab.lm.evaluation import evaluate, exp_or_inf, token_nll
from firstsight.lab.lm.run import Run, open_run
from firstsight.lab.system.devices import AUTO
from firstsight.lab.system.files import write_json
from firstsight.lab.system.machine import provenance
from firstsight.lab.system.progress import Bar
from firstsight.lab.system.shape import finite_or_none

CONTEXT = 8  # words shown before a surprising one


def evaluate_run(
    folder: str | Path, split: str, *, checkpoint: str = "best", data: str | Path | None = None, device: str = AUTO
) -> dict[str, Any]:
    """Evaluate a run on a split in one stream, in float32, and write ``result.json``.

    Args:
        split: "valid" or "test".
        folder, checkpoint, data, device: as :func:`firstsight.lab.lm.run.open_run`.

    Raises:
        InputError: the run or the data are missing or damaged, or do not belong together.
    """
    run = open_run(folder, checkpoint, data, device)
    tokens, counts = run.corpus.split(split), run.vocabulary.counts
    with Bar(f"eval {run.folder.name} {split}", len(tokens)) as bar:
        found = evaluate(run.model, tokens, counts, eos_id=run.vocabulary.eos_id, progress=bar.update)
    return write_result(run, split, found.to_dict(), None)


def write_result(run: Run, split: str, found: dict[str, Any], memory: dict[str, Any] | None) -> dict[str, Any]:
    """Write ``result.json`` of an evaluation: its numbers, the memory used, and where they come from."""
    result = {
        "run": run.name,
        "dataset": run.corpus.name,
        "split": split,
        **found,
        "unknown": run.corpus.meta["unknown"].get(split),
        "vocabulary": len(run.vocabulary),
        "vocabulary_hash": run.vocabulary.hash,
        "checkpoint": {"name": run.checkpoint, "step": run.step},
        "memory": memory,
        "config": run.config.to_dict(),
        **provenance(run.device),
    }
    write_json(run.folder / "result.json", result)
    return result


def score_text(
    folder: str | Path, text: str | Path, *, top: int = 20, checkpoint: str = "best", device: str = AUTO
) -> dict[str, Any]:
    """Perplexity of a plain text file under a trained run, and the tokens that surprised the model most.

    The text is tokenised as the run's corpus was, each line that is not blank ends with ``<eos>``, and words outside
    the vocabulary are ``<unk>``: their share is in the result, and the perplexity cannot be held against one with
    another share.

    Args:
        text: a UTF-8 file.
        top: how many surprising tokens to list.
        folder, checkpoint, device: as :func:`firstsight.lab.lm.run.open_run`.

    Raises:
        InputError: the run or the file is missing or damaged, the file holds no text, or ``top`` is below 0.
    """
    if top < 0:
        raise InputError(f"top is {top}; expected the number of surprising tokens to list, 0 or more.")
    run = open_run(folder, checkpoint, device=device)
    vocabulary = run.vocabulary
    words = read_words(text, vocabulary)
    ids = vocabulary.encode(words)
    with Bar(f"score {Path(text).name}", len(ids)) as bar:
        nll = token_nll(run.model, ids, eos_id=vocabulary.eos_id, progress=bar.update)
    mean = float(nll.mean(dtype=np.float64))
    surprising = [
        {"token": words[i], "nll": float(nll[i]), "position": i, "before": " ".join(words[max(0, i - CONTEXT) : i])}
        for i in np.argsort(-nll, kind="stable")[:top].tolist()
    ]
    return {
        "run": run.name,
        "file": str(text),
        "tokens": len(ids),
        "unknown": float((ids == vocabulary.unk_id).mean()),
        "nll": mean,
        "perplexity": finite_or_none(exp_or_inf(mean)),
        "surprising": surprising,
        **provenance(run.device),
    }


def read_words(text: str | Path, vocabulary: Vocabulary) -> list[str]:
    """The words of a UTF-8 file as the vocabulary's corpus was cut, each line that is not blank ended by ``<eos>``."""
    if not Path(text).is_file():
        raise InputError(f"{text}: there is no such file. Give a plain text file in UTF-8.")
    with open(text, "rb") as file:
        lines = list(tokenize_lines(read_lines(file, str(text)), vocabulary.tokenizer))
    words = [word for line in lines if line for word in [*line, EOS]]
    if not words:
        raise InputError(f"{text}: the file holds no text. Give a plain text file with at least one word.")
    return words
