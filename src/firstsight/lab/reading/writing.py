r"""Writing at test time: a trained model reads a text and remembers it in the rows of its output layer.

Shape suffixes: N tokens of the text, S of a segment, B of a block, C classes, U those a segment writes, D features.

The text is one stream. Each token of a block is scored with the rows as they were before the block; then the block's
pairs (activation, target) are written by a rule of ``firstsight.heads.rules``, with

.. math:: \lambda_i = \gamma \text{ if training had the class, else } \max(1 / (1 + \mathrm{sights}_i), \gamma)

with sights those in this text. No gradient. Our decisions:

- A trained row moves by gamma however rare its class: the paper's 1/c, carried on from training's count, moves rare
  rows by far more than their gradient ever did, and costs more than it gives (docs/when.md).
- Only the output rows (and the bias, where the rule moves it) are written, on a copy. An input embedding that is
  tied to them stays as trained, so the activations are those of the model without writing.
- Mean and covariance of the activations, for rules that need them, are measured once on training text and fixed.

Exact, and yet no [V, D] product for each block: within a segment only U rows move. The log-sum-exp over all others is
formed once for the segment, and that over the U anew after each write.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from firstsight.errors import InputError
from firstsight.functional import class_means, linear_cross_entropy
from firstsight.functional.checks import check_rule
from firstsight.functional.first_sight import Sight, first_sight
from firstsight.heads.kept.moments import Moments
from firstsight.heads.rules import RuleName, find_rule
from firstsight.lab.lm.lstm import LanguageModel
from firstsight.lab.lm.reader import BLOCK, Segment, Text, read


@dataclass(frozen=True)
class Writing:
    """How a text is written while it is read."""

    rule: RuleName = "whitened"
    """the rule of the write, a name of firstsight.heads.rules"""
    gamma: float = 0.1
    """smallest rate of the write, in [0, 1]"""
    T: int = 500
    """a class is written at its first T sights in this text"""
    max_count: int | None = 1000
    """only classes that training had fewer times are written; None: all"""
    block: int = 1
    """tokens that are scored before they are written; fewer is fresher and slower"""
    prior_count: float = 10.0
    """rules that shrink: how many examples the trained row is worth besides those of training"""

    def __post_init__(self) -> None:
        """Check every value."""
        find_rule(self.rule)
        check_rule(self.T, self.gamma)
        for name, least in (("block", 1), ("max_count", 0), ("prior_count", 0)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise InputError(f"{name} is {value}; expected {least} or more.")


class WrittenRows:
    """The rows of an output layer, and what a text writes into them. The layer itself stays as it is.

    Args:
        weight: [C, D] rows of the output layer.
        bias: [C] or None.
        counts: [C] occurrences in training.
        writing: how to write.
        moments: of the activations; for rules that need them.
    """

    def __init__(
        self, weight: Tensor, bias: Tensor | None, counts: np.ndarray, writing: Writing, moments: Moments | None
    ) -> None:
        if len(counts) != len(weight):
            raise InputError(f"counts has {len(counts):,} entries but the layer {len(weight):,} classes; give as many.")
        rule = find_rule(writing.rule)
        if rule.needs != "nothing" and moments is None:
            raise InputError(
                f"the rule {writing.rule!r} needs the moments of the activations. Give those of training text: "
                "moments=firstsight.lab.reading.moments.measure_moments(model, tokens, eos_id=...)."
            )
        dtype = torch.promote_types(weight.dtype, torch.float32)
        self.writing, self.rule, self.moments = writing, rule, moments
        self.start_CD = weight.detach().to(dtype)
        self.start_C = weight.new_zeros(len(weight), dtype=dtype) if bias is None else bias.detach().to(dtype)
        self.rows_CD, self.bias_C = self.start_CD.clone(), self.start_C.clone()
        self.count_C = torch.as_tensor(np.asarray(counts, dtype=np.int64), device=weight.device)
        self.sights_C = torch.zeros_like(self.count_C)
        self.writable_C = self.count_C < (writing.max_count if writing.max_count is not None else math.inf)
        self.limit_C = torch.full_like(self.count_C, writing.T)
        # A class whose bias is -inf takes no part yet; its first sight gives it this bias (open vocabulary).
        self.newborn_bias = 0.0
        # What the rows of the classes from ``first_new`` on have in common, and the write leaves alone.
        self.sight: Sight | None = None  # a look at the layer, for new classes that are to be met as in service
        self.first_new, self.base_D = len(weight), weight.new_zeros(weight.shape[1], dtype=dtype)

    def forget(self) -> None:
        """Put every row back to where it was before the text."""
        touched_U = self.sights_C.nonzero()[:, 0]
        self.rows_CD[touched_U] = self.start_CD[touched_U]
        self.bias_C[touched_U] = self.start_C[touched_U]
        self.sights_C.zero_()

    def read(self, hidden_SD: Tensor, scored_S: Tensor, seen_S: Tensor | None = None) -> Tensor:
        """Score a segment block by block, and write each block after it was scored.

        Args:
            hidden_SD: [S, D] activations.
            scored_S: [S] the classes whose NLL is asked for.
            seen_S: [S] the classes that are written; None: the same.

        Returns:
            [S] NLL in nats.
        """
        seen_S = scored_S if seen_S is None else seen_S
        hidden_SD = hidden_SD.to(self.rows_CD.dtype)
        written_S = self.writable_C[seen_S]
        classes_U = torch.unique(seen_S[written_S])
        slot_C = torch.full_like(self.count_C, -1)
        slot_C[classes_U] = torch.arange(len(classes_U), device=slot_C.device)
        rest_S = self._log_total_of_others(hidden_SD, classes_U)
        top_S = (hidden_SD * self.rows_CD[scored_S]).sum(1) + self.bias_C[scored_S]
        if not len(classes_U):
            return rest_S - top_S
        part = _Part(self, classes_U)
        x_SD, slot_S, at_S = self.rule.prepare(hidden_SD, self.moments), slot_C[seen_S], slot_C[scored_S]
        inside_S = torch.empty_like(rest_S)
        begin, block = 0, self.writing.block
        # Nothing moves until a block holds something to write: all tokens up to its end are scored at once.
        blocks = torch.unique(written_S.nonzero()[:, 0] // block).tolist()
        for first, last in [*((b * block, (b + 1) * block) for b in blocks), (len(rest_S), len(rest_S))]:
            last = min(last, len(rest_S))
            z_BU = torch.addmm(part.bias_U, hidden_SD[begin:last], part.rows_UD.t())
            inside_S[begin:last] = z_BU.logsumexp(1)
            at_B1 = at_S[begin:last, None]
            found_B = z_BU.gather(1, at_B1.clamp(min=0))[:, 0]
            top_S[begin:last] = torch.where(at_B1[:, 0] >= 0, found_B, top_S[begin:last])
            keep_B = written_S[first:last]
            part.write(*(one[first:last][keep_B] for one in (x_SD, slot_S, hidden_SD)))
            begin = last
        part.put_back()
        return torch.logaddexp(rest_S, inside_S) - top_S

    def _log_total_of_others(self, hidden_SD: Tensor, classes_U: Tensor) -> Tensor:
        others_C = self.bias_C > -math.inf
        others_C[classes_U] = False
        rows, bias = self.rows_CD[others_C], self.bias_C[others_C]
        if not len(rows):
            return hidden_SD.new_full((len(hidden_SD),), -math.inf)
        first_S = torch.zeros(len(hidden_SD), dtype=torch.int64, device=rows.device)
        # The NLL of any one class and its logit add up to the log-sum-exp, and the NLL never holds [S, C].
        return linear_cross_entropy(hidden_SD, rows, first_S, bias, reduction="none") + hidden_SD @ rows[0] + bias[0]


class _Part:
    """The rows that a segment writes, side by side."""

    def __init__(self, whole: WrittenRows, classes_U: Tensor) -> None:
        self.whole, self.classes_U = whole, classes_U
        self.rows_UD, self.bias_U = whole.rows_CD[classes_U], whole.bias_C[classes_U]
        self.sights_U, self.limit_U = whole.sights_C[classes_U], whole.limit_C[classes_U]
        self.count_U = whole.count_C[classes_U]
        self.base_UD = whole.base_D * (classes_U >= whole.first_new)[:, None]

    def write(self, x_BD: Tensor, slot_B: Tensor, hidden_BD: Tensor) -> None:
        if not len(slot_B):
            return
        at, means, n = class_means(x_BD, slot_B)
        if self.whole.sight is not None:
            new = self.classes_U[at] >= self.whole.first_new
            self.meet(self.whole.sight, at[new], class_means(hidden_BD, slot_B)[1][new], n[new])
            at, means, n = at[~new], means[~new], n[~new]
        newborn = self.bias_U[at] == -math.inf
        self.bias_U[at] = self.bias_U[at].masked_fill(newborn, self.whole.newborn_bias)
        rule, writing = self.whole.rule, self.whole.writing
        sights, count = self.sights_U[at], self.count_U[at]
        seen = 1 + count + sights if rule.shrinking else 1 + sights
        rate = rule.rate(seen, n, gamma=writing.gamma, prior_count=writing.prior_count, dtype=means.dtype)
        if not rule.shrinking:
            rate[count > 0] = writing.gamma
        rate = rate.masked_fill(sights >= self.limit_U[at], 0.0)
        rows, change = rule.move(self.rows_UD[at] - self.base_UD[at], means, rate, self.whole.moments)
        self.rows_UD[at] = rows + self.base_UD[at]
        if change is not None:
            self.bias_U[at] += change
        self.sights_U[at] = sights + n

    def meet(self, sight: Sight, at: Tensor, means: Tensor, n: Tensor) -> None:
        """New classes get rows and biases of a first sight, as in a layer in service."""
        if len(at):
            rows, bias = self.rows_UD[at], self.bias_U[at].nan_to_num(neginf=0.0)
            rows, bias = first_sight(sight, rows, bias, self.sights_U[at], means, n)
            self.rows_UD[at], self.bias_U[at] = rows.to(self.rows_UD), bias.to(self.bias_U)
            self.sights_U[at] += n

    def put_back(self) -> None:
        whole = self.whole
        whole.rows_CD[self.classes_U], whole.bias_C[self.classes_U] = self.rows_UD, self.bias_U
        whole.sights_C[self.classes_U] = self.sights_U


class Written:
    """A reader that writes each block of a text after it was scored, and forgets where a document begins.

    Args:
        rows: what it writes into.
        scored: [N] the classes whose NLL is asked for; None: the text's tokens.
        seen: [N] the classes that are written; None: those that are scored.
    """

    reach = math.inf

    def __init__(self, rows: WrittenRows, scored: np.ndarray | None = None, seen: np.ndarray | None = None) -> None:
        self._rows, self._scored, self._seen = rows, scored, seen

    def read(self, segment: Segment) -> Tensor:
        """See :class:`firstsight.lab.lm.reader.Reader`."""
        if segment.fresh:
            self._rows.forget()
        scored_S = _classes(self._scored, segment, segment.target[0])
        return self._rows.read(segment.hidden[0], scored_S, _classes(self._seen, segment, scored_S))[None]

    def skip(self, segment: Segment) -> None:
        """What was scored is written again."""
        self.read(segment)


def _classes(classes_N: np.ndarray | None, segment: Segment, otherwise_S: Tensor) -> Tensor:
    if classes_N is None:
        return otherwise_S
    return torch.from_numpy(classes_N[segment.first : segment.stop].astype(np.int64)).to(otherwise_S.device)


def block_text(
    model: LanguageModel, tokens: np.ndarray, writing: Writing, *, eos_id: int, starts: Iterable[int] = ()
) -> Text:
    """A text in segments of whole blocks of ``writing``."""
    return Text(model, tokens, eos_id, size=max(1, BLOCK // writing.block) * writing.block, starts=starts)


def adapted_nll(
    model: LanguageModel,
    tokens: np.ndarray,
    writing: Writing,
    *,
    counts: np.ndarray,
    eos_id: int,
    moments: Moments | None = None,
    starts: Iterable[int] = (),
    progress: Callable[[int], object] | None = None,
) -> np.ndarray:
    """The negative log-likelihood of every token of a text that is written while it is read.

    The module's text says what is written, and when. The model is left as it was, bit for bit.

    Args:
        model, tokens, eos_id: as :class:`firstsight.lab.lm.reader.Text`, which is read in one stream.
        writing: the settings.
        counts: [V] occurrences in training.
        moments: see :func:`firstsight.lab.reading.moments.measure_moments`; for rules that need them.
        starts: positions where documents begin: the rows are put back there. None given: they never are.
        progress: called with the number of tokens done so far.

    Returns:
        [N] float32, in nats.
    """
    text = block_text(model, tokens, writing, eos_id=eos_id, starts=starts)
    rows = WrittenRows(model.rows, model.head.bias, counts, writing, moments)
    return read(text, {"adapted": Written(rows)}, progress=progress)["adapted"]
