"""An approximate index of the words of 456 books: what it finds, how fast, and what a class more costs.

The rows are those of a trained head of 349,302 classes, and the questions activations of its validation text; see
whole_vocabulary.py for the data and the run. Times are of one index and of ``topk`` over all rows, turn by turn.

    python benchmarks/row_index.py --run runs/whole-hebbian
"""

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import paired, print_and_save

from firstsight import HebbianSoftmax
from firstsight.estimator import FirstSightClassifier, LabelIndex, Scaling
from firstsight.lab.lm.reader import Text
from firstsight.lab.lm.run import open_run
from firstsight.serving import RowIndex

K = 10
PROBES = 2, 8, 32
NEW = 50


def activations(run: Any, tokens: int) -> torch.Tensor:
    """[N, D] of the first tokens of the validation text, in random order."""
    text = Text(run.model, run.corpus.split("valid")[:tokens], run.corpus.vocabulary.eos_id, 1)
    with torch.no_grad():
        hidden = torch.cat([segment.hidden[0].float() for segment in text])
    return hidden[torch.randperm(len(hidden), generator=torch.Generator().manual_seed(0))]


def beside(exact: Callable[[], object], indexed: Callable[[], object]) -> dict[str, float]:
    """Milliseconds of both, and how many times as fast the index is."""
    seconds = paired({"exact": exact, "indexed": indexed}, 20)
    medians = {f"{name}_ms": 1e3 * statistics.median(times) for name, times in seconds.items()}
    pairs = [a / b for a, b in zip(seconds["exact"], seconds["indexed"], strict=True)]
    return medians | {"times_as_fast": statistics.median(pairs)}


def of_rows(head: Any, h_ND: torch.Tensor) -> dict[str, Any]:
    """Recall and speed by how many lists a question looks into."""
    start = time.perf_counter()
    index = RowIndex(head, h_ND[:1000], k=K)
    found: dict[str, Any] = {"build_s": time.perf_counter() - start, "lists": index.lists, "k": K, "probes": {}}
    for probes in PROBES:
        index.probes = probes
        row: dict[str, Any] = {name: index.recall_of(h_ND[:1000], k) for name, k in (("recall", K), ("best", 1))}
        for n in (1, 64):
            row[f"of_{n}"] = beside(partial(head.topk, h_ND[:n], K), partial(index.topk, h_ND[:n], K))
        found["probes"][probes] = row
    return found


def of_labels(head: Any, words: list[str], h_ND: torch.Tensor) -> dict[str, Any]:
    """The same rows as a classifier of words: an answer, and an answer after each of some new words."""
    layer = HebbianSoftmax.from_linear(head.to_linear(), "trained")
    with layer.looking(), torch.no_grad():  # so that new classes can be told from it
        layer.loss(h_ND[1000:], layer.topk(h_ND[1000:], 1).indices[:, 0])
    classifier = FirstSightClassifier.from_layer(layer, words, Scaling(np.zeros(head.in_features)))
    X = h_ND.numpy()
    index = LabelIndex(classifier, X[:1000], k=K, probes=8)
    found: dict[str, Any] = {
        "recall": index.recall,
        "of_1": beside(lambda: classifier.predict(X[:1]), lambda: index.predict(X[:1])),
    }
    classifier.partial_fit(X[1000:1001], ["new word 0"])
    index.predict(X[:1])
    learn, follow = [], []
    for n in range(1, NEW):
        start = time.perf_counter()
        classifier.partial_fit(X[1000 + n : 1001 + n], [f"new word {n}"])
        learnt = time.perf_counter()
        index.predict(X[:1])
        learn.append(learnt - start)
        follow.append(time.perf_counter() - learnt)
    assert len(classifier.classes_) == len(words) + NEW
    return found | {
        "a_new_label_ms": 1e3 * statistics.median(learn),
        "the_answer_after_it_ms": 1e3 * statistics.median(follow),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True, help="of whole_vocabulary.py")
    parser.add_argument("--tokens", type=int, default=6000, help="of the validation text")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/row_index.json"))
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    run = open_run(given.run)
    head, h_ND = run.model.head.eval(), activations(run, given.tokens)
    words = [str(word) for word in run.corpus.vocabulary.tokens]
    found = {"classes": head.num_classes, "features": head.in_features}
    found |= {"rows": of_rows(head, h_ND), "labels": of_labels(head, words, h_ND)}
    print_and_save(given.out, found)


if __name__ == "__main__":
    main()
