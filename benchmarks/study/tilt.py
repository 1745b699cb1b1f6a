"""The control for every gain on rare words: a plain softmax whose rare classes are simply given more weight.

Adding s to the bias of each class that training has seen fewer than 100 times buys rare words with common ones, with
nothing learnt. A rule that writes has to lie below the curve this draws, or it is no more than such a shift.

    python benchmarks/study/tilt.py RUN... --out tilt.json
"""

import argparse
import sys
from pathlib import Path

import torch

from engram.data import open_corpus
from engram.evaluation import EDGES, evaluate
from engram.files import write_json
from engram.provenance import provenance
from engram.runs import open_run

SHIFTS = (-0.25, 0.0, 0.125, 0.25, 0.5, 1.0)


def tilt(folder: Path, streams: int) -> list[dict[str, float]]:
    """Perplexity overall and below 100 at each shift, on the validation split."""
    trained = open_run(folder)
    corpus, vocabulary, bias = open_corpus(trained.data), trained.vocabulary, trained.model.head.bias
    rare_V = torch.from_numpy((vocabulary.counts > 0) & (vocabulary.counts < EDGES[1]))
    found = []
    for shift in SHIFTS:
        with torch.no_grad():
            bias += shift * rare_V
        result = evaluate(
            trained.model, corpus.split("valid"), vocabulary.counts, eos_id=vocabulary.eos_id, streams=streams
        )
        with torch.no_grad():
            bias -= shift * rare_V
        bands = {band["name"]: band["perplexity"] for band in result.bands}
        found.append({"shift": shift, "perplexity": result.perplexity, "below 100": bands["<100"]})
        print(f"{folder} {shift:+.3f}: {result.perplexity:.2f} {bands['<100']:.0f}", file=sys.stderr)
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folders of plain runs with a bias")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--streams", type=int, default=20)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    runs = [{"run": str(run), "curve": tilt(run, arguments.streams)} for run in arguments.runs]
    write_json(arguments.out, {"streams": arguments.streams, **provenance(), "runs": runs})
