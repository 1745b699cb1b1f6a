"""The layer-norm LSTM with its backward pass by hand, against the equations step by step under autograd, in float64."""

import copy
import pickle
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from firstsight.errors import InputError
from firstsight.lab.lm.recurrent import layer_norm
from firstsight.lab.lm.recurrent.layer_norm import LayerNormLSTM

# (sequences, steps, width of the input, units); more than 8 steps cross a block of them
SHAPES = [(3, 5, 4, 6), (1, 1, 3, 5), (4, 1, 2, 3), (1, 19, 5, 7), (2, 16, 3, 9)]


def layer_of(input_size: int, hidden_size: int) -> LayerNormLSTM:
    """In float64 and with no parameter at a special value."""
    layer = LayerNormLSTM(input_size, hidden_size).double()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return layer


def given_of(layer: LayerNormLSTM, B: int, S: int) -> list[Tensor]:
    """x and the first state (h, c)."""
    I, H = layer.weight_ih_l0.shape[1], layer.hidden_size  # noqa: E741 - the width's letter
    return [torch.randn(*shape).double().requires_grad_() for shape in ((B, S, I), (1, B, H), (1, B, H))]


def normed(x: Tensor, gain: Tensor) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt() * gain


def reference(layer: LayerNormLSTM, x_BSI: Tensor, h_1BH: Tensor, c_1BH: Tensor) -> list[Tensor]:
    h, c, y = h_1BH[0], c_1BH[0], []
    for x in x_BSI.unbind(1):
        from_x = normed(x @ layer.weight_ih_l0.t(), layer.gain_ih_l0)
        from_h = normed(h @ layer.weight_hh_l0.t(), layer.gain_hh_l0)
        i, f, g, o = (from_x + from_h + layer.bias_ih_l0).chunk(4, dim=-1)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        h = o.sigmoid() * (normed(c, layer.gain_c_l0) + layer.bias_c_l0).tanh()
        y.append(h)
    return [torch.stack(y, dim=1), h[None], c[None]]


def flat(layer: LayerNormLSTM, x: Tensor, *state: Tensor) -> list[Tensor]:
    y, (h, c) = layer(x, state or None)
    return [y, h, c]


def gradients(outputs: list[Tensor], weights: list[Tensor], inputs: list[Tensor]) -> tuple[Tensor, ...]:
    return torch.autograd.grad(outputs, inputs, weights, materialize_grads=True)  # c alone has none of LN(c)'s gain


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("used", [[0, 1, 2], [0], [1], [2]], ids=["all", "y", "h", "c"])
def test_outputs_and_all_gradients_equal_a_loop(shape: tuple[int, ...], used: list[int]) -> None:
    B, S, I, H = shape  # noqa: E741
    layer = layer_of(I, H)
    given = given_of(layer, B, S)
    outputs, wanted = flat(layer, *given), reference(layer, *given)
    for got, want in zip(outputs, wanted, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-11, atol=1e-12)
    weights = [torch.randn_like(wanted[n]) for n in used]
    inputs = [*given, *layer.parameters()]
    both = (gradients([each[n] for n in used], weights, inputs) for each in (outputs, wanted))
    for got, want in zip(*both, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-11)


def test_no_state_is_zeros() -> None:
    layer = layer_of(3, 5)
    x = torch.randn(2, 4, 3).double()
    zeros = torch.zeros(1, 2, 5).double()
    for got, want in zip(flat(layer, x), reference(layer, x, zeros, zeros), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-11, atol=1e-12)


def test_gradcheck() -> None:
    layer = layer_of(3, 5)
    names = [name for name, _ in layer.named_parameters()]

    def function(x: Tensor, h: Tensor, c: Tensor, *values: Tensor) -> tuple[Tensor, ...]:
        y, (h, c) = torch.func.functional_call(layer, dict(zip(names, values, strict=True)), (x, (h, c)))
        return y, h, c

    values = [parameter.detach().clone().requires_grad_() for parameter in layer.parameters()]
    assert torch.autograd.gradcheck(function, (*given_of(layer, 2, 3), *values))


def test_a_second_derivative_is_refused() -> None:
    layer = layer_of(3, 4)
    x, *_ = given_of(layer, 2, 3)
    with pytest.raises(InputError, match=r"create_graph.*no second derivatives"):
        torch.autograd.grad(layer(x)[0].sum(), x, create_graph=True)


