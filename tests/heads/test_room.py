"""Rows come and go in the room behind the last one: bit for bit as copies of all would be, and nobody else sees it."""

import copy
import io

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from stepped_head import trained
from torch import nn

from firstsight import HebbianSoftmax, InputError, Softmax
from firstsight.heads.steps import room

D = 3
MAKERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9),
    "adagrad": lambda p: torch.optim.Adagrad(p, lr=0.1, initial_accumulator_value=0.2),
    "adam": lambda p: torch.optim.Adam(p, lr=0.01, amsgrad=True),
}
HEADS = {
    "softmax": lambda V: Softmax(D, V),
    "no bias": lambda V: Softmax(D, V, bias=False, dtype=torch.bfloat16),
    "sight": lambda V: HebbianSoftmax(D, V),
    "all that is kept": lambda V: HebbianSoftmax(D, V, bias=False, record=True),
}
KEPT = ("counts", "fresh", "lifted", "written")


class Plain:
    """What a head and its optimizer hold, as tensors that are made anew whenever there are more rows or fewer."""

    def __init__(self, head, make):
        self.make = make
        self.follow([p.detach().clone() for p in head.parameters()], {}, {n: b.clone() for n, b in of_rows(head)})

    def follow(self, rows, state, kept, grads=None):
        self.rows, self.kept = [nn.Parameter(part) for part in rows], kept
        self.optimizer = self.make(self.rows)
        for i, parameter in enumerate(self.rows):
            parameter.grad = grads[i] if grads else None
            self.optimizer.state[parameter].update(state.get(i, self.optimizer.state[parameter]))

    def change(self, change):
        """``change(name, tensor)`` of each tensor, and all else as it was."""
        state = {
            i: {n: change(n, s) if s.ndim else s for n, s in self.optimizer.state[p].items()}
            for i, p in enumerate(self.rows)
        }
        grads = [None if p.grad is None else change("grad", p.grad) for p in self.rows]
        rows = [change(f"row {i}", p.detach()) for i, p in enumerate(self.rows)]
        self.follow(rows, state, {n: change(n, b) for n, b in self.kept.items()}, grads)

    def everything(self):
        yield from self.kept.items()
        yield from named(self.rows, self.optimizer)


def of_rows(head):
    return [(name, buffer) for name, buffer in head.named_buffers() if name in KEPT]


def named(parameters, optimizer):
    for i, parameter in enumerate(parameters):
        yield f"row {i}", parameter.detach()
        yield f"grad {i}", parameter.grad
        yield from ((f"{i} {name}", value) for name, value in optimizer.state[parameter].items())


def check_same(head, optimizer, plain):
    ours = [*of_rows(head), *named(list(head.parameters()), optimizer)]
    theirs = list(plain.everything())
    assert [name for name, _ in ours] == [name for name, _ in theirs]
    for (name, one), (_, other) in zip(ours, theirs, strict=True):
        assert (one is None) == (other is None), name
        assert one is None or (one.dtype == other.dtype and torch.equal(one, other)), name


def saved_and_loaded(head, optimizer, make, as_new):
    """Through files; the head that goes on has no room."""
    file = io.BytesIO()
    torch.save([head.state_dict(), optimizer.state_dict()], file)
    file.seek(0)
    states = torch.load(file, weights_only=True)
    grads = [p.grad for p in head.parameters()]
    other = as_new(head.num_classes)
    other.load_state_dict(states[0])
    new = make(other.parameters())
    new.load_state_dict(states[1])
    for parameter, grad in zip(other.parameters(), grads, strict=True):
        parameter.grad = grad
    other.attach(new)
    return other, new


ACTS = st.one_of(
    st.tuples(st.just("add"), st.integers(1, 25)),
    st.tuples(st.just("remove"), st.integers(1, 12)),
    st.tuples(st.sampled_from(["add", "remove"]), st.just(1)),
    st.tuples(st.sampled_from(["step", "zero", "save", "copy", "hold"]), st.just(0)),
)


@pytest.mark.parametrize("kind", HEADS)
@settings(max_examples=40, deadline=None)
@given(V=st.integers(1, 70), name=st.sampled_from(list(MAKERS)), acts=st.lists(ACTS, max_size=25), seed=st.integers(0))
def test_whatever_comes_and_goes_all_is_as_if_it_were_copied(kind, V, name, acts, seed):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(room, "BLOCK", 8)  # so that what moves up does so in many blocks
        g = torch.Generator().manual_seed(seed % 2**31)
        head, make = HEADS[kind](V), MAKERS[name]
        optimizer = make(head.parameters())
        head.attach(optimizer)
        plain = Plain(head, make)
        held = []
        for act, n in acts:
            head, optimizer = acted(act, n, head, optimizer, plain, kind, g, held)
            check_same(head, optimizer, plain)
            assert all(torch.equal(one, was) for one, was in held)


