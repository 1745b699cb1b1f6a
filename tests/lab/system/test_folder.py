import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from firstsight.errors import InputError
from firstsight.lab.system import folder
from firstsight.lab.system.files import atomic_write, write_json
from firstsight.lab.system.folder import DATA, LOCK, PAGE, RUN, STUDY, hold
from firstsight.lab.system.manifest import DIGESTS, kind_of


def forked(act):
    """A process that does this and is then at our mercy; what it says, by a pipe, once it holds what it is to."""
    read, write = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            act(lambda: os.write(write, b"x"))
        finally:
            os._exit(0)
    os.close(write)
    assert os.read(read, 1) == b"x"
    os.close(read)
    return pid


def sleeper(out):
    def act(ready):
        with hold(out, RUN):
            ready()
            time.sleep(600)

    return act


def end(pid, number=signal.SIGKILL):
    os.kill(pid, number)
    os.waitpid(pid, 0)


def test_the_second_is_told_who_is_at_work_and_the_first_loses_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/bin/firstsight", "train", "a b", "\x1b[31m"])
    pid = forked(sleeper(tmp_path))
    before = (tmp_path / LOCK).read_text()
    try:
        with pytest.raises(InputError) as told, hold(tmp_path, RUN):
            pass
    finally:
        end(pid)
    assert f"{tmp_path}: firstsight train 'a b' '\\x1b[31m', since " in str(told.value)
    assert f"(process {pid}) is at work in this folder" in str(told.value)
    assert before == f"{pid} " + str(told.value).split(": ", 1)[1].split(" (process")[0] + "\n"


def test_a_dead_holders_folder_is_taken_over_and_its_half_written_files_go(tmp_path):
    def act(ready):
        with hold(tmp_path, RUN), atomic_write(tmp_path / "result.json") as file:
            file.write("half")
            file.flush()
            ready()
            time.sleep(600)

    end(forked(act))
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / ".best.pt.abcd1234.part").write_text("left by a kill")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / LOCK).write_text("")
    (tmp_path / "other" / ".best.pt.abcd1234.part").write_text("being written by the holder of that folder")
    (tmp_path / "mine.part").write_text("the user's own")
    with hold(tmp_path, RUN):
        left = {path.name for path in tmp_path.rglob("*.part")}
    assert left == {".best.pt.abcd1234.part", "mine.part"}
    assert (tmp_path / "other" / ".best.pt.abcd1234.part").exists()
    assert not (tmp_path / "below" / ".best.pt.abcd1234.part").exists()


def test_what_inherits_the_lock_holds_the_folder_and_whoever_comes_waits_for_its_end(tmp_path):
    def act(ready):
        with hold(tmp_path, RUN) as lock:
            os.set_inheritable(lock.fileno(), True)
            subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1.5)"], close_fds=False)
            ready()
            time.sleep(600)

    end(forked(act))
    began = time.monotonic()
    with hold(tmp_path, RUN):
        assert time.monotonic() - began > 0.5


def test_held_again_it_counts_as_one_and_leaves_nothing_behind(tmp_path):
    out = tmp_path / "new"
    with hold(out, RUN), hold(out), hold(tmp_path / "new" / ".." / "new", RUN):
        assert (out / LOCK).exists()
        with hold(out / "inner", DATA):
            pass
        assert not (out / "inner").exists()
    assert not out.exists()
    with pytest.raises(ZeroDivisionError), hold(out, RUN):
        write_json(out / "a.json", 1 / 0)
    assert not out.exists()


def test_waits_for_another_holder(tmp_path, monkeypatch):
    def act(ready):
        with hold(tmp_path, RUN):
            ready()
            time.sleep(0.5)

    pid = forked(act)
    with hold(tmp_path, RUN, wait=60):
        pass
    os.waitpid(pid, 0)


@pytest.mark.parametrize(
    ("marker", "kind"), [("config.yaml", RUN), ("meta.json", DATA), ("study.json", STUDY), ("plan.json", "trial")]
)
def test_a_folder_of_another_kind_is_refused(marker, kind, tmp_path):
    (tmp_path / marker).write_text("{}")
    with pytest.raises(InputError, match="which would be lost"), hold(tmp_path, PAGE):
        pass
    with hold(tmp_path, kind), hold(tmp_path):
        pass
    assert [path.name for path in tmp_path.iterdir()] == [marker]


def test_a_folder_says_what_it_is_from_its_first_file_on(tmp_path):
    out = tmp_path / "out"
    with hold(out, PAGE):
        assert kind_of(out) == ""
        write_json(out / "any.json", {})
    assert kind_of(out) == PAGE
    with pytest.raises(InputError, match=r"holds a report, .* a run of a language model was to be written"):
        hold(out, RUN).__enter__()
    assert not (out / LOCK).exists()


def test_no_folder(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="file: this is a file"), hold(tmp_path / "file", RUN):
        pass
    with pytest.raises(InputError, match="there is no such folder"), hold(tmp_path / "none", RUN, make=False):
        pass
    assert not (tmp_path / "none").exists()


def test_a_hundred_at_once_are_one_after_the_other(tmp_path):
    """A counter that is read and written without any care of its own."""
    (tmp_path / "counter").write_text("0")
    pids = []
    for _ in range(20):
        if not (pid := os.fork()):
            try:
                for _ in range(5):
                    with hold(tmp_path, RUN, wait=300):
                        number = int((tmp_path / "counter").read_text())
                        (tmp_path / "counter").write_text(str(number + 1))
            finally:
                os._exit(0)
        pids.append(pid)
    for pid in pids:
        os.waitpid(pid, 0)
    assert (tmp_path / "counter").read_text() == "100"
    assert not (tmp_path / LOCK).exists()
    assert not (tmp_path / DIGESTS).exists()


def test_every_kind_has_a_title():
    kinds = {getattr(folder, name) for name in vars(folder) if name.isupper() and name in "RUN DATA STUDY SEARCH TRIAL"}
    assert kinds | set(folder.MARKERS.values()) <= set(folder.TITLES)


def test_a_lock_that_is_a_link_is_not_followed(tmp_path):
    target = tmp_path / "precious"
    target.write_text("mine")
    out = tmp_path / "out"
    out.mkdir()
    Path(out / LOCK).symlink_to(target)
    with pytest.raises(OSError, match=r"\.lock"), hold(out, RUN):
        pass
    assert target.read_text() == "mine"
