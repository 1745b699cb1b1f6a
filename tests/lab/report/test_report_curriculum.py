"""Figures of curricula: what is drawn is what the object holds, within the axes."""

import json

import matplotlib.image
import numpy as np
import pytest
from curriculum_fakes import learner, made_up, oldest

from firstsight.lab.curriculum import Curriculum
from firstsight.lab.curriculum.summary import Panel, summarise
from firstsight.lab.report.curriculum import curriculum_plots
from firstsight.lab.report.style import lines_of

STEPS = 500
SETTINGS = Curriculum(max_steps=STEPS)
PACES = {"slow": 9, "fast": 3, "middle": 5}


def found_of(seeds=(0, 1, 2, 3), panels=None, **others):
    """The object of made-up runs, as it comes back from its file; ``others`` replace runs of a variant."""
    results = {name: {seed: learner(seed, pace) for seed in seeds} for name, pace in PACES.items()} | others
    panels = panels or [
        Panel("one", {"A": "slow", "B": "fast"}, "upper"),
        Panel("two", {"A": "slow", "C": "middle"}, "upper"),
        Panel("three", {"B": "fast"}, "lower"),
    ]
    found = summarise(panels, dict.fromkeys(results, SETTINGS), results, title="Figure")
    return json.loads(json.dumps(found, allow_nan=False))


def panels_of(plot):
    """The axes that are seen, by title."""
    return {axes.get_title(loc="left"): axes for axes in plot.figure.axes if axes.get_visible()}


def edges(axes):
    """Of each filled band, from left to right: x, its lower edge and its upper edge."""
    found = []
    for filled in axes.collections:
        points = np.concatenate([path.vertices for path in filled.get_paths()])
        xs = np.unique(points[:, 0])
        low, high = ([ends(points[points[:, 0] == x, 1]) for x in xs] for ends in (np.min, np.max))
        found.append((xs, np.array(low), np.array(high)))
    return found


def expected(x, band):
    """Places, means and deviations of what a band has: None is no place, or a deviation of nothing."""
    rows = [(at, m, s or 0) for at, m, s in zip(x, band["mean"], band["deviation"], strict=True) if m is not None]
    return (np.array(column, dtype=float) for column in zip(*rows, strict=True))


def assert_drawn(line, edge, x, band):
    at, mean, deviation = expected(x, band)
    np.testing.assert_array_equal(line.get_xdata(), at)
    np.testing.assert_array_equal(line.get_ydata(), mean)
    np.testing.assert_array_equal(edge[0], at)
    np.testing.assert_allclose(edge[1], mean - 2 * deviation, atol=1e-9)
    np.testing.assert_allclose(edge[2], mean + 2 * deviation, atol=1e-9)


def test_three_figures_are_made_and_saved(tmp_path):
    plots = curriculum_plots(found_of(), "figure-10")
    assert [plot.name for plot in plots] == ["figure-10", "figure-10-new-classes", "figure-10-oldest"]
    for plot in plots:
        assert list(panels_of(plot)) == ["upper:\none", "upper:\ntwo", "lower:\nthree"]
        path = plot.save(tmp_path)
        assert path == tmp_path / f"{plot.name}.png"
        pixels = matplotlib.image.imread(path)
        assert pixels.shape[0] > 400
        assert pixels[..., :3].std() > 0.01  # not an empty page
        assert "diverged" not in plot.caption


@pytest.mark.parametrize("seeds", [(0, 1, 2, 3), (5,)])
def test_means_and_bands_are_those_of_the_object(seeds):
    found = found_of(seeds)
    assert (found["panels"][0]["lines"][0]["classes"]["deviation"][-1] is None) == (len(seeds) == 1)
    classes, new, old = (panels_of(plot) for plot in curriculum_plots(found, "f"))
    for panel in found["panels"]:
        title = f"{panel['row']}:\n{panel['title']}"
        assert len(classes[title].lines) == len(new[title].lines) == len(panel["lines"])
        assert len(old[title].lines) == 2 * len(panel["lines"])
        for at, line in enumerate(panel["lines"]):
            drawn, edge = classes[title].lines[at], edges(classes[title])[at]
            assert_drawn(drawn, edge, range(0, STEPS + 1, 4), line["classes"])
            assert_drawn(new[title].lines[at], edges(new[title])[at], range(5), line["new_classes"])
            solid, dotted = old[title].lines[2 * at : 2 * at + 2]
            assert_drawn(solid, edges(old[title])[at], range(4), line["oldest"])
            _, mean, _ = expected(range(4), line["oldest_among_themselves"])
            np.testing.assert_array_equal(dotted.get_ydata(), mean)


