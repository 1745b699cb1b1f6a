"""What two strangers found: one who tried to break the head, one who tried to use it."""

import copy
import io
import pickle
import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from contract_heads import D, V, attached, batch, drawn, same, sgd, steps_of
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.optim.swa_utils import AveragedModel

import firstsight
from firstsight import HebbianSoftmax
from firstsight.heads.steps.watch import LIMIT
from firstsight.heads.write import HebbianWrite


class OfModel(torch.optim.Optimizer):
    """Keeps what it steps, and a method of itself, and a table by parameter."""

    def __init__(self, head, lr, what):
        super().__init__(head.parameters(), {"lr": lr})
        self.ticks, self.kept = (
            0,
            {"module": head, "method": self._tick, "table": {p: p.detach() for p in head.parameters()}},
        )
        self.kept = self.kept[what]

    def _tick(self):
        self.ticks += 1

    @torch.no_grad()
    def step(self, closure=None):
        self._tick() if not callable(self.kept) or isinstance(self.kept, nn.Module) else self.kept()
        kept = isinstance(self.kept, nn.Module)
        for parameter in self.kept.parameters() if kept else [p for g in self.param_groups for p in g["params"]]:
            parameter.add_(parameter.grad, alpha=-self.defaults["lr"])


@pytest.mark.parametrize("what", ["module", "method", "table"])
def test_the_probe_steps_nothing_of_the_users(hebbian, what):
    head, optimizer = attached(hebbian, optimizer=lambda head, lr: OfModel(head, lr, what), T=1)
    called = []
    handle = register_optimizer_step_post_hook(lambda *_: called.append(1))
    before = head.weight.detach().clone()
    head.loss(*batch()).backward()
    optimizer.step()
    handle.remove()
    torch.testing.assert_close(head.weight, before - 0.1 * head.weight.grad)
    assert (optimizer.ticks, len(called)) == (1, 1)


def test_a_step_that_calls_its_parents_is_one_step(hebbian):
    torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)  # from now on torch hooks the parent's step too

    class Sub(torch.optim.SGD):
        def step(self, closure=None):
            return super().step(closure)

    heads = []
    for kind in (torch.optim.SGD, Sub):
        torch.manual_seed(0)
        head = drawn(hebbian(D, V, dtype=torch.float64))
        optimizer = kind(head.parameters(), lr=0.1)
        head.attach(optimizer, after=3)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            steps_of(head, optimizer, 2 * LIMIT)
        heads.append(head)
    assert same(*heads)


def test_an_average_at_any_stride_is_seen(hebbian):
    head, optimizer = attached(hebbian)
    averaged = AveragedModel(head, use_buffers=True)
    for _ in range(3):
        for seed in range(61):
            steps_of(head, optimizer, 1, lambda h, y, seed=seed: head.loss(*batch(seed=seed)))
        averaged.update_parameters(head)
    assert torch.equal(averaged.module.counts, head.counts)


@pytest.mark.parametrize("given", ["rows", "no rows"])
def test_counts_of_zero_never_make_rows_that_are_not_finite(hebbian, given):
    head, optimizer = attached(hebbian)
    state = head.state_dict()
    state["counts"] = torch.zeros(V, dtype=torch.int64)
    with pytest.raises(RuntimeError, match="the lowest is 0"):
        head.load_state_dict(state if given == "rows" else {"counts": state["counts"]}, strict=False)
    head.counts.zero_()
    steps_of(head, optimizer, 2)
    assert head.weight.isfinite().all()


def test_counts_that_a_cast_has_rounded_are_refused(hebbian):
    state = {name: value.to(torch.bfloat16) for name, value in hebbian(D, V).state_dict().items()}
    with pytest.raises(RuntimeError, match="which no cast has rounded"):
        hebbian(D, V).load_state_dict(state)


def test_a_refused_state_leaves_the_head_as_it_was(hebbian):
    head = hebbian(D, V)
    before = copy.deepcopy(head)
    with pytest.raises(RuntimeError, match="was made with"):
        head.load_state_dict(hebbian(D, V, T=3).state_dict())
    assert same(head, before)


def test_a_state_without_what_is_new_is_refused():
    state = HebbianSoftmax.from_linear(nn.Linear(D, V), "trained").state_dict()
    del state["fresh"]
    with pytest.raises(RuntimeError, match="has no fresh"):
        HebbianSoftmax(D, V).load_state_dict(state, strict=False)


@pytest.mark.parametrize("counts", ["new", "trained"])
def test_rows_that_an_attached_layer_loads_without_counts(counts):
    model = nn.Sequential(nn.Linear(D, D), nn.Linear(D, V))
    state = copy.deepcopy(model.state_dict())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    handle = firstsight.attach(model[1], optimizer, counts=counts)
    if counts == "new":
        with pytest.raises(RuntimeError, match='counts="trained"'):
            model.load_state_dict(state, strict=False)
    else:
        model.load_state_dict(state, strict=False)
        assert handle.head.counts.sum() == V


