"""The control for every gain on rare words: the same trained runs, with rare classes simply given more weight.

Adding s to the bias of each class that training has seen fewer than 100 times buys rare words with common ones, and
nothing is learnt by it. A rule that writes has to lie below the plain softmax's curve of such shifts, or its gain on
rare words is no more than one. Writes tilt.json and tilt.png.

    python benchmarks/study/tilt.py runs/softmax runs/centered --out benchmarks/results/study/tilt
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import matplotlib
import torch

from firstsight.lab.data import open_corpus
from firstsight.lab.data.bands import EDGES
from firstsight.lab.lm.evaluation import evaluate
from firstsight.lab.lm.run import open_run
from firstsight.lab.report.style import INK, STYLE, Plot, add_legend, lines_of, new_axes
from firstsight.lab.system.files import write_json
from firstsight.lab.system.machine import provenance

SHIFTS = (-0.25, 0.0, 0.125, 0.25, 0.5, 0.75)


def tilt(folder: Path, streams: int) -> list[dict[str, float]]:
    """Perplexity overall and below 100 at each shift, on the validation split."""
    trained = open_run(folder)
    corpus, vocabulary, bias = open_corpus(trained.data), trained.vocabulary, trained.model.head.bias
    if bias is None:
        sys.exit(f"{folder} has no bias to tilt")
    rare_V = torch.from_numpy((vocabulary.counts > 0) & (vocabulary.counts < EDGES[1]))
    own_V, found = bias.detach().clone(), []
    for shift in SHIFTS:
        with torch.no_grad():
            bias.copy_(own_V + shift * rare_V)
        result = evaluate(
            trained.model, corpus.split("valid"), vocabulary.counts, eos_id=vocabulary.eos_id, streams=streams
        )
        bands = {band["name"]: band["perplexity"] for band in result.bands}
        found.append({"shift": shift, "perplexity": result.perplexity, "below 100": bands["<100"]})
        print(f"{folder} {shift:+.3f}: {result.perplexity:.2f} {bands['<100']:.0f}", file=sys.stderr)
    return found


def plot(curves: dict[str, list[dict[str, float]]]) -> Plot:
    """One curve a run; the run as trained is the filled point. The first curve's points carry their shifts."""
    figure, axes = new_axes("All words against rare ones, as rare classes get more weight")
    lines = lines_of(list(curves))
    for name, curve in curves.items():
        x, y = [[point[key] for point in curve] for key in ("perplexity", "below 100")]
        axes.plot(x, y, color=lines[name].color, linestyle=lines[name].dashes, marker="o", markersize=3, mfc="white")
        trained = SHIFTS.index(0.0)
        axes.plot(x[trained], y[trained], color=lines[name].color, marker="o", markersize=5)
        for point in curve if name == next(iter(curves)) else []:
            axes.annotate(
                f"{point['shift']:+g}",
                (point["perplexity"], point["below 100"]),
                (4, 2),
                textcoords="offset points",
                fontsize=6,
                color=INK,
            )
    axes.set_xlabel("perplexity of all words")
    axes.set_ylabel("of words seen 1 to 99 times")
    axes.grid(visible=True)
    add_legend(axes, lines)
    return Plot("tilt", "Perplexity of all words and of rare ones when s nats are added to rare classes' bias.", figure)


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
