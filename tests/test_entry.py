"""The ``firstsight`` command before and after its work: Ctrl-C ends it with one line at any moment."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

# A torch that takes a minute to load, and makes another exception of the one that ends it.
SLOW = """
import pathlib, time
pathlib.Path(__file__).with_name("loading").touch()
try:
    time.sleep(60)
except BaseException as error:
    raise {again} from error
"""
LINE = "firstsight: interrupted\n"


def hear() -> None:
    """Heed Ctrl-C also where the tests run in the background of a shell, which tells its jobs to ignore it."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def ignore() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def start(*command: str, path: Path | None = None, preexec_fn=hear) -> subprocess.Popen:
    here = str(Path(__file__).parents[1] / "src")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(path), here] if path else [here])}
    return subprocess.Popen(
        [sys.executable, *command], env=environment, stderr=subprocess.PIPE, text=True, preexec_fn=preexec_fn
    )


def ended(process: subprocess.Popen) -> tuple[int, str]:
    _, err = process.communicate(timeout=30)
    return process.returncode, err


@pytest.mark.parametrize("again", ["error", "ImportError('numpy could not be loaded')"])
@pytest.mark.parametrize("command", [["-m", "firstsight"], ["-c", "import firstsight.__main__ as m; m.main()"]])
def test_while_torch_is_loading(tmp_path: Path, command: list[str], again: str) -> None:
    (tmp_path / "torch.py").write_text(SLOW.format(again=again))
    process = start(*command, "--version", path=tmp_path)
    while not (tmp_path / "loading").exists():
        assert process.poll() is None, ended(process)
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    assert ended(process) == (130, LINE)


# In the place of the command line: what it does is beside the point.
FAKE = """
import atexit, os, signal, sys, types
{before}
sys.modules["firstsight.lab.cli"] = types.SimpleNamespace(main=lambda: {does})
from firstsight.__main__ import main
sys.exit(main())
"""
INTERRUPT = "os.kill(os.getpid(), signal.SIGINT)"


def test_between_the_parts_that_handle_it() -> None:
    assert ended(start("-c", FAKE.format(before="", does=INTERRUPT))) == (130, LINE)


def test_when_all_is_done() -> None:
    before = f"atexit.register(lambda: {INTERRUPT})"
    assert ended(start("-c", FAKE.format(before=before, does="3"))) == (130, LINE)
    assert ended(start("-c", FAKE.format(before="", does="3"))) == (3, "")


def test_a_job_in_the_background_goes_on() -> None:
    assert ended(start("-c", FAKE.format(before="", does=INTERRUPT), preexec_fn=ignore)) == (0, "")


def test_the_package_alone_does_not_load_torch() -> None:
    names = "firstsight.HebbianSoftmax, firstsight.functional.linear_cross_entropy, firstsight.heads, firstsight.errors"
    code = f"import sys, firstsight; assert 'torch' not in sys.modules; {names}; assert 'torch' in sys.modules"
    code += (
        "; from firstsight import *; attach, InputError, MbPA; assert set(firstsight.__all__) <= set(dir(firstsight))"
    )
    assert ended(start("-c", code)) == (0, "")
