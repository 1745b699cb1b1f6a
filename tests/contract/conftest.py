"""Fixtures of the battery: every head in turn, from one seed."""

import pytest
import torch
from contract_heads import FLAT, HEADS, MORE, RULED


@pytest.fixture(params=HEADS | MORE)
def make(request):
    """A head class."""
    return (HEADS | MORE)[request.param]


@pytest.fixture(params=FLAT)
def flat(request):
    """A head class whose rows are one matrix."""
    return FLAT[request.param]


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture(params=RULED)
def hebbian(request):
    """A head class that writes, of every rule."""
    return RULED[request.param]
