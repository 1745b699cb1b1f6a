"""That a redesign changes no number: one commit's commands and another's, one after the other, and every value of both.

Each side is a git worktree that runs with this Python and one thread. Compared are, bit for bit: losses and weights of
40 steps of the demo's runs; what eval, eval --memory, sweep memory, adapt and adapt --open find, and the NLL of every
token; a study and a curriculum of two seeds each; the bytes of the processed validation books. Rules whose write
inverts a covariance are compared to 1e-6. Bits differ between CPUs, so this is a record and no test.

Needs the real data of ../shared/data (the books) and takes about ten minutes.
"""

import argparse
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

ROOT = Path(__file__).resolve().parent.parent
BEFORE = "5a3756094505"  # the last commit of the old layout
STEPS = 40
LOOSE = ("whitened", "shrinkage")  # as parts of a file's path: compared to 1e-6
# Where, when and by what something was made, and the names of files and of their formats (which hold the package's).
ORIGIN = {
    "seconds", "tokens_per_second", "command", "git_commit", "machine", "torch_version", "engram_version", "version",
    "firstsight_version", "engram", "firstsight", "run", "file", "report", "recipe", "core_seconds", "made_by",
    "run_by", "files", "sha256", "tuned", "checkpoint", "format",
}  # fmt: skip
STUDY = f"""data: {{stdlib: data}}
base: {{recipe: demo, steps: {STEPS}, eval_every: {STEPS}, checkpoint_every: {STEPS}}}
variants: {{softmax: {{head: softmax}}, centered: {{rule: centered}}}}
baseline: softmax
seeds: [0, 1]
"""
# What every token costs, by the library's own functions; the names of the modules differ between the layouts.
PROBE = """
import sys
from pathlib import Path
import numpy as np, torch
torch.set_num_threads(1)
if sys.argv[1] == "firstsight":
    from firstsight import MbPA, NeuralCache, score_stream
    from firstsight.lab.data.gutenberg import process_text
    from firstsight.lab.lm.evaluation import token_nll
    from firstsight.lab.lm.run import open_run
    from firstsight.lab.reading.moments import measure_moments
    from firstsight.lab.reading.writing import Writing, adapted_nll
    trained = open_run(sys.argv[2])
    corpus = trained.corpus
else:
    from engram import MbPA, NeuralCache, score_stream
    from engram.data.gutenberg import process_text
    from engram.evaluation import token_nll
    from engram.results import open_with_data
    from engram.activations import measure_moments
    from engram.adaptation import Writing, adapted_nll
    trained, corpus = open_with_data(Path(sys.argv[2]), "best", None)
books, out = map(Path, sys.argv[3:])
model, eos_id, counts = trained.model, trained.vocabulary.eos_id, trained.vocabulary.counts
tokens = np.asarray(corpus.split("valid")[:5000])
found = {name: token_nll(model, tokens, eos_id=eos_id, streams=n) for name, n in (("plain", 1), ("streams", 7))}
moments = measure_moments(model, tokens, eos_id=eos_id)
for rule in ("centered", "whitened", "shrinkage"):
    settings = {"counts": counts, "eos_id": eos_id, "moments": moments, "starts": [700, 3000]}
    found[f"adapted {rule}"] = adapted_nll(model, tokens, Writing(rule=rule, block=3), **settings)
with torch.no_grad():
    ids = torch.from_numpy(np.r_[eos_id, tokens[:2999]].astype(np.int64))[None]
    hidden = model(ids)[0][0]
memories = {"cache": NeuralCache(500, 0.3), "mbpa": MbPA(500, 40)}
found["mixed"] = score_stream(model.head, hidden, torch.from_numpy(tokens[:3000].astype(np.int64)), **memories).numpy()
np.savez(out / "tokens.npz", **found)
(out / "books").mkdir()
for path in sorted(books.rglob("*.txt")):
    (out / "books" / path.name).write_bytes(process_text(path.read_bytes()))
"""


