import html
import json
import re
from html import escape
from xml.etree import ElementTree

import matplotlib.image
import pytest
import tyro
from report_runs import BANDS, HEBBIAN, SOFTMAX, make_result, make_run, text_of

from firstsight.errors import InputError
from firstsight.lab.cli.train import Flags
from firstsight.lab.lm.config import Config
from firstsight.lab.lm.recipes import recipe
from firstsight.lab.report import comparison_table, markdown_table, write_report
from firstsight.lab.report.tables import verdict


@pytest.fixture
def pair(tmp_path):
    """Folders of a softmax and a Hebbian run, and their results by name."""
    results = {
        "softmax": make_run(tmp_path / "softmax", SOFTMAX),
        "hebbian": make_run(tmp_path / "hebbian", HEBBIAN),
    }
    return [tmp_path / name for name in results], results


def table_cells(page):
    """The first table of a page as rows of plain text."""
    table = re.search(r"<table>.*?</table>", page, re.DOTALL).group()
    table = re.sub(r"<th scope=col|<th scope=row", "<th", table)
    rows = re.findall(r"<tr.*?</tr>", table, re.DOTALL)
    text = [re.findall(r"<t[hd].*?>(.*?)</t[hd]>", row, re.DOTALL) for row in rows]
    return [[html.unescape(re.sub("<.*?>", "", cell)).strip() for cell in row] for row in text]


def test_comparison_holds_the_numbers_of_the_results(pair, tmp_path):
    folders, results = pair
    path = write_report(folders, tmp_path / "comparison")
    assert path == tmp_path / "comparison" / "report.html"
    header, overall, *bands = table_cells(path.read_text(encoding="utf-8"))
    assert header == ["training count", "tokens", "softmax", "hebbian", "difference"]
    softmax, hebbian = results.values()
    assert overall[1:4] == [f"{49_064:,}", f"{softmax['perplexity']:,.1f}", f"{hebbian['perplexity']:,.1f}"]
    assert [row[0] for row in bands] == list(BANDS)
    for row, a, b in zip(bands, softmax["bands"], hebbian["bands"], strict=True):
        assert int(row[1].replace(",", "")) == a["tokens"]
        for cell, band in zip(row[2:4], (a, b), strict=True):
            decimal = 0.1 if "." in cell else 1
            assert float(cell.replace(",", "")) == pytest.approx(band["perplexity"], abs=0.501 * decimal, rel=0)
        difference = 100 * (b["perplexity"] - a["perplexity"]) / a["perplexity"]
        assert float(row[4].replace("−", "-").rstrip("%")) == pytest.approx(difference, abs=0.051)


def test_page_loads_nothing_and_holds_its_figures(pair, tmp_path):
    path = write_report(pair[0], tmp_path / "out")
    page = path.read_text(encoding="utf-8")
    assert "http://" not in page
    assert "https://" not in page
    assert "<script" not in page
    assert "<link" not in page
    assert "@import" not in page
    assert "$" not in re.sub(r"<pre>.*?</pre>", "", page, flags=re.DOTALL), "a placeholder was left"
    figures = re.findall(r"<svg.*?</svg>", page, re.DOTALL)
    assert len(figures) == 5
    for figure in figures:
        ElementTree.fromstring(figure)
        assert "var(--ink)" in figure
        assert "#0072b2" not in figure, "a colour that does not follow the page into dark mode"
        for target in re.findall(r'(?:href="#|url\(#)([^")]*)', figure):
            assert f'id="{target}"' in figure
    ids = re.findall(r'\bid="([^"]*)"', page)
    assert len(ids) == len(set(ids))


def test_plots_are_valid_png_files(pair, tmp_path):
    path = write_report(pair[0], tmp_path / "out")
    names = {file.stem for file in (path.parent / "plots").iterdir()}
    assert names == {"validation", "loss", "bands", "difference", "classes"}
    for file in (path.parent / "plots").iterdir():
        image = matplotlib.image.imread(file)
        assert min(image.shape[:2]) > 400
        assert image.std() > 0.01, "an empty picture"