@pytest.mark.parametrize("number", [np.int64(7), np.float32(7), torch.tensor(7)])
def test_settings_of_other_kinds_of_numbers_are_saved(hebbian, number):
    head = hebbian(D, V)
    head.T = number
    hebbian(D, V, T=7).load_state_dict(head.state_dict())


def test_an_attachment_does_not_go_along_with_a_copy(hebbian):
    head = hebbian(D, V)
    optimizer = sgd(head)
    module = nn.ModuleDict({"head": head})
    module.handle = head.attach(optimizer)
    for other in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        other.handle.remove()
    assert head.attached
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        torch.save(head.weight, io.BytesIO())


def test_micro_batches_are_pending_as_one(make):
    head, optimizer = attached(make)
    if not isinstance(head, HebbianWrite):
        pytest.skip("has nothing pending")
    for seed in range(32):
        (head.loss(*batch(seed=seed)) / 32).backward()
    assert len(head._pending._entries) == 1
    optimizer.step()
    assert head.counts.sum() == V + 32 * 12


def test_a_weight_that_the_optimizer_has_let_go_of_is_not_written(hebbian):
    head, optimizer = attached(hebbian)
    optimizer.param_groups[0]["params"] = [head.bias]
    before = head.weight.detach().clone()
    steps_of(head, optimizer, 3)
    assert torch.equal(head.weight, before)
    assert head.counts.sum() == V


# right uses, of which nothing is said


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("use", ["resumed", "closure", "empty", "normalised", "after add_classes"])
def test_no_alarm(hebbian, use):
    head, optimizer = attached(hebbian, **({"T": 3} if use == "resumed" else {}))
    if use == "resumed":
        steps_of(head, optimizer, LIMIT // 2)
        other = hebbian(D, V, T=3, dtype=torch.float64)
        optimizer = sgd(other)
        other.attach(optimizer)
        other.load_state_dict(head.state_dict())
        steps_of(other, optimizer, 2 * LIMIT)
    elif use == "closure":
        optimizer = torch.optim.LBFGS(head.parameters(), max_iter=2 * LIMIT)
        head.attach(optimizer)

        def closure():
            optimizer.zero_grad()
            loss = head.loss(*batch())
            loss.backward()
            return loss

        optimizer.step(closure)
    elif use == "empty":
        for _ in range(2 * LIMIT):
            head.loss(batch()[0], torch.full((12,), -100)).backward()
            optimizer.step()
    else:
        for seed in range(2 * LIMIT):
            steps_of(head, optimizer, 1, lambda h, y, seed=seed: head.loss(*batch(seed=seed)))
            with torch.no_grad():
                head.weight.copy_(F.normalize(head.weight))
            if use == "after add_classes":
                head.add_classes(1)


@pytest.mark.parametrize("classes", [3, 4])
def test_smoothed_labels_of_few_classes_that_the_layer_is_sure_of(hebbian, classes):
    """The gradient pushes the label's logit down there, as it would where the label is wrong."""
    torch.manual_seed(0)
    h, y = 20 * F.one_hot(torch.arange(30) % classes, D).double(), torch.arange(30) % classes
    for n in (1, 2, 30):
        head, optimizer = attached(hebbian)
        head = hebbian(D, classes, dtype=torch.float64)
        optimizer = sgd(head, 0.0)
        head.attach(optimizer)
        with torch.no_grad():
            head.weight.copy_(torch.eye(classes, D, dtype=torch.float64))
        for part in h.split(n):
            logits = head(part)
            head.observe(logits, part, y[: len(part)])
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                F.cross_entropy(logits, y[: len(part)], label_smoothing=0.1).backward()


def test_a_warning_points_at_the_line_that_is_to_be_changed(hebbian):
    head = hebbian(D, V, dtype=torch.float64)
    optimizer = sgd(head)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        for seed in range(LIMIT):
            optimizer.zero_grad()
            head.loss(*batch(seed=seed)).backward()
            optimizer.step()
    assert [one.filename for one in said] == [__file__]


def test_labels_that_do_not_count_may_be_others():
    model = nn.Sequential(nn.Linear(D, D), nn.Linear(D, V))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    handle = firstsight.attach(model[1], optimizer, counts="new", ignore_index=0)
    h, y = batch(dtype=torch.float32)
    handle.labels(y)
    F.cross_entropy(model(h), y, ignore_index=0).backward()
    optimizer.step()
    assert handle.head.counts.sum() == V + int((y != 0).sum())