def acted(act, n, head, optimizer, plain, kind, g, held):
    V = head.num_classes
    if act == "step":
        held.clear()  # which are changed with the head that they share memory with
    if act == "add":
        head.add_classes(n)
        fresh = {f"row {i}": p.detach()[V:] for i, p in enumerate(head.parameters())}
        start = {"counts": 1, "sum": 0.2}
        plain.change(lambda name, t: torch.cat([t, fresh.get(name, t.new_full((n, *t.shape[1:]), start.get(name, 0)))]))
    elif act == "remove" and V > 1:
        gone = torch.randperm(V, generator=g)[: min(n, V - 1)]
        left = [v for v in range(V) if v not in gone.tolist()]
        head.remove_classes(gone)
        plain.change(lambda _, t: t[left])
    elif act == "step":
        for one, other in zip(head.parameters(), plain.rows, strict=True):
            grad = torch.randn(one.shape, generator=g).to(one.dtype)
            one.grad, other.grad = grad.clone(), grad
        for opt in (optimizer, plain.optimizer):
            opt.step()
        for name, buffer in of_rows(head):
            change = torch.randint(0, 2, buffer.shape, generator=g).to(buffer.dtype)
            buffer += change
            plain.kept[name] += change
            if name == "fresh":  # of the kinds that there are
                buffer %= 2
                plain.kept[name] %= 2
    elif act == "zero":
        for opt in (optimizer, plain.optimizer):
            opt.zero_grad(set_to_none=False)
    elif act == "save":
        held.clear()
        head, optimizer = saved_and_loaded(head, optimizer, plain.make, HEADS[kind])
    elif act == "copy":
        check_copy(copy.deepcopy(head), head)
    elif act == "hold":
        held.extend((p.detach(), p.detach().clone()) for p in head.parameters())
    return head, optimizer


def check_copy(other, head):
    for (name, one), (_, own) in zip(other.state_dict().items(), head.state_dict().items(), strict=True):
        assert torch.equal(one, own), name
        assert one.untyped_storage().nbytes() == own.untyped_storage().nbytes() == one.nbytes


def test_a_copy_elsewhere_is_never_moved():
    """Others that have the same memory keep what they see."""
    for hold in (
        lambda w: w.detach(),
        lambda w: w.detach()[5:],
        lambda w: w.detach().numpy(),
        lambda w: nn.Parameter(w.detach()),
        lambda w: w.detach().t(),
    ):
        for grown in (False, True):
            head, _ = trained(40)
            if grown:
                head.add_classes(1)
            held = hold(head.weight)
            before = copy.deepcopy(held)
            want = head.weight.detach().clone()[torch.arange(head.num_classes) != 4]
            head.remove_classes([4])
            assert torch.equal(head.weight, want)
            assert (torch.as_tensor(held) == torch.as_tensor(before)).all()


def test_memory_that_is_not_torchs_is_left_as_it_is():
    array = np.random.default_rng(0).normal(size=(40, D)).astype(np.float32)
    before = array.copy()
    linear = nn.Linear(D, 40)
    linear.weight = nn.Parameter(torch.from_numpy(array))
    head = Softmax.from_linear(linear)
    head.remove_classes([4])
    head.add_classes(1)
    assert (array == before).all()
    head = Softmax(D, 40)
    head.share_memory()
    shared = torch.multiprocessing.reductions.reduce_tensor(head.weight.detach())
    head.remove_classes([4])
    other = shared[0](*shared[1])  # as another process would
    assert len(other) == 40
    assert torch.equal(other[5:], head.weight[4:])


def test_two_heads_on_the_same_memory_do_not_grow_into_each_other():
    one = Softmax(D, 20, bias=False)
    one.add_classes(1)
    other = Softmax(D, 21, bias=False)
    other.weight = nn.Parameter(one.weight.detach())
    other.add_classes(1)
    last = other.weight[-1].detach().clone()
    one.add_classes(1)
    assert torch.equal(other.weight[-1], last)
    assert not torch.equal(one.weight[-1], last)
    assert torch.equal(one.weight[:21], other.weight[:21])


def test_a_reference_to_what_is_kept_is_either_as_it_was_or_follows():
    head = HebbianSoftmax(D, 30)
    head.counts[:] = torch.arange(1, 31)
    counts = head.counts
    head.remove_classes([3])
    assert torch.equal(counts, head.counts)
    assert len(counts) == 29


@pytest.mark.parametrize("move", [lambda h: h.half(), lambda h: h.double(), lambda h: h.share_memory()])
def test_a_head_that_was_cast_or_shared_has_no_room_and_grows_on(move):
    head = HebbianSoftmax(D, 30)
    head.add_classes(1)
    move(head)
    with torch.no_grad():
        head.weight.mul_(2)  # of which the memory from before knows nothing
    before = {name: value.clone() for name, value in head.state_dict().items()}
    head.add_classes(1)
    head.remove_classes([31])
    for name, value in head.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_growth_in_inference_mode_can_be_trained_later():
    head = HebbianSoftmax(D, 30)
    with torch.inference_mode():
        head.remove_classes([2])
        head.add_classes(1)
        head.add_classes(1)
        head.remove_classes([3])
    optimizer = torch.optim.SGD(head.parameters(), lr=0.1)
    head.attach(optimizer)
    head.loss(torch.randn(4, D), torch.tensor([0, 1, 28, 29])).backward()
    optimizer.step()
    assert head.counts[29] == 2


def test_a_graph_from_before_a_removal_does_not_learn_from_rows_that_have_moved():
    head, _ = trained(40)
    h = torch.randn(4, 64, requires_grad=True)
    loss = head(h).square().sum() + (head.weight[3:5] ** 2).sum()
    head.remove_classes([2])
    with pytest.raises((InputError, RuntimeError)):
        loss.backward()
