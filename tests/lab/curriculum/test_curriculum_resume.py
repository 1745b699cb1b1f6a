"""A curriculum that was killed goes on as if nothing had happened."""

import json

import pytest
import torch
from curriculum_runs import TINY, lasting, prototypes, run

from firstsight.errors import InputError
from firstsight.lab.curriculum import loop
from firstsight.lab.runs.checkpoint import load_checkpoint, save_checkpoint
from firstsight.lab.system.folder import hold


class KilledError(Exception):
    pass


def kill_at(monkeypatch, step: int, every: int = 3) -> None:
    """Checkpoints at every third step only, and an end without any clean-up in the middle of one."""
    train, save = loop._Loop._train, loop._Loop._save

    def spy(self):
        if self.step == step:
            raise KilledError
        train(self)

    monkeypatch.setattr(loop._Loop, "_train", spy)
    monkeypatch.setattr(loop._Loop, "_save", lambda self: None if self.step % every else save(self))


def same_state(one, other) -> bool:
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same_state(one[k], other[k]) for k in one if k != "seconds")
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same_state, one, other))
    if isinstance(one, torch.Tensor):
        return torch.equal(one.nan_to_num(-1.0), other.nan_to_num(-1.0))
    return one == other


@pytest.mark.parametrize("step", [1, 5, 26])
@pytest.mark.parametrize(
    "changes", [{}, {"rule": "paper", "optimizer": "rmsprop"}, {"head": "softmax", "optimizer": "adagrad"}]
)
def test_resumed_is_as_undisturbed(step, changes, tmp_path, monkeypatch):
    settings = TINY.replace(save_seconds=1e-9, check_images=30, max_steps=30, **changes)
    images = prototypes(60)
    with monkeypatch.context() as patch:
        kill_at(patch, step)
        with pytest.raises(KilledError):
            run(images, settings, out=tmp_path / "killed")
    (tmp_path / "killed").mkdir(exist_ok=True)
    (tmp_path / "killed/.checkpoint.pt.abcd1234.part").write_text("half a checkpoint")
    found = run(images, settings, out=tmp_path / "killed")
    expected = run(images, settings, out=tmp_path / "undisturbed")
    assert expected["classes"] > 4
    assert lasting(found) == lasting(expected)
    states = [load_checkpoint(tmp_path / name / "checkpoint.pt") for name in ("killed", "undisturbed")]
    assert same_state(*states)
    assert sorted(path.name for path in (tmp_path / "killed").iterdir()) == [
        "checkpoint.pt",
        "digests.json",
        "result.json",
    ]
    assert json.loads((tmp_path / "killed/result.json").read_text()) == found


def test_a_finished_run_is_given_back_and_may_be_made_longer(tmp_path, monkeypatch):
    found = run(settings=TINY.replace(max_steps=9), out=tmp_path)
    with monkeypatch.context() as patch:
        kill_at(patch, 9)
        assert lasting(run(settings=TINY.replace(max_steps=9), out=tmp_path)) == lasting(found)
    longer = run(settings=TINY.replace(max_steps=20, save_seconds=5.0), out=tmp_path)
    assert lasting(longer) == lasting(run(settings=TINY.replace(max_steps=20)))


def test_without_a_folder_nothing_is_saved(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run(settings=TINY.replace(max_steps=3, save_seconds=1e-9))
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_go_on_stays_untouched(tmp_path):
    settings = TINY.replace(max_steps=3)
    run(settings=settings, out=tmp_path)
    path = tmp_path / "checkpoint.pt"
    content = path.read_bytes()
    with pytest.raises(
        InputError, match=r"other settings: head was hebbian, now softmax; threshold was 0\.6, now 0\.7"
    ):
        run(settings=settings.replace(head="softmax", threshold=0.7), out=tmp_path)
    with pytest.raises(InputError, match="trained on other images"):
        run(prototypes(seed=1), settings, out=tmp_path)
    assert path.read_bytes() == content
    path.write_bytes(content[:-100])
    with pytest.raises(InputError, match="damaged"):
        run(settings=settings, out=tmp_path)
    with hold(tmp_path):
        save_checkpoint(path, {"model": {}})
    with pytest.raises(InputError, match="another kind of run"):
        run(settings=settings, out=tmp_path)
