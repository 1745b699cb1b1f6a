"""Whose state it is: filled or raw memory, of these settings, averaged, of rows that are there to be written."""

import copy
import gc
import warnings

import pytest
import torch
from contract_heads import D, V, attached, batch, same, sgd, steps_of
from torch import nn
from torch.nn.utils import prune
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from firstsight import HebbianSoftmax, InputError, Softmax
from firstsight.heads.write import HebbianWrite


@pytest.mark.parametrize("name", ["counts", "settings", "moments", "fresh"])
def test_a_state_that_cannot_be_is_refused(hebbian, name):
    head, optimizer = attached(hebbian)
    head.loss(*batch()).backward()
    optimizer.step()
    state = head.state_dict()
    if name not in state:
        pytest.skip("the rule keeps none")
    value = {"counts": 0, "settings": 7, "moments": torch.nan, "fresh": 99}[name]
    state[name] = torch.full_like(state[name], value)
    other = hebbian(D, V, dtype=torch.float64)
    with pytest.raises(RuntimeError, match=r"counts are 1 \+|damaged|moments hold|fresh says"):
        other.load_state_dict(state)


@pytest.mark.parametrize("changed", [{"T": 7}, {"gamma": 0.5}])
def test_a_state_of_other_settings_is_refused(hebbian, changed):
    state = hebbian(D, V).state_dict()
    with pytest.raises(RuntimeError, match=r"was made with rule='.*, and this head has"):
        hebbian(D, V, **changed).load_state_dict(state)
    del state["settings"]  # as the message says
    hebbian(D, V, **changed).load_state_dict(state)


def test_settings_that_were_changed_are_saved_as_they_are(hebbian):
    head = hebbian(D, V)
    head.T, head.gamma = 33, 0.25
    other = hebbian(D, V, T=33, gamma=0.25)
    other.load_state_dict(head.state_dict())
    assert same(head, other)


def test_a_state_of_more_classes_says_how_to_load_it(hebbian):
    head = hebbian(D, V)
    head.add_classes(3)
    other = hebbian(D, V)
    with pytest.raises(RuntimeError, match=r"of 12 classes, the head of 9.*add_classes\(3\)"):
        other.load_state_dict(head.state_dict())
    other.add_classes(3)
    other.load_state_dict(head.state_dict())
    assert same(head, other)


def use(head, what):
    if what == "loss":
        head.loss(*batch(dtype=torch.float32)).backward()
    elif what == "write":
        head.write(*batch(dtype=torch.float32))
    elif what == "add_classes":
        head.add_classes(1)
    elif what == "state_dict":
        head.state_dict()
    else:
        head.attach(sgd(head))


@pytest.mark.parametrize("what", ["write", "add_classes", "state_dict", "attach"])
def test_memory_that_nobody_filled_is_never_used(hebbian, what):
    """A loader that sets the parameters it finds and leaves raw memory in all else, as one of transformers does."""
    trained = nn.Linear(D, V)
    with torch.device("meta"):
        head = hebbian(D, V)
    head.weight, head.bias = nn.Parameter(trained.weight.clone()), nn.Parameter(trained.bias.clone())
    for name, value in list(head.named_buffers()):
        setattr(head, name, torch.empty_like(value, device="cpu").random_(0, 3))
    with pytest.raises(InputError, match=r'never filled.*head.set_counts\("trained"\)'):
        use(head, what)
    assert torch.equal(head.weight, trained.weight)
    head.set_counts("trained")
    use(head, what)
    rows = slice(0, V)
    if what == "write":
        assert torch.equal(head.weight[rows], trained.weight), "trained rows are left to the gradient"


def test_off_the_meta_device_there_is_nothing_in_it(hebbian):
    head = hebbian(D, V, device="meta").to_empty(device="cpu")
    for value in head.buffers():
        value.zero_()
    with pytest.raises(InputError, match="never filled"):
        head.write(*batch(dtype=torch.float32))
    head.reset_parameters()
    head.write(*batch(dtype=torch.float32))


@pytest.mark.parametrize("how", ["weight_norm", "old weight_norm", "spectral_norm", "prune"])
def test_a_weight_that_is_computed_is_refused(flat, how):
    head = flat(D, V)
    optimizer = sgd(head)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if how == "weight_norm":
            nn.utils.parametrizations.weight_norm(head)
        elif how == "spectral_norm":
            nn.utils.parametrizations.spectral_norm(head)
        elif how == "prune":
            prune.l1_unstructured(head, "weight", 0.5)
        else:
            nn.utils.weight_norm(head)
    with pytest.raises(InputError, match="computed from other tensors"):
        head.attach(sgd(head))
    with pytest.raises(InputError, match="computed from other tensors"):
        head.add_classes(1)
    if isinstance(head, HebbianWrite):
        with pytest.raises(InputError, match="computed from other tensors"):
            head.write(*batch(dtype=torch.float32))
    head.loss(*batch(dtype=torch.float32)).backward()  # it can be trained
    del optimizer


