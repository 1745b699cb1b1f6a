r"""First sight: the row and the bias of a class that a trained layer has never met, from what the layer remembers.

Shapes: V classes, D features, U classes that are written, S classes that stand for all, R draws.

Known are the layer's rows :math:`\theta_i`, biases and counts, and the running moments of what it was trained on:
mean m and covariance S of the activations h, and the covariance C of an activation with the row of its class,
:math:`\mathrm{Cov}(\theta_y, h)`. T, the covariance of the rows by how often their classes occur, is made from them.
No activation is kept, and no mean of a class: **the rows are the memory**. :math:`T^{-1} C` maps a trained row to
nearly the mean activation of its class (cosine 0.95 on frozen sentence vectors, where the row itself has 0.75 to
0.85).

*The row is what training would have made, predicted by least squares.* In the canonical directions Z of the pair
(row, activation), with :math:`Z^\top S Z = 1` and :math:`Z^\top C^\top T^{-1} C Z = \mathrm{diag}(\rho)`, an example
is :math:`z = Z^\top (h - m)`, a row recalls :math:`Z^\top C^\top T^{-1} (\theta - \bar\theta)`, and

.. math:: \theta \leftarrow \theta + C Z\, \mathrm{diag}\!\Big(\frac{n}{1 + (k + n - 1)\rho}\Big)
          \big(\overline{z} - \mathrm{recalled}(\theta)\big) \qquad (1)

for n examples of a class seen k times before; a new one starts at :math:`\bar\theta`. Examples
may come at once or one by one. Where :math:`\rho = 1`, an example says all there is, and the rate is the
paper's 1/c.

*The bias is the one that wins most, tried on imagined activations.* Each old class is stood for by a Gaussian around
what its row recalls, with the covariance that is left within a class, :math:`1 - \rho`; the new class by one that is
wider, for its own mean is known from k examples only. With R fixed draws of each,

.. math:: b = \arg\max\ s\, P(\text{the new class wins its own}) - \text{price} \sum_i w_i
          P(\text{it takes one of class } i \text{ that was right}) \qquad (2)

with :math:`w_i` the share of class i in training and s that of the new one, 1/V; the sum may be capped, at a share of
all activations. Probabilities are smoothed counts of draws. Nor does a new class get a larger bias than that with which
its mean softmax probability, over the imagined activations of all old classes, is s: in classifiers of hundreds of
classes this was not seen to bind; in language models, where most activations are won by no class for certain, nothing
else would hold it.

A layer without a bias moves the row along
:math:`S^{-1} m`, along which the logit of all activations moves most evenly, if it does so evenly enough: with a
standard deviation of a quarter at most; else there is no bias. How far is kept, so that later examples can be compared
with what the row was without.

Where classes are few, a little of the prior that a row points where its activations point is added to all three
covariances, as :math:`r = 0.06\, D / V` of their mean variances. The form, the ridge, the draws and the smoothing
were chosen on frozen vectors of three data sets; nothing here is calibrated: the imagined activations are optimistic.

Scale: h to a h with rows to rows / a leaves every logit as it was, and so does a shift of h that the biases follow.
Source: our decision; the paper has a write for classes in training alone.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from firstsight.functional.rows import STAND_INS, Rows, fixed_generator, rows_of

RIDGE = 0.06  # times D / V
DRAWS = 64  # R
RIVALS = 256  # old classes that compete for the new one's own activations
SMOOTHING, TRIALS = 0.3, 81  # of the share won as a function of the bias: standard deviations, and biases tried
_EVEN = 16.0  # m' S^-1 m, one over the variance of a lift's effect, below which it would do harm
_DEEP, _HALVINGS, _FEW = 32.0, 16, 8  # of the search for a bias within its share: nats, steps, one draw of how many
_IDLE = 0.02  # of its own activations: what a lift has to win or save at least to be made longer
_LEAST = 0.05  # how little of itself the direction that stands for a bias may add to a logit


class Claims(NamedTuple):
    """What a new class may cost the trained ones."""

    price: float = 1.0
    """what an activation that a trained class loses costs, in those that a new one wins"""
    most: float = math.inf
    """share of all activations that it may take from the trained classes, at most"""


NO_CAP = Claims()


class Sight(NamedTuple):
    """What a first write needs of a trained layer, in float32; good until its rows are trained on."""

    mean_D: Tensor
    row_D: Tensor  # the mean row
    see_DD: Tensor  # Z: (h - m) @ see = z
    tell_DD: Tensor  # (C Z)': a change in z @ tell = a change of the row
    recall_DD: Tensor  # T^-1 C Z: (row - mean row) @ recall = z recalled
    face_DD: Tensor  # S Z: row @ face = g, and a logit is g . z + row . m + b
    rho_D: Tensor
    lift_D: Tensor | None  # of a layer without a bias
    g_SD: Tensor  # of the classes that stand for all: see ``face_DD``
    z_SD: Tensor  # what their rows recall
    at_mean_S: Tensor  # their logits at m
    draw_RD: Tensor
    best_SR: Tensor  # the best logit of an old class at each imagined activation
    share_SR: Tensor  # what that activation is worth, 0 where its class does not win it
    sure_SR: Tensor  # that best logit less the log-sum-exp of all: how sure the layer is of its answer
    weight_S: Tensor  # what any activation of a class is worth
    num_classes: int


@torch.no_grad()
def look(
    weight: Tensor,
    bias: Tensor | None,
    occurrences: Tensor,
    mean: Tensor,
    covariance: Tensor,
    cross: Tensor,
    *,
    stand_ins: int = STAND_INS,
    draws: int = DRAWS,
) -> Sight:
    """Look at a trained layer once, before the first writes. Cost: O(D^3 + V D^2 + S^2 R), in float64.

    Args:
        weight: [V, D]. bias: [V] or None.
        occurrences: [V] of each class in training; 0 for one that is not trained, of which there are two at least that
            are.
        mean: [D] of the activations. covariance: [D, D] of them.
        cross: [D, D], Cov(row of the class, activation); its rows belong to the row.
        stand_ins: S at most. draws: R, even.
    """
    return look_at(rows_of(weight, bias, occurrences, stand_ins), mean, covariance, cross, draws=draws)


@torch.no_grad()
def look_at(rows: Rows, mean: Tensor, covariance: Tensor, cross: Tensor, *, draws: int = DRAWS) -> Sight:
    """:func:`look`, with what it takes of the rows."""
    mean_D, S_DD, C_DD = (x.double() for x in (mean, covariance, cross))
    row_D, T_DD, w_SD, bias_S, share_S, times_S, num_classes = rows
    D, device = len(row_D), row_D.device
    ridge, one_DD = RIDGE * D / num_classes, torch.eye(D, dtype=torch.float64, device=device)
    of_S, of_T = S_DD.diagonal().mean(), T_DD.diagonal().mean()
    S_DD, T_DD = S_DD + ridge * of_S * one_DD, T_DD + ridge * of_T * one_DD
    C_DD = C_DD + ridge * (of_S * of_T).sqrt() * one_DD
    root_DD, back_DD = _inverse_root(S_DD), torch.linalg.solve(T_DD, C_DD)
    between_DD = root_DD @ (C_DD.t() @ back_DD) @ root_DD
    rho_D, vectors_DD = torch.linalg.eigh((between_DD + between_DD.t()) / 2)
    rho_D, see_DD = rho_D.clamp(0, 1 - 1e-4), root_DD @ vectors_DD
    tell_DD, recall_DD, face_DD = (C_DD @ see_DD).t(), back_DD @ see_DD, S_DD @ see_DD
    lift_D = None
    if bias_S is None:
        even_D = torch.linalg.solve(S_DD, mean_D)
        evenness = even_D @ mean_D
        lift_D = even_D / evenness if evenness >= _EVEN else torch.zeros_like(even_D)
    g_SD, z_SD = w_SD @ face_DD, (w_SD - row_D) @ recall_DD
    at_mean_S = w_SD @ mean_D + (0 if bias_S is None else bias_S)
    draw_RD = torch.randn(draws // 2, D, generator=fixed_generator(), dtype=torch.float64, device="cpu")
    draw_RD = torch.cat([draw_RD, -draw_RD]).to(device)
    logit_SS = z_SD @ g_SD.t() + at_mean_S
    spread_RS = (draw_RD * (1 - rho_D).sqrt()) @ g_SD.t()
    best_SR, total_SR = _best_and_total(logit_SS, spread_RS, times_S)
    right_SR = logit_SS.diagonal()[:, None] + spread_RS.t() >= best_SR
    weight_S = share_S * times_S / draws
    found = Sight(
        mean_D,
        row_D,
        see_DD,
        tell_DD,
        recall_DD,
        face_DD,
        rho_D,
        lift_D,
        g_SD,
        z_SD,
        at_mean_S,
        draw_RD,
        best_SR,
        share_SR=right_SR * weight_S[:, None],
        sure_SR=best_SR - total_SR,
        weight_S=weight_S,
        num_classes=num_classes,
    )
    return Sight._make(part.float() if isinstance(part, Tensor) else part for part in found)


@torch.no_grad()
def first_sight(
    sight: Sight,
    rows: Tensor,
    biases: Tensor,
    seen: Tensor,
    hidden: Tensor,
    examples: Tensor,
    *,
    claims: Claims = NO_CAP,
    keeps: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Rows and biases of classes after some examples more: equations (1) and (2) of this module.

    What is written depends on the trained classes alone: it does not matter in which order classes or examples come.
    Cost: O(U (D^2 + S D + S R)), whatever V is.

    Args:
        sight: what :func:`look` found.
        rows: [U, D] as they stand; of a class never seen anything.
        biases: [U] as they stand; of a layer without, what the last call gave.
        seen: [U] k, how many examples each has had.
        hidden: [U, D] mean activation of the new examples.
        examples: [U] n, how many these are.
        claims: what it may cost the trained classes.
        keeps: [U] bool, which keep the bias they have; None: none does.

    Returns:
        rows [U, D]; biases [U], which the rows hold already where the layer has none. float32.
    """
    h_UD, n_U1, k_U1 = hidden.float(), examples.float()[:, None], seen.float()[:, None]
    rows_UD = rows.float() if sight.lift_D is None else rows.float() - biases.float()[:, None] * sight.lift_D
    rows_UD = torch.where(k_U1 > 0, rows_UD, sight.row_D)
    rate_UD = n_U1 / (1 + (k_U1 + n_U1 - 1) * sight.rho_D)
    away_UD = (h_UD - sight.mean_D) @ sight.see_DD - (rows_UD - sight.row_D) @ sight.recall_DD
    rows_UD = rows_UD + (rate_UD * away_UD) @ sight.tell_DD
    g_UD, z_UD = rows_UD @ sight.face_DD, (rows_UD - sight.row_D) @ sight.recall_DD
    known_U1 = k_U1 + n_U1
    left_UD = (1 - known_U1 * sight.rho_D.square() / (1 + (known_U1 - 1) * sight.rho_D)).clamp(min=0).sqrt()
    at_mean_U, bias_U = rows_UD @ sight.mean_D, biases.float().clone()
    for u in range(len(bias_U)) if keeps is None else (~keeps).nonzero()[:, 0].tolist():
        bias_U[u] = _bias(sight, g_UD[u], z_UD[u], at_mean_U[u], left_UD[u], claims)
    if sight.lift_D is None:
        return rows_UD, bias_U
    return rows_UD + bias_U[:, None] * sight.lift_D, bias_U


