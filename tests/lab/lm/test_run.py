"""The folder of a run: what is saved comes back, and what is damaged is refused."""

import json
import shutil
import subprocess
import sys
import zipfile

import pytest
import torch

import firstsight
from firstsight.errors import InputError
from firstsight.heads import HebbianSoftmax, Softmax
from firstsight.lab.data import Vocabulary
from firstsight.lab.lm.config import Config, save_config
from firstsight.lab.lm.run import build_model, open_run
from firstsight.lab.runs.checkpoint import load_checkpoint, load_weights, save_checkpoint
from firstsight.lab.runs.metrics import append_metrics, cut_metrics
from firstsight.lab.system.machine import provenance

CONFIG = Config(embedding=4, hidden=6)
VOCABULARY = Vocabulary(["<unk>", "<eos>", "a", "b", "c"], [0, 3, 5, 2, 1], "words")


def state(config: Config = CONFIG, **more) -> dict:
    model = build_model(len(VOCABULARY), config)
    return {"vocabulary_hash": VOCABULARY.hash, "step": 7, "model": model.state_dict(), **more}


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "run"
    VOCABULARY.save(folder / "vocabulary.json")
    save_config(folder / "config.yaml", "data/x", CONFIG)
    save_checkpoint(folder / "checkpoints/best.pt", state())
    return folder


def test_build_model():
    hebbian = build_model(5, CONFIG.replace(T=7, gamma=0.3, bias=True)).head
    assert type(hebbian) is HebbianSoftmax
    assert (hebbian.T, hebbian.gamma, hebbian.weight.shape) == (7, 0.3, (5, 4))
    assert hebbian.bias is not None
    softmax = build_model(5, CONFIG.replace(head="softmax", projection=False, tied=False)).head
    assert type(softmax) is Softmax
    assert (softmax.weight.shape, softmax.bias) == ((5, 6), None)


@pytest.mark.parametrize("settings", [{}, {"layers": 2, "layer_norm": True}, {"tied": False, "projection": False}])
def test_both_heads_start_from_the_same_weights(settings):
    weights = []
    for head in ("softmax", "hebbian"):
        torch.manual_seed(3)
        weights.append(build_model(5, CONFIG.replace(head=head, **settings)).state_dict())
    assert weights[1]["head.counts"].tolist() == [1] * 5
    for kept in ("head.counts", "head.settings", "head.moments", "head.fresh", "head.lifted"):
        weights[1].pop(kept, None)
    assert list(weights[0]) == list(weights[1])
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_a_checkpoint_comes_back_bit_for_bit(tmp_path):
    saved = state(trainer={"best_loss": float("inf"), "state": (torch.randn(1, 2, 3), torch.randn(1, 2, 3))})
    save_checkpoint(tmp_path / "a/last.pt", saved)
    found = load_checkpoint(tmp_path / "a/last.pt")
    assert found["trainer"]["best_loss"] == float("inf")
    assert torch.equal(found["trainer"]["state"][0], saved["trainer"]["state"][0])
    model = build_model(len(VOCABULARY), CONFIG)
    load_weights(model, found, tmp_path)
    assert all(torch.equal(model.state_dict()[name], saved["model"][name]) for name in saved["model"])
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["last.pt"]


def test_any_flipped_byte_is_found(tmp_path):
    path = tmp_path / "best.pt"
    save_checkpoint(path, state())
    whole = path.read_bytes()
    for place in range(0, len(whole), 3):  # each third byte, for time; the bits in turn
        content = bytearray(whole)
        content[place] ^= 1 << place % 8
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"best\.pt: .* a damaged one.*train again"):
            load_checkpoint(path)


def test_a_checkpoint_is_a_file_of_torch(tmp_path):
    saved = state()
    save_checkpoint(tmp_path / "best.pt", saved)
    found = torch.load(tmp_path / "best.pt", weights_only=True)
    assert torch.equal(found["model"]["head.weight"], saved["model"]["head.weight"])
    with zipfile.ZipFile(tmp_path / "best.pt") as archive:
        assert archive.testzip() is None


