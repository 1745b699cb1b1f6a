"""What became of a command on damaged files: the same, refused by name, or one of the kinds that must not be.

named: exit code 2 (1 where jobs failed), and its one line names the file. told: done, with another result, and a line
names the file. same: done, with the same result. other input: a user's own file without a checksum, changed into
another that can be read. silent: done, with another result. lost: something else that was whole is gone or another.
unnamed: refused, and the line does not name the file.
"""

import hashlib
import io
import json
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from tests.campaign.server import Ended

KINDS = ("named", "told", "same", "other input", "silent", "tracebacks", "hangs", "lost", "unnamed")
BAD = ("silent", "tracebacks", "hangs", "lost", "unnamed")
TIMES = re.compile(
    r"seconds|^attempts$|tokens_per_second|per_second|minutes|^since$|^pid$|^date|time$|_ms$|^peak|^worker$"
)
DURATION = re.compile(r"\d[\d.,]* (s|min|h|d|tokens/s)\b|\d{4}-\d\d-\d\d( \d\d:\d\d)?")
MANIFEST = "digests.json"  # says what the other files are, times and all
SOURCES = ("sources", "command")  # what a file from outside was, byte by byte, is told in full
ATTEMPTS = re.compile(r"<td>\d+</td>(?=<td>(?:done|pruned)</td>)")  # of a search's points: one more after a kill
HIDDEN = re.compile(r"\.part$|(^|/)\.(new|ready)(/|$)")


@dataclass
class State:
    """A folder: each file by its name as bytes, or as what stands in its place."""

    files: dict[str, bytes]

    @classmethod
    def of(cls, place: Path) -> "State":
        """Everything below a folder."""
        found = {}
        for folder, names, files in os.walk(place):
            for name in [*files, *(n for n in names if os.path.islink(os.path.join(folder, n)))]:
                path = Path(folder, name)
                key = path.relative_to(place).as_posix()
                if path.is_symlink():
                    found[key] = f"link to {os.readlink(path)}".encode()
                elif path.is_file():
                    found[key] = path.read_bytes()
                else:
                    found[key] = b"no plain file"
        return cls(found)


@lru_cache(maxsize=5000)  # most files of most cases are those of the bed
def meaning(name: str, content: bytes) -> Any:
    """What a file says, its times apart."""
    try:
        if name.endswith(".json"):
            return timeless(json.loads(content))
        if name.endswith(".jsonl"):
            return [timeless(json.loads(line)) for line in content.decode().splitlines()]
        if name.endswith((".html", ".svg", ".png", ".md")):  # pictures are sketches here, see tiny.py
            return re.split(r"(?<=>)|\n|(?<=, )", ATTEMPTS.sub("", DURATION.sub("TIME", content.decode())))
        if name.endswith(".db") and content.startswith(b"SQLite format 3"):
            return "a database"  # what it holds is told in sweep.json
        if name.endswith(".pt"):
            import torch

            return timeless(torch.load(io.BytesIO(content), weights_only=True))
        if name.endswith(".npz"):
            import numpy as np

            with np.load(io.BytesIO(content), allow_pickle=False) as file:
                return {key: _array(file[key]) for key in file}
    except Exception:  # damaged: it is what its bytes are
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha256(content).hexdigest()


def _array(array: Any) -> Any:
    """An array as its checksum, or a JSON that is kept in one."""
    text = array.tobytes().decode(errors="replace") if array.dtype.name == "uint8" else str(array)
    try:
        return timeless(json.loads(text)) if text.startswith("{") else hashlib.sha256(array.tobytes()).hexdigest()
    except ValueError:
        return hashlib.sha256(array.tobytes()).hexdigest()


def timeless(value: Any) -> Any:
    """A value without what differs between two runs of the same command."""
    if isinstance(value, dict):
        return {str(k): timeless(v) for k, v in value.items() if not TIMES.search(str(k)) and k not in SOURCES}
    if isinstance(value, list | tuple):
        return [timeless(one) for one in value]
    if hasattr(value, "numpy"):
        return hashlib.sha256(repr(value.dtype).encode() + value.contiguous().numpy().tobytes()).hexdigest()
    return repr(value)


def told(out: str) -> Any:
    """What a command printed, its times apart."""
    try:
        return timeless(json.loads(out))
    except ValueError:
        return out


@dataclass
class Expected:
    """What the undamaged bed gives: what is printed, and the files that are the same each time."""

    before: State
    out: Any
    said: set[str]
    after: dict[str, Any]
    noisy: set[str] = field(default_factory=set)

    @classmethod
    def of(cls, before: State, runs: Iterable[tuple[Ended, State]]) -> "Expected":
        """From some runs of the same command: what differs between these says nothing."""
        (ended, first), *others = list(runs)
        after = {name: meaning(name, content) for name, content in first.files.items() if not unlasting(name)}
        noisy = {
            name
            for _, other in others
            for name in {*after, *other.files}
            if not unlasting(name) and meaning(name, other.files.get(name, b"")) != after.get(name)
        }
        return cls(before, told(ended.out), _lines(ended.err), after, noisy)


