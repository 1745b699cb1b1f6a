"""Fixtures of the battery: every head in turn, on one thread."""

import pytest
import torch
from contract_heads import HEADS


@pytest.fixture(params=HEADS)
def make(request):
    """A head class."""
    return HEADS[request.param]


@pytest.fixture(autouse=True)
def _one_thread():
    """Two threads on small tensors mostly wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(before)
