import html
import json
import math
import random
import re

import pytest
from report_runs import HEBBIAN, SOFTMAX, make_run

from firstsight.errors import InputError
from firstsight.lab.lm.config import Config
from firstsight.lab.lm.record import load_records
from firstsight.lab.report import write_report
from firstsight.lab.report.plots import make_plots, make_sight_plots
from firstsight.lab.report.sights import compare_sights, format_nats, sight_curve, sight_table

BUCKETS = [0, *(2**i for i in range(11))]


def random_lines(seed):
    """Lines of an odd number of steps each; some lack buckets, some lack sights, some means are missing."""
    noise = random.Random(seed)
    lines, step = [], 0
    for _ in range(37):
        step += noise.randint(1, 50)
        sights = [
            {
                "seen": seen,
                "tokens": noise.randint(1, 5_000),
                "nll": noise.choice([None, math.nan, math.inf]) if noise.random() < 0.05 else noise.uniform(0, 15),
            }
            for seen in BUCKETS
            if noise.random() < 0.7
        ]
        lines.append({"step": step} | ({"sights": sights} if noise.random() < 0.9 else {}))
    return lines


def curve_token_by_token(lines, since):
    """Every token's loss by itself, bucket by bucket."""
    curve = []
    for seen in BUCKETS:
        losses = []
        for i, line in enumerate(lines):
            first_step = lines[i - 1]["step"] + 1 if i else 1
            if first_step <= since * lines[-1]["step"]:
                continue
            for bucket in line.get("sights", []):
                if bucket["seen"] == seen and bucket["nll"] is not None and math.isfinite(bucket["nll"]):
                    losses += [bucket["nll"]] * bucket["tokens"]
        if losses:
            curve.append((seen, len(losses), math.fsum(losses) / len(losses)))
    return curve


@pytest.mark.parametrize("since", [0.0, 0.31, 0.8])
def test_lines_are_added_up_as_a_loop_over_tokens_does(since):
    lines = random_lines(seed=5)
    curve, expected = sight_curve(lines, since), curve_token_by_token(lines, since)
    assert [bucket[:2] for bucket in curve] == [bucket[:2] for bucket in expected]
    assert [nll for *_, nll in curve] == pytest.approx([nll for *_, nll in expected], rel=1e-12)
    assert len(expected) > 9


def test_a_line_that_begins_at_the_fraction_counts():
    lines = [{"step": step, "sights": [{"seen": 1, "tokens": step, "nll": float(step)}]} for step in (7, 50, 100)]
    assert sight_curve(lines, 0.07) == [(1, 150, (50 * 50 + 100 * 100) / 150)]
    assert sight_curve(lines, 0.08) == [(1, 100, 100.0)]
    assert sight_curve(lines, 1.0) == []


def test_buckets_rise_whichever_line_brings_them():
    lines = [
        {"step": 1, "sights": [{"seen": 8, "tokens": 3, "nll": 1.0}]},
        {"step": 2, "sights": [{"seen": 0, "tokens": 1, "nll": 9.0}, {"seen": 4, "tokens": 2, "nll": 2.0}]},
    ]
    assert sight_curve(lines) == [(0, 1, 9.0), (4, 2, 2.0), (8, 3, 1.0)]


def test_missing_sights_are_no_curve():
    assert sight_curve([]) == []
    assert sight_curve([{"step": 5}, {"step": 9, "sights": []}]) == []
    assert sight_curve([{"step": 5, "sights": [{"seen": 0, "tokens": 4, "nll": None}]}]) == []


GOOD = {"seen": 2, "tokens": 4, "nll": 7.5}