def test_empty_band_is_a_dash(tmp_path):
    empty = SOFTMAX | {"unseen": None}
    folders = [tmp_path / "a", tmp_path / "b"]
    results = {folder.name: make_run(folder, values) for folder, values in zip(folders, [empty, empty], strict=True)}
    assert table_cells(write_report(folders, tmp_path / "out").read_text(encoding="utf-8"))[-1][2:] == ["–", "–", "–"]
    assert markdown_table(results).splitlines()[2].endswith("| – |")
    assert "–" in text_of(comparison_table(results))
    assert "never seen" not in verdict(results)


def test_report_of_one_run_lies_in_its_folder(tmp_path):
    make_run(tmp_path / "hebbian", HEBBIAN, config=Config(T=50, layer_norm=True).to_dict())
    path = write_report([tmp_path / "hebbian"])
    assert path == tmp_path / "hebbian" / "report.html"
    page = path.read_text(encoding="utf-8")
    assert "hebbian reaches a test perplexity of 257.9; 4,655.8 on words seen fewer than 100 times" in page
    assert {file.stem for file in (tmp_path / "hebbian" / "plots").iterdir()} == {
        "validation", "loss", "bands", "classes",
    }  # fmt: skip
    command = re.search(r"firstsight train data/stdlib --out \S+ (.*)", page).group(1)
    assert command == "--no-bias --T 50 --layer-norm --bias-start zero"
    again = tyro.cli(Flags, args=command.split(), default=Flags(**recipe("small").to_dict()))
    assert again.to_dict() == Config(T=50, layer_norm=True).to_dict()
    for known in (
        "firstsight eval runs/hebbian --split test",
        "2.13.0+cpu",
        "1f0c2ab4d5e6",
        "best, step 1,650",
        "2 cores",
    ):
        assert known in page
    for setting in Config().to_dict():
        assert f"<th scope=row>{setting}</th>" in page


def test_page_says_what_else_differs(tmp_path):
    make_run(tmp_path / "softmax", SOFTMAX)
    make_run(tmp_path / "hebbian", HEBBIAN, validations=8, config=Config(lr=0.002).to_dict(), streams=4)
    page = write_report([tmp_path / "softmax", tmp_path / "hebbian"], tmp_path / "out").read_text(encoding="utf-8")
    differing = page[page.index("What differs") : page.index("To do it again")]
    assert re.findall(r"<th scope=row>(\w+)</th>", differing) == ["head", "lr"]
    page = html.unescape(page)
    assert "Besides the head, the runs differ in lr: the effect is not the head's alone." in page
    assert "not trained on equally many tokens: softmax 2,016,000 and hebbian 1,344,000." in page
    assert "hebbian was evaluated in 4 parallel streams" in page


def test_nasty_names_do_no_harm(tmp_path):
    name = '<img src=x onerror="alert(1)">&$x^{ id="a" | _[red]'
    make_run(tmp_path / "softmax", SOFTMAX)
    result = make_run(tmp_path / name, HEBBIAN, machine="<script>alert(2)</script>")
    page = write_report([tmp_path / "softmax", tmp_path / name], tmp_path / "out").read_text(encoding="utf-8")
    assert "<img" not in page
    assert "<script" not in page
    assert html.escape(name) in page
    for figure in re.findall(r"<svg.*?</svg>", page, re.DOTALL):
        ElementTree.fromstring(figure)
    results = {"softmax": make_result(SOFTMAX, "softmax"), name: result}
    assert "[red]" in text_of(comparison_table(results))
    row = markdown_table(results).splitlines()[3]
    assert len(re.findall(r"(?<!\\)\|", row)) == 8
    assert "\\<img" in row


def test_run_without_result_tells_of_its_validations(tmp_path):
    make_run(tmp_path / "hebbian", HEBBIAN)
    (tmp_path / "hebbian" / "result.json").unlink()
    page = write_report([tmp_path / "hebbian"]).read_text(encoding="utf-8")
    assert "Not evaluated yet: the lowest validation perplexity so far is" in page
    assert "after 2,016,000 tokens" in page
    make_run(tmp_path / "softmax", SOFTMAX)
    page = write_report([tmp_path / "softmax", tmp_path / "hebbian"], tmp_path / "out").read_text(encoding="utf-8")
    assert "Not evaluated yet: hebbian." in page


def test_run_without_metrics_has_its_result(tmp_path):
    make_run(tmp_path / "hebbian", HEBBIAN)
    (tmp_path / "hebbian" / "metrics.jsonl").unlink()
    page = write_report([tmp_path / "hebbian"]).read_text(encoding="utf-8")
    assert "257.9" in page
    assert {file.stem for file in (tmp_path / "hebbian" / "plots").iterdir()} == {"bands"}