def test_a_line_looks_the_same_in_every_panel_and_figure():
    found = found_of()
    looks = lines_of(["A", "B", "C"])  # all are of one method
    for plot in curriculum_plots(found, "f"):
        axes = panels_of(plot)
        for panel in found["panels"]:
            all_drawn = axes[f"{panel['row']}:\n{panel['title']}"].lines
            per_line = len(all_drawn) // len(panel["lines"])
            for at, line in enumerate(panel["lines"]):
                drawn = all_drawn[per_line * at : per_line * (at + 1)]
                assert {one.get_color() for one in drawn} == {looks[line["name"]].color}
        (legend,) = plot.figure.legends
        assert [text.get_text() for text in legend.get_texts()] == ["A", "B", "C"]
        assert [handle.get_color() for handle in legend.legend_handles] == [look.color for look in looks.values()]


def test_all_bands_of_classes_are_within_the_axes():
    found = found_of()
    plot = curriculum_plots(found, "f")[0]
    highest = max(edge[2].max() for axes in panels_of(plot).values() for edge in edges(axes))
    for axes in panels_of(plot).values():
        low, high = axes.get_ylim()
        assert low <= min(edge[1].min() for edge in edges(axes))
        assert highest <= high < 1.2 * highest
        assert axes.get_xlim() == (0, STEPS)
    shares = [axes for plot in curriculum_plots(found, "f")[1:] for axes in panels_of(plot).values()]
    assert {axes.get_ylim() for axes in shares} == {(0, 1)}


def test_places_are_named_after_what_was_counted():
    _, new, old = curriculum_plots(found_of(), "f")
    for plot, names in ((new, ["1", "2", "5", "10", "20"]), (old, ["30", "100", "200", "400"])):
        axes = panels_of(plot)["lower:\nthree"]
        assert [label.get_text() for label in axes.get_xticklabels()] == names
        assert axes.get_xlim()[0] <= 0 < len(names) - 1 <= axes.get_xlim()[1]


@pytest.mark.parametrize("missing", ["slow", "fast", "middle"])
def test_a_line_without_a_finished_run_is_left_out(missing):
    found = found_of(**{missing: {}})
    for plot in curriculum_plots(found, "f"):
        axes, parts = panels_of(plot), 2 if plot.name == "f-oldest" else 1
        for panel in found["panels"]:
            left = [line["name"] for line in panel["lines"] if line["variant"] != missing]
            title = f"{panel['row']}:\n{panel['title']}"
            assert (title in axes) == bool(left)
            if left:
                assert len(axes[title].lines) == parts * len(left)
                assert len(axes[title].collections) == len(left)


def test_nothing_to_draw_is_no_figure():
    assert curriculum_plots(found_of(seeds=()), "f") == []
    stuck = {0: made_up([]), 1: made_up([])}  # never an addition: no new classes, and no look at the oldest
    found = found_of(slow=stuck, fast=stuck, middle=stuck)
    (plot,) = curriculum_plots(found, "f")
    assert plot.name == "f"
    assert [set(axes.lines[0].get_ydata()) for axes in panels_of(plot).values()] == [{30.0}] * 3


def test_places_that_no_run_has_are_left_out():
    few = {0: made_up([oldest(30, 0.9), oldest(105, 0.5, 0.75)]), 1: made_up([oldest(30, 0.7)])}
    found = found_of(panels=[Panel("alone", {"A": "few"})], few=few)
    (axes,) = panels_of(curriculum_plots(found, "f")[-1]).values()
    assert axes.get_title(loc="left") == "alone"
    solid, dotted = axes.lines
    np.testing.assert_allclose(solid.get_xydata(), [(0, 0.8), (1, 0.5)])
    np.testing.assert_allclose(dotted.get_xydata(), [(0, 0.9), (1, 0.75)])
    ((_, low, high),) = edges(axes)
    deviation = np.std([0.9, 0.7], ddof=1)
    np.testing.assert_allclose(high - low, [4 * deviation, 0], atol=1e-4)


def test_the_caption_says_where_a_run_diverged():
    found = found_of(fast={0: learner(0, 3, reason="diverged"), 1: learner(1, 3)})
    plot, *others = curriculum_plots(found, "f")
    assert "A run that diverged keeps the classes it had." in plot.caption
    assert not any("diverged" in other.caption for other in others)
    assert all("two sample standard deviations" in one.caption for one in (plot, *others))


def test_one_line_alone_needs_no_legend():
    found = found_of(panels=[Panel("alone", {"A": "slow"})])
    assert [plot.figure.legends for plot in curriculum_plots(found, "f")] == [[], [], []]
