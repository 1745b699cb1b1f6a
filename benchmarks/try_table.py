"""The trials of the docs: takes over what ``firstsight try`` wrote, in short, and makes their tables of it.

firstsight try ../shared/data/icd/icd-minilm.npz --out runs/icd
python benchmarks/try_table.py runs/icd icd     # benchmarks/results/try/icd.json
python benchmarks/readme_table.py               # the tables of docs/try.md
"""

import argparse
import json
import statistics
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from firstsight.lab.classify.judgement.wording import ARRIVALS, counted, interval, percent, points, seconds, titles
from firstsight.lab.system.files import read_json, write_json

RESULTS = Path(__file__).resolve().parent / "results" / "try"
NAMES = {
    "icd": "ICD-10 texts, vectors by all-MiniLM-L6-v2",
    "icd-csv": "ICD-10 texts, TF-IDF and SVD",
    "docstrings": "Docstrings of Python's library, label: the module (`--demo`)",
    "omniglot": "Omniglot's evaluation characters, through a convnet that was trained on the others",
    "gutenberg": "Sentences of Gutenberg books, label: the author",
}
KEPT = ("data", "settings", "plan", "methods", "choice", "comparison", "at_once", "advice", "winner")
MEANS = ("old_micro", "old_macro", "new_micro", "new_macro", "mixed", "nll", "ece", "seconds", "seconds_train")


def take(run: Path, name: str) -> Path:
    """Write what the docs need of a trial: its lines on test are means over the trainings."""
    trial = read_json(run / "trial.json", "a trial")
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for line in trial["lines"]:
        if line["part"] == "test":
            groups.setdefault((line["method"], line["arrival"], line["shots"], line["rate"]), []).append(line)
    lines = [
        dict(zip(("method", "arrival", "shots", "rate"), key, strict=True))
        | {"trainings": len(own), "part": "test"}
        | {what: _mean([line[what] for line in own]) for what in MEANS}
        for key, own in groups.items()
    ]
    made = {key: trial[key] for key in ("version", "torch_version", "git_commit", "machine", "command")}
    path = RESULTS / f"{name}.json"
    write_json(path, {key: trial[key] for key in KEPT} | {"lines": lines} | made)
    return path


def _mean(values: list[Any]) -> float | None:
    return None if any(value is None for value in values) else round(statistics.fmean(values), 5)


def tables() -> str:
    """A section for each data set that was tried."""
    return "\n".join(_section(title, RESULTS / f"{name}.json") for name, title in NAMES.items())


def _section(title: str, path: Path) -> str:
    trial = json.loads(path.read_text(encoding="utf-8"))
    data, choice, plan = trial["data"], trial["choice"], trial["plan"]
    shots = choice["shots"]
    said = [
        f"### {title}",
        f"{data['train']:,} rows of {data['old_classes']:,} old classes to train on; {data['new_test']:,} new classes, "
        f"{100 * choice['new_share']:g}% of the queries; {counted(plan['seeds'], 'training')}, {plan['epochs']} "
        "epochs.",
        _verdict("Nothing trained when classes come", trial, trial["at_once"])
        + "\n"
        + _verdict("Fine-tuning allowed too", trial, trial),
        f"| on test | old | new, 1 shown | new, {shots} shown | mixed | ECE | to learn the new |\n"
        "|---|---:|---:|---:|---:|---:|---:|\n" + "\n".join(_row(trial, *way) for way in _ways(trial)),
        f"`{trial['command']}`, commit {trial['git_commit']}; {trial['machine']}.",
    ]
    return "\n\n".join(said) + "\n"


def _ways(trial: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What was compared, and the usual suspects."""
    both = [one["choice"][side] for one in (trial["at_once"], trial) for side in ("ours", "rival")]
    found = [(one["method"], one["arrival"]) for one in both]
    found += [("sight", "write"), ("softmax", "imprinting"), ("lda", "added"), ("means", "added"), ("knn", "added")]
    found += [("softmax", "replay"), ("sight", "epoch"), ("softmax", "epoch")]
    known = {(line["method"], line["arrival"]) for line in trial["lines"]}
    return [way for way in dict.fromkeys(found) if way in known]


def _row(trial: Mapping[str, Any], method: str, arrival: str) -> str:
    shots = trial["choice"]["shots"]
    of = {line["shots"]: line for line in trial["lines"] if (line["method"], line["arrival"]) == (method, arrival)}
    line, first = of[shots], of.get(1, {})
    way = "" if arrival == "added" else f", {ARRIVALS[arrival]}"
    cells = [
        titles(trial)[method] + way,
        percent(line["old_micro"]),
        percent(first.get("new_micro")),
        percent(line["new_micro"]),
        percent(line["mixed"]),
        f"{line['ece']:.3f}",
        seconds(line["seconds"]),
    ]
    return f"| {' | '.join(cells)} |"


def _verdict(question: str, trial: Mapping[str, Any], of: Mapping[str, Any]) -> str:
    mixed, verdict = of["comparison"]["mixed"], of["comparison"]["verdict"]
    ours, rival = (
        f"{titles(trial)[one['method']]}{'' if one['arrival'] == 'added' else ', ' + ARRIVALS[one['arrival']]}"
        for one in (of["choice"]["ours"], of["choice"]["rival"])
    )
    told = {"ours": "**ours is better**", "rival": "**the rival is better**", "none": "no difference found"}[verdict]
    return (
        f"- {question}: {ours} ({percent(mixed['ours'])}) against {rival} ({percent(mixed['rival'])}): {told}, "
        f"{points(mixed['difference'], sign=True)} points, {interval(mixed)}."
    )


def main() -> int:
    """Take a trial over."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder that firstsight try wrote")
    parser.add_argument("name", choices=list(NAMES))
    given = parser.parse_args()
    print(take(given.run, given.name))
    return 0


if __name__ == "__main__":
    sys.exit(main())
