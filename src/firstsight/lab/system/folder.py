"""A folder that is written: by one process at a time, which says who it is, and of one kind for good.

The lock is an ``flock`` on ``.lock``, which ends with its holder however that ends, and which jobs inherit (our
decision; filelock's keeps its file descriptor to itself).
"""

import fcntl
import os
import re
import shlex
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import IO

from firstsight.errors import InputError
from firstsight.lab.system.manifest import DIGESTS, kind_of, recording

LOCK = ".lock"
RUN, DATA, STUDY, SEARCH, TRIAL = "run", "data", "study", "search", "trial"
CURRICULUM, FIGURES, DEMO, PAGE = "curriculum", "figures", "demo", "page"
MARKERS = {"meta.json": DATA, "config.yaml": RUN, "study.json": STUDY, "sweep.db": SEARCH, "plan.json": TRIAL}
"""of folders without a manifest"""
TITLES = {
    RUN: "a run of a language model",
    DATA: "a prepared corpus",
    STUDY: "a study",
    SEARCH: "a search for settings",
    TRIAL: "a trial of firstsight try",
    CURRICULUM: "a run of the Omniglot curriculum",
    FIGURES: "figures of the paper",
    DEMO: "what firstsight demo made",
    PAGE: "a report",
}
MAKERS = {RUN: "train --out", DATA: "data", STUDY: "study", SEARCH: "sweep lm", TRIAL: "try"}
"""the commands that make a folder for others"""
ORPHANS = 60.0  # seconds that the jobs of a holder which was killed have to save and end
_POLL, _MOMENT = 0.1, 0.5
_UNFINISHED = re.compile(r"\..+\.[a-z0-9_]{8}\.part")  # what a kill leaves of ``atomic_write``


_held: dict[Path, IO[str]] = {}  # the locks of this process


@contextmanager
def hold(folder: str | Path, kind: str = "", *, wait: float = 0.0, make: bool = True) -> Iterator[IO[str]]:
    """Hold a folder while it is written. Within the process it may be held again, and counts as one.

    Half-written files that a killed holder left are removed. A new folder in which nothing was written goes again.

    Args:
        folder: which; made where it is missing, unless ``make`` is false.
        kind: what it is, or is to be: ``RUN`` and so on. "": whatever it is.
        wait: seconds to wait for another holder.

    Returns:
        The lock's file. A process that inherits it holds the folder too, until it ends.

    Raises:
        InputError: it is a file, missing with ``make`` false, of another kind, or another process holds it.
    """
    folder = Path(folder)
    key = folder.resolve()
    if held := _held.get(key):
        check_kind(folder, kind)
        yield held
        return
    if folder.exists() and not folder.is_dir():
        named = "a folder, or a name that is not taken: give another" if make else _expected(kind)
        raise InputError(f"{folder}: this is a file. Expected {named}.")
    if not (make or folder.is_dir()):
        raise InputError(f"{folder}: there is no such folder. Expected {_expected(kind)}.")
    is_new = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    lock = _take(folder, wait)
    try:
        check_kind(folder, kind, make)
        remove_unfinished(folder)
        _held[key] = lock
        with recording(folder, kind):
            yield lock
    finally:
        _held.pop(key, None)
        if key == folder.resolve() and _is_ours(folder, lock):
            (folder / LOCK).unlink()
            with suppress(OSError):  # which says that it is not empty
                if is_new:
                    folder.rmdir()
        lock.close()


def _expected(kind: str) -> str:
    return f"the folder of {TITLES[kind]}, as firstsight {MAKERS[kind]} makes it" if kind in MAKERS else "a folder"


def check_kind(folder: Path, kind: str, make: bool = True) -> None:
    """Raise InputError if a folder is of another kind than ``kind``, which is to be made there; "" is any."""
    if not kind:
        return
    said = kind_of(folder)
    there = said or next((of for name, of in MARKERS.items() if (folder / name).exists()), "")
    what = f"{TITLES.get(there, there)}{f', as {DIGESTS} says' if said else ''}"
    if there and there != kind and not make:
        raise InputError(f"{folder}: this folder holds {what}. Expected {_expected(kind)}.")
    if there and there != kind:
        raise InputError(
            f"{folder}: this folder holds {what}, which would be lost, and {TITLES[kind]} was to be written. Name "
            "another folder."
        )


def remove_unfinished(folder: Path) -> None:
    """Remove what a killed holder left half-written: here and below, but not in folders that have a lock or kind."""
    for path in list(folder.iterdir()):
        if path.is_dir() and not path.is_symlink():
            if not ((path / LOCK).exists() or (path / DIGESTS).exists()):
                remove_unfinished(path)
        elif _UNFINISHED.fullmatch(path.name):
            path.unlink(missing_ok=True)


def _take(folder: Path, wait: float) -> IO[str]:
    """The lock, once it is ours."""
    end = time.monotonic() + wait
    while True:
        lock = _open(folder)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            pid, _, about = lock.readline().strip().partition(" ")
            lock.close()
            orphaned = pid.isdigit() and not Path(f"/proc/{pid}").exists() and Path("/proc/self").exists()
            unsaid = 0.0 if about else _MOMENT  # it has the lock, and has yet to say who it is
            patience = ORPHANS if orphaned else unsaid
            if time.monotonic() < end + patience:
                time.sleep(_POLL)
                continue
            who = f"{about} (process {pid})" if about else "another process"
            raise InputError(
                f"{folder}: {who} is at work in this folder. Wait for its end, or end it; or name another folder."
            ) from None
        if _is_ours(folder, lock):  # its holder may have removed it since we opened it
            break
        lock.close()
    lock.seek(0)
    lock.truncate()
    lock.write(f"{os.getpid()} {_command()}, since {datetime.now().astimezone():%H:%M:%S %Z}\n")
    lock.flush()
    return lock


def _open(folder: Path) -> IO[str]:
    descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, 0o666)
    return open(descriptor, "r+", encoding="utf-8", errors="replace")


def _is_ours(folder: Path, lock: IO[str]) -> bool:
    try:
        return os.path.samestat(os.fstat(lock.fileno()), os.stat(folder / LOCK))
    except FileNotFoundError:
        return False


def _command() -> str:
    words = [Path(sys.argv[0]).name, *sys.argv[1:]]
    text = " ".join(shlex.quote(word) for word in words if word)
    return ascii(text)[1:-1][:200]
