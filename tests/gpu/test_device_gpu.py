"""A run trained and read on the device that was named, another than the default one where that is a GPU."""

import pytest
import torch

pytest.importorskip("tyro", reason="the command line needs the extra lab")

from command import TINY, call, write_text

from firstsight.lab.lm.run import open_run

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]


@pytest.mark.parametrize("device", ["cpu", f"cuda:{torch.cuda.device_count() - 1}"])
def test_the_device_is_the_one_that_was_named(device, tmp_path, capfd):
    text = write_text(tmp_path / "text.txt")
    assert call(capfd, "data", "text", "--from", text, "--out", tmp_path / "data", "--min-count", "1")[0] == 0
    torch.cuda.reset_peak_memory_stats(torch.cuda.device_count() - 1)
    before = torch.cuda.max_memory_allocated(torch.cuda.device_count() - 1)
    for command in (["train", tmp_path / "data", "--out", tmp_path / "run", *TINY], ["eval", tmp_path / "run"]):
        code, _, err = call(capfd, *command, "--device", device)
        assert code == 0, err
    used = torch.cuda.max_memory_allocated(torch.cuda.device_count() - 1) > before
    assert used == (device != "cpu")
    assert open_run(tmp_path / "run", device=device).device == torch.device(device)
