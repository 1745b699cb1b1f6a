"""``firstsight figure`` 5 to 9 and ``all`` as a user meets them, on a little text and a tiny model."""

import json
import os
import re
import signal
from datetime import date
from functools import partial
from itertools import islice
from pathlib import Path

import pytest
from command import assert_refused, call, copy
from forked import Forked, end_when, start_with
from gigaword_files import make_documents, make_ids, render
from training_runs import lasting_metrics

import firstsight.lab.lm.training  # noqa: F401 - once, in place of once in every fork
from firstsight.lab.data import open_corpus
from firstsight.lab.lm.config import Config
from firstsight.lab.lm.dry_run import measure
from firstsight.lab.lm.results import evaluate_run
from firstsight.lab.report.figures import curves, figure_6, figure_8

BASE = Config(embedding=8, hidden=8, batch=4, length=10, lr=0.01, bias=True, dropout=0.2, checkpoint_every=5)
LINES = ("softmax", "paper", "sight")


def small(patch: pytest.MonkeyPatch, **changes) -> None:
    """Runs of seconds as forks of this process, and measurements of a step or two."""
    base = BASE.replace(**{"steps": 20, "eval_every": 5, **changes})
    patch.setitem(curves.SCALES, "cpu", curves.Scale(base))
    patch.setattr(figure_8, "SAMPLES", {"cpu": 16})
    patch.setattr(figure_6, "ARTICLES", {"cpu": 20})
    patch.setattr(curves, "step_ratio", partial(curves.step_ratio, rounds=3))
    patch.setattr(measure, "_STEPS", 1)
    patch.setattr(measure, "_SHORTEST", 0.0)
    start_with(patch)


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    small(monkeypatch)


@pytest.fixture(scope="module")
def made(data, tmp_path_factory) -> tuple[Path, dict[str, dict], dict[str, str]]:
    """A folder with figures 5, 9, 7 and 8, made in this order, what each printed as JSON, and what it said."""
    out, found, said = tmp_path_factory.mktemp("figures"), {}, {}
    with pytest.MonkeyPatch.context() as patch:
        small(patch)
        for number, seeds in (("5", 2), ("9", 1), ("7", 1), ("8", 1)):
            heard: list[str] = []
            for module in ("report.figures.curves", "runs.jobs"):
                patch.setattr(f"firstsight.lab.{module}.say", heard.append)
            found[number] = curves_of(number).make(f"figure-{number}", "cpu", data, seeds, out, 2, {"figure": number})
            said[number] = "\n".join(heard)
    return out, found, said


def curves_of(number: str) -> curves.CurvesFigure:
    from firstsight.lab.report.figures import CURVES

    return CURVES[number]("cpu")


def lines(found: dict) -> dict[str, dict]:
    return {line["variant"]: line for panel in found["panels"] for line in panel["lines"]}


def test_the_cost_is_said_before_anything_runs(made):
    _, _, said = made
    told = said["9"].splitlines()
    assert told[0].startswith("Figure 9: inner objectives: 2 of 5 runs are left")
    assert re.match(
        r"a whole run takes about: paper-softmax \d+ s, paper-inner_product \d+ s\. What is left: \d+ s", told[1]
    )
    assert told[1].endswith("with 2 at a time")
    assert told[2] == "5 jobs, 3 of them done already, 2 at a time"


def test_figures_share_the_runs_of_equal_settings(made):
    out, _, said = made
    assert "6 jobs, 3 of them done already" in said["7"]
    assert "6 jobs, 3 of them done already" in said["8"]
    runs = out / "runs/cpu/data"
    others = ("paper-inner_product", "paper-softmax")
    kinds = [*LINES, *others, *(f"{name}-adagrad-0.2" for name in LINES), *(f"{name}-sampled-16" for name in LINES)]
    assert {path.name for path in runs.iterdir() if path.is_dir()} == set(kinds)