def _best_and_total(logit_SS: Tensor, spread_RS: Tensor, times_S: Tensor) -> tuple[Tensor, Tensor]:
    """Of the logits of each draw the largest and the log-sum-exp [S, R], where a class counts so many times.

    In memory asked for once: what is small between what is large, allocated in turn, leaves holes that nothing fits.
    """
    best_RS, total_RS, now_SS = torch.empty_like(spread_RS), torch.empty_like(spread_RS), torch.empty_like(logit_SS)
    for own_S, best_S, total_S in zip(spread_RS, best_RS, total_RS, strict=True):
        torch.amax(torch.add(logit_SS, own_S, out=now_SS), 1, out=best_S)
        torch.mv(now_SS.sub_(best_S[:, None]).exp_(), times_S, out=total_S)
    return best_RS.t().contiguous(), (total_RS.log_() + best_RS).t().contiguous()


def _bias(sight: Sight, g_D: Tensor, z_D: Tensor, at_mean: Tensor, left_D: Tensor, claims: Claims) -> Tensor:
    """Equation (2) for one class: from which bias on it wins each imagined activation, and what is won and lost."""
    old_S = sight.g_SD @ z_D + sight.at_mean_S
    near = old_S.topk(min(RIVALS, len(old_S))).indices
    own_RD, within_RD = sight.draw_RD * left_D, sight.draw_RD * (1 - sight.rho_D).sqrt()
    win_R = (own_RD @ sight.g_SD[near].t() + old_S[near]).amax(1) - (own_RD @ g_D + g_D @ z_D + at_mean)
    behind_SR = lose_SR = sight.best_SR - (sight.z_SD @ g_D + at_mean)[:, None] - within_RD @ g_D
    lifts_SR = torch.ones_like(lose_SR)
    if sight.lift_D is not None:  # what one unit of lift does to a logit; where that is not above 0, no bias helps
        lift_D = sight.lift_D @ sight.face_DD
        win_R = _without_outliers(win_R / (1 + lift_D @ z_D + own_RD @ lift_D).clamp(min=_LEAST))
        lifts_SR = (1 + (sight.z_SD @ lift_D)[:, None] + within_RD @ lift_D).clamp(min=_LEAST)
        lose_SR = lose_SR / lifts_SR
    width = SMOOTHING * win_R.std().clamp(min=1e-6)
    steps = torch.linspace(0, 1, TRIALS, device=win_R.device)
    trial_B = torch.lerp(win_R.min() - 3 * width, win_R.max() + 3 * width, steps)
    in_reach = (lose_SR < trial_B[-1] + 3 * width) & (sight.share_SR > 0)
    won_B = torch.special.ndtr((trial_B - win_R[:, None]) / width).mean(0)
    lost_B = sight.share_SR[in_reach] @ torch.special.ndtr((trial_B - lose_SR[in_reach][:, None]) / width)
    gain_B = won_B / sight.num_classes - claims.price * lost_B
    gain_B[1:] = gain_B[1:].masked_fill(lost_B[1:] > claims.most, -math.inf)  # the first: it wins nothing
    if sight.lift_D is not None:  # a lift is uneven, so no more of it than gains anything
        near_B = gain_B >= gain_B.amax() - _IDLE / sight.num_classes
        gain_B = torch.where(near_B, -trial_B.abs(), -math.inf)
    return _within_its_share(sight, sight.sure_SR - behind_SR, lifts_SR, trial_B[gain_B.argmax()])


