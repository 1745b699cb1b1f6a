"""A run's folder where the user names none: ``runs/<data>-<head>-<number>``, and which runs there are."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path

from firstsight.errors import InputError
from firstsight.lab.system.job import world_size

RUNS = Path("runs")
SHOWN = 5  # runs of a list


@contextmanager
def new_run(data: Path, head: str) -> Iterator[Path]:
    """A folder that was not there before, held against others who come at the same time; gone if nothing is written.

    Args:
        data: data folder, whose name comes first.
        head: output layer, whose name follows.

    Raises:
        InputError: one of several processes, which would each make a folder.
    """
    if world_size() > 1:
        raise InputError(f"{world_size()} processes need one folder. Name it: --out {RUNS}/NAME.")
    RUNS.mkdir(parents=True, exist_ok=True)
    for number in count(1):
        folder = RUNS / f"{data.resolve().name}-{head}-{number}"
        with suppress(FileExistsError):
            folder.mkdir()
            break
    try:
        yield folder
    finally:
        with suppress(OSError):  # which says that it is not empty
            folder.rmdir()
            RUNS.rmdir()


def no_run_named() -> InputError:
    """The answer to ``--resume`` without ``--out``: the latest runs, as one of them has to be copied.

    None is taken unasked: a run's settings are those of its folder, and hours of training may go into the wrong one.
    """
    found = sorted(RUNS.glob("*/config.yaml"), key=lambda path: path.stat().st_mtime, reverse=True)
    if not found:
        return InputError(f"--resume needs the run's folder, --out RUN, and {RUNS}/ holds none.")
    more = f", and {len(found) - SHOWN} older ones" if len(found) > SHOWN else ""
    latest = ", ".join(f"--out {path.parent}" for path in found[:SHOWN])
    return InputError(f"--resume needs the run's folder. The latest in {RUNS}/ are {latest}{more}.")