def test_the_settings_are_those_of_the_paper_and_today(made):
    _, found, _ = made
    told = {name: line["settings"] for one in found.values() for name, line in lines(one).items()}
    paper = {"head": "hebbian", "rule": "paper", "T": 500, "gamma": 0.01, "objective": "l2"}
    assert {key: told["paper"][key] for key in paper} == paper
    ours = {"head": "hebbian", "rule": "sight", "T": 100, "gamma": 0.02}
    assert {key: told["sight"][key] for key in ours} == ours
    assert told["softmax"]["head"] == "softmax"
    assert (told["paper-adagrad-0.2"]["optimizer"], told["paper-adagrad-0.2"]["lr"]) == ("adagrad", 0.2)
    assert [told[f"paper-{name}"]["objective"] for name in ("softmax", "inner_product")] == ["softmax", "inner_product"]
    assert told["sight-sampled-16"]["samples"] == 16
    assert all("seed" not in settings for settings in told.values())


def test_curves_are_the_validations_of_the_runs(made):
    out, found, _ = made
    for name, line in lines(found["5"]).items():
        values = {}
        for seed in ("0", "1"):
            text = (out / "runs/cpu/data" / name / seed / "metrics.jsonl").read_text()
            values[seed] = [json.loads(one)["valid_perplexity"] for one in text.splitlines()]
        curve = line["curve"]
        assert curve["tokens"] == [200, 400, 600, 800]
        for at in range(4):
            both = sorted(values[seed][at] for seed in ("0", "1"))
            assert [curve["low"][at], curve["high"][at]] == pytest.approx(both, rel=1e-5)
            assert curve["mean"][at] == pytest.approx(sum(both) / 2, rel=1e-5)
        assert line["runs"]["1"]["perplexity"] == values["1"][-1]


def test_the_files(made):
    out, found, _ = made
    for number, one in found.items():
        assert set(one["files"]) == {str(out / f"figure-{number}.{end}") for end in ("json", "png", "svg")}
        assert json.loads((out / f"figure-{number}.json").read_text()) == {k: v for k, v in one.items() if k != "files"}
        svg = (out / f"figure-{number}.svg").read_text()
        assert "drawn from" not in svg  # all runs are there
        told = " ".join(re.findall(r">([^<]+)</text>", svg))  # lines are cut to fit
        assert ("2 seeds: their mean, and from the lowest to the highest" in told) == (number == "5")
        assert one["made_by"]["command"]
        assert one["core_seconds"] > 0


def test_figure_5_shows_the_classes(made):
    out, found, _ = made
    svg = (out / "figure-5.svg").read_text()
    for text in ("classes seen, right", "classes past T = 100, right", "classes past T = 500, right"):
        assert text in svg
    seen = lines(found["5"])["paper"]["classes"]
    assert seen["T"] == 500
    assert 0 < seen["seen"][0] <= seen["seen"][-1] <= 1
    assert seen["past_T"][-1] < seen["seen"][-1]
    assert "all classes seen" not in svg  # 800 tokens are less than a pass
    assert found["5"]["data"]["a_pass"] > 800


def test_figure_8_tells_the_time_of_a_step(made):
    out, found, _ = made
    times = found["8"]["wall_time"]
    assert list(times) == list(curves.HEADS)
    for one in times.values():
        assert 0 < one["quartile_1"] <= one["median"] <= one["quartile_3"]
        assert one["rounds"] == 3
    svg = (out / "figure-8.svg").read_text()
    assert f"softmax: {times['softmax']['median']:.2f}" in svg
    assert "16 sampled classes" in svg
    assert f"all {found['8']['data']['classes']} classes" in svg
    assert all(one["wall_time"] is None for number, one in found.items() if number != "8")


def test_done_it_is_drawn_again_without_a_run_or_a_measurement(made, data, tmp_path, capfd, monkeypatch):
    out, found = copy(made[0], tmp_path / "out"), made[1]
    monkeypatch.setattr(curves, "estimate", None)
    monkeypatch.setattr(curves, "step_ratio", None)
    code, text, err = call(capfd, "figure", "8", "--data", data, "--out", out, "--seeds=1")
    assert code == 0, err
    assert "6 jobs, 6 of them done already" in err
    assert "Figure 8: sampled softmax" in text
    assert "Time of a step, by that over all classes: softmax: " in text
    again = json.loads((out / "figure-8.json").read_text())
    assert again["panels"] == found["8"]["panels"]
    assert again["wall_time"] == found["8"]["wall_time"]


