"""Imports go down only, in no circle, and private names stay in their folder.

``EXCEPTIONS`` lists what breaks this today. It only gets shorter.
"""

from pathlib import Path

import layers
import pytest

ROOT = Path(__file__).resolve().parent.parent / "src" / layers.PACKAGE
FLOORS = [
    ["errors", "_version", "functional"],
    ["heads", "memory"],
    ["lab.system"],
    ["lab.data"],
    ["lab.runs"],
    ["lab.lm", "lab.curriculum"],
    ["lab.reading", "lab.studies"],
    ["lab.report"],
    ["lab.cli"],
]
LAYERS = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
EXCEPTIONS: set[str] = set()
CIRCLES: list[list[str]] = []
PRIVATE: set[str] = set()


@pytest.fixture(scope="module")
def modules():
    return layers.read_modules(ROOT)


def test_imports_go_down_only(modules):
    assert layers.upward(modules, LAYERS, LAYERS) == EXCEPTIONS


def test_no_circles(modules):
    assert layers.circles(modules) == CIRCLES


def test_private_names_stay_in_their_folder(modules):
    assert layers.private(modules) == PRIVATE
