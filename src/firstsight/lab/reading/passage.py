"""A passage of a text, and what each memory made of every token of it.

Shape suffixes: N tokens of the split, W pairs in reach of the passage, P tokens of the passage, Q of them at once,
K pairs shown of each, D features.
"""

from typing import Any

import numpy as np
import torch

from firstsight.errors import InputError
from firstsight.lab.lm.reader import check_tokens, reading
from firstsight.lab.lm.run import Run
from firstsight.lab.reading.memories import MEMORIES, Use, memory_of
from firstsight.lab.system.files import write_json
from firstsight.lab.system.shape import finite_or_none
from firstsight.memory import mix

LENGTH = 250  # tokens of the passage: about a page
TOP = 3  # contexts shown of each memory
BEFORE = 6  # words shown before a context's label
QUERIES = 32  # tokens compared with the window at once


def write_passage(
    run: Run, tokens: np.ndarray, split: str, settings: dict[str, Any], nll: dict[str, np.ndarray]
) -> None:
    r"""Write ``passage.json``: a passage of a split, what each memory gained on its tokens, and what it recalled.

    .. math:: \mathrm{gain}_t = \log\Big((1 - \sum_i \lambda_i)\, p(y_t) + \sum_i \lambda_i p_i(y_t)\Big) - \log p(y_t)

    in nats, over one memory i or all of them ("both"). The recalled contexts of a token t are, of the pairs
    (h_j, y_j) that the memory held before t, the three of the largest weight: the cache's softmax of
    :math:`\theta\, h_t \cdot h_j` over all of them, MbPA's :math:`w_j \propto 1 / (\epsilon + |h_j - h_t|^2)` over the
    K nearest, :math:`\epsilon` = 1e-3; of two alike, the more recent first. They are worked out in float64.

    Which passage is our decision, a rule that looks at no number, so that nobody picks what looks good: the 250 tokens
    from the first line that begins in the split's second half, where the memories have filled; the last 250 if fewer
    are left from there; the whole of a shorter text.

    Args:
        run: the run, in whose folder the file goes.
        tokens: [N] ids of the whole split.
        split: its name.
        settings: of each memory its arguments and its ``weight``, or None; kept in the file as they are.
        nll: in nats, [N] each, from the split read in one stream with memories empty at its start: ``"model"``, and
            that of each memory with settings: alone, not mixed in; inf where it knows nothing of a word.

    Raises:
        InputError: no memory has settings, the numbers are not one for each token, or an id is outside the vocabulary.
    """
    used = [name for name in MEMORIES if settings.get(name)]
    check_tokens(tokens, len(run.vocabulary))
    _check_nll(nll, used, len(tokens))
    gain = {name: gains(nll, {name: settings[name]["weight"]}) for name in used}
    if len(used) > 1:
        gain["both"] = gains(nll, {name: settings[name]["weight"] for name in used})
    first, stop = choose(tokens, run.vocabulary.eos_id)
    recalled = _recall(run, tokens, first, stop, {name: settings[name] for name in used})
    measured = {"model": nll["model"], **gain}
    views = (*MEMORIES, "both")
    passage = {
        "run": run.name,
        "checkpoint": {"name": run.checkpoint, "step": run.step},
        "vocabulary_hash": run.vocabulary.hash,
        "split": split,
        "split_tokens": len(tokens),
        "first": first,
        "settings": settings,
        "mean": {name: _mean(values[first:stop]) for name, values in measured.items()},
        "split_mean": {name: _mean(values) for name, values in measured.items()},
        "tokens": [
            {
                "word": _words(run, tokens[t : t + 1]),
                "model": finite_or_none(float(nll["model"][t])),
                **{name: finite_or_none(float(gain[name][t])) if name in gain else None for name in views},
                **{f"{name}_top": _contexts(run, tokens[:t], recalled[name][t - first]) for name in used},
            }
            for t in range(first, stop)
        ],
    }
    write_json(run.folder / "passage.json", passage)


def _contexts(run: Run, tokens: np.ndarray, pairs: list[tuple[int, float]]) -> list[dict[str, Any]]:
    """The pairs as they stand in the text that ends here: the words before each label, and the label."""
    contexts = []
    for ago, weight in pairs:
        at = len(tokens) - ago
        before, word = tokens[max(0, at - BEFORE) : at], tokens[at : at + 1]
        contexts.append({"ago": ago, "weight": weight, "before": _words(run, before), "word": _words(run, word)})
    return contexts


def _words(run: Run, ids: np.ndarray) -> str:
    return " ".join(run.vocabulary.decode(ids))


def choose(tokens: np.ndarray, eos_id: int) -> tuple[int, int]:
    """Where the passage of a split begins and ends; :func:`write_passage` says by which rule."""
    half = len(tokens) // 2
    begins = np.flatnonzero(tokens[half - 1 : -1] == eos_id)
    first = min(half + int(begins[0]) if len(begins) else half, max(0, len(tokens) - LENGTH))
    return first, min(first + LENGTH, len(tokens))


def gains(nll: dict[str, np.ndarray], weights: dict[str, float]) -> np.ndarray:
    """The change [N] of each token's log-probability, in nats, when memories are mixed in with these weights."""
    held = {name: torch.from_numpy(nll[name].astype(np.float64)) for name in ("model", *weights)}
    mixed_N = mix(held["model"], [(held[name], weight) for name, weight in weights.items()])
    return (held["model"] - mixed_N).numpy()


def _recall(
    run: Run, tokens: np.ndarray, first: int, stop: int, settings: dict[str, dict[str, Any]]
) -> dict[str, list[list[tuple[int, float]]]]:
    """For each memory and token of the passage the pairs of the largest weight: how many tokens ago, and the weight."""
    arguments = {name: {k: v for k, v in given.items() if k != "weight"} for name, given in settings.items()}
    held = {name: memory_of(name, Use(run, tokens), given) for name, given in arguments.items()}
    memories = {name: memory for name, memory in held.items() if memory is not None}
    start, parts = max(0, first - max((memory.size for memory in memories.values()), default=0)), []
    with reading(run.model):
        for segment in run.text(tokens[:stop]):
            parts.append(segment.part(start, stop).hidden[0].cpu().double())
    h_WD = torch.cat(parts).flip(0)  # the most recent first, as a stable sort leaves those alike
    position_W = torch.arange(stop - 1, start - 1, -1)
    recalled: dict[str, list[list[tuple[int, float]]]] = {name: [] for name in memories}
    for t_Q in torch.split(torch.arange(first, stop), QUERIES):
        query_QD, ago_QW = h_WD[stop - 1 - t_Q], t_Q[:, None] - position_W
        for name, memory in memories.items():
            recalled[name] += memory.recalled(query_QD, h_WD, ago_QW, TOP)
    return {name: recalled.get(name, [[] for _ in range(first, stop)]) for name in settings}


def _check_nll(nll: dict[str, np.ndarray], used: list[str], tokens: int) -> None:
    if not used:
        raise InputError(f"A passage shows what a memory changes; give the settings of one: {', '.join(MEMORIES)}.")
    for name in ("model", *used):
        if name not in nll or np.shape(nll[name]) != (tokens,):
            given = f"of shape {list(np.shape(nll[name]))}" if name in nll else "missing"
            raise InputError(f"The NLLs of {name} are {given}; expected one for each of the split's {tokens:,} tokens.")


def _mean(values: np.ndarray) -> float | None:
    with np.errstate(invalid="ignore"):
        return finite_or_none(float(values.mean(dtype=np.float64)))