def test_cut_off_last_line_is_tolerated_and_a_damaged_one_named(tmp_path):
    make_run(tmp_path / "hebbian", HEBBIAN)
    metrics = tmp_path / "hebbian" / "metrics.jsonl"
    whole = metrics.read_bytes()
    metrics.write_bytes(whole[:-40])
    assert "1,650 steps, 1,848,000 tokens" in write_report([tmp_path / "hebbian"]).read_text(encoding="utf-8")
    lines = whole.split(b"\n")
    for damaged in (b'{"step": 3', b'{"step": 3}', b"\xff\xfe", b"17"):
        metrics.write_bytes(b"\n".join([*lines[:2], damaged, *lines[3:]]))
        with pytest.raises(InputError, match=r"metrics\.jsonl, line 3: .*train anew"):
            write_report([tmp_path / "hebbian"])


def test_losses_that_are_not_finite_leave_a_gap(tmp_path):
    make_run(tmp_path / "hebbian", HEBBIAN)
    metrics = tmp_path / "hebbian" / "metrics.jsonl"
    lines = [json.loads(line) for line in metrics.read_text(encoding="utf-8").splitlines()]
    for line in lines:
        line |= {"valid_loss": None, "valid_perplexity": None, "train_loss": None}
    metrics.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    write_report([tmp_path / "hebbian"])
    (tmp_path / "hebbian" / "result.json").unlink()
    assert "no validation gave a finite perplexity" in write_report([tmp_path / "hebbian"]).read_text(encoding="utf-8")


def test_folder_mistakes_are_named(pair, tmp_path):
    folders, _ = pair
    with pytest.raises(InputError, match="give the folder of at least one run"):
        write_report([])
    with pytest.raises(InputError, match="there is no such folder"):
        write_report([tmp_path / "nowhere"])
    with pytest.raises(InputError, match="name one with --out"):
        write_report(folders)
    with pytest.raises(InputError, match="given 2 times"):
        write_report([folders[0], folders[0]], tmp_path / "out")
    with pytest.raises(InputError, match="this is a file"):
        write_report(folders, folders[0] / "config.yaml")
    (folders[0] / "metrics.jsonl").write_text("")
    (folders[0] / "result.json").unlink()
    with pytest.raises(InputError, match=r"neither a validation.*firstsight train.*firstsight eval"):
        write_report(folders, tmp_path / "out")
    (folders[0] / "config.yaml").unlink()
    with pytest.raises(InputError, match=r"Is .*softmax the folder of a run"):
        write_report(folders, tmp_path / "out")


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"split": "valid"}, "split: test against valid"),
        ({"vocabulary_hash": "00"}, "vocabulary"),
        ({"dataset": "wikitext-2"}, "data set: stdlib against wikitext-2"),
        ({"tokens": 5}, "tokens: 49064 against 5"),
        ({"bands": []}, "bands: >10K with 14,210 tokens"),
    ],
)
def test_unlike_results_are_not_compared(tmp_path, change, named):
    results = {"softmax": make_run(tmp_path / "softmax", SOFTMAX)}
    results["hebbian"] = make_run(tmp_path / "hebbian", HEBBIAN, **change)
    for compare in (
        lambda: write_report([tmp_path / "softmax", tmp_path / "hebbian"], tmp_path / "out"),
        lambda: comparison_table(results),
        lambda: markdown_table(results),
    ):
        with pytest.raises(InputError, match=f"differ in {re.escape(named)}.*evaluate both"):
            compare()
    assert not (tmp_path / "out").exists()
    page = write_report([tmp_path / "softmax", tmp_path / "hebbian"], tmp_path / "out", force=True)
    text = page.read_text(encoding="utf-8")
    assert "Compared by force: softmax and hebbian cannot be compared, for they differ in " + escape(named) in text


def test_runs_of_one_name_are_told_apart(tmp_path):
    folders = [tmp_path / "one" / "hebbian", tmp_path / "two" / "hebbian"]
    for folder in folders:
        make_run(folder, HEBBIAN)
    page = write_report(folders, tmp_path / "out").read_text(encoding="utf-8")
    assert "<h1>one/hebbian against two/hebbian on stdlib</h1>" in page