@pytest.mark.parametrize(
    ("sights", "named"),
    [
        (None, "sights is None; expected a list"),
        ({"seen": 0}, "expected a list"),
        ([17], "a bucket of sights is 17"),
        ([GOOD | {"seen": 3}], "expected seen"),
        ([GOOD | {"seen": -1}], "expected seen"),
        ([GOOD | {"seen": True}], "expected seen"),
        ([GOOD | {"seen": 2.0}], "expected seen"),
        ([GOOD | {"tokens": 0}], "tokens"),
        ([GOOD | {"tokens": None}], "tokens"),
        ([GOOD | {"tokens": 4.5}], "tokens"),
        ([GOOD | {"nll": "low"}], "nll"),
        ([GOOD | {"nll": True}], "nll"),
        ([{"seen": 2, "tokens": 4}], "nll"),
        ([GOOD, GOOD], "2 comes after 2"),
        ([GOOD, GOOD | {"seen": 0}], "0 comes after 2"),
    ],
)
def test_damaged_sights_are_named(sights, named):
    lines = [{"step": 150, "sights": [GOOD]}, {"step": 300, "sights": sights}]
    assert sight_curve(lines[:1]) == [(2, 4, 7.5)]
    with pytest.raises(InputError, match=f"the line of step 300: .*{re.escape(named)}.*Delete the line"):
        sight_curve(lines)


def change_sights(folder, change):
    """Apply ``change`` to the sights of the run's third line."""
    path = folder / "metrics.jsonl"
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    change(lines[2]["sights"])
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


def test_report_refuses_damaged_sights_before_it_writes(tmp_path):
    make_run(tmp_path / "hebbian", HEBBIAN, sights=1.0)
    change_sights(tmp_path / "hebbian", lambda sights: sights[1].update(seen=5))
    with pytest.raises(InputError, match=r"hebbian/metrics\.jsonl, the line of step 450: .*'seen': 5"):
        write_report([tmp_path / "hebbian"])
    assert not (tmp_path / "hebbian" / "plots").exists()


@pytest.fixture
def folders(tmp_path):
    """Three runs on the same targets, the last the fastest learner, and an old one without sights."""
    make_run(tmp_path / "fast", HEBBIAN, sights=1.2)
    make_run(tmp_path / "softmax", SOFTMAX, sights=1.0)
    make_run(tmp_path / "old", HEBBIAN)
    return [tmp_path / name for name in ("fast", "old", "softmax")]


def section_of(page):
    start = page.index("Learning a word, sight by sight")
    return page[start : page.index("</section>", start)]


def cells_of(section):
    rows = re.findall(r"<tr.*?</tr>", re.search(r"<table.*?</table>", section, re.DOTALL).group(), re.DOTALL)
    return [[html.unescape(cell) for cell in re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row)] for row in rows]


def test_differences_are_to_the_softmax_and_bucket_by_bucket(folders):
    runs = load_records(folders)
    sights = compare_sights(runs)
    assert (sights.base, sights.unlike, list(sights.curves)) == ("softmax", {}, ["fast", "softmax"])
    fast, softmax = ({k: x for k, _, x in sight_curve(runs[i].metrics)} for i in (0, 2))
    assert sights.differences == {"fast": {k: fast[k] - softmax[k] for k in softmax}}
    header, *table = sight_table(sights)
    assert header == ["times seen before", "tokens", "fast", "difference", "softmax"]
    assert [row[0] for row in table[:5]] == ["0", "1", "2–3", "4–7", "8–15"]
    assert table[3][2:] == [f"{fast[4]:.3f}", format_nats(fast[4] - softmax[4]), f"{softmax[4]:.3f}"]
    assert table[3][3].startswith("−")


def test_page_has_curves_differences_and_table(folders, tmp_path):
    page = write_report(folders, tmp_path / "out").read_text(encoding="utf-8")
    section = section_of(page)
    assert cells_of(section) == sight_table(compare_sights(load_records(folders)))
    assert section.count("<svg") == 2
    assert "before each step and with dropout" in section
    assert "on the very same targets" in section
    assert page.index("<h2>Figures") < page.index("<h2>Learning a word") < page.index("<h2>What differs")
    ids = re.findall(r'\bid="([^"]*)"', page)
    assert len(ids) == len(set(ids))
    for name in ("sights", "sights_difference"):
        assert (tmp_path / "out" / "plots" / f"{name}.png").stat().st_size > 5_000


def test_nasty_names_do_no_harm(folders, tmp_path):
    name = '<b onclick="x">&$x^{ |'
    make_run(tmp_path / name, HEBBIAN, sights=1.1, config=Config(batch=32).to_dict())
    section = section_of(write_report([*folders, tmp_path / name], tmp_path / "out").read_text(encoding="utf-8"))
    assert "<b " not in section
    assert cells_of(section)[0][-2:] == [f"tokens, {name}", name]


