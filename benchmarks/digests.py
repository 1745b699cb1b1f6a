"""What the digests of a folder's files cost: preparing WikiText-2, an evaluation, training.

Each of the three is run as it is, and with nothing noted and nothing held against what was noted, turn by turn in one
process. Beside the paired ratio, the share of the time as it is that went into noting and checking, by a clock in them:
the ratio of two runs on a machine that others use too tells no difference of a percent.

    python benchmarks/digests.py ../shared/data/wikitext-2/wikitext-2.tar.xz
"""

import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any
from unittest.mock import patch

from common import paired, print_and_save, ratios

from firstsight.lab.data import open_corpus, wikitext
from firstsight.lab.lm.recipes import recipe
from firstsight.lab.lm.results import evaluate_run
from firstsight.lab.lm.training import train
from firstsight.lab.system import manifest, replace

RESULT = "benchmarks/results/digests.json"
ROUNDS = 3
STEPS = 100
NOTED, CHECKED = manifest.noted, manifest.checked
spent = 0.0  # seconds in noting and checking


@contextmanager
def counted() -> Iterator[None]:
    """Add the time of the block to ``spent``."""
    global spent
    began = time.perf_counter()
    try:
        yield
    finally:
        spent += time.perf_counter() - began


def timed(act: Callable[..., Any]) -> Callable[..., Any]:
    """The same, with what it takes added up."""

    def run(*args: Any) -> Any:
        with counted():
            return act(*args)

    return run


@contextmanager
def noted(*args: Any) -> Iterator[None]:
    """``manifest.noted``, with a clock in what comes before and after the block."""
    with ExitStack() as stack:
        with counted():
            stack.enter_context(NOTED(*args))
        yield
        began = stack.pop_all()
        with counted():
            began.close()


def checked(path: Path, read: Callable[[], bytes]) -> bytes:
    """``manifest.checked``, with a clock in what is not the reading."""
    global spent
    reading = 0.0

    def clocked_read() -> bytes:
        nonlocal reading
        began = time.perf_counter()
        content = read()
        reading += time.perf_counter() - began
        return content

    with counted():
        content = CHECKED(path, clocked_read)
    spent -= reading
    return content


@contextmanager
def without() -> Iterator[None]:
    """Nothing is noted, and nothing compared."""
    with (
        patch.object(manifest, "noted", lambda *_: nullcontext()),
        patch.object(manifest, "fits", lambda *_: True),
        patch.object(replace, "seal", lambda *_: None),
        patch("firstsight.lab.runs.metrics.noted", lambda *_: nullcontext()),
    ):
        yield


@contextmanager
def clocked() -> Iterator[None]:
    """Every place where something is noted or compared, with a clock."""
    with (
        patch.object(manifest, "noted", noted),
        patch.object(manifest, "checked", checked),
        patch.object(replace, "seal", timed(manifest.seal)),
        patch("firstsight.lab.data.tokens.check_file", timed(manifest.check_file)),
        patch("firstsight.lab.runs.metrics.noted", noted),
        patch("firstsight.lab.runs.metrics.checked", checked),
    ):
        yield


def main() -> None:
    """Measure, print and save."""
    global spent
    archive, found = Path(sys.argv[1]), {}
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        wikitext.prepare(archive, out / "data", "wikitext-2")
        corpus = open_corpus(out / "data")
        config = recipe("demo").replace(steps=STEPS, eval_every=50, checkpoint_every=50)
        train(corpus, out / "run", config)

        def prepared() -> None:
            wikitext.prepare(archive, out / "again", "wikitext-2")

        def evaluated() -> None:
            evaluate_run(out / "run", "valid")

        def trained() -> None:
            shutil.rmtree(out / "other", ignore_errors=True)
            train(corpus, out / "other", config)

        for name, act in {"data wikitext-2": prepared, "eval": evaluated, f"{STEPS} steps": trained}.items():

            def plain(act: Callable[[], None] = act) -> None:
                with without():
                    act()

            seconds = paired({"with": act, "without": plain}, ROUNDS)
            spent, began = 0.0, time.perf_counter()
            with clocked():
                act()
            whole = time.perf_counter() - began
            found[name] = {
                **ratios(seconds, "with", "without"),
                "seconds": whole,
                "share": spent / whole,
            }
            print(name, found[name], file=sys.stderr, flush=True)
    print_and_save(Path(RESULT), found)


if __name__ == "__main__":
    main()