def test_a_truncated_checkpoint_is_refused(tmp_path):
    path = tmp_path / "best.pt"
    save_checkpoint(path, state())
    whole = path.read_bytes()
    for length in (0, 1, 4, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(InputError, match=r"damaged.*train again"):
            load_checkpoint(path)


def test_what_is_no_checkpoint_is_refused(tmp_path):
    path = tmp_path / "best.pt"
    with pytest.raises(InputError, match=r"no such checkpoint.*checkpoint_every"):
        load_checkpoint(path)
    path.write_text("some text, longer than the checksum at the end of a checkpoint would be, which it is not")
    with pytest.raises(InputError, match="no checkpoint, or a damaged one"):
        load_checkpoint(path)
    torch.save(state(), path)
    with pytest.raises(InputError, match="no checkpoint, or a damaged one"):
        load_checkpoint(path)
    save_checkpoint(path, {"format": 0})
    with pytest.raises(InputError, match="expected a checkpoint of format 1"):
        load_checkpoint(path)


class Evil:
    def __reduce__(self):
        return print, ("run",)


def test_no_code_comes_out_of_a_checkpoint(tmp_path, capsys):
    save_checkpoint(tmp_path / "best.pt", {"model": Evil()})
    with pytest.raises(InputError, match=r"no checkpoint of firstsight.*train again"):
        load_checkpoint(tmp_path / "best.pt")
    assert capsys.readouterr().out == ""


def test_a_full_disk_leaves_the_checkpoint_before(tmp_path, monkeypatch):
    path = tmp_path / "last.pt"
    save_checkpoint(path, state())
    before = path.read_bytes()

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left") as found:
        save_checkpoint(path, state())
    assert found.value.filename == str(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_open_run(run):
    trained = open_run(run)
    assert (trained.config, trained.data, trained.checkpoint, trained.step) == (CONFIG, "data/x", "best", 7)
    assert trained.vocabulary.hash == VOCABULARY.hash
    assert not trained.model.training
    saved = load_checkpoint(run / "checkpoints/best.pt")["model"]
    assert all(torch.equal(trained.model.state_dict()[name], saved[name]) for name in saved)


def test_open_run_refuses_what_does_not_fit_together(run, tmp_path):
    with pytest.raises(InputError, match=r"no such folder.*firstsight train --out"):
        open_run(tmp_path / "none")
    with pytest.raises(InputError, match=r"no such checkpoint"):
        open_run(run, "last")
    for change in ({"hidden": 7}, {"embedding": 5}, {"layers": 2}, {"bias": True}, {"head": "softmax"}):
        save_config(run / "config.yaml", "data/x", CONFIG.replace(**change))
        with pytest.raises(InputError, match=r"another model than the settings.*Put back the config\.yaml") as found:
            open_run(run)
        assert "\n" not in str(found.value)
    save_config(run / "config.yaml", "data/x", CONFIG)
    Vocabulary(["<unk>", "<eos>", "a", "c", "b"], [0, 3, 5, 2, 1], "words").save(run / "vocabulary.json")
    with pytest.raises(InputError, match="another vocabulary than"):
        open_run(run)
    (run / "vocabulary.json").unlink()
    with pytest.raises(InputError, match=r"vocabulary\.json: there is no such file"):
        open_run(run)


def lines(path) -> list[int]:
    return [json.loads(line)["step"] for line in path.read_text().splitlines()]


def test_metrics_are_cut_back(tmp_path):
    path = tmp_path / "metrics.jsonl"
    for step in (5, 10, 15):
        append_metrics(path, {"step": step, "valid_loss": 1 / 3})
    whole = path.read_text()
    cut_metrics(path, 15)
    assert path.read_text() == whole
    path.write_text(whole + '{"step": 20, "val')  # where the kill came
    cut_metrics(path, 12)
    assert lines(path) == [5, 10]
    cut_metrics(path, 0)
    assert path.read_text() == ""
    cut_metrics(tmp_path / "new.jsonl", 0)
    assert (tmp_path / "new.jsonl").read_text() == ""


@pytest.mark.parametrize("damage", [b"no json\n", b'{"steps": 3}\n', b"[1]\n", b"\xff\xfe\n", b"\n"])
def test_damaged_metrics_are_refused_not_dropped(damage, tmp_path):
    path = tmp_path / "metrics.jsonl"
    content = b'{"step": 5}\n' + damage + b'{"step": 10}\n'
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"metrics\.jsonl, line 2: .*train anew"):
        cut_metrics(path, 10)
    assert path.read_bytes() == content


def test_provenance():
    found = provenance()
    assert found["version"] == firstsight.__version__
    assert found["torch_version"] == torch.__version__
    assert found["machine"].endswith("cores")
    assert found["command"]


def test_no_commit_is_claimed_outside_a_checkout(tmp_path):
    """An installed package that lies inside a checkout of something else is not at that commit."""
    package = tmp_path / "site/firstsight"
    shutil.copytree(firstsight.__path__[0], package)
    for command in (["init"], ["commit", "--allow-empty", "-m", "x"]):
        identity = ["-c", "user.name=x", "-c", "user.email=x"]
        subprocess.run(["git", *identity, *command], cwd=tmp_path, check=True, capture_output=True)
    code = "import firstsight.lab.system.machine as r; print(r.__file__, r.provenance()['git_commit'])"
    done = subprocess.run([sys.executable, "-c", code], cwd=package.parent, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(package / "lab/system/machine.py"), "None"]
