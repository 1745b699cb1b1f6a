"""Training that diverges, and training that goes on."""

import math
import shutil
from pathlib import Path

import pytest
from training_runs import TINY, assert_equal, lasting_metrics, metrics, weights

from firstsight.errors import InputError
from firstsight.lab.lm import training
from firstsight.lab.lm.config import Config, load_config
from firstsight.lab.lm.run import open_run
from firstsight.lab.lm.training import DivergedError, Outcome, train
from firstsight.lab.runs.checkpoint import load_checkpoint
from firstsight.lab.system.files import read_json
from firstsight.lab.system.manifest import accept


def jump(monkeypatch, step: int, rate: float) -> None:
    usual = Config.rate_at
    monkeypatch.setattr(Config, "rate_at", lambda config, k: rate if k == step else usual(config, k))


@pytest.mark.parametrize(("rate", "every"), [(1e38, 2), (math.inf, 1)], ids=["by the loss", "by the weights"])
def test_divergence_stops_and_keeps_the_last_good_checkpoint(rate, every, corpus, tmp_path, monkeypatch):
    config = TINY.replace(optimizer="sgd", clip=0.0, checkpoint_every=every, steps=12, eval_every=100)
    with monkeypatch.context() as patch:
        jump(patch, 4, rate)  # the fifth step throws the weights out of all range
        with pytest.raises(DivergedError, match=r"last good checkpoint, .*last\.pt, is kept.*a lower --lr") as found:
            train(corpus, tmp_path / "run", config)
    assert found.value.exit_code == 1
    kept = load_checkpoint(tmp_path / "run/checkpoints/last.pt")
    assert kept["step"] == 4
    assert all(value.isfinite().all() for value in kept["model"].values())
    train(corpus, tmp_path / "run", config, resume=True)
    train(corpus, tmp_path / "undisturbed", config)
    assert_equal(weights(tmp_path / "run"), weights(tmp_path / "undisturbed"))


def test_divergence_before_any_checkpoint(corpus, tmp_path):
    config = TINY.replace(optimizer="sgd", clip=0.0, lr=1e38)
    with pytest.raises(DivergedError, match="no checkpoint exists yet"):
        train(corpus, tmp_path / "run", config)
    assert not (tmp_path / "run/checkpoints").exists()
    assert metrics(tmp_path / "run") == []


def stop_after(monkeypatch, step: int) -> None:
    """As if killed: an exception in the middle of a step."""
    usual = training._Trainer._train_step

    def spy(self):
        if self.state.step == step:
            raise KeyboardInterrupt
        return usual(self)

    monkeypatch.setattr(training._Trainer, "_train_step", spy)


@pytest.mark.parametrize("step", [0, 2, 3, 7, 11])
def test_resumed_is_as_undisturbed(step, corpus, tmp_path, monkeypatch):
    config = TINY.replace(dropout=0.3, pass_state=True, accumulate=2, steps=12, eval_every=5, checkpoint_every=3)
    with monkeypatch.context() as patch:
        stop_after(patch, step)
        with pytest.raises(KeyboardInterrupt):
            train(corpus, tmp_path / "run", config)
    (tmp_path / "run/checkpoints").mkdir(exist_ok=True)
    (tmp_path / "run/checkpoints/.last.pt.abcd1234.part").write_text("half a checkpoint")
    train(corpus, tmp_path / "run", config, resume=True)
    train(corpus, tmp_path / "undisturbed", config)
    for name in ("last", "best"):
        assert_equal(weights(tmp_path / "run", name), weights(tmp_path / "undisturbed", name))
    assert lasting_metrics(tmp_path / "run") == lasting_metrics(tmp_path / "undisturbed")
    assert sorted(path.name for path in (tmp_path / "run/checkpoints").iterdir()) == ["best.pt", "last.pt"]


