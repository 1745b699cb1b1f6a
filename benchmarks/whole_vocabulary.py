"""Every word a class, sampled and sparse, beside the full softmax of the frequent ones: perplexity by frequency.

Of words that the smaller vocabulary lacks, its model says `<unk>`; which of them it is, is told by how often each
occurs in the training text: p(w) = p(<unk>) n_w / sum of n over the words that it lacks. Words that the larger one
lacks too are left out of both. The bands are by the larger one's counts.

    firstsight data gutenberg --from MIRRORS --out data/books-456
    for size in 400000 30000; do
      python benchmarks/study/cut.py data/books-456 data/books-$size --train 11800 --valid 10000 --test-documents 6 \
          --max-size $size --whole-counts
    done
    firstsight train data/books-400000 --out runs/whole-softmax --head softmax --samples 8192 --sparse \
        --optimizer adagrad ...                                     # and --head hebbian, and data/books-30000
    python benchmarks/whole_vocabulary.py data/books-400000 runs/whole-* runs/frequent-*
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from firstsight.lab.data import Corpus, open_corpus
from firstsight.lab.lm.evaluation import by_band, exp_or_inf, token_nll
from firstsight.lab.lm.run import open_run
from firstsight.lab.system.files import write_json
from firstsight.lab.system.machine import provenance


def backoff(small: Corpus, whole: Corpus) -> np.ndarray:
    """[V of the whole] what is added to the NLL of ``<unk>`` for each word that the small vocabulary lacks, else 0."""
    lacks_V = small.vocabulary.encode(whole.vocabulary.tokens) == small.vocabulary.unk_id
    lacks_V[whole.vocabulary.unk_id] = False
    counts_V = np.maximum(whole.vocabulary.counts, 1)
    return np.where(lacks_V, np.log(counts_V[lacks_V].sum()) - np.log(counts_V), 0.0)


def measure(folder: Path, whole: Corpus, split: str) -> dict[str, Any]:
    """Perplexity of a run on a split, over all words that the whole vocabulary knows and by band."""
    run = open_run(folder)
    text, own = whole.split(split), run.corpus.split(split)
    if len(text) != len(own):
        raise SystemExit(f"{folder}: its {split} text is another one than {whole.folder}'s")
    nll_N = token_nll(run.model, own, eos_id=run.corpus.vocabulary.eos_id).astype(np.float64)
    if len(run.corpus.vocabulary) < len(whole.vocabulary):
        nll_N += backoff(run.corpus, whole)[text]
    known_N = text != whole.vocabulary.unk_id
    nll, bands = by_band(nll_N[known_N], whole.vocabulary.counts[text[known_N]])
    return {
        "tokens": int(known_N.sum()),
        "left_out": int((~known_N).sum()),
        "perplexity": exp_or_inf(nll),
        "bands": bands,
    }


def cost(folder: Path) -> dict[str, float]:
    """Of steps with these settings, taken now in a process of their own: their rate, and the memory at their peak."""
    data = str(open_run(folder).corpus.folder)
    command = [sys.executable, "-m", "firstsight", "train", data, "--config", str(folder / "config.yaml")]
    done = subprocess.run([*command, "--dry-run", "--json"], check=True, capture_output=True, text=True)
    measured = json.loads(done.stdout)["measured"]
    return {name: measured[name] for name in ("tokens_per_second", "seconds_per_step", "peak_bytes", "threads")}


def main(given: Any) -> None:
    """Measure every run on both splits and write it."""
    whole, found = open_corpus(given.whole), {}
    for folder in given.runs:
        row: dict[str, Any] = {split: measure(folder, whole, split) for split in ("valid", "test")}
        row["classes"] = open_run(folder).model.num_types
        row |= cost(folder)
        found[folder.name] = row
        bands = {band["name"]: round(band["perplexity"], 1) for band in row["test"]["bands"] if band["tokens"]}
        print(
            folder.name,
            row["classes"],
            round(row["test"]["perplexity"], 1),
            bands,
            f"{row['tokens_per_second']:,.0f}/s",
        )
    write_json(given.out, {"runs": found, "machine": provenance()})


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("whole", type=Path, help="the data folder with the larger vocabulary")
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/whole_vocabulary.json"))
    main(parser.parse_args())
