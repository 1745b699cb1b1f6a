"""A pool that is starting, and Ctrl-C, which a terminal sends to all its processes at once."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

STARTER = """
import sys
from functools import partial
from pathlib import Path
from shard_jobs import linger
from firstsight.lab.data.pool import make_shards
from firstsight.lab.data.shards import Item
if __name__ == "__main__":
    pids = Path(sys.argv[1])
    try:
        make_shards(pids.parent, [Item(str(i), 1, "1", partial(linger, pids)) for i in range(9)], None, 2)
    except KeyboardInterrupt:
        sys.exit(130)
"""
# Python runs this first of all: the process of a pool that is named tells that it is there, and dawdles.
DAWDLE = """
import pathlib, sys, time
if {kind!r} in " ".join(sys.orig_argv):
    pathlib.Path(__file__).with_name("there").touch()
    time.sleep(0.2)
"""


def hear() -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.mark.parametrize("moment", ["forkserver", "a worker"])
def test_ctrl_c_while_a_pool_starts_is_quiet(tmp_path: Path, moment: str) -> None:
    if moment != "a worker":
        (tmp_path / "sitecustomize.py").write_text(DAWDLE.format(kind=moment))
    (tmp_path / "starter.py").write_text(STARTER)
    (tmp_path / "pids").mkdir()
    places = [tmp_path, Path(__file__).parents[2] / "helpers", Path(__file__).parents[3] / "src"]
    starter = subprocess.Popen(
        [sys.executable, tmp_path / "starter.py", tmp_path / "pids"],
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, places))},
        preexec_fn=hear,
        start_new_session=True,
        text=True,
    )
    here = psutil.Process(starter.pid)
    while not (tmp_path / "there").exists() if moment != "a worker" else len(here.children(recursive=True)) < 3:
        assert starter.poll() is None, starter.communicate()
        time.sleep(0.002)
    family = here.children(recursive=True)
    os.killpg(starter.pid, signal.SIGINT)
    _, err = starter.communicate(timeout=60)
    assert (starter.returncode, err) == (130, "")
    assert psutil.wait_procs(family, timeout=30)[1] == []
