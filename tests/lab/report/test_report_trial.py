"""The page of a trial: its numbers are those of trial.json, it needs nothing, and no text gets out of its place."""

import re
import statistics

import matplotlib.image
import numpy as np
import pytest
from trial_fakes import LEVELS, TEXTS, fake_trial

from firstsight.lab.classify.settings import SHOTS
from firstsight.lab.report.style import SERIES
from firstsight.lab.report.trial import trial_rows, write_trial_report
from firstsight.lab.report.trial.plots import trial_plots
from firstsight.lab.report.trial.table import head, pairs

FEW = {key: LEVELS[key] for key in (("sight", "write"), ("means", "added"))}


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    out = tmp_path_factory.mktemp("trial")
    return write_trial_report(out, fake_trial(), TEXTS).read_text(encoding="utf-8")


def lines_of(trial, method, arrival, shots=5):
    wanted = ("test", method, arrival, shots)
    return [one for one in trial["lines"] if (one["part"], one["method"], one["arrival"], one["shots"]) == wanted]


def drawn(trial):
    return {plot.name: plot.figure.axes[0] for plot in trial_plots(trial)}


def test_the_page_needs_nothing_and_runs_nothing(page):
    assert not re.findall(r"<(?:script|link|iframe|img)\b", page)
    assert not re.findall(r"""(?:src|href)=["']?[^"'#]""", page)
    assert "@import" not in page
    assert "url(http" not in page


def test_text_is_escaped(page):
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "A01 &lt;b&gt;typhoid&lt;/b&gt;" in page
    assert "<b>typhoid" not in page
    assert "x" * 300 not in page  # cut
    assert "Enteric fever" in page  # in one line


def test_hostile_names_everywhere(tmp_path):
    trial, bad = fake_trial(file="<i>x</i>.csv"), "<u>&"
    trial["methods"] = [{**one, "title": one["title"] + bad} for one in trial["methods"]]
    trial["data"] |= {"encoder": bad, "notes": [bad]}
    trial |= {"advice": bad, "paste": bad, "command": bad, "machine": bad, "winner": bad}
    text = write_trial_report(tmp_path, trial, TEXTS).read_text(encoding="utf-8")
    assert "<u>" not in text
    assert "<i>x" not in text


def test_it_says_everything(page, tmp_path):
    trial = fake_trial()
    for text in ("Does it help on things.npz?", "To paste", "FirstSightClassifier", "firstsight try things.npz",
                 "Worst confusions", "After one more epoch over everything", "What was found in the data",
                 "5 rows had no text", "3 trainings of each method", "a processor, 2 cores"):  # fmt: skip
        assert text in page, text
    assert page.count("compared)") == 2
    for row in trial_rows(trial):
        assert f">{row.cells[7]}<" in page  # its mixed accuracy


def test_the_tables_numbers_are_means_over_trainings():
    trial = fake_trial()
    rows = {(row.method, row.arrival): row for row in trial_rows(trial)}
    assert set(rows) == {key for key in LEVELS if key[1] != "epoch"}
    assert len(head(trial)) == len(next(iter(rows.values())).cells)
    for (method, arrival), row in rows.items():
        for at, k in enumerate(SHOTS):
            values = [one["new_micro"] for one in lines_of(trial, method, arrival, k)]
            text = f"{100 * statistics.fmean(values):.1f}"
            text += f" ± {100 * statistics.stdev(values):.1f}" if len(values) > 1 else ""
            assert row.cells[3 + at] == text
    assert {row.method: row.chosen for row in rows.values() if row.chosen} == {"sight": "ours", "logistic": "rival"}
    assert "not converged" in rows["logistic", "imprinting"].cells[0]
    assert {key[0] for key in pairs(trial, at_once=False)} == {key[0] for key in LEVELS if key[1] == "epoch"}


def test_rows_stand_in_the_order_of_validation():
    trial = fake_trial()
    valid = [
        statistics.fmean(
            one["mixed"]
            for one in trial["lines"]
            if (one["part"], one["method"], one["arrival"], one["shots"]) == ("valid", *key, 5)
        )
        for key in pairs(trial)
    ]
    assert valid == sorted(valid, reverse=True)


def test_the_curves_are_the_lines_of_trial_json():
    trial = fake_trial()
    axes = drawn(trial)["curves"]
    first = axes.lines[0]
    for data, name in ((first.get_xdata(), "new_micro"), (first.get_ydata(), "old_micro")):
        expected = [100 * np.mean([one[name] for one in lines_of(trial, "sight", "write", k)]) for k in SHOTS]
        np.testing.assert_allclose(data, expected)
    assert len(axes.lines) == len(SERIES)  # as many as there are colours
    assert len({(line.get_color(), line.get_linestyle()) for line in axes.lines}) == len(SERIES)


def test_the_bars_are_the_bands_at_the_chosen_shots():
    trial = fake_trial()
    bars = drawn(trial)["bands"].patches[:3]
    expected = [
        100 * np.mean([one["bands"][band] for one in lines_of(trial, "sight", "write")])
        for band in ("below_5", "5_to_20", "above_20")
    ]
    np.testing.assert_allclose([bar.get_height() for bar in bars], expected)


def test_the_comparison_is_drawn_with_its_interval():
    trial = fake_trial()
    axes, mixed = drawn(trial)["comparison"], trial["comparison"]["mixed"]
    np.testing.assert_allclose(axes.lines[0].get_xdata(), [100 * mixed["low"], 100 * mixed["high"]])
    assert axes.lines[1].get_xdata() == [100 * mixed["difference"]]
    assert [label.get_text() for label in axes.get_yticklabels()] == [
        "mixed", "new classes", "old classes", "old, below 20"]  # fmt: skip


def test_plots_are_files_too(tmp_path):
    write_trial_report(tmp_path, fake_trial())
    names = {path.stem for path in (tmp_path / "plots").glob("*.png")}
    assert names == {"comparison", "curves", "shots", "bands", "epoch"}
    assert matplotlib.image.imread(tmp_path / "plots/curves.png").std() > 0


def test_of_little_a_little(tmp_path):
    """Two methods, one training, no epochs, no confusions, no interval, and bands without classes."""
    trial = fake_trial(FEW, seeds=1)
    for part in ("mixed", "new", "old"):
        trial["comparison"][part] |= {"low": None, "high": None}
    trial["comparison"]["rare"] = None
    trial["confusions"] = []
    for line in trial["lines"]:
        line["bands"] = dict.fromkeys(line["bands"])
        line["nll"] = None
    text = write_trial_report(tmp_path, trial).read_text(encoding="utf-8")
    assert "Worst confusions" not in text
    assert "After one more epoch" not in text
    assert {path.stem for path in (tmp_path / "plots").glob("*.png")} == {"comparison", "curves", "shots"}


def test_without_texts_the_confusions_have_no_examples(tmp_path):
    text = write_trial_report(tmp_path, fake_trial()).read_text(encoding="utf-8")
    assert "Z21" in text
    assert "for example" not in text