def test_a_run_of_other_settings_is_refused_by_name(made, data, capfd, monkeypatch):
    small(monkeypatch, lr=0.02)
    found = call(capfd, "figure", "9", "--data", data, "--out", made[0])
    assert_refused(found, "softmax/0 was made with other settings", "lr was 0.01, now 0.02", "--out another")


def test_a_run_of_other_data_is_refused(made, data, tmp_path, capfd):
    other = copy(data, tmp_path / "data")
    found = call(capfd, "figure", "9", "--data", other, "--out", made[0])
    assert_refused(found, "softmax/0 was made with other settings", f"data was {data.resolve()}, now {other.resolve()}")


def test_ended_by_a_signal_it_draws_what_there_is_and_says_so(data, tmp_path, capfd, monkeypatch):
    small(monkeypatch, steps=3000, eval_every=5)
    runs = tmp_path / "runs/cpu/data"
    metrics = runs / "softmax/0/metrics.jsonl"
    end_when(lambda: metrics.exists() and b"\n" in metrics.read_bytes())
    code, out, err = call(capfd, "figure", "5", "--data", data, "--out", tmp_path, "--seeds=1", "--workers=1", "--json")
    assert code == 128 + signal.SIGTERM, err
    found = json.loads(out)
    assert found["interrupted"] == "SIGTERM"
    assert found["runs"] == {"done": 0, "diverged": 0, "under way": 1, "waiting": 2}
    assert lines(found)["softmax"]["curve"]["tokens"][0] == 200
    assert lines(found)["paper"]["curve"] is None
    assert "drawn from 0 of 3 runs, 1 under way" in (tmp_path / "figure-5.svg").read_text()


def test_ctrl_c_while_it_measures(data, tmp_path, capfd, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(curves, "estimate", stop)
    code, out, _ = call(capfd, "figure", "5", "--data", data, "--out", tmp_path, "--json")
    assert code == 128 + signal.SIGINT
    assert json.loads(out)["files"] == {}  # nothing that would stand over an earlier figure


def test_killed_it_goes_on_bit_for_bit(made, data, tmp_path, capfd, monkeypatch):
    run = tmp_path / "runs/cpu/data/sight/0"

    class Killed(Forked):
        """The run is killed once, as soon as it has saved."""

        def poll(self):
            if (run / "checkpoints/last.pt").exists() and not (tmp_path / "killed").exists():
                (tmp_path / "killed").touch()
                os.kill(self.pid, signal.SIGKILL)
            return super().poll()

    start_with(monkeypatch, Killed)
    given = ["figure", "5", "--data", data, "--out", tmp_path, "--seeds=1", "--workers=1"]
    code, _, err = call(capfd, *given)
    assert code == 1, err
    assert "sight seed 0: killed by SIGKILL" in err
    assert "drawn from 2 of 3 runs, 1 under way" in (tmp_path / "figure-5.svg").read_text()
    assert not (run / "outcome.json").exists()

    start_with(monkeypatch)
    code, out, err = call(capfd, *given, "--json")
    assert code == 0, err
    assert "3 jobs, 2 of them done already, 1 begun, 1 at a time" in err
    assert "resumed at step" in (run / "log.txt").read_text()
    assert lasting_metrics(run) == lasting_metrics(made[0] / "runs/cpu/data/sight/0")
    curve = lines(json.loads(out))["sight"]["curve"]
    assert curve["seeds"]["0"] == lines(made[1]["5"])["sight"]["curve"]["seeds"]["0"]


def test_figure_6_on_articles_in_the_format_of_gigaword(tmp_path, capfd, monkeypatch):
    small(monkeypatch, steps=10)
    for year, articles in ((1999, 5), (2004, 150), (2010, 150)):
        path = tmp_path / f"gigaword/data/nyt_eng/nyt_eng_{year}01"
        path.parent.mkdir(parents=True, exist_ok=True)
        ids = islice(make_ids(first=date(year, 1, 1)), articles)
        path.write_text("".join(map(render, make_documents(ids, year, paragraphs=1))), encoding="utf-8")
    data = tmp_path / "articles"
    made = ["--from", tmp_path / "gigaword/data", "--out", data, "--max-size=500", "--workers=1"]
    code, _, err = call(capfd, "data", "gigaword", *made)
    assert code == 0, err
    out = tmp_path / "figures"
    code, text, err = call(capfd, "figure", "6", "--data", data, "--out", out, "--seeds=1", "--json")
    assert code == 0, err
    found = json.loads(text)
    assert found["measure"] == "test_sample"
    for name, line in lines(found).items():
        run = out / "runs/cpu/articles" / name / "0"
        samples = [json.loads(one)["test_sample"] for one in (run / "metrics.jsonl").read_text().splitlines()]
        assert [sample["seed"] for sample in samples] == [[0, 5], [0, 10]]
        assert {sample["documents"] for sample in samples} == {20}
        expected = [sample["perplexity"] for sample in samples]
        assert line["curve"]["seeds"]["0"] == pytest.approx(expected, rel=1e-5)
        assert not (run / "result.json").exists()
    assert (out / "figure-6.png").stat().st_size


def test_the_page_of_all(made, data, tmp_path, capfd):
    out = copy(made[0], tmp_path / "out")
    run = out / "runs/cpu/data/paper/0"
    expected = evaluate_run(run, "test", checkpoint="last")["perplexity"]
    code, text, err = call(capfd, "figure", "all", "--out", out, "--json")
    assert code == 0, err
    found = json.loads(text)
    assert (found["figures"], found["missing"]) == (["5", "7", "8", "9"], ["6", "10", "11"])
    page = Path(found["page"]).read_text(encoding="utf-8")
    tests = [lines(made[1]["5"])["paper"]["runs"][seed]["test"]["perplexity"] for seed in ("0", "1")]
    assert tests[0] == expected
    assert f"<td>{sum(tests) / 2:.1f} ± " in page
    for shown in ("36.4", "34.3", "29.2", "Figure 10 is not here", "Figure 8: sampled softmax", "100-1K", "<svg"):
        assert shown in page
    assert not re.findall(r'(?:src|href)="http', page)
    assert "NaN" not in page
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))


