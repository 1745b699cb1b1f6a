"""The bar in a Jupyter kernel, which has no terminal: one line that changes, no flood and no escape characters."""

import io
import sys
import types

import pytest

from firstsight.lab.system import progress


class Shown:
    """What the cell of a notebook would show: each display, and what was put in its place."""

    def __init__(self):
        self.displays: list[list[str]] = []

    def display(self, data, *, raw, display_id):
        assert raw
        assert display_id is True
        texts = [data["text/plain"]]
        self.displays.append(texts)
        return types.SimpleNamespace(update=lambda data, raw: texts.append(data["text/plain"]))


@pytest.fixture
def kernel(monkeypatch):
    """A fake IPython and a console that knows it is in a kernel, as rich finds out by itself there."""
    shown = Shown()
    module = types.ModuleType("IPython.display")
    module.display = shown.display
    monkeypatch.setitem(sys.modules, "IPython.display", module)
    monkeypatch.setattr(progress.console, "is_jupyter", True)
    monkeypatch.setattr(progress.console, "_file", io.StringIO())
    monkeypatch.setattr(progress.time, "monotonic", lambda: shown.now)
    shown.now = 100.0
    return shown


def test_one_line_that_changes(kernel):
    with progress.Bar("train run", 1000, every=0.0) as bar:
        for step in range(1, 1001):
            kernel.now += 0.01
            bar.update(step, f"loss {step}")
    (texts,) = kernel.displays
    assert texts[0] == f"train run {'░' * 24} 0/1,000"
    assert texts[-1] == f"train run {'█' * 24} 1,000/1,000  loss 1000"
    assert 40 < len(texts) < 60, "five times a second, of ten seconds"
    assert f"{'█' * 12}{'░' * 12}" in texts[len(texts) // 2]
    assert "5 s left" in texts[len(texts) // 2]
    assert not any("\x1b" in text or "\r" in text or "\n" in text for text in texts)
    assert progress.console.file.getvalue() == ""


def test_the_last_numbers_are_shown_even_where_the_work_ends_early(kernel):
    with progress.Bar("read", 100) as bar:
        bar.update(1, "first")
        bar.update(2, "second")  # too soon after the first
    assert kernel.displays[0][-1].endswith("2/100  0 s left  second")


def test_of_an_unknown_total_how_many(kernel):
    with progress.Bar("count", None) as bar:
        bar.update(7)
    assert kernel.displays == [["count 0", "count 7"]]


def test_elsewhere_nothing_of_a_notebook_is_asked_for(monkeypatch):
    monkeypatch.setitem(sys.modules, "IPython.display", None)  # so that an import of it fails
    with progress.Bar("train", 10) as bar:
        bar.update(10)
