"""A trained model leaves: exported, as ONNX, quantised; the last by way of an ordinary linear layer."""

import numpy as np
import pytest
import torch
from torch import nn

from firstsight import HebbianSoftmax


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), HebbianSoftmax(16, 30))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model[2].attach(optimizer)
    for _ in range(3):
        optimizer.zero_grad()
        model[2].loss(model[:2](torch.randn(20, 8)), torch.randint(30, (20,))).backward()
        optimizer.step()
    return model.eval()


@pytest.fixture(scope="module")
def x():
    return torch.randn(5, 8, generator=torch.Generator().manual_seed(1))


def served(model):
    """As docs/adopt.md says: for serving, and before quantising, the head becomes an ``nn.Linear``."""
    return nn.Sequential(*model[:2], model[2].to_linear())


def test_torch_export(model, x):
    program = torch.export.export(model, (x,))
    torch.testing.assert_close(program.module()(x), model(x))
    assert not [name for name, _ in torch.export.export(served(model), (x,)).named_buffers()]


@pytest.mark.filterwarnings("ignore")
def test_onnx(model, x, tmp_path):
    from onnx.reference import ReferenceEvaluator

    torch.onnx.export(model, (x,), tmp_path / "model.onnx", dynamo=True, verbose=False)
    evaluator = ReferenceEvaluator(str(tmp_path / "model.onnx"))
    (logits,) = evaluator.run(None, {evaluator.input_names[0]: x.numpy()})
    np.testing.assert_allclose(logits, model(x).detach().numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore")
def test_quantize_dynamic(model, x):
    from torch.ao.quantization import quantize_dynamic

    small = quantize_dynamic(served(model), {nn.Linear})
    assert "quantized" in type(small[2]).__module__
    assert (small(x) - model(x)).abs().max() < 0.05 * model(x).abs().max()


@pytest.mark.filterwarnings("ignore")
def test_torchao(model, x):
    from torchao.quantization import Int8WeightOnlyConfig, quantize_

    small = served(model)
    quantize_(small, Int8WeightOnlyConfig())
    assert type(small[2].weight) is not nn.Parameter
    assert (small(x) - model(x)).abs().max() < 0.05 * model(x).abs().max()
    assert type(model[2].weight) is nn.Parameter, "the head itself is as it was, and goes on learning"
