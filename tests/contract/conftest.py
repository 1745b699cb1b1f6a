"""Fixtures of the battery: every head in turn, from one seed."""

import pytest
import torch
from contract_heads import HEADS, MORE

from firstsight import Softmax


@pytest.fixture(params=HEADS | MORE)
def make(request):
    """A head class."""
    return (HEADS | MORE)[request.param]


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture
def hebbian(make):
    """A head class that writes."""
    if make is Softmax:
        pytest.skip("has nothing to write")
    return make
