"""The language model against loops over time, in float64."""

import copy
import math
import pickle

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm

from firstsight.errors import InputError
from firstsight.heads import Softmax
from firstsight.lab.lm.config import Config
from firstsight.lab.lm.lstm import LanguageModel, head_width, num_parameters

V = 11
SHAPES = [
    {"projection": projection, "tied": tied, "layers": layers, "layer_norm": norm}
    for projection, tied in [(True, True), (True, False), (False, True), (False, False)]
    for layers, norm in [(1, False), (2, False), (1, True), (2, True)]
]


class PlainHead(Softmax):
    """Just enough of a head."""

    def __init__(self, in_features: int, num_classes: int) -> None:
        super().__init__(in_features, num_classes, bias=False)
        nn.init.uniform_(self.weight, -0.5, 0.5)


def small(**changes: object) -> LanguageModel:
    """A float64 model with no parameter at a special value, so that a mistake cannot hide behind a zero."""
    config = Config(embedding=6, hidden=6 if changes.get("projection") is False else 8, dropout=0.0).replace(**changes)
    torch.manual_seed(0)
    model = LanguageModel(V, config, PlainHead(head_width(config), V)).double()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.3 * torch.randn_like(parameter))
    return model


def reference(model: LanguageModel, tokens_BS: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Hidden, h and c by the equations: one sequence, one step and one layer at a time."""
    hidden, last_h, last_c = [], [], []
    for tokens in tokens_BS.tolist():
        H = model.lstm[0].hidden_size
        h, c, row = [torch.zeros(H).double() for _ in model.lstm], [torch.zeros(H).double() for _ in model.lstm], []
        for token in tokens:
            y = (model.head.weight if model.embedding is None else model.embedding)[token]
            y = y if model.projection is None else model.projection @ y
            for n, layer in enumerate(model.lstm):
                from_x, from_h = layer.weight_ih_l0 @ y, layer.weight_hh_l0 @ h[n]
                norm = not isinstance(layer, nn.LSTM)
                if norm:
                    from_x = layer_norm(from_x, from_x.shape) * layer.gain_ih_l0
                    from_h = layer_norm(from_h, from_h.shape) * layer.gain_hh_l0
                i, f, g, o = (from_x + from_h + layer.bias_ih_l0).reshape(4, H)
                c[n] = torch.sigmoid(f) * c[n] + torch.sigmoid(i) * torch.tanh(g)
                content = layer_norm(c[n], (H,)) * layer.gain_c_l0 + layer.bias_c_l0 if norm else c[n]
                y = h[n] = torch.sigmoid(o) * torch.tanh(content)
            row.append(y if model.projection is None else y @ model.projection)
        hidden.append(torch.stack(row))
        last_h.append(torch.stack(h))
        last_c.append(torch.stack(c))
    return torch.stack(hidden), torch.stack(last_h, dim=1), torch.stack(last_c, dim=1)


@pytest.mark.parametrize("changes", SHAPES, ids=str)
def test_equals_a_loop_forward_and_backward(changes: dict[str, object]) -> None:
    model = small(**changes)
    tokens_BS = torch.randint(V, (3, 5))
    hidden, (h, c) = model(tokens_BS)
    for got, want in zip((hidden, h, c), reference(model, tokens_BS), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-11, atol=1e-12)
    weights = [torch.randn_like(x) for x in (hidden, h, c)]
    used = {name: p for name, p in model.named_parameters() if p.requires_grad}
    if model.embedding is not None:
        del used["head.weight"]  # the head itself has no part in this loss

    def gradients(outputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        loss = sum((x * w).sum() for x, w in zip(outputs, weights, strict=True))
        return torch.autograd.grad(loss, list(used.values()))

    for name, got, want in zip(used, gradients((hidden, h, c)), gradients(reference(model, tokens_BS)), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-11, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("changes", SHAPES, ids=str)
def test_two_halves_with_the_state_equal_the_whole(changes: dict[str, object]) -> None:
    model = small(**changes)
    tokens_BS = torch.randint(V, (2, 9))
    whole, state = model(tokens_BS)
    first, middle = model(tokens_BS[:, :4])
    second, end = model(tokens_BS[:, 4:], middle)
    torch.testing.assert_close(torch.cat([first, second], dim=1), whole, rtol=1e-11, atol=1e-12)
    torch.testing.assert_close(end, state, rtol=1e-11, atol=1e-12)
    assert not torch.allclose(model(tokens_BS[:, 4:])[0], second), "the state must matter"


@pytest.mark.parametrize("changes", SHAPES, ids=str)
def test_the_state_passes_gradients_to_the_first_half(changes: dict[str, object]) -> None:
    model = small(**changes)
    _, state = model(torch.randint(V, (2, 3)))
    assert all(part.requires_grad and part.shape == (len(model.lstm), 2, model.lstm[0].hidden_size) for part in state)


@pytest.mark.parametrize("norm", [False, True])
def test_autograd_agrees_with_finite_differences(norm: bool) -> None:
    model = small(layer_norm=norm)
    tokens_BS = torch.randint(V, (2, 3))
    parameters = {name: p.detach().clone().requires_grad_() for name, p in model.named_parameters() if p.requires_grad}

    def hidden(*values: Tensor) -> Tensor:
        return torch.func.functional_call(model, dict(zip(parameters, values, strict=True)), (tokens_BS,))[0]

    assert torch.autograd.gradcheck(hidden, tuple(parameters.values()), fast_mode=True)


def test_the_paper_s_model_has_its_number_of_parameters() -> None:
    config = Config(embedding=512, hidden=2048, layers=1, layer_norm=False, projection=True, tied=True)
    with torch.device("meta"):
        model = LanguageModel(267_735, config, PlainHead(head_width(config), 267_735))
    assert num_parameters(model) == 171_691_520


def test_layer_norm_and_untied_embedding_count_what_they_add() -> None:
    plain, H = num_parameters(small()), 8
    assert num_parameters(small(tied=False)) - plain == V * 6
    assert num_parameters(small(layer_norm=True)) - plain == 2 * 4 * H + 2 * H
    assert num_parameters(small(layers=2)) - plain == 4 * H * (2 * H + 1)


@pytest.mark.parametrize("norm", [False, True])
def test_start_values(norm: bool) -> None:
    config = Config(embedding=16, hidden=24, layers=2, tied=False, layer_norm=norm)
    model = LanguageModel(V, config, PlainHead(16, V))
    for layer in model.lstm:
        assert layer.bias_ih_l0.tolist() == [0] * 24 + [1] * 24 + [0] * 48
        assert 0.19 < layer.weight_hh_l0.abs().max() <= 1 / math.sqrt(24)
        if not norm:
            assert not layer.bias_hh_l0.any()
            assert not layer.bias_hh_l0.requires_grad
    assert 0.2 < model.embedding.abs().max() <= 0.25
    torch.testing.assert_close(model.projection.t() @ model.projection, torch.eye(16) * 24 / 4, rtol=0, atol=1e-5)
    assert model.projection.square().mean().sqrt().item() == pytest.approx(0.5)


def test_the_second_bias_stays_zero_in_training() -> None:
    model = small()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=0.1)
    model(torch.randint(V, (2, 3)))[0].sum().backward()
    before = model.lstm[0].bias_ih_l0.clone()
    optimizer.step()
    assert not model.lstm[0].bias_hh_l0.any()
    assert not torch.equal(model.lstm[0].bias_ih_l0, before)


def test_dropout_acts_in_training_only() -> None:
    model = small(dropout=0.5)
    tokens_BS = torch.randint(V, (2, 3))
    torch.testing.assert_close(model.eval()(tokens_BS)[0], reference(model, tokens_BS)[0], rtol=1e-11, atol=1e-12)
    model.train()
    assert not torch.allclose(model(tokens_BS)[0], model(tokens_BS)[0])


@pytest.mark.parametrize("through", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_a_copy_stays_tied(through: object) -> None:
    model = small()
    twin = through(model)  # type: ignore[operator]
    assert twin.embedding is None
    assert twin.head.weight is not model.head.weight
    assert num_parameters(twin) == num_parameters(model)
    tokens_BS = torch.randint(V, (2, 3))
    assert torch.equal(twin(tokens_BS)[0], model(tokens_BS)[0])


def test_a_tied_embedding_follows_the_head() -> None:
    model = small()
    with torch.no_grad():
        before = model(torch.tensor([[3]]))[0]
        model.head.weight[3] += 1  # as a Hebbian write does
        assert not torch.allclose(model(torch.tensor([[3]]))[0], before)
    model.head.weight = nn.Parameter(torch.cat([model.head.weight.detach(), torch.ones(2, 6).double()]))  # a grown head
    assert model(torch.tensor([[V + 1]]))[0].isfinite().all()


@pytest.mark.parametrize("changes", SHAPES, ids=str)
def test_state_dict_round_trip(changes: dict[str, object]) -> None:
    model, other = small(**changes), small(**changes)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.zero_()
    other.load_state_dict(model.state_dict(), strict=True)
    tokens_BS = torch.randint(V, (2, 3))
    assert torch.equal(other(tokens_BS)[0], model(tokens_BS)[0])


@pytest.mark.parametrize("norm", [False, True])
def test_bfloat16_autocast_keeps_the_state_in_float32(norm: bool) -> None:
    model = small(layer_norm=norm, layers=2).float()
    tokens_BS = torch.randint(V, (2, 12))
    want, _ = model(tokens_BS)
    with torch.autocast("cpu", torch.bfloat16):
        first, state = model(tokens_BS[:, :6])
        second, state = model(tokens_BS[:, 6:], (state[0].bfloat16(), state[1].bfloat16()))  # as fabric passes it on
    got = torch.cat([first, second], dim=1).float()
    assert {part.dtype for part in state} == {torch.float32}
    assert 1e-6 < (got - want).norm() / want.norm() < 0.03
    got.sum().backward()
    assert all(p.grad is not None and p.grad.dtype == p.dtype for p in model.parameters() if p.requires_grad)


@pytest.mark.parametrize(
    ("changes", "width"),
    [
        ({"projection": True, "tied": True}, 6),
        ({"projection": True, "tied": False}, 6),
        ({"projection": False, "tied": False}, 8),
        ({"projection": False, "tied": True, "hidden": 6}, 6),
    ],
)
def test_head_width(changes: dict[str, object], width: int) -> None:
    config = Config(embedding=6, hidden=8).replace(**changes)
    assert head_width(config) == width
    hidden, _ = LanguageModel(V, config, PlainHead(width, V))(torch.randint(V, (2, 3)))
    assert hidden.shape == (2, 3, width)


def test_impossible_widths_are_explained() -> None:
    with pytest.raises(InputError, match=r"embedding is 6 and hidden is 8.*projection to true"):
        head_width(Config(embedding=6, hidden=8, projection=False, tied=True))
    with pytest.raises(InputError, match=r"\[11, 8\].*\[11, 6\].*in_features=6"):
        LanguageModel(V, Config(embedding=6, hidden=8), PlainHead(8, V))
    with pytest.raises(InputError, match="num_classes=11"):
        LanguageModel(V, Config(embedding=6, hidden=8), PlainHead(6, V + 1))
