"""Fixtures of the battery: every head in turn, from one seed."""

import pytest
import torch
from contract_heads import HEADS, MORE


@pytest.fixture(params=HEADS | MORE)
def make(request):
    """A head class."""
    return (HEADS | MORE)[request.param]


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)
