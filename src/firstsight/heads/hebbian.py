"""The Hebbian Softmax: a softmax whose rows remember the activations of their classes.

Shapes: V classes, D features; [...] stands for any leading dimensions.
"""

from firstsight.heads.softmax import Softmax
from firstsight.heads.write import HebbianWrite


class HebbianSoftmax(HebbianWrite, Softmax):
    r"""A softmax layer that writes each class's activations into its row until the class is well known.

    After every optimizer step, for each class i of the batch,

    .. math:: \theta_i \leftarrow |\theta_i| \; \frac{\lambda_i x_i + (1 - \lambda_i) \hat\theta_i}{|\cdot|}, \qquad
              x_i \propto \overline{h}_i - m, \qquad
              \lambda_i = \max(1/c_i, \gamma) \text{ if } c_i < T \text{ else } 0

    with :math:`\overline{h}_i` the mean of the class's activations in the batch, m the running mean of all,
    :math:`c_i` its count before the batch, and x and :math:`\hat\theta` of length 1: a row turns towards what its
    examples have of their own, and keeps its length. A class that comes to a *trained* layer, by ``add_classes`` or
    ``from_linear(..., new=)``, gets the row and the bias of ``functional.first_sight``, from ``write`` as from a step.
    That is ``rule="sight"`` (our decision; ``docs/when.md`` has the evidence).

    The rule of the paper, "Fast Parametric Learning with Activation Memorization" (ICML 2018), is ``rule="paper"``:
    :math:`\theta_i \leftarrow \lambda_i \overline{h}_i + (1 - \lambda_i) \theta_i`. Our decisions, where it is silent:
    counts start at 1, so that the first sight of a class writes its row outright; the activation is the very tensor
    given to ``loss``, dropout and all. ``docs/rule.md`` has the other rules.

    Args:
        in_features: D.
        num_classes: V.
        T: a row is written until its class has been seen T times, *over all epochs*: with E epochs, T = 10 E stops at
            ten different examples. None: 100, and 500 for the paper's rule, which is that of language modelling, from a
            public re-implementation (the paper has 10 for Omniglot).
        gamma: smallest rate of the write, in [0, 1]. None: 0.02, and 0.01 for the paper's rule (0.1 for Omniglot).
        rule: one of ``firstsight.heads.rules.RULES``.
        objective: which loss of the row a write is one gradient step on, equation (7) of the paper: ``"l2"``, which
            makes the rules what they are; ``"softmax"``, the example's own cross entropy; ``"inner_product"``. See
            ``firstsight.heads.objectives``, and ``functional.inner_step_`` for the equations. For softmax the layer
            keeps a step's examples until it is taken, and computes their probabilities anew with the rows after it.
        prior_count: kappa of the rule "shrinkage": how many examples its prior is worth.
        price: of the rule "sight": what an activation that trained classes lose to a new one costs, in those that it
            wins. More of it makes new classes claim less.
        cap: of the rule "sight": share of all activations that all new classes may take from trained ones together,
            as the layer imagines it; each gets an equal part. A dial, not a promise: in fact 4 to 25 times as much was
            lost (docs/rule.md). None: no cap.
        record: keep the sum of what writes have moved each row by, in ``written``, so that a tied input embedding can
            be read without it (``LanguageModel`` does).
        bias, ignore_index, compute_dtype, device, dtype: as ``Softmax``.

    Attributes:
        weight: [V, D] parameter. Where it is tied to an input embedding, the write reaches that too.
        bias: [V] parameter or None; only trained, but by rules that are calibrated and, at a first sight, by "sight".
        counts: [V] int64 buffer, part of ``state_dict``: 1 + occurrences in training.
        settings: buffer, part of ``state_dict``: rule, objective, T and gamma, which a head of others refuses, and a
            clock.
        moments: buffer of rules that use the activations' mean, [1 + D], or covariance, [1 + D, 1 + D], or that with
            the rows too, [1 + 2D, 1 + D]: see ``Moments``.
        fresh: [V] uint8 buffer of the rule "sight": 0 a class of a layer that learns, 1 one that came to a trained
            layer and was not met yet, 2 was met, 3 one of a trained layer that was taken over, which no write touches.
        lifted: [V] buffer of the rule "sight" without a bias: what the rows hold of one.
        written: [V, D] buffer, with ``record``.

    Raises:
        InputError: (a ``ValueError``) a size below 1, T <= 0, gamma outside [0, 1], a rule or an objective of no
            known name, an objective that the rule does not have, a prior_count or price <= 0, a cap outside (0, 1], or
            no bias for a rule that moves it.
    """
