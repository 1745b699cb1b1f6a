"""The row and the bias of a class that a trained layer has never met, against numpy and plain loops."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from trained_head import D, V, draw, trained

from firstsight.functional import first_sight as module
from firstsight.functional.first_sight import first_sight, look
from firstsight.heads.kept.moments import Moments

HEAD = trained()


def parts(head):
    """look's arguments, in float64."""
    moments = Moments(head.moments.double())
    layer = head.weight.detach().double(), head.bias.detach().double(), head.counts - 1
    return layer, (moments.mean(), moments.bare_covariance(), moments.cross())


def test_the_row_is_the_least_squares_prediction():
    (weight, bias, occurrences), (mean, covariance, cross) = parts(HEAD)
    sight = look(weight, bias, occurrences, mean, covariance, cross)
    share = occurrences.double().numpy() / occurrences.sum().item()
    w, m, S, C = (x.numpy() for x in (weight, mean, covariance, cross))
    middle = share @ w
    T = (w - middle).T @ np.diag(share) @ (w - middle)
    r = 0.06 * D / V
    of_S, of_T = np.trace(S) / D, np.trace(T) / D
    S, T, C = S + r * of_S * np.eye(D), T + r * of_T * np.eye(D), C + r * math.sqrt(of_S * of_T) * np.eye(D)
    between = C.T @ np.linalg.inv(T) @ C
    for k in (1, 2, 7):
        h = np.random.default_rng(k).normal(1, 1, D)
        want = middle + C @ np.linalg.inv(between + (S - between) / k) @ (h - m)
        given = (torch.zeros(1, D), torch.zeros(1), torch.zeros(1), torch.from_numpy(h)[None], torch.tensor([k]))
        found, _ = first_sight(sight, *given)
        np.testing.assert_allclose(found[0].numpy(), want, rtol=2e-3, atol=2e-3 * np.abs(want).max())


def test_the_bias_is_the_best_of_those_tried(monkeypatch):
    """A plain loop over classes, draws and trial biases, in float64, with few of each."""
    monkeypatch.setattr(module, "DRAWS", 8)
    (weight, bias, occurrences), moments = parts(HEAD)
    sight = look(weight[:30], bias[:30], occurrences[:30], *moments, draws=8)
    h = draw([V], 1, seed=3)[0].double()
    row, found = first_sight(sight, torch.zeros(1, D), torch.zeros(1), torch.zeros(1), h, torch.tensor([1]))
    s = {name: None if x is None or isinstance(x, int) else x.double().numpy() for name, x in sight._asdict().items()}
    row, n = row[0].double().numpy(), sight.num_classes
    g, z, a = row @ s["face_DD"], (row - s["row_D"]) @ s["recall_DD"], row @ s["mean_D"]
    own = s["draw_RD"] * np.sqrt(1 - s["rho_D"] ** 2)  # one example: k = 1
    within = s["draw_RD"] * np.sqrt(1 - s["rho_D"])
    win = np.array([max(s["g_SD"] @ (z + e) + s["at_mean_S"]) - (g @ (z + e) + a) for e in own])
    lose = np.array([[s["best_SR"][i, r] - (g @ (s["z_SD"][i] + within[r]) + a) for r in range(8)] for i in range(30)])
    width = 0.3 * win.std(ddof=1)
    below = np.vectorize(lambda x: 0.5 * (1 + math.erf(x / math.sqrt(2))))
    trials = np.linspace(win.min() - 3 * width, win.max() + 3 * width, 81)
    share = s["share_SR"] * (lose < trials[-1] + 3 * width)
    worth = [below((b - win) / width).mean() / n - (share * below((b - lose) / width)).sum() for b in trials]
    assert abs(trials[int(np.argmax(worth))] - float(found)) <= 1.01 * (trials[1] - trials[0])


def test_many_classes_are_stood_for_by_some():
    (weight, bias, occurrences), moments = parts(HEAD)
    whole, some = (look(weight, bias, occurrences, *moments, stand_ins=n) for n in (V, 60))
    assert (len(whole.g_SD), len(some.g_SD)) == (V, 60)
    assert float(some.share_SR.sum()) == pytest.approx(float(whole.share_SR.sum()), rel=0.2)


def test_draws_are_made_on_the_cpu_whatever_the_default_device():
    (weight, bias, occurrences), moments = parts(HEAD)
    torch.set_default_device("meta")
    try:
        sight = look(weight, bias, occurrences, *moments, stand_ins=60)
    finally:
        torch.set_default_device(None)
    torch.testing.assert_close(sight.draw_RD, look(weight, bias, occurrences, *moments, stand_ins=60).draw_RD)


@pytest.mark.parametrize("lifted", [True, False])
@pytest.mark.parametrize("bias", [-9.0, 3.0, 20.0])
def test_a_bias_within_the_share_of_one_class_is_found(bias, lifted):
    g = torch.Generator().manual_seed(3)
    S, R, V = 200, 64, 500
    log_odds_SR = 3 * torch.randn(S, R, generator=g) - 4
    lifts_SR = 1 + 0.2 * torch.randn(S, R, generator=g) if lifted else torch.ones(S, R)
    weight_S = torch.rand(S, generator=g)
    weight_S /= weight_S.sum() * R
    sight = SimpleNamespace(weight_S=weight_S, num_classes=V)

    def claimed(b):
        return float((weight_S[:, None].double() * (log_odds_SR + lifts_SR * b).double().sigmoid()).sum())

    found = float(module._within_its_share(sight, log_odds_SR, lifts_SR, torch.tensor(bias)))
    if claimed(bias) <= 1 / V:
        assert found == bias
    else:
        assert found < bias
        assert claimed(found) == pytest.approx(1 / V, rel=0.25)  # found on an eighth of the draws
