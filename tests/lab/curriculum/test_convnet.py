"""The convolutional embedding against the same blocks written down plainly."""

import copy

import pytest
import torch
import torch.nn.functional as F

from firstsight.errors import InputError
from firstsight.lab.curriculum.convnet import ConvNet, Network


def images(count: int, size: int = 28) -> torch.Tensor:
    return torch.randint(0, 256, (count, size, size), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def blocks(net: ConvNet, x: torch.Tensor, training: bool) -> torch.Tensor:
    """Convolution, batch norm, ReLU and pooling in the usual order, in double precision."""
    x = x[:, None].double() / 255
    for convolution, norm in zip(net.convolutions, net.norms, strict=True):
        x = F.conv2d(x, convolution.weight.double(), padding=1)
        mean, var = norm.running_mean.double(), norm.running_var.double()
        if training:
            mean, var = x.mean((0, 2, 3)), x.var((0, 2, 3), unbiased=False)
        x = (x - mean[:, None, None]) / torch.sqrt(var[:, None, None] + norm.eps)
        x = x * norm.weight.double()[:, None, None] + norm.bias.double()[:, None, None]
        x = F.max_pool2d(F.relu(x), 2)
    return x.flatten(1)


def trained(size: int = 28, **settings) -> ConvNet:
    """With statistics and scales that are no longer those of the start."""
    torch.manual_seed(0)
    net = ConvNet(size, Network(**({"channels": 8, "dropout": 0.0} | settings)))
    with torch.no_grad():
        for norm in net.norms:
            norm.weight.uniform_(0.5, 1.5)
            norm.bias.uniform_(-0.5, 0.5)
        for _ in range(3):
            net(images(20, size))
    return net


@pytest.mark.parametrize("size", [16, 28, 37])
@pytest.mark.parametrize("training", [True, False])
def test_it_is_the_four_usual_blocks(size, training):
    net = trained(size).train(training)
    expected = blocks(net, images(6, size), training)
    assert torch.allclose(net(images(6, size)).double(), expected, atol=1e-4)


@pytest.mark.parametrize(("size", "width"), [(28, 64), (16, 64), (32, 256), (105, 2304)])
def test_widths(size, width):
    net = ConvNet(size)
    assert net.out_features == width
    assert net(images(2, size)).shape == (2, width)


def test_the_usual_network_has_the_usual_number_of_parameters():
    assert sum(p.numel() for p in ConvNet().parameters()) == 9 * 64 + 3 * 9 * 64 * 64 + 4 * 2 * 64


def test_evaluation_is_the_same_without_gradient():
    net = trained().eval()
    with torch.no_grad():
        found = net(images(6))
    assert torch.allclose(found, net(images(6)), atol=1e-5)
    assert found.norm() > 1


def test_the_last_activation():
    x = images(6)
    relu, tanh, none = (trained(activation=name).eval()(x) for name in ("relu", "tanh", "none"))
    assert (none < 0).any()
    assert torch.equal(relu, none.clamp(min=0))
    assert torch.equal(tanh, none.tanh())


def test_unit_and_scale():
    x, plain = images(6), trained().eval()(images(6))
    assert torch.allclose(trained(scale=3.0).eval()(x), 3 * plain)
    assert torch.allclose(trained(unit=True, scale=3.0).eval()(x), 3 * plain / plain.norm(dim=1, keepdim=True))
    assert torch.isfinite(trained(unit=True).eval()(torch.zeros_like(x))).all()


def test_dropout_is_on_the_heads_input_in_training_only():
    net = trained(dropout=0.2)
    plain = copy.deepcopy(net)
    plain.dropout.p = 0.0
    found, whole = net(images(200)), plain(images(200))
    kept = found != 0
    assert torch.allclose(found[kept], whole[kept] / 0.8)
    assert kept.sum() / (whole != 0).sum() == pytest.approx(0.8, abs=0.02)
    assert torch.equal(net.eval()(images(3)), plain.eval()(images(3)))


@pytest.mark.parametrize("size", [28, 29])
def test_images_that_do_not_fit(size):
    with pytest.raises(InputError, match=r"the images are \[2, 30, 30\] torch\.uint8; expected"):
        ConvNet(size)(images(2, 30))
    with pytest.raises(InputError, match=r"torch\.float32; expected .* torch\.uint8"):
        ConvNet(size)(images(2, size).float())


def test_images_too_small():
    with pytest.raises(InputError, match="15 x 15; expected 16 x 16 or more"):
        ConvNet(15)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"channels": 0}, "channels is 0; expected 1 or more"),
        ({"dropout": 1.0}, r"dropout is 1.0; expected in \[0, 1\)"),
        ({"scale": 0.0}, "scale is 0.0; expected above 0"),
        ({"norm_momentum": 0.0}, r"norm_momentum is 0.0; expected in \(0, 1\]"),
        ({"activation": "gelu"}, "activation is 'gelu'; expected one of relu, tanh, none"),
        ({"unit": 1}, "unit is 1; expected true or false"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(InputError, match=message):
        Network(**settings)
