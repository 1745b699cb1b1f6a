"""How much the write gains where training goes on, and around what: the table at the head of docs/when.md.

Put into the page by benchmarks/readme_table.py, out of benchmarks/results/study and transformer.json.
"""

import json
import statistics
from pathlib import Path
from typing import Any

from firstsight.lab.report.study import OVERALL, RARE, Group, format_difference, groups
from firstsight.lab.report.tables import DASH, format_perplexity

RESULTS = Path(__file__).resolve().parent / "results"
OURS, PAPER = "centered", "paper"
# What was done in words, the study, and its regime.
ROWS = (
    ("one pass: 25 books, 1.7M tokens", "gutenberg-25", "default"),
    ("a third of a pass: WikiText-2, 0.7M tokens", "wikitext-2", "default"),
    ("**at convergence**: eight passes over 1M tokens of books", "convergence", "default"),
    ("**steps of 51,200 tokens**, 200 of them on `stdlib`, no bias, rate 0.001", "batch", "default"),
    ("**a transformer**, AdamW, two passes over `stdlib`", "transformer", "default"),
    ("an LSTM, two passes over `stdlib`", "large", "full"),
    ("the same, sampled softmax", "large", "sampled"),
    ("the same, adaptive softmax", "large", "adaptive"),
)


def table() -> str:
    """A row for each case: the softmax, and what the default and the paper's rule change, paired by seed."""
    lines = ["| | seeds | softmax | the default | the paper's rule |", "|---|---:|---:|---:|---:|"]
    for words, study, regime in ROWS:
        group = _group(study, regime)
        cells = [_difference(group, variant) for variant in (OURS, PAPER)]
        base = [statistics.fmean(group.values(group.baseline, measure).values()) for measure in (OVERALL, RARE)]
        told = " · ".join(format_perplexity(value) for value in base)
        lines.append(f"| {words} | {group.planned} | {told} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _difference(group: Group, variant: str) -> str:
    if not group.jobs.get(variant):
        return DASH
    return " · ".join(format_difference(group.differences(variant, measure), True) for measure in (OVERALL, RARE))


def _group(study: str, regime: str) -> Group:
    if study == "transformer":
        return of_transformer(json.loads((RESULTS / "transformer.json").read_text(encoding="utf-8")))
    found = json.loads((RESULTS / "study" / study / "study.json").read_text(encoding="utf-8"))
    (group,) = (one for one in groups(found) if one.regime == regime)
    return group


def of_transformer(found: Any) -> Group:
    """Its runs as a study's: of each head those at the rate that was best on validation with the first seed."""
    jobs: dict[str, dict[int, Any]] = {}
    for head in dict.fromkeys(run["head"] for run in found["runs"]):
        runs = [run for run in found["runs"] if run["head"] == head]
        first = min(run["seed"] for run in runs)
        best = min((run for run in runs if run["seed"] == first), key=lambda run: run["valid"][-1]["perplexity"])
        name = {"sight": OURS}.get(head, head)
        jobs[name] = {run["seed"]: {**run["valid"][-1], "sights": []} for run in runs if run["rate"] == best["rate"]}
    return Group("stdlib", "default", "softmax", jobs, dict.fromkeys(jobs, 0), max(map(len, jobs.values())), {})
