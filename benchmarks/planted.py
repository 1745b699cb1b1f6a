"""Does the trial's advice find what was planted, and only that? Small data sets whose answer is known, end to end.

Each goes through ``run_trial`` as ``firstsight try`` would take it. What is planted:

* ``write``: what the write is for: short texts as counted words, many rare old classes that share words with others,
  one example of each new class, and half of the queries of new classes. That ours is ahead here is what was hoped for
  when this was made, not yet what was found: against imprinting and replay it is close;
* ``lda``: Gaussian classes with one ill-conditioned covariance, where linear discriminant analysis is the right model
  and is better on old classes and on new ones;
* ``neighbours``: each old class lies in six places and each new one in one: no linear layer can hold the old classes,
  stored examples can;
* ``null``: nothing to find. Half of the sets have labels that say nothing of the vectors, old and new classes of equal
  size; in the other half every method is right, as the classes lie far apart.

Which classes are held back as new is the trial's choice among all that have 15 rows or more, large old ones too.

``python benchmarks/planted.py --out runs/planted`` runs 20 of each effect and 40 null sets, on all cores; stopped, the
same command goes on. ``--only lda --sets 3`` for less. Writes ``planted.json``: of each set the verdict, the difference
with its interval, and who was compared; the bar is 18 of 20 found, and no difference denied in at most 3 of 40.
"""

import argparse
import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from firstsight.lab.classify.data.source import Source
from firstsight.lab.classify.settings import Trial
from firstsight.lab.classify.trial import run_trial
from firstsight.lab.system.files import read_json, write_json
from firstsight.lab.system.machine import provenance
from firstsight.lab.system.progress import say

NEW = 40  # classes to choose on, and as many to judge on
Data = tuple[np.ndarray, np.ndarray]  # vectors [N, D], labels [N]: old classes first, then 2 NEW new ones
Rng = np.random.Generator


def sizes(rng: Rng, old: int, most: int = 80, least: int = 3) -> np.ndarray:
    """Examples of each class: Pareto for old ones, 20 for those that come later, which need 15 to be held back."""
    return np.concatenate([np.clip((6 * rng.pareto(1.0, old) + least).astype(int), least, most), np.full(2 * NEW, 20)])


def write(rng: Rng, old: int = 150, words: int = 300, groups: int = 25) -> Data:
    """Counts of words of texts of eight: a third of a class's own three, a third of its group's five, else common."""
    count_C = sizes(rng, old)
    y = np.repeat(np.arange(len(count_C)), count_C)
    common = 1 / np.arange(1, words + 1) ** 0.8
    share_CW = np.tile(0.3 * common / common.sum(), (len(count_C), 1))
    of_group = [rng.choice(words, 5, replace=False) for _ in range(groups)]
    for share_W in share_CW:
        share_W[rng.choice(words, 3, replace=False)] += 0.35 / 3
        share_W[of_group[rng.integers(groups)]] += 0.35 / 5
    count_NW = np.stack([rng.multinomial(8, share_CW[c]) for c in y]).astype(float)
    return count_NW / np.linalg.norm(count_NW, axis=1, keepdims=True), y


def lda(rng: Rng, old: int = 60, features: int = 40) -> Data:
    """Gaussian classes; the standard deviations within them go from 6 to 1, in directions that are not the axes."""
    count_C = sizes(rng, old, most=40)
    y = np.repeat(np.arange(len(count_C)), count_C)
    within = np.geomspace(6, 1, features) * rng.normal(size=(len(y), features))
    turn = np.linalg.qr(rng.normal(size=(features, features)))[0]
    return (rng.normal(size=(len(count_C), features))[y] + within) @ turn, y


def neighbours(rng: Rng, old: int = 60, features: int = 24, places: int = 6) -> Data:
    """Old classes in six places each, new ones in one."""
    count_C = sizes(rng, old, least=12)
    y = np.repeat(np.arange(len(count_C)), count_C)
    place = (rng.random(len(y)) * np.where(y < old, places, 1)).astype(int)
    centre = rng.normal(size=(len(count_C), places, features))
    return centre[y, place] + 0.35 * rng.normal(size=(len(y), features)), y


def nothing(rng: Rng, old: int = 2 * NEW, features: int = 24) -> Data:
    """Labels that say nothing of the vectors; all classes have 20 examples, so that none is the better guess."""
    y = np.repeat(np.arange(old + 2 * NEW), 20)
    return rng.normal(size=(len(y), features)), y


