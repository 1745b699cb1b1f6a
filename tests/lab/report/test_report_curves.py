"""Tables and plot of learning curves, from made-up objects such as a figure's JSON holds."""

import statistics

import pytest

from firstsight.lab.report.figures.draw import curve_plot, unfinished
from firstsight.lab.report.figures.models import band_rows, model_rows, runs_by_data
from firstsight.lab.report.figures.tables import end_rows

TOKENS = [100, 200, 300, 400]
PLAIN = {"0": [90.0, 80.0, 70.0, 60.0], "1": [92.0, 79.0, 71.0, 61.0]}
OURS = {"0": [81.0, 76.0, 69.0, 60.0], "1": [83.0, 75.0, 68.0, 62.0]}
FAR = {"0": [9e6, 9e4, 9e3, 1200.0], "1": [8e6, 8e4, 8e3, 1300.0]}


def make_line(name, variant, seeds, tests=None, state="done", head="hebbian"):
    columns = list(zip(*seeds.values(), strict=True))
    curve = {"tokens": TOKENS, "mean": [statistics.fmean(column) for column in columns], "seeds": seeds}
    curve |= {"low": [min(column) for column in columns], "high": [max(column) for column in columns]}
    runs = {
        seed: {
            "state": state,
            "tokens": 400,
            "seconds": 60.0,
            "perplexity": values[-1],
            "test": (tests or {}).get(seed),
        }
        for seed, values in seeds.items()
    }
    settings = {"head": head, "hidden": 8}
    return {"name": name, "variant": variant, "settings": settings, "runs": runs, "curve": curve, "classes": None}


def make_test(perplexity, **memories):
    bands = [
        {"name": ">10K", "tokens": 9, "perplexity": perplexity / 2},
        {"name": "unseen", "tokens": 0, "perplexity": None},
    ]
    named = {name.replace("_", "+ "): value for name, value in memories.items()}
    return {"split": "test", "perplexity": perplexity, "bands": bands, "memories": named}


def make_found(*lines, more=(), **runs):
    panels = [{"title": "all", "lines": list(lines)}, *([{"title": "few", "lines": list(more)}] if more else [])]
    data = {"name": "song", "corpus": "text", "tokens": {}, "classes": 50, "a_pass": 150}
    counted = {"done": 2 * len(lines), "diverged": 0, "under way": 0, "waiting": 0, **runs}
    about = {"title": "F", "seeds": 2, "measure": "valid", "second_axis": False, "wall_time": None}
    return {**about, "data": data, "tokens": 400, "runs": counted, "panels": panels, "core_seconds": 1.0}


def softmax(**tests):
    return make_line("softmax", "softmax", PLAIN, tests, head="softmax")


def test_differences_are_paired_by_seed_at_each_quarter():
    head, *rows = end_rows(make_found(softmax(), make_line("ours", "sight", OURS)))
    assert head == ["", "runs", "at the end", *(f"to softmax, {at}" for at in ("1/4", "1/2", "3/4", "the end"))]
    assert rows[0] == ["softmax", "2", "60.5 ± 0.7", *["–"] * 4]
    for at, cell in enumerate(rows[1][3:]):
        each = [100 * (OURS[seed][at] / PLAIN[seed][at] - 1) for seed in PLAIN]
        expected = f"{statistics.fmean(each):+.2f}% ± {statistics.stdev(each):.2f}"
        assert cell == expected.replace("-", "−")


def test_a_second_panel_is_held_against_the_first_too():
    found = make_found(softmax(), more=[make_line("softmax", "softmax-few", OURS), make_line("odd", "odd", OURS)])
    head, *rows = end_rows(found)
    assert head[-1] == "to all"
    assert [row[0] for row in rows] == ["all, softmax", "few, softmax", "few, odd"]
    each = [100 * (OURS[seed][-1] / PLAIN[seed][-1] - 1) for seed in PLAIN]
    assert [row[-1] for row in rows] == ["–", f"{statistics.fmean(each):+.2f}% ± {statistics.stdev(each):.2f}", "–"]


def test_what_is_far_off_is_told_in_times():
    *_, row = end_rows(make_found(softmax(), make_line("far", "paper", FAR)))
    assert row[3] == f"{statistics.fmean(FAR[seed][0] / PLAIN[seed][0] for seed in PLAIN):,.0f} times"
    assert row[6].endswith("%") or row[6].endswith("times")