def test_a_resumed_run_may_change_its_end(corpus, tmp_path):
    train(corpus, tmp_path / "run", TINY.replace(steps=5))
    found = train(corpus, tmp_path / "run", TINY.replace(steps=9, checkpoint_every=2, patience=50), resume=True)
    assert found.step == 9
    assert load_config(tmp_path / "run/config.yaml")[1].steps == 9
    assert train(corpus, tmp_path / "run", TINY.replace(steps=7), resume=True).step == 9  # what is done stays done


def files(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_what_cannot_be_resumed_stays_untouched(corpus, song, tmp_path):
    out = tmp_path / "run"
    train(corpus, out, TINY)
    before = files(out)
    with pytest.raises(InputError, match=r"holds a run already\. Continue it with --resume"):
        train(corpus, out, TINY)
    with pytest.raises(InputError, match=r"other settings: head was hebbian, now softmax; dropout was"):
        train(corpus, out, TINY.replace(dropout=0.5, head="softmax"), resume=True)
    with pytest.raises(InputError, match="another vocabulary"):
        train(song, out, TINY.replace(steps=20), resume=True)
    assert files(out) == before

    path = out / "config.yaml"
    path.write_text(path.read_text().replace("lr: 0.01", "lr: 0.02"))  # a setting that no shape gives away
    accept(out)
    with pytest.raises(InputError, match=r"last\.pt was trained with other settings: lr was 0.01, now 0.02"):
        train(corpus, out, load_config(path)[1], resume=True)


def test_the_best_checkpoint_does_not_resume(corpus, tmp_path):
    train(corpus, tmp_path / "run", TINY)
    shutil.copy(tmp_path / "run/checkpoints/best.pt", tmp_path / "run/checkpoints/last.pt")
    accept(tmp_path / "run")
    with pytest.raises(InputError, match=r"weights alone .*copy of best\.pt"):
        train(corpus, tmp_path / "run", TINY.replace(steps=20), resume=True)


def test_begun_afresh_on_other_data_it_is_that_datas_run(corpus, song, tmp_path, monkeypatch):
    """Killed before the first checkpoint nothing has been learnt yet: vocabulary and data may be others."""
    with monkeypatch.context() as patch:
        stop_after(patch, 2)
        with pytest.raises(KeyboardInterrupt):
            train(corpus, tmp_path / "run", TINY)
    train(song, tmp_path / "run", TINY, resume=True)
    trained = open_run(tmp_path / "run")
    assert trained.vocabulary.hash == song.vocabulary.hash
    assert Path(trained.data) == song.folder.resolve()


def test_bad_settings_leave_no_folder_behind(corpus, tmp_path):
    for change in ({"length": 10**6}, {"projection": False, "hidden": 13}):
        with pytest.raises(InputError):
            train(corpus, tmp_path / "run", TINY.replace(**change))
    assert not (tmp_path / "run").exists()
    assert isinstance(train(corpus, tmp_path / "run", TINY), Outcome)
    assert read_json(tmp_path / "run/vocabulary.json", "x")["hash"] == corpus.vocabulary.hash


def test_several_processes_are_those_of_torchrun(corpus, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InputError, match=r"WORLD_SIZE is 2.*Start them with torchrun.*or unset WORLD_SIZE"):
        train(corpus, tmp_path / "run", TINY)


def test_who_watches_may_stop_it_and_it_goes_on(corpus, tmp_path):
    config, seen = TINY.replace(dropout=0.3, steps=12, eval_every=3, checkpoint_every=0), []

    def watch(line):
        seen.append(line)
        return len(seen) < 2

    stopped = train(corpus, tmp_path / "run", config, watch=watch)
    assert (stopped.reason, stopped.step) == ("stopped", 6)
    assert seen == metrics(tmp_path / "run")
    # At the last step there is nothing left to stop.
    ended = train(corpus, tmp_path / "run", config, resume=True, watch=lambda line: line["step"] < 12)
    assert (ended.reason, ended.step) == ("steps", 12)
    train(corpus, tmp_path / "undisturbed", config)
    assert_equal(weights(tmp_path / "run"), weights(tmp_path / "undisturbed"))
    assert lasting_metrics(tmp_path / "run") == lasting_metrics(tmp_path / "undisturbed")
