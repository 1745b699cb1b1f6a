"""Writing at test time, and an open vocabulary: what they give trained runs, and how fast they are.

For each run: rule, rate and the limit on training's count are chosen on the first tokens of the validation split;
with these the test split is read once, with and without forgetting at the documents' borders. Then books whose words
the run's vocabulary lacks: the offset of the new classes' bias is chosen on the first book, and the others are read
once with the best.

    python benchmarks/test_time.py runs/softmax runs/hebbian
    python benchmarks/test_time.py runs/books --books ../shared/data/gutenberg/mirror-valid.tar.xz --count 4
"""

import argparse
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
from common import save

from firstsight.lab.data.gutenberg import process_text
from firstsight.lab.data.vocabulary import EOS
from firstsight.lab.lm.run import Run, open_run
from firstsight.lab.reading.adapt import MOMENTS_OF, adapt_run
from firstsight.lab.reading.moments import measure_moments
from firstsight.lab.reading.open_words import number, open_results
from firstsight.lab.reading.writing import Writing

OFFSETS = (0.0, 2.0, 4.0, 6.0, 8.0)
OPEN = ("unwritten", "written", "all_written")  # each is read at the offset that is best for itself


def books(archive: Path, count: int) -> dict[str, list[str]]:
    """The words of the first books of a mirror's archive that are plain text in ASCII, by their numbers."""
    found: dict[str, list[str]] = {}
    with tarfile.open(archive) as tar:
        for member in tar:
            name = Path(member.name).stem
            if len(found) == count:
                break
            if member.name.endswith(".txt") and name.isdigit():
                text = process_text(tar.extractfile(member).read()).decode()  # type: ignore[union-attr]
                found[name] = [EOS if word == "\n" else word for word in text.split(" ") if word]
    return found


def open_books(run: Run, texts: dict[str, list[str]], writing: Writing, tokens: int) -> dict[str, Any]:
    vocabulary = run.vocabulary
    part = np.asarray(run.corpus.split("train")[:MOMENTS_OF])
    moments = measure_moments(run.model, part, eos_id=vocabulary.eos_id)
    ids = {name: number(words[:tokens], vocabulary) for name, words in texts.items()}
    first, *others = ids

    def read(name: str, offset: float) -> dict[str, Any]:
        return open_results(run, ids[name], writing, moments=moments, offset=offset)

    tuned = {offset: read(first, offset) for offset in OFFSETS}
    best = {v: min(OFFSETS, key=lambda offset: _variant(tuned[offset], v)["all"]) for v in OPEN}

    def at_their_best(name: str) -> dict[str, Any]:
        found = {offset: read(name, offset) for offset in sorted(set(best.values()))}
        any_one = next(iter(found.values()))
        closed = [row for row in any_one["variants"] if row["name"] not in best]
        rows = [_variant(found[offset], variant) | {"offset": offset} for variant, offset in best.items()]
        return any_one | {"variants": closed + rows}

    offsets = {str(offset): found["variants"] for offset, found in tuned.items()}
    return {
        "chosen_on": first,
        "offsets": offsets,
        "offset": best,
        "books": {name: at_their_best(name) for name in others},
    }


def _variant(found: dict[str, Any], name: str) -> dict[str, Any]:
    return next(variant for variant in found["variants"] if variant["name"] == name)


def print_split(found: dict[str, Any]) -> None:
    one, other, writing = found["model"], found["adapted"], found["writing"]
    print(f"\n{found['run']} {found['split']}: {writing}; {found['tokens'] / found['seconds']:,.0f} tokens/s in all")
    rows = [("all", found["tokens"], one["perplexity"], other["perplexity"])]
    rows += [
        (a["name"], a["tokens"], a["perplexity"], b["perplexity"])
        for a, b in zip(one["bands"], other["bands"], strict=True)
    ]
    for name, tokens, before, after in rows:
        if tokens and before and after:
            print(f"  {name:8} {tokens:9,}  perplexity {before:10,.2f} -> {after:10,.2f}  {after / before - 1:+.1%}")
    for row in found["sights"]:
        line = f"  rare, {row['seen']:5,} sights before: {row['tokens']:7,}"
        print(f"{line}  NLL {row['model']:.3f} -> {row['adapted']:.3f}  {row['adapted'] - row['model']:+.3f}")


def print_open(found: dict[str, Any]) -> None:
    print(f"\nopen vocabulary: offset {found['offset']} chosen on {found['chosen_on']}")
    for name, book in found["books"].items():
        print(f"  {name}: {book['tokens']:,} tokens, new words: {book['new']}")
        for row in book["variants"]:
            sights = "  ".join(f"{sight} {_three(nll)}" for sight, nll in row["new"].items())
            print(f"    {row['name']:16} all {_three(row['all'])}  known {_three(row['known'])}  sights {sights}")


def _three(nll: float | None) -> str:
    return "-" if nll is None else f"{nll:.3f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--data", type=Path, help="the data folder, if it was moved since training")
    parser.add_argument("--checkpoint", choices=("best", "last"), default="best")
    parser.add_argument("--tune-tokens", type=int, default=20_000)
    parser.add_argument("--books", type=Path, help="a mirror's archive, for the open vocabulary")
    parser.add_argument("--count", type=int, default=3, help="books read, the first of them to choose on")
    parser.add_argument("--tokens", type=int, default=50_000, help="of each book at most")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/test_time.json"))
    options = parser.parse_args()
    if options.books and options.count < 2:
        parser.error("--count: 2 or more, the first book is the one chosen on")
    texts = {} if options.books is None else books(options.books, options.count)
    data = None if options.data is None else str(options.data)
    where: dict[str, Any] = {"checkpoint": options.checkpoint, "data": data}
    result: dict[str, Any] = {}
    for run in options.runs:
        one = adapt_run(run, "test", None, tune_tokens=options.tune_tokens, **where)
        found = {"forgetting": one} if one["writing"]["documents"] else {"one_stream": one}
        settings = {name: value for name, value in one["writing"].items() if name != "documents"}
        if one["writing"]["documents"]:
            found["one_stream"] = adapt_run(run, "test", None, forget=False, tune_tokens=options.tune_tokens, **where)
        for part in found.values():
            print_split(part)
        result[str(run)] = found
        if texts:
            opened = open_books(open_run(run, **where), texts, Writing(**settings), options.tokens)
            print_open(opened)
            result[str(run)]["open"] = opened
    save(options.out, {"runs": result})


if __name__ == "__main__":
    main()