def test_runs_under_way_are_drawn_and_told_so_far():
    ours = make_line("ours", "sight", {seed: values[:2] for seed, values in OURS.items()}, state="under way")
    ours["curve"]["tokens"] = TOKENS[:2]
    found = make_found(softmax(), ours, done=2, **{"under way": 2})
    *_, row = end_rows(found)
    assert row[1:3] == ["0 of 2, 2 under way", "75.5 ± 0.7 so far"]
    assert row[3].startswith("\N{MINUS SIGN}9.8")
    assert row[4].startswith("\N{MINUS SIGN}5.0")
    assert row[5:] == ["–"] * 2  # not reached yet
    assert unfinished(found) == "drawn from 2 of 4 runs, 2 under way"
    svg = curve_plot(found, "f").svg()
    assert "drawn from 2 of 4 runs, 2 under way" in svg
    assert "ours (0 of 2 runs)" in svg


def test_a_diverged_run_is_said_in_the_legend_and_makes_the_figure_whole():
    line = make_line("ours", "sight", {"0": OURS["0"]})
    line["runs"]["1"] = {"state": "diverged", "tokens": 0, "seconds": 1.0, "perplexity": None, "test": None}
    found = make_found(softmax(), line, done=3, diverged=1)
    assert unfinished(found) == ""
    assert end_rows(found)[2][1] == "1 of 2, 1 diverged"
    assert "ours (1 diverged)" in curve_plot(found, "f").svg()


def test_a_line_that_begins_at_millions_does_not_press_the_others_together():
    plot = curve_plot(make_found(softmax(), make_line("far", "paper", FAR)), "f")
    low, high = plot.figure.axes[0].get_ylim()
    assert low < 60
    assert 1300 < high < 2000
    assert "what lies above the axis is not shown" in plot.caption
    assert "logarithmic" in plot.caption
    assert "not shown" not in curve_plot(make_found(softmax()), "f").caption


def test_nothing_to_draw():
    found = make_found(softmax() | {"curve": None})
    assert curve_plot(found, "f") is None


def test_the_table_of_models_has_the_papers_numbers_beside_ours():
    tests = {"0": make_test(50.0, _cache=40.0), "1": make_test(52.0, _cache=42.0)}
    few = make_found(softmax(**{"0": make_test(99.0)}))
    found = make_found(softmax(**tests), make_line("paper", "paper", FAR, {"0": make_test(70.0)}))
    by_data = runs_by_data([few, found])
    assert list(by_data) == ["song"]
    head, *rows = model_rows(by_data["song"])
    assert head == ["", "valid, at the end", "test, one stream", "the paper: valid", "the paper: test"]
    table = {row[0]: row[1:] for row in rows}
    assert table["softmax"] == ["60.5 ± 0.7", "51.0 ± 1.4", "36.0", "36.4"]  # of the figure with more runs
    assert table["softmax + cache"] == ["–", "41.0 ± 1.4", "–", "–"]
    assert table["Hebbian, the paper's rule"] == ["1,250.0 ± 70.7", "70.0", "34.1", "34.3"]
    assert table["Hebbian, the paper's rule + cache + MbPA"] == ["–", "–", "29.0", "29.2"]
    assert table["Hebbian, rule sight (ours)"] == ["–"] * 4
    head, *rows = band_rows(by_data["song"])
    assert head == ["", ">10K"]
    assert rows[0] == ["softmax", "25.5 ± 0.7"]


def test_no_tables_without_an_evaluation():
    assert runs_by_data([make_found(softmax())]) == {}


@pytest.mark.parametrize("share", [1.0, 0.5])
def test_the_mark_of_the_first_pass(share):
    found = make_found(softmax())
    classes = {"T": 100, "tokens": TOKENS, "seen": [0.5, 1, 1, 1], "past_T": [0, 0, 0.1, 0.2]}
    found["panels"][0]["lines"][0]["classes"] = classes
    found |= {"second_axis": True, "tokens": int(200 * share)}
    assert ("all classes seen" in curve_plot(found, "f").svg()) == (share == 1.0)
