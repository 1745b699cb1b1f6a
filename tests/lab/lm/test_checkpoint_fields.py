"""A run that is to go on from a checkpoint with a field missing or of another kind: it is refused, and named."""

import pytest
import torch
from training_runs import TINY

from firstsight.errors import InputError
from firstsight.lab.lm.training import train
from firstsight.lab.runs.checkpoint import load_checkpoint, save_checkpoint

CHANGES = {
    "step": lambda state: state.update(step=10**9),
    "steps": lambda state: (state.update(step=10**9), state["trainer"].update(step=10**9)),
    "step as text": lambda state: state["trainer"].update(step="4"),
    "no rng": lambda state: state.pop("rng"),
    "empty rng": lambda state: state.update(rng=[]),
    "short rng": lambda state: state.update(rng=[torch.zeros(3, dtype=torch.uint8)]),
    "rng of floats": lambda state: state.update(rng=[torch.zeros(5056)]),
    "no optimizer": lambda state: state.pop("optimizer"),
    "optimizer": lambda state: state.update(optimizer={"state": {0: 1}, "param_groups": []}),
    "config": lambda state: state.update(config=[1]),
    "config's value": lambda state: state["config"].update(hidden="x" * 10**6),
    "trainer": lambda state: state.update(trainer=3),
    "seconds": lambda state: state["trainer"].update(seconds=None),
    "best loss": lambda state: state["trainer"].update(best_loss="low"),
    "LSTM": lambda state: state["trainer"].update(lstm=(torch.zeros(1, 8, 12),)),
    "LSTM's shape": lambda state: state["trainer"].update(lstm=(torch.zeros(1, 3, 12), torch.zeros(1, 3, 12))),
    "sights": lambda state: state["trainer"].update(sights={}),
    "fewer sights": lambda state: state["trainer"]["sights"].update(seen=torch.zeros(3, dtype=torch.int64)),
    "other sights": lambda state: state["trainer"]["sights"]["seen"].add_(1),
    "buckets": lambda state: state["trainer"]["sights"].update(tokens=torch.zeros(40)),
    "no model": lambda state: state.pop("model"),
    "model": lambda state: state.update(model=[torch.ones(3)]),
    "vocabulary": lambda state: state.update(vocabulary_hash=None),
}


@pytest.fixture(scope="module")
def run(corpus, tmp_path_factory):
    """Trained for half of its steps."""
    folder = tmp_path_factory.mktemp("half") / "run"
    train(corpus, folder, TINY.replace(steps=4, pass_state=True))
    return folder, load_checkpoint(folder / "checkpoints/last.pt")


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_field_of_another_kind_is_refused(change, run, corpus):
    folder, _ = run
    path = folder / "checkpoints/last.pt"
    whole, metrics = path.read_bytes(), (folder / "metrics.jsonl").read_bytes()
    state = load_checkpoint(path)
    change(state)
    save_checkpoint(path, state)
    try:
        with pytest.raises(InputError, match=r"last\.pt") as found:
            train(corpus, folder, TINY.replace(steps=8, pass_state=True), resume=True)
    finally:
        path.write_bytes(whole)
    assert len(str(found.value)) < 700 + len(str(path))
    assert (folder / "metrics.jsonl").read_bytes() == metrics


def test_what_is_whole_goes_on(run, corpus):
    assert train(corpus, run[0], TINY.replace(steps=6, pass_state=True), resume=True).step == 6


def test_settings_past_the_memory_of_this_machine(corpus, tmp_path):
    for change in ({"hidden": 100_000_000_000}, {"embedding": 10**8}, {"embedding": 2**62}):
        with pytest.raises(InputError, match=r"that takes .* bytes, and this machine has [\d,]+"):
            train(corpus, tmp_path / "run", TINY.replace(**change))
    assert not (tmp_path / "run").exists()
