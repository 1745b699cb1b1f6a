"""What is saved, copied or sent of a head that grew has its V rows, and no more: by the size of what comes out."""

import copy
import io
import pickle

import pytest
import torch
from safetensors.torch import load_file, save_file, save_model
from torch import nn

import firstsight
from firstsight import AdaptiveSoftmax, HebbianSampledSoftmax, HebbianSoftmax, InputError, SampledSoftmax, Softmax

V, D, MORE = 400, 32, 9
HEADS = {
    "softmax": lambda n: Softmax(D, n),
    "hebbian": lambda n: HebbianSoftmax(D, n, bias=False, record=True),
    "sampled": lambda n: SampledSoftmax(D, n, samples=50),
    "hebbian sampled": lambda n: HebbianSampledSoftmax(D, n, samples=50),
}


class Tied(nn.Module):
    """The embedding, which is met first, has the head's weight."""

    def __init__(self, head):
        super().__init__()
        self.embedding = nn.Embedding(1, D)
        self.embedding.weight = head.weight
        self.head = head


def grown(make):
    torch.manual_seed(0)
    head = make(V)
    optimizer = torch.optim.Adam(head.parameters())
    head.attach(optimizer)
    head.loss(torch.randn(4, D), torch.arange(4)).backward()
    optimizer.step()
    head.add_classes(MORE)
    head.remove_classes([7])
    assert len(head.weight.untyped_storage().firstsight_room) > head.num_classes + 1
    return head, optimizer


def stepped(head):
    """An optimizer that has the state of a head that never grew."""
    optimizer = torch.optim.Adam(head.parameters())
    head.loss(torch.randn(4, D), torch.arange(4)).backward()
    optimizer.step()
    return optimizer


def by_torch(value):
    file = io.BytesIO()
    torch.save(value, file)
    return len(file.getvalue())


def memory(value):
    """Of all tensors of a module."""
    return sum(one.untyped_storage().nbytes() for one in (*value.parameters(), *value.buffers()))


SIZES = {
    "state": lambda head: by_torch(head.state_dict()),
    "head": lambda head: by_torch(head),
    "pickle": lambda head: len(pickle.dumps(head)),
    "parameters": lambda head: by_torch(dict(head.named_parameters())),
    "tied": lambda head: by_torch(Tied(head).state_dict()),
    "tied, whole": lambda head: by_torch(Tied(head)),
    "linear": lambda head: by_torch(head.to_linear().state_dict()),
    "deepcopy": lambda head: memory(copy.deepcopy(head)),
    "deepcopy of all": lambda head: memory(copy.deepcopy(Tied(head))),
    "state, copied": lambda head: sum(t.untyped_storage().nbytes() for t in copy.deepcopy(head.state_dict()).values()),
    "halves": lambda head: memory(copy.deepcopy(head).half()),
}
OF_OPTIMIZER = {
    "state": lambda optimizer: by_torch(optimizer.state_dict()),
    "whole": lambda optimizer: by_torch(optimizer),
    "copied": lambda optimizer: by_torch(copy.deepcopy(optimizer)),
    "copied state": lambda optimizer: by_torch(copy.deepcopy(optimizer.state_dict())),
}


@pytest.mark.filterwarnings("ignore:.*sampl")
@pytest.mark.parametrize("kind", HEADS)
@pytest.mark.parametrize("how", SIZES)
def test_a_head_that_grew_is_saved_as_one_that_was_made_so(kind, how):
    head, _ = grown(HEADS[kind])
    other = HEADS[kind](V + MORE - 1)
    stepped(other)  # so that it has what a sampled one keeps of its draws
    assert abs(SIZES[how](head) - SIZES[how](other)) < 600  # names, ids, alignment: less than five rows
    head.add_classes(1)  # and it has its room still
    assert len(head.weight.untyped_storage().firstsight_room) > head.num_classes


@pytest.mark.parametrize("how", OF_OPTIMIZER)
def test_so_is_its_optimizer(how):
    _, optimizer = grown(HEADS["softmax"])
    other = stepped(Softmax(D, V + MORE - 1))
    assert abs(OF_OPTIMIZER[how](optimizer) - OF_OPTIMIZER[how](other)) < 600


@pytest.mark.parametrize("kind", HEADS)
def test_a_state_is_the_heads_own_memory_and_goes_through_safetensors(kind, tmp_path):
    head, _ = grown(HEADS[kind])
    state = head.state_dict()
    save_file(state, tmp_path / "a")
    rows = sum(value.nbytes for value in state.values())
    assert (tmp_path / "a").stat().st_size < rows + 2000
    other = HEADS[kind](head.num_classes)
    other.load_state_dict(load_file(tmp_path / "a"))
    save_model(Tied(head), str(tmp_path / "b"))
    assert (tmp_path / "b").stat().st_size < rows + 2000
    with torch.no_grad():
        state["weight"][3] = 5.0  # as some averages of models do
    assert (head.weight[3] == 5).all()
    assert (other.weight[3] != 5).any()


@pytest.mark.parametrize("assign", [False, True])
def test_a_head_that_grew_takes_a_state_and_grows_on(assign):
    head, _ = grown(HEADS["hebbian"])
    other = HEADS["hebbian"](head.num_classes)
    head.load_state_dict(other.state_dict(), assign=assign)
    if assign:
        with pytest.raises(InputError, match="not the parameter that was attached"):
            head.loss(torch.randn(1, D), torch.tensor([0]))
        for attached in list(head._attached):
            head._detach(attached)
    n = head.num_classes
    head.add_classes(2)
    head.remove_classes([1])
    kept = [i for i in range(n) if i != 1]
    for name, value in other.state_dict().items():
        if name in ("weight", "counts", "written", "fresh", "lifted"):
            assert torch.equal(head.state_dict()[name][: n - 1], value[kept]), name
            assert len(other.state_dict()[name]) == n, name


def test_a_models_own_layer_that_was_attached_is_saved_as_it_is():
    def adopted(n):
        model = nn.Sequential(nn.Linear(8, D), nn.Linear(D, n))
        return model, firstsight.attach(model[1], torch.optim.Adam(model.parameters()), counts="new")

    model, handle = adopted(V)
    handle.head.add_classes(MORE)
    other, _ = adopted(V + MORE)
    assert abs(by_torch(model.state_dict()) - by_torch(other.state_dict())) < 600
    assert memory(copy.deepcopy(model)) == memory(other)


def test_clusters_that_grew_are_saved_with_their_rows():
    head, other = AdaptiveSoftmax(D, V, [100, 200]), AdaptiveSoftmax(D, V, [100, 200])
    before = by_torch(head.state_dict())
    head.add_classes(4)
    head.remove_classes([0, 1, 150])
    row = 4 * (D + 1)
    narrow = 4 * (D // 4 + 1)
    assert abs(by_torch(head.state_dict()) - (before + 2 * row - narrow)) < 600
    assert memory(head) == memory(other) + 2 * row - narrow