def test_a_graph_can_be_gone_through_twice_and_two_be_open_at_once() -> None:
    layer = layer_of(3, 4)
    given, others = given_of(layer, 2, 5), given_of(layer, 2, 5)
    first, second = flat(layer, *given), flat(layer, *others)
    weights = [torch.randn_like(x) for x in first]
    want = gradients(reference(layer, *given), weights, given)
    gradients(second, weights, others)
    for _ in range(2):
        for got, wanted in zip(torch.autograd.grad(first, given, weights, retain_graph=True), want, strict=True):
            torch.testing.assert_close(got, wanted, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_without_gradients_the_numbers_are_the_same(mode: Callable[[], torch.no_grad]) -> None:
    layer = layer_of(3, 7)
    given = given_of(layer, 2, 11)
    want = flat(layer, *given)
    with mode():
        got = flat(layer, *given)
    assert all(torch.equal(a, b) and not a.requires_grad for a, b in zip(got, want, strict=True))


def test_frozen_weights_still_pass_gradients_to_the_input() -> None:
    layer = layer_of(3, 4).requires_grad_(False)
    given = given_of(layer, 2, 5)
    weights = [torch.randn(2, 5, 4).double()]
    both = (gradients(each[:1], weights, given) for each in (flat(layer, *given), reference(layer, *given)))
    for got, want in zip(*both, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("B", [1, 3, 16])
def test_a_weight_of_the_size_that_is_multiplied_the_other_way_round(B: int) -> None:
    layer = layer_of(24, 520)
    given = given_of(layer, B, 4)
    wanted = reference(layer, *given)
    weights = [torch.randn_like(x) for x in wanted]
    want = gradients(wanted, weights, [*given, *layer.parameters()])
    layer.float()
    single = [x.detach().float().requires_grad_() for x in given]
    outputs = flat(layer, *single)
    got = gradients(outputs, [weight.float() for weight in weights], [*single, *layer.parameters()])
    for a, b in zip([*outputs, *got], [*wanted, *want], strict=True):
        assert (a - b).norm() < 1e-5 * b.norm()


def test_autocast_keeps_sums_and_state_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """The gradients are as near to the exact ones as bfloat16 factors let them be, also after many steps."""
    monkeypatch.setattr(layer_norm, "multiplies_low", lambda device: True)  # whatever this CPU multiplies
    layer = LayerNormLSTM(16, 32)
    with (
        torch.no_grad()
    ):  # at 1 the fresh layer is chaotic: any rounding grows until the gradients have nothing in common
        layer.gain_hh_l0.fill_(0.4)
    x, *state = (part.detach().float() for part in given_of(layer, 4, 120))
    wanted = flat(layer, x, *state)
    weight = torch.randn_like(wanted[0])
    want = gradients(wanted[:1], [weight], list(layer.parameters()))
    with torch.autocast("cpu", torch.bfloat16):
        outputs = flat(layer, x, *(part.bfloat16() for part in state))
    assert {part.dtype for part in outputs} == {torch.float32}
    assert 1e-6 < (outputs[0] - wanted[0]).norm() / wanted[0].norm() < 0.01
    for got, exact in zip(gradients(outputs[:1], [weight], list(layer.parameters())), want, strict=True):
        assert got.dtype == torch.float32
        assert (got - exact).norm() < 0.03 * exact.norm()


def test_a_cpu_without_bfloat16_products_stays_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layer_norm, "multiplies_low", lambda device: False)
    layer = LayerNormLSTM(5, 8)
    x = torch.randn(2, 6, 5)
    with torch.autocast("cpu", torch.bfloat16):
        got = layer(x)[0]
    assert torch.equal(got, layer(x)[0])


def test_names_and_copies() -> None:
    layer = layer_of(3, 5)
    names = "weight_ih_l0 weight_hh_l0 bias_ih_l0 gain_ih_l0 gain_hh_l0 gain_c_l0 bias_c_l0"
    assert list(layer.state_dict()) == names.split()  # saved runs hold these
    x = torch.randn(2, 4, 3).double()
    for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(twin(x)[0], layer(x)[0])


@pytest.mark.parametrize("shape", [(3, 0, 5), (3, 5)])
def test_input_of_no_step_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match=r"expected \[B, S, I\], with one step at least"):
        LayerNormLSTM(5, 7)(torch.randn(shape))