def test_one_run_has_its_curve_and_an_old_one_none(folders):
    page = write_report(folders[:1]).read_text(encoding="utf-8")
    assert section_of(page).count("<svg") == 1
    assert cells_of(section_of(page))[0] == ["times seen before", "tokens", "fast"]
    assert "Compare the runs" not in section_of(page)
    page = write_report(folders[1:2]).read_text(encoding="utf-8")
    assert "sight by sight" not in page
    assert {path.stem for path in (folders[1] / "plots").iterdir()} == {"validation", "loss", "bands", "classes"}


@pytest.mark.parametrize(
    ("setting", "sight", "named"),
    [
        ({"batch": 32}, {}, "batch: 32 against 16"),
        ({"length": 35}, {}, "length: 35 against 70"),
        ({}, {"tokens": 1}, "targets measured: "),
        ({}, {"nll": None}, "targets measured: "),
    ],
)
def test_runs_on_other_targets_have_no_difference(folders, tmp_path, setting, sight, named):
    make_run(tmp_path / "other", HEBBIAN, sights=1.1, config=Config(**setting).to_dict())
    change_sights(tmp_path / "other", lambda sights: sights[2].update(sight))
    runs = load_records([*folders, tmp_path / "other"])
    sights = compare_sights(runs)
    assert list(sights.differences) == ["fast"]
    assert sight_table(sights)[0][-2:] == ["tokens, other", "other"]
    curves, difference = make_sight_plots(runs, sights)
    assert f"same targets as softmax, so without a difference: other ({named}" in curves.caption
    assert len(curves.figure.axes[0].lines) == 3
    assert len(difference.figure.axes[0].lines) == 2, "the run that differs, or the line at 0, is wrong"
    (alone,) = make_sight_plots(runs, compare_sights(runs[2:]))
    assert alone.name == "sights"


def test_other_data_and_other_buckets_have_no_difference(folders, tmp_path):
    config = folders[0] / "config.yaml"
    config.write_text(config.read_text(encoding="utf-8").replace("data/stdlib", "data/wt2"), encoding="utf-8")
    assert compare_sights(load_records(folders)).unlike == {"fast": "data: data/wt2 against data/stdlib"}
    make_run(tmp_path / "moved", HEBBIAN, sights=1.1)
    change_sights(
        tmp_path / "moved", lambda s: (s[2].update(tokens=s[2]["tokens"] + 1), s[3].update(tokens=s[3]["tokens"] - 1))
    )
    sights = compare_sights(load_records([folders[2], tmp_path / "moved"]))
    assert sights.unlike == {"moved": "targets in a bucket"}
    assert sights.differences == {}


def test_axis_steps_evenly_from_0_and_names_few_places(folders):
    runs = load_records(folders)
    axes = make_sight_plots(runs, compare_sights(runs))[0].figure.axes[0]
    x, y = axes.lines[0].get_data()
    assert list(x) == list(range(18))
    assert list(y) == [nll for *_, nll in sight_curve(runs[0].metrics)]
    assert list(axes.get_xticks()) == [0, *range(1, 18, 2)]
    names = [label.get_text() for label in axes.get_xticklabels()]
    assert names == ["0", "1", "4", "16", "64", "256", "1K", "4K", "16K", "64K"]


def test_colours_are_those_of_the_other_figures(folders):
    runs = load_records(folders)
    by_name = dict(zip(("fast", "old", "softmax"), make_plots(runs)[0].figure.axes[0].lines, strict=True))
    drawn = make_sight_plots(runs, compare_sights(runs))[0].figure.axes[0].lines
    assert [line.get_color() for line in drawn] == [by_name[name].get_color() for name in ("fast", "softmax")]


def test_how_differences_are_written():
    values = (-0.0838, 1.2, 0.0002, -0.0002, 0.0)
    assert [format_nats(value) for value in values] == ["−0.084", "+1.200", "0.000", "0.000", "0.000"]
