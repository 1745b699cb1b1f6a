"""``--json``: exactly one JSON object on standard output, with the fields that others rely on."""

import json
import math
import shlex
import sys

import pytest
from command import TINY, call, write_text

from firstsight.lab.lm.config import Config

BANDS = [">10K", "1K-10K", "100-1K", "<100", "unseen"]
RESULT = {"dataset", "split", "tokens", "perplexity", "bands", "vocabulary", "vocabulary_hash", "streams", "seconds"}
RESULT |= {"config", "version", "torch_version", "git_commit", "memory", "run", "machine", "command"}
RESULT |= {"checkpoint"}


def read(found: tuple[int, str, str]) -> dict:
    code, out, err = found
    assert code == 0, err
    return json.loads(out)  # which refuses anything beside the one value


def assert_result(result: dict) -> None:
    assert set(result) >= RESULT
    assert result["streams"] == 1
    assert result["memory"] is None
    assert [band["name"] for band in result["bands"]] == BANDS
    assert sum(band["tokens"] for band in result["bands"]) == result["tokens"]
    assert all((band["perplexity"] is None) == (band["tokens"] == 0) for band in result["bands"])
    filled = [band for band in result["bands"] if band["tokens"]]
    assert len(filled) > 1
    nll = sum(band["tokens"] * math.log(band["perplexity"]) for band in filled) / result["tokens"]
    assert math.exp(nll) == pytest.approx(result["perplexity"], rel=1e-6)
    assert set(result["config"]) == set(Config().to_dict())
    assert result["git_commit"] is None or result["git_commit"].split("-")[0].isalnum()


def test_data(tmp_path, capfd):
    text = write_text(tmp_path / "text.txt", lines=100)
    found = read(call(capfd, "data", "text", "--from", text, "--out", tmp_path / "data", "--json"))
    assert found["tokens"] == {"train": 90 * 13, "valid": 5 * 13, "test": 5 * 13}  # 12 words and <eos> a line
    vocabulary = json.loads((tmp_path / "data/vocabulary.json").read_text())
    assert found["vocabulary"] == len(vocabulary["tokens"])


@pytest.mark.parametrize("head", ["softmax", "hebbian"])
def test_train_and_eval(head, data, tmp_path, capfd, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/anywhere/firstsight/__main__.py", "eval", "my run"])  # as python -m firstsight
    folder = tmp_path / "run"
    found = read(call(capfd, "train", data, "--out", folder, *TINY, f"--head={head}", "--json"))
    assert {"run", "step", "tokens", "seconds", "best_perplexity", "reason", "result"} == set(found)
    assert_result(found["result"])
    assert found["result"]["split"] == "valid"
    assert (folder / "report.html").exists()

    for split in ("valid", "test"):
        result = read(call(capfd, "eval", folder, "--split", split, "--json"))
        assert_result(result)
        assert result == json.loads((folder / "result.json").read_text())
        assert (result["split"], result["run"]) == (split, "run")
        assert (result["config"]["head"], result["checkpoint"]["name"]) == (head, "best")
        assert result["tokens"] == json.loads((data / "meta.json").read_text())["tokens"][split]
        assert shlex.split(result["command"]) == ["firstsight", "eval", "my run"]
    last = read(call(capfd, "eval", folder, "--checkpoint", "last", "--json"))
    assert last["checkpoint"] == {"name": "last", "step": 20}


def test_score(data, trained, tmp_path, capfd):
    text = tmp_path / "text.txt"
    text.write_text("word1 word2 a-stranger word0\n\nword80\n")
    found = read(call(capfd, "score", trained, text, "--top", "3", "--json"))
    assert found["tokens"] == 7  # five words, and <eos> after each line that is not blank
    assert found["unknown"] == pytest.approx(1 / 7)
    assert found["perplexity"] == pytest.approx(math.exp(found["nll"]))
    surprising = found["surprising"]
    assert len(surprising) == 3
    assert sorted(surprising, key=lambda row: -row["nll"]) == surprising
    words = ["word1", "word2", "a-stranger", "word0", "<eos>", "word80", "<eos>"]
    for row in surprising:
        assert row["token"] == words[row["position"]]
        assert row["before"] == " ".join(words[: row["position"]])
    assert not read(call(capfd, "score", trained, text, "--top", "0", "--json"))["surprising"]


def test_score_of_a_text_like_the_corpus_is_its_evaluation(data, trained, capfd):
    """The same tokens by the other way: the lines that were cut off for the test split."""
    text = data.parent / "text.txt"
    result = read(call(capfd, "eval", trained, "--split", "test", "--json"))
    lines = text.read_text().splitlines(keepends=True)
    tail = data.parent / "tail.txt"
    tail.write_text("".join(lines[-len(lines) // 20 :]))
    found = read(call(capfd, "score", trained, tail, "--json"))
    assert found["tokens"] == result["tokens"]
    assert found["perplexity"] == pytest.approx(result["perplexity"], rel=1e-6)


def test_report(trained, tmp_path, capfd):
    found = read(call(capfd, "report", trained, "--out", tmp_path / "report", "--json"))
    assert found == {"report": str(tmp_path / "report/report.html")}
    assert (tmp_path / "report/report.html").read_text().startswith("<!")


def test_without_json_a_person_reads_it(data, trained, tmp_path, capfd):
    text = write_text(tmp_path / "text.txt", lines=30)
    for command in (["eval", trained], ["score", trained, text], ["report", trained]):
        code, out, _ = call(capfd, *command)
        assert code == 0
        assert out.strip()
        assert not out.startswith("{")


def test_demo(tmp_path, capfd):
    told = call(capfd, "demo", "--out", tmp_path / "demo", "--steps", "12", "--json")
    assert "3 runs of 12 steps: about " in told[2]
    found = read(told)
    rules = {"softmax": ("softmax", "sight"), "hebbian": ("hebbian", "sight"), "paper": ("hebbian", "paper")}
    assert set(found["runs"]) == set(rules)
    for name, result in found["runs"].items():
        assert_result(result)
        assert (result["config"]["head"], result["config"]["rule"]) == rules[name]
        assert (result["split"], result["dataset"]) == ("test", "stdlib")
        assert result["tokens"] == found["runs"]["softmax"]["tokens"]
    report = (tmp_path / "demo/report.html").read_text()
    assert found["report"] == str(tmp_path / "demo/report.html")
    assert "hebbian" in report
    assert "softmax" in report


def test_dry_run(data, tmp_path, capfd):
    found = read(call(capfd, "train", data, "--out", tmp_path / "run", *TINY, "--dry-run", "--ranks", "2", "--json"))
    assert set(found) == {"parameters", "operations_per_token", "memory", "measured", "estimate"}
    assert set(found["memory"]) == {"cpu", "cuda"}
    assert found["estimate"]["seconds"] > 0
    assert not (tmp_path / "run").exists()
