"""Made-up run folders such as training and evaluation leave, for the tests of the report."""

import json
import math
import random

from rich.console import Console

from firstsight.lab.lm.config import Config, save_config

BANDS = {">10K": 14_210, "1K-10K": 8_533, "100-1K": 10_924, "<100": 13_020, "unseen": 2_377}
SOFTMAX = {">10K": 9.52, "1K-10K": 88.4, "100-1K": 402.7, "<100": 6_120.3, "unseen": 141_803.9}
HEBBIAN = {">10K": 9.61, "1K-10K": 86.9, "100-1K": 371.2, "<100": 4_655.8, "unseen": 109_412.2}


def make_result(perplexities, run, **changes):
    nll = sum(BANDS[name] * math.log(value) for name, value in perplexities.items() if value)
    tokens = sum(BANDS.values())
    result = {
        "dataset": "stdlib",
        "split": "test",
        "tokens": tokens,
        "perplexity": math.exp(nll / tokens),
        "bands": [{"name": n, "tokens": BANDS[n], "perplexity": p} for n, p in perplexities.items()],
        "vocabulary": 12_903,
        "vocabulary_hash": "9f" * 32,
        "streams": 1,
        "seconds": 7.4,
        "config": Config(head="softmax" if "softmax" in run else "hebbian").to_dict(),
        "version": "0.1.0",
        "torch_version": "2.13.0+cpu",
        "git_commit": "1f0c2ab4d5e6f708192a3b4c5d6e7f8091a2b3c4",
        "memory": None,
        "run": run,
        "machine": "Intel(R) Xeon(R) Platinum 8481C CPU @ 2.70GHz, 2 cores",
        "command": f"firstsight eval runs/{run} --split test",
        "checkpoint": {"name": "best", "step": 1_650},
    }
    return result | changes


def make_sights(line, speed, noise):
    """The sights of the line numbered from 1: ``tokens`` are those of every run, the loss falls with ``speed``."""
    buckets = []
    for place, seen in enumerate([0, *(2**i for i in range(17))]):
        if seen > 6_000 * line:  # not even the most frequent word has been met so often
            break
        rare = math.exp(-line / (1 + place))  # what is met for the first time comes early
        tokens = round(2_000 * (1 + place) * (0.2 + rare))
        buckets.append(
            {
                "seen": seen,
                "tokens": tokens,
                "nll": 2.6 + 9.2 * math.exp(-speed * place / 6 - line / 40) + noise.uniform(-0.01, 0.01),
            }
        )
    return buckets


def make_run(folder, perplexities, validations=12, seed=0, sights=None, **changes):
    """A run folder such as training and evaluation leave: the loss falls towards that of the result.

    ``sights``: how fast it learns a word, about 1; without it the run has none, as an older one.
    """
    run = "softmax" if perplexities is SOFTMAX else "hebbian"
    result = make_result(perplexities, run, **changes)
    folder.mkdir(parents=True)
    save_config(folder / "config.yaml", "data/stdlib", Config.from_dict(result["config"]))
    noise = random.Random(seed + len(run))
    lines = []
    for i in range(1, validations + 1):
        tokens = i * 150 * 16 * 70
        valid = math.log(result["perplexity"]) + 2.6 * math.exp(-i / 2.5) + noise.uniform(0, 0.03)
        lines.append(
            {
                "step": 150 * i,
                "tokens": tokens,
                "seconds": 14.2 * i,
                "train_loss": valid + 0.25 * math.exp(-i / 2) - 0.05 * i / 2,
                "valid_loss": valid,
                "valid_perplexity": math.exp(valid),
                "lr": 0.001,
                "tokens_per_second": 11_830.0,
                "classes_seen": 1 - math.exp(-tokens / 260_000) * 0.7,
                "classes_past_T": 0.04 * (1 - math.exp(-tokens / 900_000)),
            }
        )
        if sights is not None:
            lines[-1]["sights"] = make_sights(i, sights, noise)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    (folder / "result.json").write_text(json.dumps(result), encoding="utf-8")
    return result


def text_of(table):
    """A rich table as plain text."""
    console = Console(width=300, no_color=True)
    with console.capture() as capture:
        console.print(table)
    return capture.get()
