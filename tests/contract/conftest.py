"""Fixtures of the battery: every head in turn, from one seed."""

import pytest
import torch
from contract_heads import HEADS


@pytest.fixture(params=HEADS)
def make(request):
    """A head class."""
    return HEADS[request.param]


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)