def run_side(tree: Path, work: Path) -> None:
    """All that is compared, by the code of ``tree``, into the empty folder ``work``."""
    package = "firstsight" if (tree / "src" / "firstsight").is_dir() else "engram"
    threads = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    shared = ROOT.parent / "shared"
    environment = {**os.environ, **threads, "PYTHONPATH": str(tree / "src"), "NLTK_DATA": str(shared / "nltk_data")}

    def python(*arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, *arguments], cwd=work, env=environment, text=True, stdout=subprocess.PIPE
        )
        if done.returncode:
            raise SystemExit(f"{package}: {' '.join(arguments)[:200]} ended with {done.returncode}")
        return done.stdout

    def command(name: str, *arguments: str) -> None:
        print(f"{package} {' '.join(arguments)}", file=sys.stderr, flush=True)
        (work / f"{name}.json").write_text(python("-m", package, *arguments, "--json"), encoding="utf-8")

    command("demo", "demo", "--out", "demo", "--steps", str(STEPS))
    shutil.copytree(work / "demo" / "data", work / "data")
    each = ["--recipe", "demo", "--steps", str(STEPS), "--eval-every", "1"]
    for name, flags in {
        "softmax": ["--head", "softmax"],
        "centered": ["--rule", "centered"],
        "paper": ["--rule", "paper", "--T", "500", "--gamma", "0.01"],
        "whitened": ["--rule", "whitened"],
        "shrinkage": ["--rule", "shrinkage"],
        "rare-embedding": ["--rule", "direction", "--no-write-embedding", "--write-after", "7"],
    }.items():
        command(f"train-{name}", "train", "data", "--out", f"runs/{name}", *each, *flags)
    run = "runs/centered"
    command("eval", "eval", run, "--split", "test")
    small = ["--split-tokens", "3000", "--first", "1000", "--tokens", "600", "--two-step-tokens", "12"]
    command("sweep", "sweep", "memory", run, *small)
    command("eval-paper", "eval", run, "--memory", "cache,mbpa")
    shutil.copy(work / run / "passage.json", work / "passage-paper.json")
    command("eval-tuned", "eval", run, "--memory", "cache,mbpa", "--tuned", f"{run}/memory/sweep.json")
    command("eval-cache", "eval", run, "--memory", "cache")
    command("adapt", "adapt", run, "--rule", "centered")
    command("adapt-whitened", "adapt", run, "--tune", "--split", "test", "--tune-tokens", "2000")
    (work / "letter.txt").write_text((ROOT / "LICENSE").read_text(encoding="utf-8") * 2, encoding="utf-8")
    command("open", "adapt", run, "--text", "letter.txt", "--open", "--rule", "centered")
    command("open-whitened", "adapt", run, "--text", "letter.txt", "--open")
    command("score", "score", run, "letter.txt")
    (work / "study.yaml").write_text(STUDY, encoding="utf-8")
    command("study", "study", "study.yaml", "--out", "study", "--workers", "1")
    command("omniglot-data", "data", "omniglot", "--from", str(shared / "data" / "omniglot"), "--out", "omniglot")
    for head in ("paper", "centered"):
        short = ["--data", "omniglot", "--out", f"curricula-{head}", "--seeds", "2", "--max-steps", "40"]
        command(f"curricula-{head}", "omniglot", *short, "--rule", head, "--workers", "1")
    shutil.unpack_archive(shared / "data" / "gutenberg" / "mirror-valid.tar.xz", work / "mirror", filter="data")
    print(f"{package}: every token, and the books", file=sys.stderr, flush=True)
    python("-c", PROBE, package, run, "mirror", ".")


def values(work: Path) -> Iterator[tuple[str, Any]]:
    """Everything that a side has left, by name: arrays, texts and bytes."""
    for path in sorted(work.rglob("*")):
        name = str(path.relative_to(work))
        if name.startswith(("mirror/", "omniglot/")) or "memory/partial" in name:
            continue
        if path.suffix == ".json":
            yield from _leaves(name, json.loads(path.read_text(encoding="utf-8")))
        elif path.suffix == ".jsonl":
            for number, line in enumerate(path.read_text(encoding="utf-8").splitlines()):
                yield from _leaves(f"{name}:{number}", json.loads(line))
        elif path.suffix == ".npz" and path.parent == work:
            with np.load(path) as arrays:
                yield from ((f"{name}:{key}", arrays[key]) for key in arrays)
        elif path.suffix == ".pt":
            state = torch.load(path, map_location="cpu", weights_only=True)["model"]
            yield from ((f"{name}:{key}", _mean_alone(key, tensor).numpy()) for key, tensor in state.items())
        elif path.parent.name == "books":
            yield name, path.read_bytes()


