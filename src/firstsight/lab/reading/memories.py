"""A trained run on a split of its corpus, with memories at test time.

Shape suffixes: N tokens of the text, S of a chunk, D features.
"""

import hashlib
import json
import time
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from firstsight import __version__
from firstsight.errors import InputError
from firstsight.heads import Softmax
from firstsight.lab.lm.evaluation import BLOCK, Evaluation, by_band, check_tokens, evaluating, exp_or_inf
from firstsight.lab.lm.lstm import LanguageModel
from firstsight.lab.lm.results import open_with_data, write_result
from firstsight.lab.lm.run import Trained
from firstsight.lab.reading.moments import read_segments
from firstsight.lab.reading.passage import write_passage
from firstsight.lab.reading.settings import Settings, Variant, check_tuned, checkpoint_of, choose_settings, read_tuned
from firstsight.lab.system.files import atomic_write
from firstsight.lab.system.progress import Bar, say
from firstsight.memory import MbPA, NeuralCache, mix

CHUNK = 4096  # tokens that the memories get at once: MbPA computes its window's distributions once for all of them
SAVE_EVERY = 60.0  # seconds between two savings of what has been read


class Chunk(NamedTuple):
    """A part of a text, and the activations that predict it."""

    first: int
    """position of its first token in the text"""
    hidden: Tensor
    """[S, D]"""
    target: Tensor
    """[S] int64"""

    @property
    def stop(self) -> int:
        """Position after its last token."""
        return self.first + len(self.target)

    def part(self, start: int, stop: int) -> "Chunk":
        """What of it lies between two positions of the text; it may be empty."""
        inside = slice(max(0, start - self.first), max(0, stop - self.first))
        return Chunk(max(start, self.first), self.hidden[inside], self.target[inside])


def evaluate_with_memory(
    folder: Path,
    split: str,
    memory: str,
    *,
    tuned: Path | None = None,
    checkpoint: str = "best",
    data: str | None = None,
) -> dict[str, Any]:
    r"""Evaluate a run on a split in one stream with memories of the text before, and write ``result.json``.

    .. math:: p = (1 - \lambda_c - \lambda_m) p_\mathrm{model} + \lambda_c p_\mathrm{cache} + \lambda_m p_\mathrm{MbPA}

    The text is read once: each mixture is made from the same three likelihoods of every token. Perplexity and bands
    are those of the whole mixture; ``memory`` holds its settings and all mixtures, the model alone as the first. While
    a memory is empty, at the first token, it says what the model says. What has been read is saved every minute in
    ``memory/partial-SPLIT.npz``, and the same command goes on from there. The passage that the report shows is
    written too.

    Args:
        folder: the run.
        split: "valid" or "test".
        memory: "cache", "mbpa" or "cache,mbpa".
        tuned: the file of ``firstsight sweep memory``; without it the paper's settings are used.
        checkpoint: "best" or "last".
        data: the data folder, if it lies elsewhere than when the run was trained.

    Raises:
        InputError: the run, the data or the tuned file are missing or damaged, or do not belong together; or the
            activations are not finite.
    """
    began = time.perf_counter()
    found = None if tuned is None else read_tuned(tuned)
    settings = choose_settings(memory, found, str(tuned))
    trained, corpus = open_with_data(folder, checkpoint, data)
    identity = checkpoint_of(folder, trained)
    if tuned is not None and found is not None:
        check_tuned(found, tuned, folder, identity)
    tokens = np.asarray(corpus.split(split))
    partial = folder / "memory" / f"partial-{split}.npz"
    title = f"eval {folder.name} {split} {settings.variants[-1].name}"
    nll = _read(trained, tokens, _Partial(partial, identity["sha256"], settings, tokens), title)
    table = [_row(variant, nll, trained.vocabulary.counts[tokens]) for variant in settings.variants]
    whole = settings.variants[-1]
    told: dict[str, Any] = {
        "cache": None if settings.cache is None else {**settings.cache, "weight": whole.cache},
        "mbpa": None if settings.mbpa is None else {**settings.mbpa, "weight": whole.mbpa},
        "tuned": None if tuned is None else str(tuned),
    }
    told["seconds"] = seconds = time.perf_counter() - began
    write_passage(folder, trained, tokens, split, told, nll)
    found_here, rows = {**table[-1][0], "seconds": seconds}, [row for _, row in table]
    result = write_result(folder, trained, corpus, split, found_here, {**told, "variants": rows})
    partial.unlink(missing_ok=True)
    return result


def mixture(nll_N: np.ndarray, parts: Sequence[tuple[np.ndarray, float]]) -> np.ndarray:
    """The NLL [N] of a mixture from the model's and those of memories with weights, in float64; untouched without."""
    weighty = [(torch.from_numpy(part_N).double(), weight) for part_N, weight in parts if weight]
    return mix(torch.from_numpy(nll_N).double(), weighty).numpy() if weighty else nll_N


def _row(variant: Variant, nlls: dict[str, np.ndarray], count_N: np.ndarray) -> tuple[dict[str, Any], dict[str, Any]]:
    """A mixture as an evaluation gives it, and as a row of ``memory.variants``."""
    weights = {"cache": variant.cache, "mbpa": variant.mbpa}
    nll, bands = by_band(mixture(nlls["model"], [(nlls[name], w) for name, w in weights.items() if w]), count_N)
    found = Evaluation(len(count_N), nll, exp_or_inf(nll), bands, 1, 0.0).to_dict()
    row = {"name": variant.name, **{key: found[key] for key in ("nll", "perplexity", "bands")}}
    return found, row | {"cache_weight": variant.cache, "mbpa_weight": variant.mbpa}


