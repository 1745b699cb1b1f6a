"""Reading a text with a trained model: the one loop behind every likelihood.

A ``Text`` gives the activations of a text segment by segment, and ``read`` hands each to its readers: ``Plain`` is the
model as it is, those of ``firstsight.lab.reading`` remember or write.

Shape suffixes: N tokens of the text, B streams, S steps of a segment, D features.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from firstsight.errors import InputError
from firstsight.functional import IGNORE_INDEX
from firstsight.heads import Softmax
from firstsight.lab.lm.lstm import LanguageModel
from firstsight.lab.lm.recurrent.plain import State

BLOCK = 1024  # tokens that model and head get at once: enough for full matrix products, little enough to stay small


class Segment(NamedTuple):
    """A part of a text, side by side in each stream, and the activations that predict it."""

    first: int
    """step of its first token; with one stream its position in the text"""
    fresh: bool
    """whether a document begins with it"""
    hidden: Tensor
    """[B, S, D]"""
    target: Tensor
    """[B, S] int64; ``IGNORE_INDEX`` where a stream is shorter than the longest"""
    nll: Tensor | None = None
    """[B, S] the model's own NLL, once the reader named "model" has read it"""
    input: Tensor | None = None
    """[B, S] int64: the token before each, from which the model made the activation"""

    @property
    def stop(self) -> int:
        """Step after its last token."""
        return self.first + self.target.shape[1]

    def part(self, start: int, stop: int) -> "Segment":
        """What of it lies between two steps; it may be empty."""
        inside = slice(max(0, start - self.first), max(0, stop - self.first))
        fresh = self.fresh and start <= self.first
        tokens = None if self.input is None else self.input[:, inside]
        return Segment(max(start, self.first), fresh, self.hidden[:, inside], self.target[:, inside], input=tokens)


class Reader(Protocol):
    """What reads a text: it scores each token, and may keep something of it for those that come."""

    @property
    def reach(self) -> float:
        """How many tokens back it looks: what is further back need not be shown to it again."""

    def read(self, segment: Segment) -> Tensor:
        """NLL [B, S] in nats, of a grid of settings [..., B, S]; float32 is kept of it."""

    def skip(self, segment: Segment) -> None:
        """Take in a segment that was scored before."""