def _within_its_share(sight: Sight, log_odds_SR: Tensor, lifts_SR: Tensor, bias: Tensor) -> Tensor:
    """``bias``, or the lower one with which the mean probability of old activations is the share of one class."""

    def claims(at: Tensor, every: int) -> float:
        odds_SR = torch.addcmul(log_odds_SR[:, ::every], lifts_SR[:, ::every], at)
        return float(sight.weight_S @ odds_SR.sigmoid().sum(1)) * every

    share = 1 / sight.num_classes
    if claims(bias, 1) <= share:
        return bias
    low, high = bias - _DEEP, bias
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (low, middle) if claims(middle, _FEW) > share else (middle, high)
    return low


def _without_outliers(x_R: Tensor) -> Tensor:
    """No number further from the quartiles than one and a half times what lies between them."""
    low, high = x_R.quantile(0.25), x_R.quantile(0.75)
    return x_R.clamp(low - 1.5 * (high - low), high + 1.5 * (high - low))


def _inverse_root(M_DD: Tensor) -> Tensor:
    values_D, vectors_DD = torch.linalg.eigh(M_DD)
    root_DD: Tensor = vectors_DD * values_D.clamp(min=values_D[-1] * 1e-12).rsqrt() @ vectors_DD.t()
    return root_DD