@pytest.mark.parametrize("how", ["assigned", "set", "converted", "weight_norm"])
def test_a_parameter_that_was_replaced_is_refused(hebbian, how):
    head, optimizer = attached(hebbian)
    handle = next(iter(head._attached.values()))
    assert handle.weight is head.weight
    if how == "assigned":
        head.load_state_dict({k: v.clone() for k, v in head.state_dict().items()}, assign=True)
    elif how == "set":
        head.weight = nn.Parameter(head.weight.detach().clone())
    elif how == "weight_norm":
        nn.utils.parametrizations.weight_norm(head)
    else:
        torch.__future__.set_overwrite_module_params_on_conversion(True)
        try:
            head.to(torch.float32)
        finally:
            torch.__future__.set_overwrite_module_params_on_conversion(False)
    h, y = batch(dtype=torch.float64 if how != "converted" else torch.float32)
    counts = head.counts.clone()
    with pytest.raises(InputError, match=r"not the parameter that was attached.*handle.remove\(\)"):
        head.loss(h, y)
    with pytest.raises(InputError, match="not the parameter that was attached"):
        optimizer.step()
    assert torch.equal(head.counts, counts)
    if how != "weight_norm":
        head._detach(id(optimizer))
        again = sgd(head)
        head.attach(again)
        head.loss(h, y).backward()
        again.step()
        assert head.counts.sum() == counts.sum() + len(y)


def test_a_T_without_end(hebbian):
    head = hebbian(D, V, T=float("inf"))
    state = Softmax(D, V).state_dict()
    with pytest.raises(RuntimeError, match=r'state\["counts"\] = torch.full|from_linear\(linear, "trained"\)'):
        head.load_state_dict(state)
    head = hebbian.from_linear(nn.Linear(D, V), "trained", T=float("inf")) if hebbian is HebbianSoftmax else head
    head.write(*batch(dtype=torch.float32))
    other = hebbian(D, V, T=float("inf"))
    other.load_state_dict(head.state_dict())
    assert same(head, other)


AVERAGES = {
    "swa": {},
    "ema": {"multi_avg_fn": get_ema_multi_avg_fn(0.999)},
    "own": {"avg_fn": lambda averaged, now, n: averaged + (now - averaged) / (n + 1)},
    "no buffers": {"use_buffers": False},
}


@pytest.mark.parametrize("kind", AVERAGES)
def test_an_averaged_model_counts_as_the_model_does(hebbian, kind):
    head, optimizer = attached(hebbian)
    averaged = AveragedModel(nn.Sequential(head), **{"use_buffers": True, **AVERAGES[kind]})
    snapshot = copy.deepcopy(head)
    for seed in range(12):
        steps_of(head, optimizer, 1, lambda h, y, seed=seed: head.loss(*batch(seed=seed)))
        averaged.update_parameters(nn.Sequential(head))
    other = averaged.module[0]
    assert torch.equal(averaged.state_dict()["module.0.counts"], head.counts)
    assert torch.equal(other.counts, head.counts)
    other.write(*batch(seed=99))
    assert other.counts.sum() == head.counts.sum() + 12
    assert snapshot.counts.sum() == V, "a copy that nobody averages is a copy"
    # at its end Lightning writes the average over the model, buffers and all
    averaged.update_parameters(nn.Sequential(head))
    counts = head.counts.clone()
    for now, mean in zip(head.buffers(), other.buffers(), strict=True):
        now.data.copy_(mean.data)
    assert torch.equal(head.counts, counts)
    head.write(*batch(seed=99))
    assert head.counts.sum() == counts.sum() + 12


def test_an_average_of_a_model_that_is_gone_is_refused(hebbian):
    head, optimizer = attached(hebbian)
    averaged = AveragedModel(head, use_buffers=True, **AVERAGES["ema"])
    for _ in range(3):
        steps_of(head, optimizer, 1)
        averaged.update_parameters(head)
    raw = {name: value.clone() for name, value in averaged.module.named_buffers()}
    del head, optimizer
    gc.collect()
    with pytest.raises(InputError, match=r"were averaged.*use_buffers=False.*head.set_counts"):
        averaged.module.write(*batch())
    state = {**hebbian(D, V, dtype=torch.float64).state_dict(), **raw}
    with pytest.raises(RuntimeError, match="were averaged with its rows"):
        hebbian(D, V, dtype=torch.float64).load_state_dict(state)
    averaged.module.set_counts("trained")
    averaged.module.write(*batch())