def solved(rng: Rng, old: int = 60, features: int = 128) -> Data:
    """Classes so far apart that every method is right."""
    count_C = sizes(rng, old)
    y = np.repeat(np.arange(len(count_C)), count_C)
    return 4 * rng.normal(size=(len(count_C), features))[y] + 0.3 * rng.normal(size=(len(y), features)), y


OWN: dict[str, dict[str, Any]] = {"write": {"shots": 1, "new_share": 0.5}}
"""settings that an effect needs"""
EFFECTS: dict[str, tuple[Callable[[Rng], Data], str]] = {
    "write": (write, "ours"),
    "lda": (lda, "rival"),
    "neighbours": (neighbours, "rival"),
}
NULL: tuple[Callable[[Rng], Data], ...] = (nothing, solved)


def sets(effects: int, nulls: int) -> list[tuple[str, int, Callable[[Rng], Data], str]]:
    """Of each data set its name, its number, what makes it, and the verdict to find."""
    planted = [(name, i, make, verdict) for name, (make, verdict) in EFFECTS.items() for i in range(effects)]
    return planted + [("null", i, NULL[i % len(NULL)], "none") for i in range(nulls)]


def source_of(data: Data, name: str) -> Source:
    """As ``read_source`` gives it of an .npz file."""
    vectors, y = np.ascontiguousarray(data[0], dtype=np.float32), data[1]
    checksum = hashlib.sha256(vectors.tobytes() + y.tobytes()).hexdigest()
    return Source(
        name=name,
        labels=[f"class {label:03d}" for label in y],
        vectors=vectors,
        texts=None,
        part=None,
        notes=[],
        checksum=checksum,
        integers=False,
    )


def tried(name: str, number: int, make: Callable[[Rng], Data], verdict: str, out: Path, args: Any) -> dict[str, Any]:
    """One set through the trial; what an earlier run found is taken from its file."""
    path = out / "sets" / f"{name}-{number}.json"
    if path.exists():
        return dict(read_json(path, "what a planted set gave"))
    folder = out / "trials" / f"{name}-{number}"
    rng = np.random.default_rng([number, sum(map(ord, make.__name__))])
    asked: dict[str, Any] = {"shots": args.shots, "new_share": args.new_share, **OWN.get(name, {})}
    settings = Trial(seed=number, seeds=args.seeds, epochs=args.epochs, new_classes=NEW, **asked)
    trial = run_trial(
        source_of(make(rng), f"{name}-{number}"),
        settings,
        folder,
        encoder=None,
        budget=args.budget,
        workers=args.workers,
    )
    found = {
        "name": name,
        "number": number,
        "kind": make.__name__,
        "planted": verdict,
        "verdict": trial["comparison"]["verdict"],
        "choice": trial["choice"],
        "comparison": trial["comparison"],
        "advice": trial["advice"],
    }
    write_json(path, found)
    shutil.rmtree(folder)
    return found


def summary(found: list[dict[str, Any]]) -> dict[str, Any]:
    """How many verdicts of each kind were as planted."""
    counts = {}
    for name in dict.fromkeys(one["name"] for one in found):
        own = [one for one in found if one["name"] == name]
        verdicts = [one["verdict"] for one in own]
        counts[name] = {
            "sets": len(own),
            "as planted": sum(one["verdict"] == one["planted"] for one in own),
            **{verdict: verdicts.count(verdict) for verdict in ("ours", "rival", "none")},
        }
    return counts


def main() -> None:
    """Run what is missing, and write the counts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/planted"))
    parser.add_argument("--sets", type=int, default=20, help="of each effect; twice as many null ones")
    parser.add_argument("--only", choices=[*EFFECTS, "null"])
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--shots", type=int, default=5)
    parser.add_argument("--new-share", type=float, default=0.3)
    parser.add_argument("--budget", type=float, default=2.0, help="minutes of each")
    parser.add_argument("--workers", type=int)
    args = parser.parse_args()
    found = []
    for name, number, make, verdict in sets(args.sets, 2 * args.sets):
        if args.only in (None, name):
            one = tried(name, number, make, verdict, args.out, args)
            say(f"{name} {number}: {one['verdict']}, planted {verdict}: {one['advice']}")
            found.append(one)
    for one in found:
        one.pop("advice")
    told = {name: value for name, value in vars(args).items() if name not in ("out", "only")}
    counts = summary(found)
    write_json(args.out / "planted.json", {"counts": counts, "settings": told, "sets": found, **provenance()})
    for name, of in counts.items():
        print(f"{name}: {of['as planted']} of {of['sets']} as planted ({of})")


if __name__ == "__main__":
    main()
