"""Imports go down only, in no circle, and private names stay in their folder: the floor plan, read from the code."""

from pathlib import Path

import layers
import pytest

ROOT = Path(__file__).resolve().parent.parent / "src" / layers.PACKAGE
# From the ground up. Rooms of one floor do not import each other.
FLOORS = [
    ["errors", "_version"],
    ["functional"],
    ["heads", "memory"],
    ["huggingface", "fitting", "scaling", "serving"],
    ["estimator"],
    ["lab.system"],
    ["lab.data"],
    ["lab.runs"],
    ["lab.lm", "lab.curriculum"],
    ["lab.reading", "lab.studies", "lab.classify"],
    ["lab.report"],
    ["lab.cli"],
]
LAYERS = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
LIBRARY = ("errors", "_version", "functional", "heads", "memory", "fitting", "scaling", "serving")


@pytest.fixture(scope="module")
def modules():
    return layers.read_modules(ROOT)


def of_library(module: str) -> bool:
    return module == "" or module.split(".")[0] in LIBRARY


def test_imports_go_down_only(modules):
    assert layers.upward(modules, LAYERS, LAYERS) == set()


def test_no_circles(modules):
    assert layers.circles(modules) == []


def test_private_names_stay_in_their_folder(modules):
    assert layers.private(modules) == set()


def test_the_library_imports_torch_and_numpy_alone_and_nothing_of_the_lab(modules):
    allowed = {"torch", "numpy", *layers.STANDARD}
    outside = {(source, name) for source, name in layers.third_party(modules) if of_library(source)}
    assert {source for source, name in outside if name == "faiss"} == {"memory.datastore.index"}, "when it is asked for"
    outside -= {("memory.datastore.index", "faiss")}
    assert {name for _, name in outside} <= allowed
    assert not [one for one in layers.imports(modules) if of_library(one.source) and one.target.startswith("lab")]


def test_only_the_commands_and_their_entry_draw(modules):
    drawing = {one.source for one in layers.imports(modules) if f"{one.target}.".startswith("lab.report.")}
    assert {".".join(source.split(".")[:2]) for source in drawing} == {"lab.cli", "lab.report"}
    assert {one.target for one in layers.imports(modules) if one.source == "__main__"} == {"lab.cli"}


def test_the_rooms_are_small(modules):
    """Few files a folder, no long file: what is cut is cut by concept."""
    for folder in {path.parent for path in ROOT.rglob("*.py")}:
        files = [path for path in folder.iterdir() if path.is_file()]
        assert len(files) <= {ROOT: 9, ROOT / "lab/data": 18}.get(folder, 14), folder
    assert not {name: n for name, text in modules.items() if (n := text.count("\n")) > 300}


# A house of two floors, and what must not be added to it.
SOUND = {
    "": "from firstsight.low.one import a",
    "low": "",
    "low.one": "import torch\n_hidden = 1\nclass A:\n    def __init__(self): self._own = 2",
    "low.two": "from firstsight.low.one import _hidden",
    "high": "",
    "high.three": "from firstsight.low import one\ndef f(a): return a.public, one.x",
}
TWO_FLOORS = {"low": 0, "high": 1}


def test_a_sound_house_passes():
    assert layers.upward(SOUND, TWO_FLOORS, TWO_FLOORS) == set()
    assert layers.circles(SOUND) == []
    assert layers.private(SOUND) == set()


@pytest.mark.parametrize(
    "planted",
    [
        "from firstsight.high.three import f",
        "from firstsight.high import three",
        "import firstsight.high.three",
        "def f():\n    from firstsight.high.three import f",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from firstsight.high.three import f",
    ],
)
def test_a_planted_upward_import_is_found(planted):
    modules = {**SOUND, "low.planted": planted}
    assert [found.split(" -> ")[0] for found in layers.upward(modules, TWO_FLOORS, TWO_FLOORS)] == ["low.planted"]


def test_a_planted_import_of_a_neighbour_is_found():
    modules = {**SOUND, "beside": "", "beside.four": "from firstsight.high.three import f"}
    floors = {**TWO_FLOORS, "beside": 1}
    assert layers.upward(modules, floors, floors) == {"beside.four -> high.three"}


def test_a_room_on_no_floor_is_named():
    with pytest.raises(KeyError, match="attic stands on no layer"):
        layers.upward({**SOUND, "attic": "import firstsight.low.one"}, TWO_FLOORS, TWO_FLOORS)


def test_a_planted_circle_is_found():
    modules = {**SOUND, "low.one": "from firstsight.low.four import x", "low.four": "import firstsight.low.two"}
    assert layers.circles(modules) == [["low.four", "low.one", "low.two"]]


@pytest.mark.parametrize(
    ("planted", "name"),
    [
        ("from firstsight.low.one import _hidden", "high.planted: low.one._hidden"),
        ("from firstsight.low import one\nprint(one._hidden)", "high.planted: ._hidden"),
        ("def f(a):\n    return a._own", "high.planted: ._own"),
    ],
)
def test_a_planted_private_import_is_found(planted, name):
    assert layers.private({**SOUND, "high.planted": planted}) == {name}


def test_a_planted_private_module_is_found():
    modules = {**SOUND, "low._inner": "x = 1", "high.planted": "from firstsight.low._inner import x"}
    assert layers.private(modules) == {"high.planted: low._inner.x"}
