"""The dry run against the run: parameters, memory and speed that it tells, and those that training then has.

Three sizes: the recipes `demo` and `small`, and `small` with 1,024 units and an embedding of 256. The text is drawn by
Zipf's law from 33,276 words (the demo's from 7,528). Each dry run, and each run of 40 steps, is a process of its own.
Run alone on the machine:

    python benchmarks/dry_run.py
"""

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from common import arguments, in_subprocess, print_and_save, start_peak

from firstsight.lab.data import open_corpus, write_corpus
from firstsight.lab.lm.config import Config
from firstsight.lab.lm.dry_run import dry_run
from firstsight.lab.lm.lstm import num_parameters
from firstsight.lab.lm.recipes import recipe
from firstsight.lab.lm.run import open_run
from firstsight.lab.lm.training import train
from firstsight.lab.system.machine import resident

RESULT = "benchmarks/results/dry_run.json"
SIZES: dict[str, tuple[int, Config]] = {
    "demo": (7_528, recipe("demo")),
    "small": (33_276, recipe("small")),
    "1,024 units, embedding 256": (33_276, recipe("small").replace(hidden=1024, embedding=256)),
}
STEPS = 40


def write_text(folder: Path, words: int) -> None:
    """A corpus of this many words, each of them at least once."""
    random = np.random.default_rng(0)
    shares = 1 / np.arange(1, words + 1)
    drawn = {"train": 150_000, "valid": 3_000, "test": 3_000}
    tokens = {name: random.choice(words, n, p=shares / shares.sum()) for name, n in drawn.items()}
    tokens["train"] = random.permutation(np.concatenate([tokens["train"], np.arange(words)]))

    def lines(name: str) -> list[str]:
        return [" ".join(f"w{word}" for word in line) for line in np.array_split(tokens[name], len(tokens[name]) // 20)]

    splits = {name: lambda name=name: lines(name) for name in drawn}
    write_corpus(folder, "text", splits, tokenizer="whitespace", sources=[])


def really(folder: str, out: str, size: str) -> dict[str, Any]:
    """Train, and tell what it took: memory above what there was before, and the speed of the later steps."""
    corpus, config = open_corpus(folder), SIZES[size][1].replace(steps=STEPS, eval_every=STEPS // 2)
    before = start_peak()
    train(corpus, Path(out), config)
    peak = resident("VmHWM") - before
    lines = [json.loads(line) for line in (Path(out) / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    weights = num_parameters(open_run(out, "last").model)
    speeds = [line["tokens_per_second"] for line in lines]
    return {"peak_bytes": peak, "tokens_per_second": max(speeds), "parameters": weights}


def told(folder: str, size: str) -> dict[str, Any]:
    """The dry run's word on the same."""
    found = dry_run(open_corpus(folder), SIZES[size][1])
    return {
        "peak_bytes": found["memory"]["cpu"]["process"],
        "measured_bytes": found["measured"]["peak_bytes"],
        "tokens_per_second": found["measured"]["tokens_per_second"],
        "parameters": found["parameters"]["total"],
        "tensor_bytes": found["memory"]["cpu"]["peak"],
    }


def main() -> None:
    if sys.argv[1:2] == ["--told"]:
        print(json.dumps(told(*sys.argv[2:])))
        return
    if sys.argv[1:2] == ["--really"]:
        print(json.dumps(really(*sys.argv[2:])))
        return
    options = arguments(__doc__ or "", RESULT)
    found: dict[str, Any] = {}
    for size, (words, _) in SIZES.items():
        with tempfile.TemporaryDirectory() as folder:
            write_text(Path(folder) / "text", words)
            dry = json.loads(in_subprocess(__file__, "--told", f"{folder}/text", size).splitlines()[-1])
            run = json.loads(
                in_subprocess(__file__, "--really", f"{folder}/text", f"{folder}/run", size).splitlines()[-1]
            )
        print(size, dry, run, flush=True)
        found[size] = {"dry_run": dry, "run": run, "dry_run_over_run": {name: dry[name] / run[name] for name in run}}
    print_and_save(options.out, found)


if __name__ == "__main__":
    main()
