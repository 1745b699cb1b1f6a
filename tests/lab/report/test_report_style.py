"""All figures can be read in a column of 690 pixels, a method has one colour in all of them, and legends are words."""

import re
import sys
from pathlib import Path

import matplotlib
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text
from trial_fakes import fake_trial

from firstsight.lab.report.study import in_words
from firstsight.lab.report.style import METHODS, SERIES, STYLE, lines_of, method_of
from firstsight.lab.report.trial.plots import trial_plots

ROOT = Path(__file__).resolve().parents[3]
COLUMN, HIGH = 690, 11  # pixels


@pytest.fixture(scope="module")
def shown():
    """The pictures of the docs, from the committed results, and a trial's, all drawn."""
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        from pictures import pictures

        found = {plot.name: plot for plot in (*pictures(), *trial_plots(fake_trial()))}
    finally:
        sys.path.remove(str(ROOT / "benchmarks"))
    for plot in found.values():
        with matplotlib.rc_context(STYLE):
            FigureCanvasAgg(plot.figure).draw()
    return found


def test_all_text_is_high_enough(shown):
    for name, plot in shown.items():
        for text in plot.figure.findobj(Text):
            if text.get_text() and text.get_visible():
                high = text.get_fontsize() / 72 * COLUMN / plot.figure.get_figwidth()
                assert high >= HIGH, (name, text.get_text(), high)


def test_nothing_is_cut_off(shown):
    for name, plot in shown.items():
        box, width = plot.figure.get_tightbbox(), plot.figure.get_figwidth()
        assert -0.02 < box.x0 < box.x1 < width + 0.02, (name, box)


def test_every_picture_of_the_docs_is_drawn_or_said_to_be_made_elsewhere(shown):
    committed = {path.stem for path in (ROOT / "docs/img").glob("*.png")}
    curves = {f"figure-{number}" for number in (5, 7, 8, 9)}  # by firstsight figure
    assert committed - set(shown) == {"tilt", "convergence-rare"} | curves


def colors_of(legend):
    return {
        text.get_text(): handle.get_color()
        for text, handle in zip(legend.get_texts(), legend.legend_handles, strict=True)
    }


def test_a_method_has_one_colour_in_all_figures(shown):
    front, tenth = (colors_of(shown[name].figure.legends[0]) for name in ("first-sight", "figure-10"))
    study = colors_of(next(axes for axes in shown["study-wikitext-2"].figure.axes if axes.get_legend()).get_legend())
    curves = colors_of(shown["curves"].figure.axes[0].get_legend())
    every = [item for found in (front, tenth, study, curves) for item in found.items()]
    words = {"ours": r"firstsight:|\(ours\)|default rule|HebbianSoftmax(?!, rule)", "softmax": "^(linear )?softmax"}
    for method, of in words.items():
        found = [color for name, color in every if re.search(of, name)]
        assert len(found) >= 3
        assert set(found) == {METHODS[method]}
    assert tenth["Hebbian, the paper's rule"] == study["the paper's rule"] == METHODS["paper"]


def test_methods_are_known_by_their_settings():
    assert method_of({"head": "softmax", "rule": "sight"}) == "softmax"
    assert method_of({"head": "hebbian"}) == method_of({"head": "hebbian", "rule": "centered"}) == "ours"
    assert method_of({"head": "hebbian", "rule": "paper"}) == "paper"
    assert method_of({"head": "hebbian", "rule": "relative"}) == "relative"


def test_lines_have_their_methods_colours_and_differ():
    lines = lines_of({"a": "relative", "b": "softmax", "c": "ours", "d": "softmax", "e": "direction"})
    assert [lines[name].color for name in "bcd"] == [METHODS[method] for method in ("softmax", "ours", "softmax")]
    assert len({(line.color, str(line.dashes)) for line in lines.values()}) == 5
    assert len({(line.color, line.fade) for line in lines.values()}) == 5
    assert not {lines["a"].color, lines["e"].color} & {METHODS[method] for method in ("softmax", "ours")}
    assert [line.color for line in lines_of(dict.fromkeys("abcd", "softmax")).values()] == [*SERIES[:4]]
    assert lines_of({"only": "softmax"})["only"].color == METHODS["softmax"]
    many = lines_of([str(i) for i in range(20)])
    assert len({(line.color, str(line.dashes)) for line in many.values()}) == 20


def test_variants_are_told_in_words():
    softmax, ours = {"head": "softmax"}, {"head": "hebbian", "rule": "centered", "T": 100}
    paper = {"head": "hebbian", "rule": "paper", "T": 500}
    assert in_words({"sm": softmax, "c": ours, "p": paper}) == {
        "sm": "softmax",
        "c": "the default rule",
        "p": "the paper's rule",
    }
    assert in_words({"sm-lr4": {**softmax, "lr": 0.004}, "sm": {**softmax, "lr": 0.002}}) == {
        "sm-lr4": "softmax, lr 0.004",
        "sm": "softmax, lr 0.002",
    }
    assert in_words({"a": ours, "b": {**ours, "T": 800}, "c": {"head": "hebbian", "rule": "relative", "T": 5}}) == {
        "a": "the default rule, T 100",
        "b": "the default rule, T 800",
        "c": "rule relative, T 5",
    }
    assert in_words({"a": ours, "b": ours}) == {"a": "a", "b": "b"}