class Plain:
    """The model as it is, a reader that keeps nothing."""

    reach = 0.0

    def __init__(self, head: Softmax) -> None:
        self._head = head

    def read(self, segment: Segment) -> Tensor:
        """See ``Reader``."""
        size = max(1, BLOCK // len(segment.target))
        pairs = zip(torch.split(segment.hidden, size, 1), torch.split(segment.target, size, 1), strict=True)
        return torch.cat([self._head.nll(h_BSD, y_BS) for h_BSD, y_BS in pairs], 1)

    def skip(self, segment: Segment) -> None:
        """See ``Reader``."""


@dataclass(frozen=True)
class Text:
    """A text as a model reads it: its segments, in order, the LSTM's state carried through.

    It is cut into ``streams`` contiguous parts, whose lengths differ by one at most, read side by side. A part begins
    with a zero state, and its first input is the token before it, or ``<eos>`` for the first of all. The segments'
    length changes nothing but speed and memory. To be gone through in ``reading``.

    Args:
        model: a trained one.
        tokens: [N] integers in [0, V), a memory map as well.
        eos_id: the id of ``<eos>``.
        streams: parts, 1 or more. With more than 1 it is faster, and each part but the first lacks its context.
        size: steps that the model gets at once; by default so many that they are 1024 tokens.
        chunk: steps that a segment has at least, but for the last one of the text, or of a document; by default
            ``size``.
        starts: positions where documents begin, for one stream: a segment ends there.
        share: those of the streams that are read; by default all.

    Raises:
        InputError: no tokens, an id outside the vocabulary, ``streams`` or ``size`` below 1, or too many streams.
    """

    model: LanguageModel
    tokens: np.ndarray
    eos_id: int
    streams: int = 1
    size: int | None = None
    chunk: int = 1
    starts: Iterable[int] = ()
    share: slice | None = None

    def __post_init__(self) -> None:
        """Check that the model can read it so."""
        check_tokens(self.tokens, self.model.num_types, self.streams, self.size)

    def edges(self) -> np.ndarray:
        """[B + 1]: where each stream that is read begins, and the end."""
        first, stop, _ = (self.share or slice(None)).indices(self.streams)
        return np.array([len(self.tokens) * stream // self.streams for stream in range(first, stop + 1)])

    def __iter__(self) -> Iterator[Segment]:
        held: list[Segment] = []
        last = int(np.diff(self.edges()).max())
        for segment in self._segments(last):
            if held and segment.fresh:
                yield _joined(held)
                held = []
            held.append(segment)
            if segment.stop - held[0].first >= self.chunk or segment.stop == last:
                yield _joined(held)
                held = []

    def _segments(self, last: int) -> Iterator[Segment]:
        size = self.size or max(1, BLOCK // self.streams)
        edges, device = self.edges(), next(self.model.parameters()).device
        starts_B1, ends_B1 = edges[:-1, None], edges[1:, None]
        borders = sorted({0, last, *(int(start) for start in self.starts if 0 < start < last)})
        state: State | None = None
        for begin, end in pairwise(borders):
            for first in range(begin, end, size):
                index_BS = starts_B1 + np.arange(first, min(first + size, end))
                target_BS = self.tokens[np.minimum(index_BS, len(self.tokens) - 1)].astype(np.int64)
                before_BS = self.tokens[np.maximum(index_BS - 1, 0)]
                input_BS = np.where(index_BS > 0, before_BS, self.eos_id).astype(np.int64)
                before, after = torch.from_numpy(input_BS), np.where(index_BS < ends_B1, target_BS, IGNORE_INDEX)
                before = before.to(device)
                hidden_BSD, state = self.model(before, state)
                target = torch.from_numpy(after).to(device)
                yield Segment(first, first == begin > 0, hidden_BSD, target, input=before)


def _joined(parts: list[Segment]) -> Segment:
    """Segments that follow each other, as one."""
    if len(parts) == 1:
        return parts[0]
    hidden, target, tokens = (
        torch.cat([getattr(one, name) for one in parts], 1) for name in ("hidden", "target", "input")
    )
    return parts[0]._replace(hidden=hidden, target=target, input=tokens)


def read(
    text: Text,
    readers: Mapping[str, Reader],
    *,
    segments: Iterable[Segment] | None = None,
    found: dict[str, np.ndarray] | None = None,
    start: int = 0,
    step: int | None = None,
    progress: Callable[[int], object] | None = None,
    save: Callable[[int, bool], None] | None = None,
) -> dict[str, np.ndarray]:
    """The NLL of every token under each reader; the model runs in evaluation mode and is left as it was.

    Args:
        text: what is read, in the precision of the surrounding autocast.
        readers: by name, in the order they read. One named "model" gives the others the model's own NLL.
        segments: those of ``text``, if they were formed before.
        found: where the results go; by default into new arrays.
        start: tokens before it are not scored: readers take in what is in their reach of it.
        step: tokens of a segment that are scored at a time, at most; by default all.
        progress: called with the number of tokens done so far.
        save: called after each scored part with the number of tokens done, and whether the end has come before its
            time.

    Returns:
        By reader [N] float32 in nats (behind a dimension for each axis of a grid); of tokens before ``start`` what
        ``found`` had.
    """
    found, done, offset_B = {} if found is None else found, start, text.edges()[:-1, None]
    with reading(text.model):
        try:
            for segment in _scored(text if segments is None else segments, readers.values(), start, step):
                inside_BS = (segment.target != IGNORE_INDEX).cpu().numpy()
                index_n = (offset_B + np.arange(segment.first, segment.stop))[inside_BS]
                for name, reader in readers.items():
                    nll = reader.read(segment).float()
                    if name == "model":
                        segment = segment._replace(nll=nll)
                    if name not in found:
                        found[name] = np.empty((*nll.shape[:-2], len(text.tokens)), dtype=np.float32)
                    found[name][..., index_n] = nll.cpu().numpy()[..., inside_BS]
                done += len(index_n)
                if progress is not None:
                    progress(done)
                if save is not None:
                    save(done, False)
        except KeyboardInterrupt:
            if save is not None:
                save(done, True)
            raise
    return found


def _scored(segments: Iterable[Segment], readers: Iterable[Reader], start: int, step: int | None) -> Iterator[Segment]:
    """The parts to be scored; what lies before ``start`` is taken in on the way."""
    for segment in segments:
        before = segment.part(segment.first, start)
        if before.target.shape[1]:
            for reader in readers:
                if before.stop > start - reader.reach:
                    reader.skip(before)
        if segment.stop > start:
            first = max(start, segment.first)
            size = step or segment.stop - first
            for at in range(first, segment.stop, size):
                yield segment.part(at, at + size)


@contextmanager
def reading(model: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients for a while; then each part is in the mode it was in."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, mode in modes:
            module.training = mode


def check_tokens(tokens: np.ndarray, vocabulary: int, streams: int = 1, size: int | None = None) -> None:
    """Raise InputError unless a model of so many types can read these tokens so."""
    if tokens.ndim != 1 or not len(tokens) or tokens.dtype.kind not in "iu":
        raise InputError(
            f"tokens is {tokens.dtype} of shape {list(tokens.shape)}; expected one or more token ids, integers in one "
            "dimension. Is the text empty?"
        )
    if int(tokens.min()) < 0 or int(tokens.max()) >= vocabulary:
        raise InputError(
            f"token ids run from {tokens.min()} to {tokens.max()}, but the model knows the ids 0 to {vocabulary - 1}. "
            "Encode the text with the vocabulary that the model was trained with."
        )
    if not 1 <= streams <= len(tokens):
        raise InputError(f"streams is {streams}; expected 1 to the number of tokens, {len(tokens)}. Reports use 1.")
    if size is not None and size < 1:
        raise InputError(f"size is {size}; expected 1 or more steps.")
