"""What ``firstsight report`` writes beside its page: figures of three kinds, and the metrics as a table."""

import csv
import json

import pytest
from command import call
from report_runs import HEBBIAN, SOFTMAX, make_run

BEGIN = {"png": b"\x89PNG\r\n", "svg": b"<?xml", "pdf": b"%PDF-"}


@pytest.fixture
def pair(tmp_path):
    for name, perplexities in (("softmax", SOFTMAX), ("hebbian", HEBBIAN)):
        make_run(tmp_path / name, perplexities)
    return tmp_path / "softmax", tmp_path / "hebbian"


@pytest.mark.parametrize("kind", BEGIN)
def test_figures_are_of_the_kind_that_was_asked_the_same_each_time(kind, pair, tmp_path, capfd):
    for out in ("one", "two"):
        code, _, err = call(capfd, "report", *pair, "--out", tmp_path / out, "--plots", kind)
        assert code == 0, err
    files = sorted((tmp_path / "one/plots").iterdir())
    assert {file.suffix for file in files} == {f".{kind}"}
    assert {"validation", "loss", "bands", "difference"} <= {file.stem for file in files}
    for file in files:
        content = file.read_bytes()
        assert content.startswith(BEGIN[kind]), file
        assert content == (tmp_path / "two/plots" / file.name).read_bytes(), file
    assert f"as {kind.upper()} files" in (tmp_path / "one/report.html").read_text()


def test_metrics_as_a_table_with_a_column_for_each_band(pair, tmp_path, capfd):
    lines = {
        folder.name: [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        for folder in pair
    }
    lines["hebbian"][0]["valid_bands"] = [{"name": ">10K", "tokens": 3, "perplexity": 9.5}]
    lines["hebbian"][0]["valid_bands"] += [{"name": "unseen", "tokens": 0, "perplexity": None}]
    (tmp_path / "hebbian/metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines["hebbian"]))
    code, out, err = call(capfd, "report", *pair, "--out", tmp_path / "out", "--csv", "--json")
    assert code == 0, err
    assert json.loads(out)["metrics"] == str(tmp_path / "out/metrics.csv")
    with open(tmp_path / "out/metrics.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["run"] for row in rows] == ["softmax"] * len(lines["softmax"]) + ["hebbian"] * len(lines["hebbian"])
    for row in rows:
        line = lines[row["run"]].pop(0)
        for name in ("step", "tokens", "train_loss", "valid_loss", "valid_perplexity"):
            assert float(row[name]) == line[name]
        assert row["valid_perplexity/over_10K"] == ("9.5" if "valid_bands" in line else "")
    assert "valid_perplexity/unseen" not in rows[0]


def test_without_csv_there_is_none(pair, tmp_path, capfd):
    assert call(capfd, "report", *pair, "--out", tmp_path / "out")[0] == 0
    assert not (tmp_path / "out/metrics.csv").exists()
