"""Preparing the books: the whole command on all cores against the appendix's script, plain, on one core.

The plain script runs over the first half of the books, then the command over all of them, then the plain script over
the second half, so that a machine that slows down slows both. The command's time has everything in it: Python's start,
the archives, tokens, vocabulary, checksums. Then every book is decoded from the data folder and compared, byte for
byte, and the audit is timed:

    python benchmarks/gutenberg.py --mirrors ../shared/data/gutenberg/mirror-valid.tar.xz \
        ../shared/data/gutenberg/mirror-train.tar.xz
"""

import argparse
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import psutil
from common import save

from firstsight.lab.data import Corpus, open_corpus
from firstsight.lab.data.audit.audit import audit_corpus
from firstsight.lab.data.gutenberg.book_ids import LISTED
from firstsight.lab.data.gutenberg.mirror import open_source
from firstsight.lab.system.machine import cores

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "data"))
from plain_script import plain_process_text  # type: ignore[import-not-found]


def plain(raws: dict[int, bytes]) -> tuple[dict[int, bytes], float]:
    start = time.perf_counter()
    return {book: plain_process_text(raw) for book, raw in raws.items()}, time.perf_counter() - start


def command(mirrors: list[str], out: Path) -> tuple[float, int]:
    """Seconds, and the largest sum of the memory of all its processes, shared pages counted once."""
    start = time.perf_counter()
    arguments = ["data", "gutenberg", "--from", *mirrors, "--out", str(out), "--json"]
    process = psutil.Popen([sys.executable, "-m", "firstsight", *arguments], stdout=subprocess.DEVNULL)
    peak, done = 0, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(2):
            peak = max(peak, _memory(process))

    watcher = threading.Thread(target=watch)
    watcher.start()
    code = process.wait()
    seconds = time.perf_counter() - start
    done.set()
    watcher.join()
    assert code == 0, f"the command ended with {code}"
    return seconds, peak


def _memory(process: psutil.Process) -> int:
    total = 0
    try:
        for one in [process, *process.children(recursive=True)]:
            total += one.memory_full_info().pss
    except psutil.NoSuchProcess:  # one has just ended
        pass
    return total


def decoded(corpus: Corpus) -> dict[int, bytes]:
    """Every book's text, with the words that training lacks as ``<unk>``."""
    found = {}
    for split in LISTED:
        documents = corpus.documents(split)
        if documents is not None:
            tokens = corpus.split(split)
            for name, start, stop in zip(documents.names, documents.starts, documents.starts[1:], strict=False):
                words = corpus.vocabulary.decode(tokens[start:stop].tolist())
                found[int(name)] = " ".join("\n" if word == "<eos>" else word for word in words).encode()
    return found


def same(ours: bytes, theirs: bytes) -> bool:
    return ours == theirs or all(a in (b, b"<unk>") for a, b in zip(ours.split(b" "), theirs.split(b" "), strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mirrors", nargs="+", required=True, help="as firstsight data gutenberg --from")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/gutenberg.json"))
    given = parser.parse_args()
    books = [book for split in LISTED.values() for book in split]
    raws = {found.book: found.raw for mirror in given.mirrors for found in open_source(mirror).read(books)}
    half = len(raws) // 2
    plain_process_text(next(iter(raws.values())))  # loads the sentence model
    with tempfile.TemporaryDirectory() as folder:
        first, before = plain(dict(list(raws.items())[:half]))
        seconds, peak = command(given.mirrors, Path(folder))
        second, after = plain(dict(list(raws.items())[half:]))
        expected, corpus = first | second, open_corpus(folder)
        ours = decoded(corpus)
        different = [book for book in expected if not same(ours[book], expected[book])]
        audited = audit_corpus(folder)
    ratio = (before + after) / seconds
    found: dict[str, Any] = {
        "books": len(raws),
        "bytes": sum(map(len, raws.values())),
        "tokens": corpus.meta["tokens"],
        "seconds": {"plain, one core": before + after, "plain, halves": [before, after], "command": seconds},
        "times_as_fast": ratio,
        "cores": cores(),
        "times_as_fast_per_core": ratio / cores(),
        "books_with_other_bytes": different,
        "peak_bytes_of_all_processes": peak,
        "audit": {"seconds": audited["seconds"], "pairs": audited["pairs"]},
    }
    save(given.out, found)
    print({name: found[name] for name in ("times_as_fast", "times_as_fast_per_core", "books_with_other_bytes")})


if __name__ == "__main__":
    main()
