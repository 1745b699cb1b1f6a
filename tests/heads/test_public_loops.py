"""The loops of public scripts: every example of every step is counted once, and no mistake is silent."""

import pytest
import torch
import torch.nn.functional as F
from public_loops import LOOPS, hogwild
from public_others import sam
from put_in import RIGHT, WRONG, Put, V, batches, speaking
from torch import nn

from firstsight import HebbianSoftmax, InputError


@pytest.mark.parametrize("way", RIGHT)
@pytest.mark.parametrize("name", LOOPS)
def test_every_example_of_every_step_is_counted(name, way):
    put = Put(way)
    with speaking():
        LOOPS[name](put)
    assert put.counted() == put.expected()


# Of mixed targets no gradient tells which label they were made of.
@pytest.mark.parametrize(("name", "way"), [(n, w) for n in LOOPS for w in WRONG if (n, w) != ("timm", "other labels")])
def test_what_is_put_in_wrongly_is_refused_or_said(name, way):
    put = Put(way)
    with speaking(), pytest.raises((InputError, UserWarning), match=WRONG[way]):
        LOOPS[name](put)
    assert put.counted() == [1] * V


# davda54/sam example/train.py, attached to the optimizer that does not step
@pytest.mark.parametrize("way", RIGHT)
def test_sam_itself(way):
    put = Put(way)
    with speaking(), pytest.raises(UserWarning, match="with SAM to its base_optimizer"):
        sam(put, inner=False)
    assert put.counted() == [1] * V


# pytorch/examples word_language_model/main.py: parameters moved by hand; head.write is called by hand too
@pytest.mark.parametrize("right", [True, False])
def test_no_optimizer_at_all(right):
    put = Put("swapped alone")
    head = put.net.out

    def train():
        for x, y in batches():
            put.net.zero_grad()
            hidden = put.net.body(x)
            (head.loss(hidden, y) if right else F.cross_entropy(put.net(x), y)).backward()
            nn.utils.clip_grad_norm_(put.net.parameters(), 0.25)
            for p in put.net.parameters():
                p.data.add_(p.grad, alpha=-0.1)
            if right:
                head.write(hidden, y)
                put.step(y)

    with speaking(), pytest.raises(UserWarning, match="attached to no optimizer"):
        train()
    with speaking():  # it is said once
        put.stepped = [torch.arange(V).repeat_interleave(head.counts - 1)]
        train()
    assert put.counted() == put.expected()


# pytorch/examples imagenet/main.py at 0221496, --fp16: the optimizer holds float32 copies of half parameters
def test_copies_of_the_weights_are_refused():
    put = Put("attach")
    optimizer = torch.optim.SGD([p.detach().float().requires_grad_() for p in put.net.bfloat16().parameters()], 0.1)
    with pytest.raises(InputError, match="does not hold this head's weight"):
        put.attach(optimizer)


# Lightning-AI/pytorch-lightning examples/fabric/meta_learning/train_fabric.py: learners whose weights are computed
def test_fast_weights_are_refused():
    put = Put("head.loss")
    optimizer = torch.optim.Adam(put.net.parameters(), 0.003)
    put.attach(optimizer)
    (x, y), head = next(batches()), put.net.out
    learner = object.__new__(HebbianSoftmax)
    learner.__dict__ = {**head.__dict__, "_parameters": {name: p.clone() for name, p in head._parameters.items()}}
    with pytest.raises(InputError, match="not the parameter that was attached"):
        learner.loss(x, y)


# pytorch/tutorials intermediate_source/torch_compile_tutorial.py, attached before the first compiled pass and after it
@pytest.mark.parametrize("before", [True, False])
def test_compiled(before):
    torch.compiler.reset()
    put = Put("attach")
    optimizer = torch.optim.Adam(put.net.parameters(), 1e-3)
    compiled = torch.compile(put.net, backend="eager")

    def train(loss):
        for x, y in batches():
            optimizer.zero_grad(True)
            loss(x, y, through=compiled).backward()
            optimizer.step()
            put.step(y)

    if before:
        put.attach(optimizer)
        with speaking():
            train(put.loss)
        assert put.counted() == put.expected()
    else:
        train(Put("swapped alone").loss)
        put.attach(optimizer)
        with (
            speaking(),
            pytest.raises(UserWarning, match=r"attach before torch.compile|the output layer was not called"),
        ):
            train(put.loss)


# pytorch/tutorials intermediate_source/optimizer_step_in_backward_tutorial.py, attached after its hooks
def test_attached_after_the_hooks_that_step():
    put = Put("attach")
    optimizers = {p: torch.optim.Adam([p], foreach=False) for p in put.net.parameters()}
    for p in optimizers:
        p.register_post_accumulate_grad_hook(lambda p: optimizers[p].step() or optimizers[p].zero_grad())
    put.attach(optimizers[put.net.out.weight])

    def train():
        for x, y in batches():
            put.loss(x, y).backward()

    with speaking(), pytest.raises(UserWarning, match="shown nothing to write"):
        train()


# bentrevett/pytorch-image-classification 4 - VGG.ipynb: the optimizer of a first phase gives way to another
@pytest.mark.parametrize("way", RIGHT)
def test_an_optimizer_that_was_built_anew(way):
    put = Put(way)
    put.attach(torch.optim.Adam(put.net.parameters(), 1e-7))
    with speaking(), pytest.raises(UserWarning, match="attached to no optimizer"):
        hogwild(put, attached=False)
