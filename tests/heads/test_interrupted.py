"""Ctrl-C while classes come and go: it comes when all tensors agree, and not before."""

import asyncio
import copy
import os
import signal
import threading

import numpy as np
import pytest
import torch

from firstsight import (
    HebbianAdaptiveSoftmax,
    HebbianSampledSoftmax,
    HebbianShardedSoftmax,
    HebbianSoftmax,
    Softmax,
    attach,
)
from firstsight.estimator import FirstSightClassifier
from firstsight.heads.kept import keeping
from firstsight.heads.steps import growth
from firstsight.heads.steps.whole import uninterrupted

MAKERS = {
    "softmax": lambda: Softmax(5, 20),
    "hebbian": lambda: HebbianSoftmax(5, 20),
    "sampled": lambda: HebbianSampledSoftmax(5, 20, samples=4, sampler=torch.arange(20) + 1),
    "adaptive": lambda: HebbianAdaptiveSoftmax(5, 20, cutoffs=(8,)),
    "sharded": lambda: HebbianShardedSoftmax(5, 20),
}
CHANGES = {"come": lambda head: head.add_classes(3), "go": lambda head: head.remove_classes([1, 5])}


@pytest.fixture(autouse=True)
def pythons_own_handler():
    """Whatever other tests have left."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def interrupting(monkeypatch):
    """Ctrl-C before each tensor that grows or shrinks."""

    def pressed(work):
        def press(*args):
            os.kill(os.getpid(), signal.SIGINT)
            return work(*args)

        return press

    for module in (growth, keeping):
        for name in ("longer", "shorter"):
            monkeypatch.setattr(module, name, pressed(getattr(module, name)))


def made(kind):
    torch.manual_seed(0)
    head = MAKERS[kind]()
    optimizer = torch.optim.Adagrad(head.parameters())
    head.attach(optimizer)
    for _ in range(2):
        optimizer.zero_grad()
        head.loss(torch.randn(9, 5), torch.randint(20, (9,))).backward()
        optimizer.step()
    return head, optimizer


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("kind", MAKERS)
def test_all_of_a_head_has_changed_when_ctrl_c_comes(kind, change, monkeypatch):
    (head, optimizer), (twin, other) = made(kind), made(kind)
    torch.manual_seed(1)
    CHANGES[change](twin)
    torch.manual_seed(1)
    with monkeypatch.context() as patched:
        interrupting(patched)
        with pytest.raises(KeyboardInterrupt):
            CHANGES[change](head)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    torch.testing.assert_close(head.state_dict(), twin.state_dict(), rtol=0, atol=0)
    torch.testing.assert_close(optimizer.state_dict(), other.state_dict(), rtol=0, atol=0)
    head.loss(torch.randn(4, 5), torch.tensor([0, 3, 4, 17])).backward()
    optimizer.step()


@pytest.mark.parametrize("change", CHANGES)
def test_an_adopted_layer_agrees_with_itself(change, monkeypatch):
    layer = torch.nn.Linear(5, 20)
    handle = attach(layer, torch.optim.SGD(layer.parameters(), lr=0.1), counts="new")
    interrupting(monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        CHANGES[change](handle.head)
    assert layer.out_features == len(layer.weight) == len(layer.bias) == len(handle.head.counts) != 20


@pytest.mark.parametrize("change", ["learn", "forget"])
def test_a_classifier_has_learnt_or_forgotten_wholly(change, monkeypatch):
    g = np.random.default_rng(0)
    X, y = g.normal(size=(40, 6)), np.repeat(list("abcd"), 10)
    clf = FirstSightClassifier(random_state=0, least_steps=50).fit(X, y)
    twin = copy.deepcopy(clf)

    def do(one):
        return one.partial_fit(X[:2] + 9, ["new", "a"]) if change == "learn" else one.forget("b")

    do(twin)
    interrupting(monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        do(clf)
    assert clf.classes_.tolist() == twin.classes_.tolist()
    assert clf.predict_proba(X).tolist() == twin.predict_proba(X).tolist()


def test_a_handler_of_ones_own_hears_it_once_and_other_threads_go_on_as_ever():
    heard = []
    before = signal.signal(signal.SIGINT, lambda *_: heard.append("own"))
    try:
        with uninterrupted():
            with uninterrupted():
                signal.raise_signal(signal.SIGINT)
                signal.raise_signal(signal.SIGINT)
            assert not heard
        assert heard == ["own"]
    finally:
        signal.signal(signal.SIGINT, before)

    def elsewhere():
        with uninterrupted():
            heard.append("thread")

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert heard == ["own", "thread"]


def test_a_handler_that_was_set_inside_stays():
    with uninterrupted():
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


def test_an_event_loop_hears_it_once():
    heard = []

    async def press():
        asyncio.get_running_loop().add_signal_handler(signal.SIGINT, heard.append, "loop")
        with uninterrupted():
            signal.raise_signal(signal.SIGINT)
        await asyncio.sleep(0.05)

    asyncio.run(press())
    assert heard == ["loop"]


def test_an_error_inside_is_not_lost():
    @uninterrupted()
    def fails():
        signal.raise_signal(signal.SIGINT)
        raise ValueError("inside")

    with pytest.raises(KeyboardInterrupt) as found:
        fails()
    assert isinstance(found.value.__context__, ValueError)