def test_the_text_inside_is_made_where_it_is_missing(data, tmp_path, capfd, monkeypatch):
    monkeypatch.chdir(tmp_path)
    asked = []
    monkeypatch.setattr(
        curves.stdlib, "prepare", lambda folder: asked.append(copy(data, folder)) or open_corpus(folder)
    )
    figure = curves_of("9")
    assert figure.source.open(None).folder == Path("data/stdlib")
    assert "data/stdlib: made from the documentation inside this Python" in capfd.readouterr().err
    assert figure.source.open(None).folder == Path("data/stdlib")
    assert asked == [Path("data/stdlib")]  # once


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["9", "--seeds=0"], "seeds is 0; expected 1 or more"),
        (["9", "--workers=0"], "workers is 0; expected 1 or more"),
        (["5"], "data/gutenberg-25: there is no data folder here, and this figure needs one. Make it with firstsight"),
        (["6"], "firstsight data gigaword --from"),
        (["7", "--scale=paper"], "firstsight data wikitext-103 --out data/wikitext-103"),
        (["9", "--data=nowhere"], "nowhere: there is no such folder"),
        (["12"], "there is no figure 12 to make; expected 5, 6, 7, 8, 9, 10, 11, or all"),
        (["all"], "there is no figure here, such as figure-5.json"),
    ],
)
def test_what_cannot_be(given, said, tmp_path, capfd, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert_refused(call(capfd, "figure", *given, "--out", "out"), said)
    assert not Path("out").exists()


def test_more_samples_than_classes(data, tmp_path, capfd, monkeypatch):
    monkeypatch.setattr(figure_8, "SAMPLES", {"cpu": 1024})
    found = call(capfd, "figure", "8", "--data", data, "--out", tmp_path / "out")
    assert_refused(found, "this figure samples 1,024 of them: expected more classes")


def test_a_json_that_is_no_figure(tmp_path, capfd):
    (tmp_path / "figure-9.json").write_text('{"panels": []}')
    found = call(capfd, "figure", "all", "--out", tmp_path)
    assert_refused(found, "figure-9.json: title is missing")