def _mean_alone(key: str, tensor: torch.Tensor) -> torch.Tensor:
    """Of the moments what a rule that needs the mean alone keeps now: the first row of what it kept."""
    return tensor[0] if key.endswith("moments") and tensor.ndim == 2 else tensor


def _leaves(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            if key not in ORIGIN or (key == "run" and isinstance(inner, dict)):
                yield from _leaves(f"{name}.{key}", inner)
    elif isinstance(value, list):
        for place, inner in enumerate(value):
            yield from _leaves(f"{name}[{place}]", inner)
    elif value is None or isinstance(value, bool | int | float | str):
        yield name, value


def difference(name: str, one: Any, other: Any) -> float:
    """0 where two values are the same bits, else how far apart they are (relative; inf for other kinds)."""
    if isinstance(one, np.ndarray) and isinstance(other, np.ndarray):
        if one.dtype != other.dtype or one.shape != other.shape:
            return math.inf
        if one.tobytes() == other.tobytes():
            return 0.0
        scale = max(float(np.abs(one[np.isfinite(one)]).max(initial=0)), 1e-30)
        gap = float(np.nanmax(np.abs(np.nan_to_num(one, posinf=0) - np.nan_to_num(other, posinf=0))))
        return gap / scale
    if isinstance(one, float) and isinstance(other, float) and one != other:
        return abs(one - other) / max(abs(one), abs(other))
    return 0.0 if type(one) is type(other) and one == other else math.inf


def compare(before: Path, after: Path) -> dict[str, Any]:
    """How many values are the same, and those that are not."""
    one, other = dict(values(before)), dict(values(after))
    missing = sorted(set(one) - set(other)), sorted(set(other) - set(one))
    gaps = {name: difference(name, one[name], other[name]) for name in one if name in other}
    loose = {name: gap for name, gap in gaps.items() if any(rule in name for rule in LOOSE)}
    wrong = {name: gap for name, gap in gaps.items() if gap > (1e-6 if name in loose else 0)}
    return {
        "values": len(gaps),
        "numbers": sum(value.size if isinstance(value, np.ndarray) else 1 for value in one.values()),
        "the_same_bits": sum(gap == 0 for gap in gaps.values()),
        "largest_gap_of_loose": max(loose.values(), default=0.0),
        "different": dict(sorted(wrong.items(), key=lambda item: -item[1])[:40]),
        "different_in_all": len(wrong),
        "only_before": missing[0][:40],
        "only_after": missing[1][:40],
    }


def main() -> int:
    """Run both sides and write the comparison; 1 if anything differs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--before", default=BEFORE, help="commit of the other side")
    parser.add_argument("--work", type=Path, help="keep both sides here; a side that is there is not run again")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "house.json")
    told = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        work = (told.work or Path(scratch) / "work").resolve()
        tree = Path(scratch) / "before"
        if not (work / "before").exists():
            subprocess.run(["git", "-C", ROOT, "worktree", "add", "--detach", tree, told.before], check=True)
            try:
                _fresh(work / "before", tree)
            finally:
                subprocess.run(["git", "-C", ROOT, "worktree", "remove", "--force", tree], check=True)
        if not (work / "after").exists():
            _fresh(work / "after", ROOT)
        found = compare(work / "before", work / "after")
    sys.path.insert(0, str(ROOT / "benchmarks"))
    from common import print_and_save

    print_and_save(told.out, {"before": told.before, **found})
    return 1 if found["different_in_all"] or found["only_before"] or found["only_after"] else 0


def _fresh(work: Path, tree: Path) -> None:
    part = work.with_suffix(".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    run_side(tree, part)
    part.rename(work)


if __name__ == "__main__":
    sys.exit(main())
