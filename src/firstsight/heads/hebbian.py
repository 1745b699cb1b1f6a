"""The Hebbian Softmax: a softmax whose rows remember the activations of their classes.

Shapes: V classes, D features; [...] stands for any leading dimensions.
"""

from typing import Any, Self

from torch import Tensor, nn

from firstsight.heads.softmax import Softmax
from firstsight.heads.state import checked_counts
from firstsight.heads.write import HebbianWrite


class HebbianSoftmax(HebbianWrite, Softmax):
    r"""A softmax layer that writes each class's activations into its row until the class is well known.

    After every optimizer step, for each class i of the batch,

    .. math:: \theta_i \leftarrow \lambda_i \overline{h}_i + (1 - \lambda_i) \theta_i, \qquad
              \lambda_i = \max(1/c_i, \gamma) \text{ if } c_i < T \text{ else } 0

    with :math:`\overline{h}_i` the mean of the class's activations in the batch and :math:`c_i` its count before
    it. Source: "Fast Parametric Learning with Activation Memorization" (ICML 2018). Our decisions, where the paper
    is silent: counts start at 1, so that the first sight of a class writes its row outright; the activation is the
    very tensor given to ``loss``, dropout and all.

    Other rules of the write are chosen by name; each keeps T and the counts. ``docs/rule.md`` has their equations,
    ``docs/when.md`` how they fared.

    Args:
        in_features: D.
        num_classes: V.
        T: a row is written until its class has been seen T times (the default is that of language modelling, from a
            public re-implementation; the paper has 10 for Omniglot).
        gamma: smallest rate of the write, in [0, 1] (likewise; 0.1 for Omniglot).
        rule: "paper", or another of ``firstsight.heads.rules.RULES``.
        prior_count: kappa of the rule "shrinkage": how many examples its prior is worth.
        record: keep the sum of what writes have moved each row by, in ``written``, so that a tied input embedding can
            be read without it (``LanguageModel`` does).
        bias, ignore_index, compute_dtype, device, dtype: as ``Softmax``.

    Attributes:
        weight: [V, D] parameter. Where it is tied to an input embedding, the write reaches that too.
        bias: [V] parameter or None; never written, only trained, but by rules that are calibrated
            and, for new classes, by "sight".
        counts: [V] int64 buffer, part of ``state_dict``: 1 + occurrences in training.
        moments: buffer of rules that use the activations' mean, [1 + D], or covariance, [1 + D, 1 + D], or that with
            the rows too, [1 + 2D, 1 + D]: see ``moments.Moments``.
        fresh: [V] uint8 buffer of the rule "sight": 0 a class from the start, 1 added since, 2 written by ``write``, 3
            written in training, and the gradient's from then on.
        lifted: [V] buffer of the rule "sight" without a bias: what the rows hold of one.
        written: [V, D] buffer, with ``record``.

    Raises:
        InputError: (a ``ValueError``) a size below 1, T <= 0, gamma outside [0, 1], a rule of no known name, a
            prior_count <= 0, or no bias for a rule that moves it.
    """

    @classmethod
    def from_linear(
        cls,
        linear: nn.Linear,
        counts: Tensor | int | None = None,
        *,
        T: float = 500,
        gamma: float = 0.01,
        **options: Any,
    ) -> Self:
        """Take over an ``nn.Linear``: its parameters, not copies, so that its optimizer goes on serving them.

        Args:
            linear: any linear output layer.
            counts: c of each class as the rule counts (1 + occurrences so far; 0 is taken for 1), [V] int64 or one
                number for all. None: 1, as in a new layer. **For a layer that is already trained give its counts**
                (or ``counts=T``: rows stay as they are); with 1, the next sight of a class overwrites its row.
            T, gamma: as the class.
            options: ``rule`` and ``prior_count``, as the class.

        Raises:
            InputError: (a ``ValueError``) counts of another shape or below 0, or see the class.
        """
        counts_V = checked_counts(linear, counts)
        V, D = linear.weight.shape
        head = cls(D, V, T, gamma, linear.bias is not None, device="meta", **options)._take_over(linear)
        head._keep_nothing(counts_V)
        return head
