"""Rows come and go in the room behind the last one: bit for bit as copies of all would be, and nobody else sees it."""

import copy
import io
import weakref

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

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


class Moved(TorchDispatchMode):
    """The rows written, of tensors of that width, and the most that was made at a time."""

    written = largest = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        name = function.overloadpacket.__name__
        if isinstance(out, torch.Tensor) and out.shape[1:] == (64,):
            self.written += len(out) if name == "copy_" else 0
            self.largest = max(self.largest, len(out) if name in ("index", "index_select", "empty", "new_empty") else 0)
        return out


def trained(V, width=64):
    head = Softmax(width, V, bias=False)
    optimizer = torch.optim.Adagrad(head.parameters())
    head.attach(optimizer)
    head.loss(torch.randn(2, width), torch.tensor([0, 1])).backward()
    optimizer.step()
    return head, optimizer


def tensors(head, optimizer):
    return head.weight, head.weight.grad, optimizer.state[head.weight]["sum"]


@pytest.mark.parametrize(("gone", "moved"), [([999], 0), ([990], 9), ([990, 2], 996), ([500, 998], 498)])
def test_removal_moves_what_is_behind_in_blocks_and_nothing_else(gone, moved, monkeypatch):
    monkeypatch.setattr(room, "BLOCK", 64 * 100)
    head, optimizer = trained(1000)
    places = [one.data_ptr() for one in tensors(head, optimizer)]
    with Moved() as traffic:
        head.remove_classes(gone)
    assert traffic.written == 3 * moved
    assert traffic.largest <= 100
    assert [one.data_ptr() for one in tensors(head, optimizer)] == places


def test_memory_is_given_back_when_less_than_half_is_used():
    head, optimizer = trained(1000)
    places = [one.data_ptr() for one in tensors(head, optimizer)]
    head.remove_classes(range(0, 1000, 2))
    assert [one.data_ptr() for one in tensors(head, optimizer)] == places
    whole = [weakref.ref(one.untyped_storage().firstsight_room.untyped_storage()) for one in tensors(head, optimizer)]
    assert all(one().nbytes() == 4 * 64 * 1000 for one in whole)
    head.remove_classes([7])
    assert all(one() is None for one in whole)


def test_rows_that_go_make_room_for_those_that_come():
    head, optimizer = trained(1000)
    head.remove_classes([3, 5])
    places = [one.data_ptr() for one in tensors(head, optimizer)]
    head.add_classes(2)
    assert [one.data_ptr() for one in tensors(head, optimizer)] == places
    head.add_classes(1)
    assert [one.data_ptr() for one in tensors(head, optimizer)] != places


class Alive(TorchDispatchMode):
    """The memory that new tensors have at once, each counted as long as anything holds it."""

    def __init__(self):
        super().__init__()
        self.now = self.peak = 0
        self.places = {}

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        for one in tree_leaves(out):
            if function.overloadpacket.__name__ in ("new_empty", "empty", "index") and isinstance(one, torch.Tensor):
                size = one.untyped_storage().nbytes()
                self.now += size
                self.peak = max(self.peak, self.now)
                weakref.finalize(one.untyped_storage(), self.drop, size)
        return out

    def drop(self, size):
        self.now -= size


def test_at_its_peak_growth_has_one_tensor_twice():
    head = HebbianSoftmax(64, 1000, record=True)
    optimizer = torch.optim.Adam(head.parameters(), amsgrad=True)
    head.attach(optimizer)
    head.loss(torch.randn(2, 64), torch.tensor([0, 1])).backward()
    optimizer.step()
    head.add_classes(1)  # from here on all is new memory that is seen
    with Alive() as alive:
        head.add_classes(300)  # all anew
        first = alive.now
        head.add_classes(300)
    rows = 1301 + 300 + 1301 // 8
    of_row = 4 * 6 * 64  # weight, gradient, three of the optimizer, what is written
    assert first > 1301 * of_row
    assert alive.now < rows * (of_row + 64)
    # Of the first round nothing is left, and in the second one tensor was there twice.
    assert alive.peak <= alive.now + 4 * 64 * rows


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


def of(where, values, shape):
    return torch.sparse_coo_tensor(torch.tensor([where]), values, shape, check_invariants=True)


@pytest.mark.parametrize("make", [torch.optim.Adagrad, torch.optim.SparseAdam])
@pytest.mark.parametrize("coalesced", [False, True])
def test_a_sparse_gradient_grows_and_shrinks_with_its_head(make, coalesced):
    head = Softmax(D, 9, bias=False)
    optimizer = make([head.weight], lr=0.1)
    head.attach(optimizer)
    plain = head.weight.detach().clone()
    twin = nn.Parameter(plain)
    other = make([twin], lr=0.1)
    for steps in range(3):
        where = [1, 4, 5, 8] if coalesced else [4, 1, 8, 4, 5]
        values = torch.randn(len(where), D)
        grad = of(where, values, (len(head.weight), D))
        twin.grad, head.weight.grad = grad.clone(), grad.coalesce() if coalesced else grad
        if steps:
            optimizer.step()
            other.step()
        else:
            head.add_classes(2)
            assert head.weight.grad.shape == (11, D)
            assert head.weight.grad.is_coalesced() == coalesced
            assert torch.equal(head.weight.grad.to_dense()[:9], grad.to_dense())
            assert not head.weight.grad.to_dense()[9:].any()
            rows = torch.cat([twin.detach(), head.weight.detach()[9:]])
            twin = nn.Parameter(rows)
            other = make([twin], lr=0.1)
    assert torch.equal(head.weight, twin)
    left = [0, 2, 3, 4, 6, 7, 8, 9]
    want = {
        name: value[left] for name, value in other.state[twin].items() if isinstance(value, torch.Tensor) and value.ndim
    }
    dense = head.weight.grad.to_dense()
    head.remove_classes([1, 5, 10])
    assert torch.equal(head.weight, twin[left])
    assert head.weight.grad.is_coalesced() == coalesced
    assert torch.equal(head.weight.grad.to_dense(), dense[left])
    assert len(want) == (2 if make is torch.optim.SparseAdam else 1)
    assert all(torch.equal(optimizer.state[head.weight][name], value) for name, value in want.items())
    optimizer.step()


def test_a_sparse_gradient_may_lose_all_its_rows():
    head = Softmax(D, 9, bias=False)
    head.weight.grad = of([2, 8], torch.ones(2, D), (9, D))
    head.remove_classes([2, 8])
    assert head.weight.grad.shape == (7, D)
    assert not head.weight.grad.to_dense().any()