def unlasting(name: str) -> bool:
    """Whether a file holds no result: a lock, a log, what was timed, a temporary that the check for those tells."""
    return name.endswith((".lock", "log.txt", "sweep.db-journal", "costs.json")) or bool(HIDDEN.search(name))


def judge(ended: Ended, name: str, own: bool, damaged: bytes, after: State, expected: Expected) -> tuple[str, str]:
    """The verdict of a case, and what tells it.

    Args:
        ended: how the command ended.
        name: of the file that was damaged.
        own: whether it is an input from outside.
        damaged: what the file was before the command.
        after: the folder after the command.
        expected: what the undamaged bed gives.
    """
    if "owned" in after.files:
        return "silent", "code of the file was run"
    if ended.hang:
        return "hangs", ended.hang
    if "Traceback (most recent call last)" in ended.err or ended.code < 0 or ended.code == 99:
        return "tracebacks", raised(ended.err) or f"signal {-ended.code}"
    line = next((line for line in _lines(ended.err) - expected.said if Path(name).name in line), "")
    if gone := lost(name, after, expected, ended.code == 0, damaged):
        return ("lost", gone) if ended.code or not (line or own) else ("told", line) if line else ("other input", gone)
    if ended.code:
        line = last_line(ended.err)
        if ended.code not in (1, 2) or not line.startswith("firstsight: "):
            return "tracebacks", f"exit code {ended.code}: {line}"
        return ("named" if names(name, line, damaged) else "unnamed"), line
    if other := difference(ended, name, damaged, after, expected):
        if own:
            return "other input", other
        return ("told", line) if line else ("silent", other)
    return "same", ""


def _lines(text: str) -> set[str]:
    return {DURATION.sub("TIME", line) for line in text.splitlines()}


def last_line(text: str) -> str:
    """The last line that says something."""
    rows = [row for row in text.splitlines() if row.strip()]
    return rows[-1].strip() if rows else ""


def raised(text: str) -> str:
    """The line of the exception under the first traceback, or the last line where there is none."""
    under = text.partition("Traceback (most recent call last)")[2].splitlines()[1:]
    return next((row for row in under if row and not row.startswith(" ")), last_line(text))


def names(name: str, line: str, damaged: bytes) -> bool:
    """Whether a message names a file; of one that is missing, or that is a folder, its folder is enough."""
    path = Path(name)
    if path.name in line:
        return True
    return damaged == b"" and path.parent.name != "" and path.parent.as_posix() in line


def lost(name: str, after: State, expected: Expected, done: bool, damaged: bytes) -> str:
    """Files that were whole before and are gone, or, after a refusal, are neither what they were nor what they get."""
    for one, content in expected.before.files.items():
        if one == name or unlasting(one) or one in expected.noisy or one.endswith(MANIFEST):
            continue
        now = after.files.get(one)
        if now is None and one in expected.after:
            return f"{one} is gone"
        if done or now is None or now == content or now.startswith(content):
            continue
        if meaning(one, now) not in (expected.after.get(one), meaning(one, content)):
            return f"{one} is another"
    return ""


def difference(ended: Ended, name: str, damaged: bytes, after: State, expected: Expected) -> str:
    """How a result differs from that of the undamaged bed; empty if it does not."""
    if told(ended.out) != expected.out:
        return f"it prints {where(told(ended.out), expected.out)}"
    for one, value in expected.after.items():
        if one in expected.noisy or one.endswith(MANIFEST) or (one == name and after.files.get(one) == damaged):
            continue
        if one not in after.files:
            if one == name and damaged == b"":
                continue  # removed, and not needed
            return f"{one} is missing"
        if (now := meaning(one, after.files[one])) != value:
            return f"{one} says {where(now, value)}"
    return ""


def where(one: Any, other: Any, path: str = "") -> str:
    """The first place in which two values differ."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        for key in {**one, **other}:
            if one.get(key) != other.get(key):
                return where(one.get(key), other.get(key), f"{path}.{key}")
    if isinstance(one, list) and isinstance(other, list):
        for at, (a, b) in enumerate(zip(one, other, strict=False)):
            if a != b:
                return where(a, b, f"{path}[{at}]")
    return f"{path} {str(one)[:60]} for {str(other)[:60]}".strip()


def left_over(after: State) -> list[str]:
    """Temporaries that were left behind."""
    return [name for name in after.files if HIDDEN.search(name)]
