"""What the benchmarks share: paired timing, peak memory, and a record of the machine."""

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from firstsight.lab.system.files import write_json
from firstsight.lab.system.machine import provenance, resident


def paired(variants: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each variant, one call each in turn, ``rounds`` times after two warm-ups.

    Turn by turn, so that a machine that slows down slows all of them.
    """
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for turn in range(rounds + 2):
        for name, variant in variants.items():
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            start = time.perf_counter()
            variant()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            if turn >= 2:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def ratios(seconds: Mapping[str, list[float]], of: str, to: str) -> dict[str, float]:
    """How many times as long ``of`` takes as ``to``: quartiles of the ratio within a round, and of the best times."""
    pairs = [a / b for a, b in zip(seconds[of], seconds[to], strict=True)]
    low, median, high = statistics.quantiles(pairs, n=4)
    return {"median": median, "quartile_1": low, "quartile_3": high, "of_best": min(seconds[of]) / min(seconds[to])}


def peak_memory(step: Callable[[], object]) -> int:
    """Bytes of resident memory that one call needs at its peak, above what the process held before (Linux)."""
    before = start_peak()
    step()
    return resident("VmHWM") - before


def start_peak() -> int:
    """Set the high-water mark back, and give the bytes of resident memory now."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    return resident("VmRSS")


def in_subprocess(script: str, *arguments: str) -> str:
    """Run ``script`` with this Python in a fresh process and give what it printed."""
    return subprocess.run([sys.executable, script, *arguments], check=True, capture_output=True, text=True).stdout


def arguments(description: str, out: str, **numbers: int) -> argparse.Namespace:
    """``--out`` and a few whole numbers from the command line."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(out), help="JSON file to write")
    for name, value in numbers.items():
        parser.add_argument(f"--{name}", type=int, default=value, help=" ")
    return parser.parse_args()


def print_and_save(path: Path, found: dict[str, Any]) -> None:
    """A line for each of the findings, and then ``save``."""
    for name, value in found.items():
        print(name, value)
    save(path, found)


def save(path: Path, found: dict[str, Any]) -> None:
    """Write the findings with the machine, versions and command they come from."""
    origin = {"machine": provenance(), "threads": torch.get_num_threads()}
    write_json(path, found | origin)
    print(f"{path} written")
