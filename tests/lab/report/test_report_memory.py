"""Memory at test time on the report's page: tables, figures of a sweep, and which sweep is shown."""

import json
import re
import shutil
from xml.etree import ElementTree

import matplotlib.image
import pytest
from memory_runs import make_swept, small_grids
from report_runs import SOFTMAX, make_run, text_of

from firstsight.errors import InputError
from firstsight.lab.cli.sweep import show_sweep
from firstsight.lab.lm.record import load_records
from firstsight.lab.lm.results import evaluate_run
from firstsight.lab.reading.recalled import recall_run
from firstsight.lab.report import write_report
from firstsight.lab.report.memory import fitting_sweep, memory_table, sweep_plots, told
from firstsight.lab.system.manifest import accept


@pytest.fixture(scope="module")
def swept_run(corpus, tmp_path_factory):
    return make_swept(corpus, tmp_path_factory.mktemp("runs") / "run")


@pytest.fixture(autouse=True)
def small(monkeypatch):
    small_grids(monkeypatch)


@pytest.fixture
def swept(swept_run, tmp_path):
    return shutil.copytree(swept_run[0], tmp_path / "run"), swept_run[1]


def test_the_report_shows_it(swept, tmp_path, capsys):
    folder, found = swept
    recall_run(folder, "test", "cache,mbpa", tuned=folder / "memory/sweep.json")
    result = json.loads((folder / "result.json").read_text())
    page = write_report([folder]).read_text()
    rows = re.search(r"<table class=memory>.*?</table>", page, re.DOTALL).group()
    cells = [re.findall(r"<t[hd].*?>(.*?)</t[hd]>", row) for row in re.findall(r"<tr>.*?</tr>", rows)]
    variants = result["memory"]["variants"]
    header = ["training count", "tokens", "model", "+ cache", "difference", "+ MbPA", "difference"]
    assert [cell.replace("\u00a0", " ") for cell in cells[0]] == [*header, "+ cache + MbPA", "difference"]
    assert [row[0] for row in cells[1:]] == ["all words", "&gt;10K", "1K-10K", "100-1K", "&lt;100", "unseen"]
    values = [row["perplexity"] for row in variants]
    assert [cells[1][2], *cells[1][3::2]] == [f"{value:,.1f}" for value in values]
    changes = [float(cell.replace("−", "-").rstrip("%")) for cell in cells[1][4::2]]
    assert changes == pytest.approx([100 * (value / values[0] - 1) for value in values[1:]], abs=0.051)
    names = {"memory_cache", "memory_mbpa", "memory_mbpa_weight"}
    assert names <= {file.stem for file in (folder / "plots").glob("*.png")}
    assert matplotlib.image.imread(folder / "plots/memory_cache.png").std() > 0.05
    figures = re.findall(r"<svg.*?</svg>", page, re.DOTALL)
    assert sum("memory_" in figure for figure in figures) == 3
    for figure in figures:
        ElementTree.fromstring(figure)
        assert "<image" not in figure
    assert "What the memories change" in page
    assert "variants" not in page
    text = text_of(memory_table(result))
    assert f"{values[3]:,.1f}" in text
    show_sweep(found, folder)
    out = capsys.readouterr().out
    assert "paper" not in out, "the grids of this test do not hold its choice"
    assert "no MbPA" in out
    assert "two steps" in out


def test_a_sweep_of_other_weights_is_not_shown(swept):
    folder, sweep = swept
    evaluate_run(folder, "valid")
    page = write_report([folder]).read_text()
    assert "Ring: the best point" in page
    assert "What the memories change" not in page
    for change in ({"sha256": "0" * 64}, {"step": 59}, {"name": "last"}):
        (folder / "memory/sweep.json").write_text(json.dumps(sweep | {"checkpoint": sweep["checkpoint"] | change}))
        accept(folder)
        assert fitting_sweep(load_records([folder])[0]) is None
    page = write_report([folder]).read_text()
    assert "Ring: the best" not in page
    assert "Memory at test time" not in page
    (folder / "memory/sweep.json").write_text("{}")
    accept(folder)
    with pytest.raises(InputError, match=r"sweep\.json: these values are missing"):
        write_report([folder])
    with pytest.raises(InputError, match=r"sweep\.json of the run run are damaged"):
        sweep_plots(sweep | {"cache": {"grid": [{}]}})


def test_several_runs_have_a_table_each_and_are_told_apart(tmp_path):
    folders = [tmp_path / name for name in ("one", "two", "plain")]
    for folder in folders:
        result = make_run(folder, SOFTMAX)
        if folder.name != "plain":
            row = {"perplexity": result["perplexity"], "bands": result["bands"], "cache_weight": 0, "mbpa_weight": 0}
            variants = [row | {"name": "model"}, row | {"name": "+ cache", "cache_weight": 0.1}]
            memory = {"cache": {"size": 9000, "theta": 0.3, "weight": 0.1}, "mbpa": None, "tuned": None}
            result["memory"] = memory | {"variants": variants, "seconds": 1.0}
            (folder / "result.json").write_text(json.dumps(result))
    page = write_report(folders, tmp_path / "out").read_text()
    assert page.count("<table class=memory>") == 2
    assert "What the memories change" not in page
    told_of = "cache: size 9,000, theta 0.3, weight 0.1; the paper&#x27;s settings"
    assert f"the differences are not those of the models alone: one: {told_of}" in page
    assert "plain: none" in page
    assert told(None) == "none"
