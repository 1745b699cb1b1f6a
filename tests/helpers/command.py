"""The command as a user starts it, in a process of its own or in this one, and a text small enough to learn at once."""

import os
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from firstsight.lab import cli

# A model and a run of about a second. Two processes with one thread each compute the same bits.
TINY = ["--embedding=16", "--hidden=16", "--batch=4", "--length=10", "--lr=0.01", "--steps=20"]
TINY += ["--eval-every=10", "--checkpoint-every=10"]
TIME_FIELDS = ("seconds", "tokens_per_second")


def write_text(path: Path, lines: int = 300, seed: int = 0) -> Path:
    """Lines of words whose frequencies fall off as in language; the last words of 90 hardly occur."""
    rng = random.Random(seed)
    words = [f"word{i}" for i in range(90)]
    weights = [1 / (i + 1) ** 1.5 for i in range(90)]
    path.write_text("".join(" ".join(rng.choices(words, weights, k=12)) + "\n" for _ in range(lines)))
    return path


def start(*arguments: object, **options) -> subprocess.Popen:
    """``firstsight ...`` in a process of its own."""
    command = [sys.executable, "-m", "firstsight", *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    pipe = subprocess.PIPE
    options = {"preexec_fn": hear, **options}
    return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=environment, **options)


def hear() -> None:
    """Heed Ctrl-C also where the tests run in the background of a shell, which tells its jobs to ignore it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def run(*arguments: object, **options) -> tuple[int, str, str]:
    """The same to its end: exit code, standard output and standard error."""
    process = start(*arguments, **options)
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


def call(capture: pytest.CaptureFixture, *arguments: object) -> tuple[int, str, str]:
    """The same in this process, which saves the seconds that importing takes."""
    capture.readouterr()
    try:
        code = cli.main([str(argument) for argument in arguments])
    except SystemExit as end:  # how the parser of the flags ends
        code = end.code
    return code, *capture.readouterr()


def assert_refused(found: tuple[int, str, str], *said: str) -> None:
    """Bad input: exit code 2, nothing on standard output, and one paragraph that says all of ``said``."""
    code, out, err = found
    assert (code, out) == (2, ""), (code, out, err)
    assert "Traceback" not in err
    paragraphs = [line for line in err.splitlines() if line.startswith("firstsight: ")]
    assert paragraphs == err.splitlines()[-1:], err
    for text in said:
        assert text in paragraphs[0], paragraphs[0]


def copy(folder: Path, to: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(folder, to))


def flip(path: Path, position: int) -> None:
    """Invert the bits of one byte."""
    content = bytearray(path.read_bytes())
    content[position] ^= 0xFF
    path.write_bytes(content)
