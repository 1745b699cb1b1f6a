"""Reading GigaWord: documents and bytes a second against the bare lines of the same file, and peak memory.

The documents are made up (10 paragraphs of 2 to 4 lines, words by Zipf's law), one gzip file of them lies in a
temporary folder, and each reading is a fresh process. The bare rate is that of a loop over the lines, through a
buffer. Seconds are of processor time, so other work on the machine hardly matters:

    python benchmarks/gigaword_reader.py
"""

import gzip
import io
import resource
import sys
import tempfile
import time
from itertools import islice
from pathlib import Path
from typing import Any

from common import arguments, in_subprocess, peak_memory, print_and_save

from firstsight.lab.data.gigaword.document import Tally
from firstsight.lab.data.gigaword.reader import read_documents

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "data"))
from gigaword_files import make_documents, make_ids, render  # type: ignore[import-not-found]

RESULT = "benchmarks/results/gigaword_reader.json"
POOL = 2000  # documents; more than gzip looks back


def write(path: Path, documents: int) -> int:
    """The unpacked size."""
    pool = [render(document).partition('"')[2].partition('"')[2] for document in make_documents([""] * POOL)]
    size = 0
    with gzip.open(path, "wb", compresslevel=1) as file:
        for number, name in enumerate(islice(make_ids(a_day=5000), documents)):
            size += file.write(f'<DOC id="{name}"{pool[number % POOL]}'.encode())
    return size


def read(path: Path, tally: Tally) -> None:
    for _ in read_documents(path, tally):
        pass


def lines(path: Path) -> None:
    with gzip.open(path, "rb") as file:
        for _ in io.BufferedReader(file, 1 << 16):
            pass


def measure(how: str, path: Path) -> None:
    """In a process of its own: processor seconds, bytes of memory at the peak and above those before, documents."""
    tally = Tally()
    start = time.process_time()
    above = peak_memory(lambda: read(path, tally) if how == "documents" else lines(path))
    seconds = time.process_time() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    assert tally == Tally(documents=tally.documents)
    print(seconds, peak, above, tally.documents)


def main() -> None:
    if len(sys.argv) > 1 and sys.argv[1] == "--measure":
        measure(sys.argv[2], Path(sys.argv[3]))
        return
    options = arguments(__doc__ or "", RESULT, documents=1_000_000, rounds=1)
    found: dict[str, list[list[float]]] = {"lines": [], "documents": []}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "nyt_eng_200001.gz"
        unpacked = write(path, options.documents)
        packed = path.stat().st_size
        for _ in range(options.rounds):
            for how, runs in found.items():
                runs.append([float(value) for value in in_subprocess(__file__, "--measure", how, str(path)).split()])
    seconds = {how: min(run[0] for run in runs) for how, runs in found.items()}
    assert all(run[3] == options.documents for run in found["documents"])
    result: dict[str, Any] = {
        "documents": options.documents,
        "bytes": unpacked,
        "bytes_packed": packed,
        "documents_per_second": options.documents / seconds["documents"],
        "megabytes_per_second": {how: unpacked / 1e6 / value for how, value in seconds.items()},
        "times_as_long_as_the_lines": [
            ours[0] / bare[0] for ours, bare in zip(found["documents"], found["lines"], strict=True)
        ],
        "best_seconds": seconds,
        "peak_bytes": max(run[1] for run in found["documents"]),
        "peak_bytes_above_the_imports": max(run[2] for run in found["documents"]),
    }
    print_and_save(options.out, result)


if __name__ == "__main__":
    main()
