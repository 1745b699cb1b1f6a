"""The control for every gain on rare words: the same trained runs, with rare classes simply given more weight.

Adding s to the bias of each class that training has seen fewer than 100 times, or taking t times the log of its
frequency off each (logit adjustment after training, Menon et al. 2021), buys rare words with common ones, and nothing
is learnt by it. A rule that writes has to lie below the plain softmax's curves, or its gain on rare words is no more
than that. Writes tilt.json and tilt.png.

    python benchmarks/study/tilt.py runs/softmax runs/centered --out benchmarks/results/study/tilt
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import matplotlib
import torch
from torch import Tensor

from firstsight.lab.data import open_corpus
from firstsight.lab.data.bands import EDGES
from firstsight.lab.lm.evaluation import evaluate
from firstsight.lab.lm.run import open_run
from firstsight.lab.report.style import (
    HEAD_WORDS,
    INK,
    SMALL,
    STYLE,
    Plot,
    add_legend,
    lines_of,
    method_of,
    new_axes,
)
from firstsight.lab.system.files import write_json
from firstsight.lab.system.machine import provenance

SHIFTS, ADJUSTMENTS = (-0.25, 0.0, 0.125, 0.25, 0.5, 0.75), (-0.03, 0.0, 0.03, 0.06, 0.1, 0.15)
Curves = dict[str, dict[str, list[dict[str, float]]]]


def tilts(counts_V: Tensor) -> dict[str, tuple[Tensor, tuple[float, ...]]]:
    """For each way the direction in which the biases go, (V,), and how far: 0 is the run as trained."""
    seen_V = counts_V > 0
    prior_V = torch.where(seen_V, (counts_V.clamp_min(1) / counts_V.sum()).log(), 0.0)
    return {"shift": ((seen_V & (counts_V < EDGES[1])).float(), SHIFTS), "adjust": (-prior_V, ADJUSTMENTS)}


def tilt(folder: Path, streams: int) -> dict[str, list[dict[str, float]]]:
    """Perplexity overall and below 100 at each tilt, on the validation split."""
    trained = open_run(folder)
    corpus, vocabulary, bias = open_corpus(trained.data), trained.vocabulary, trained.model.head.bias
    if bias is None:
        sys.exit(f"{folder} has no bias to tilt")
    own_V = bias.detach().clone()
    found: dict[str, list[dict[str, float]]] = {}
    for way, (direction_V, amounts) in tilts(torch.from_numpy(vocabulary.counts)).items():
        for amount in amounts:
            with torch.no_grad():
                bias.copy_(own_V + amount * direction_V)
            result = evaluate(
                trained.model, corpus.split("valid"), vocabulary.counts, eos_id=vocabulary.eos_id, streams=streams
            )
            bands = {band["name"]: band["perplexity"] for band in result.bands}
            point = {"amount": amount, "perplexity": result.perplexity, "below 100": bands["<100"]}
            found.setdefault(way, []).append(point)
            print(f"{folder} {way} {amount:+.3f}: {result.perplexity:.2f} {bands['<100']:.0f}", file=sys.stderr)
    return found


def plot(curves: Curves) -> Plot:
    """Two curves a run; the run as trained is the filled point. The first run's points carry their amounts."""
    figure, axes = new_axes("As rare classes get more weight")
    methods = {
        name: method_of({"head": "softmax" if name == "softmax" else "hebbian", "rule": name}) for name in curves
    }
    lines = lines_of(methods)
    for name, ways in curves.items():
        for way, curve in ways.items():
            x, y = [[point[key] for point in curve] for key in ("perplexity", "below 100")]
            marker = {"shift": "o", "adjust": "s"}[way]
            axes.plot(x, y, color=lines[name].color, linestyle=lines[name].dashes, marker=marker, ms=3, mfc="white")
            for point in [at for at in curve if at["amount"]] if name == next(iter(curves)) else []:
                at = (point["perplexity"], point["below 100"])
                offset = (-30, -3) if way == "shift" else (6, 0)
                axes.annotate(
                    f"{point['amount']:+g}", at, offset, textcoords="offset points", fontsize=SMALL, color=INK
                )
        trained = next(point for point in ways["shift"] if point["amount"] == 0)
        axes.plot(trained["perplexity"], trained["below 100"], color=lines[name].color, marker="o", markersize=6)
    axes.yaxis.set_major_formatter("{x:,.0f}")
    axes.set_xlabel("perplexity of all words")
    axes.set_ylabel("of words seen 1 to 99 times")
    axes.grid(visible=True)
    add_legend(axes, {HEAD_WORDS.get(methods[name], name): line for name, line in lines.items()})
    return Plot(
        "tilt",
        "All words and rare ones: rare biases plus s nats (circles), all minus t log frequencies (squares).",
        figure,
    )


def main(arguments: Any) -> None:
    """Measure every run and write both files."""
    torch.set_num_threads(1)
    names = [run.parent.name if run.name.isdigit() else run.name for run in arguments.runs]
    if len(set(names)) < len(names):
        sys.exit(f"two runs have one name: {names}; give one seed of each variant")
    curves = {name: tilt(run, arguments.streams) for name, run in zip(names, arguments.runs, strict=True)}
    arguments.out.mkdir(parents=True, exist_ok=True)
    write_json(arguments.out / "tilt.json", {"streams": arguments.streams, **provenance(), "runs": curves})
    with matplotlib.rc_context(STYLE):
        plot(curves).save(arguments.out)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folders of runs with a bias, one corpus")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--streams", type=int, default=20)
    main(parser.parse_args())
