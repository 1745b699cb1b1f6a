"""Imports go down only, in no circle, and private names stay in their folder.

``EXCEPTIONS`` lists what breaks this today. It only gets shorter.
"""

from pathlib import Path

import layers
import pytest

layers.PACKAGE = "engram"
ROOT = Path(__file__).resolve().parent.parent / "src" / layers.PACKAGE
FLOORS = [
    ["errors", "_version", "_tiles", "_cross_entropy", "functional"],
    ["heads", "memory", "adopt"],
    ["files", "progress", "interrupt", "settings", "provenance"],
    ["data", "processes"],
    ["runs", "optimisation", "sampling"],
    ["config", "recipes", "models", "training", "evaluation", "results", "sights", "activations", "curriculum"],
    ["adaptation", "adaptation_tables", "adapted_results", "memory_results", "memory_tuning", "open_vocabulary"]
    + ["sweeps", "passage", "study", "study_job", "study_run"],
    ["report", "figures"],
    ["cli", "cli_adapt", "cli_data", "cli_omniglot", "cli_study", "cli_sweep", "screen", "demo"],
]
LAYERS = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
EXCEPTIONS = {
    *("data.info -> evaluation", "data.info -> report.zipf", "optimisation -> config", "runs -> config"),
    *("runs -> models.lstm", "study -> report.runs", "study -> report.sights", "study_run -> report.study"),
    "sweeps -> report.memory",
}
CIRCLES = [["heads._state", "heads.hebbian"], ["report.study", "report.study_figure"]]
PRIVATE = {
    *("adopt: ._attached", "adopt: ._parts", "adopt: heads._exchange.Group", "heads.hebbian: functional._check_labels"),
    *(f"memory.{module}: _tiles.slices" for module in ("cache", "mbpa", "neighbours", "rows", "store")),
    *(f"memory.{module}: _tiles.kind" for module in ("cache", "mbpa", "neighbours", "rows")),
    *(f"memory.{module}: _tiles.LOG2_E" for module in ("cache", "mbpa", "rows")),
    "memory.cache: _tiles.LN_2",
}


@pytest.fixture(scope="module")
def modules():
    return layers.read_modules(ROOT)


def test_imports_go_down_only(modules):
    assert layers.upward(modules, LAYERS, LAYERS, same_floor=True) == EXCEPTIONS


def test_no_circles(modules):
    assert layers.circles(modules) == CIRCLES


def test_private_names_stay_in_their_folder(modules):
    assert layers.private(modules) == PRIVATE
