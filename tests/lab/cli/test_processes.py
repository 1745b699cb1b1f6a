"""What only a process of its own can show: a full disk, a reader that has gone, the exit code itself."""

import resource
import shutil
import subprocess
from pathlib import Path

import pytest
from command import assert_refused, call, copy, run, start, write_text


def checkpoints(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (folder / "checkpoints").iterdir()}


def test_full_disk_by_file_size(data, trained, tmp_path, capfd):
    """Files cannot grow past 4 KB, and a checkpoint has more: what ``ulimit -f`` or a quota does."""
    folder = copy(trained, tmp_path / "run")
    before = checkpoints(folder)
    limit = {"preexec_fn": lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))}
    found = run("train", data, "--out", folder, "--resume", "--steps=30", "--checkpoint-every=5", **limit)
    assert_refused(found, "last.pt", "File too large", "mend this")
    assert checkpoints(folder) == before  # no temporary file either
    text = write_text(tmp_path / "text.txt")
    found = run("data", "text", "--from", text, "--out", tmp_path / "data", **limit)
    assert_refused(found, "train.tokens", "File too large", "mend this")
    assert not (tmp_path / "data" / "meta.json").exists()
    assert call(capfd, "train", data, "--out", folder, "--resume")[0] == 0


@pytest.fixture
def small_disk(tmp_path):
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(place)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting a small disk needs root")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_full_disk(small_disk, data, trained, capfd):
    folder = copy(trained, small_disk / "run")
    before = checkpoints(folder)
    with open(small_disk / "filler", "wb", buffering=0) as filler:
        while True:
            try:
                filler.write(b"0" * 4096)
            except OSError:
                break
        filler.truncate(filler.tell() - 4 * 4096)  # room for config.yaml, not for a checkpoint
    found = run("train", data, "--out", folder, "--resume", "--steps=30", "--checkpoint-every=5")
    assert_refused(found, "last.pt", "No space left", "mend this")
    assert checkpoints(folder) == before
    (small_disk / "filler").unlink()
    assert call(capfd, "train", data, "--out", folder, "--resume")[0] == 0


def test_real_process_missing_file_and_unknown_command(tmp_path):
    assert_refused(run("data", "text", "--from", tmp_path / "none", "--out", tmp_path / "out"), "no such file")
    code, out, err = run("trian")
    assert (code, out) == (2, "")
    assert "trian" in err


def test_reader_that_has_gone(trained):
    """``firstsight report RUN --json | true`` is no mistake of the user, and leaves no message behind."""
    process = start("report", trained, "--json")
    process.stdout.close()
    assert process.wait(timeout=120) == 0
    assert process.stderr.read() == ""
    process.stderr.close()