def read_chunks(model: LanguageModel, tokens: np.ndarray, *, eos_id: int) -> Iterator[Chunk]:
    """The activations of a text in one stream, ``CHUNK`` tokens at a time, in whole segments of ``evaluation``'s.

    To be called with the model in evaluation mode and gradients off.

    Raises:
        InputError: no tokens, or an id outside the vocabulary.
    """
    check_tokens(tokens, len(model.embedding_weight), 1, None)
    held: list[Tensor] = []
    first = 0
    for segment in read_segments(model, tokens, eos_id=eos_id):
        held.append(segment.hidden)
        stop = segment.first + len(segment.hidden)
        if stop - first >= CHUNK or stop == len(tokens):
            target = torch.from_numpy(tokens[first:stop].astype(np.int64)).to(segment.hidden.device)
            yield Chunk(first, torch.cat(held), target)
            held, first = [], stop


def text_hash(tokens: np.ndarray) -> str:
    """The SHA-256 of a text's ids, in hex."""
    return hashlib.sha256(tokens.tobytes()).hexdigest()


def model_nll(head: Softmax, chunk: Chunk) -> np.ndarray:
    """The model's own NLL [S], float32, a block at a time as the plain evaluation computes it."""
    pairs = zip(torch.split(chunk.hidden, BLOCK), torch.split(chunk.target, BLOCK), strict=True)
    return torch.cat([head.nll(h_SD[None], y_S[None])[0] for h_SD, y_S in pairs]).float().cpu().numpy()


def score(memory: NeuralCache | MbPA, head: Softmax, chunk: Chunk) -> np.ndarray:
    """A memory's NLL [S], float32, infinite where it has not met the word; the chunk is remembered."""
    if isinstance(memory, MbPA):
        return memory.nll(head, chunk.hidden, chunk.target).float().cpu().numpy()
    return memory.nll(chunk.hidden, chunk.target).float().cpu().numpy()


def remember(memory: NeuralCache | MbPA, head: Softmax, chunk: Chunk) -> None:
    """Take a chunk into a memory without scoring it."""
    if isinstance(memory, MbPA):
        memory.remember(head, chunk.hidden, chunk.target)
    else:
        memory.remember(chunk.hidden, chunk.target)


class _Partial:
    """What an evaluation that was cut off has read, with what it belongs to."""

    def __init__(self, path: Path, checkpoint: str, settings: Settings, tokens: np.ndarray) -> None:
        self.path, self.memories = path, settings.memories()
        known = {"cache": settings.cache, "mbpa": settings.mbpa}
        self.header = {
            "checkpoint": checkpoint,
            "text": text_hash(tokens),
            "chunk": CHUNK,
            "firstsight": __version__,
            **known,
        }
        self.nll = {name: np.empty(len(tokens), dtype=np.float32) for name in ("model", *self.memories)}

    def load(self) -> int:
        """Take in what the file holds; how many tokens that is, 0 without a file that fits."""
        if not self.path.exists():
            return 0
        try:
            with np.load(self.path, allow_pickle=False) as file:
                header = json.loads(str(file["header"]))
                parts = {name: file[name] for name in self.nll} if header == self.header else {}
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            say(f"{self.path}: damaged ({error}); starting anew")
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

    def save(self, done: int) -> None:
        """Write what has been read so far, whole or not at all."""
        known: dict[str, Any] = {name: nll_N[:done] for name, nll_N in self.nll.items()}
        with atomic_write(self.path, "wb") as file:
            np.savez(file, header=np.array(json.dumps(self.header)), **known)


def _read(trained: Trained, tokens: np.ndarray, partial: _Partial, title: str) -> dict[str, np.ndarray]:
    """The NLL [N] of every token under the model and each memory, float32; resumed where ``partial`` ends."""
    model, head, nll = trained.model, trained.model.head, partial.nll
    done, saved = partial.load(), time.monotonic()
    with Bar(title, len(tokens), start=done) as bar, evaluating(model), torch.no_grad():
        try:
            for chunk in read_chunks(model, tokens, eos_id=trained.vocabulary.eos_id):
                stop = chunk.stop
                if stop <= done:
                    for memory in partial.memories.values():
                        if stop > done - memory.size:
                            remember(memory, head, chunk)
                    continue
                nll["model"][chunk.first : stop] = model_nll(head, chunk)
                for name, memory in partial.memories.items():
                    nll[name][chunk.first : stop] = score(memory, head, chunk)
                    nll[name][0] = nll["model"][0]  # it was empty
                done = stop
                bar.update(done)
                if time.monotonic() - saved > SAVE_EVERY and done < len(tokens):
                    partial.save(done)
                    saved = time.monotonic()
        except KeyboardInterrupt:
            if done:
                partial.save(done)
            raise
    check_finite(nll["model"])
    return nll


def check_finite(nll_N: np.ndarray) -> None:
    """Raise InputError if the model's own NLL is not finite everywhere."""
    if not np.isfinite(nll_N).all():
        raise InputError(
            f"the model's own NLL is not finite at {int((~np.isfinite(nll_N)).sum()):,} of {len(nll_N):,} tokens: it "
            "has diverged, and no memory mends that. Train it anew, with a lower rate."
        )
