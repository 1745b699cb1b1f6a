"""What docs/scale.md says of ten million classes, an index and every word a class, from benchmarks/results."""

import json
from pathlib import Path
from typing import Any

from firstsight.lab.report.tables import format_perplexity

RESULTS = Path(__file__).resolve().parent / "results"


def _read(name: str) -> Any:
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))


def numbers() -> str:
    """Steps, memory, the best classes, growth and removal at ten million classes."""
    scale, growth = _read("scale"), _read("growth")
    step, held, best, added = scale["step"], scale["memory"], scale["topk"], growth["added"]
    V, machine = f"{scale['classes']:,}", scale["machine"]
    lines = [
        f"Measured at V = {V}, D = 64, {scale['threads']} thread{'s' * (scale['threads'] > 1)} "
        "(`benchmarks/scale.py`, `benchmarks/growth.py`; medians):",
        "",
        "- a step on 1,120 tokens, 8,192 samples, Adagrad, clipped, write on: "
        f"**{step['median']:.2f} times** as long as at {scale['small']:,} classes, turn by turn "
        f"(quartiles {step['quartile_1']:.2f} and {step['quartile_3']:.2f}; "
        f"{step['ms']['large']:,.0f} and {step['ms']['small']:,.0f} ms);",
        f"- memory at its peak: **{held['ratio']:.2f} times** weights and optimizer state "
        f"({held['weights_and_state_bytes'] / 1e9:.1f} GB);",
        f"- `topk(h, 10)` of 64 activations: **{best['share_of_the_products_rate']:.0%}** of the rate of its bare "
        f"products ({best['ms']['topk']:,.0f} ms);",
        f"- {added['calls']:,} classes added one by one: median **{added['median_ms']:.2f} ms**, 99th percentile "
        f"{added['percentile_99_ms']:.1f} ms; the first, which makes room, {added['most_ms'] / 1e3:.1f} s, with "
        f"{added['bytes_above'] / 1e9:.1f} GB above the {growth['bytes_held'] / 1e9:.1f} GB that were held;",
        f"- a class removed anywhere: {growth['removed']['median_ms']:,.0f} ms, for the rows behind it move up; one of "
        f"the last: {growth['last_removed']['median_ms']:.1f} ms.",
        "",
        f"Commit {machine['git_commit']}; {machine['machine']}.",
    ]
    return "\n".join(lines) + "\n"


def index() -> str:
    """What an index of rows finds, and how fast, by how many lists it looks into."""
    found = _read("row_index")
    rows, labels, machine = found["rows"], found["labels"], found["machine"]
    lines = [
        f"| lists of {rows['lists']} | of the {rows['k']} best | the best | one activation | 64 at once |",
        "|---:|---:|---:|---:|---:|",
    ]
    for probes, row in rows["probes"].items():
        times = " | ".join(
            f"{row[name]['indexed_ms']:.1f} of {row[name]['exact_ms']:.1f} ms, {row[name]['times_as_fast']:.1f}x"
            for name in ("of_1", "of_64")
        )
        lines.append(f"| {probes} | {row['recall']:.1%} | {row['best']:.1%} | {times} |")
    one = labels["of_1"]
    return (
        "\n".join(lines)
        + f"\n\n{found['classes']:,} words of 456 books, D = {found['features']}, {found['threads']} thread "
        f"(`benchmarks/row_index.py`; medians, turn by turn); built in {rows['build_s']:.1f} s. Through the estimator, "
        f"`LabelIndex` and `predict` of one example: {one['indexed_ms']:.1f} of {one['exact_ms']:.1f} ms; a new label "
        f"{labels['a_new_label_ms']:.0f} ms, and the first answer after it {labels['the_answer_after_it_ms']:.0f} ms. "
        f"Commit {machine['git_commit']}; {machine['machine']}.\n"
    )


def words() -> str:
    """Every word a class beside the frequent ones alone, on test, by band."""
    found = _read("whole_vocabulary")
    names = {"softmax": "softmax", "hebbian": "default rule"}
    runs = found["runs"]
    first = next(iter(runs.values()))["test"]
    bands = [band["name"] for band in first["bands"] if band["tokens"]]
    titles = " | ".join(band.replace("<", "\\<") for band in bands)
    lines = [f"| test, {first['tokens']:,} tokens | all | {titles} | tokens/s | memory |"]
    lines.append(f"|---|{'---:|' * (len(bands) + 3)}")
    for name, run in runs.items():
        kind, head = name.split("-")
        of = {band["name"]: band["perplexity"] for band in run["test"]["bands"]}
        what = (
            f"{run['classes']:,} classes, {'sampled and sparse' if kind == 'whole' else 'all of them'}, {names[head]}"
        )
        cells = [format_perplexity(value) for value in (run["test"]["perplexity"], *(of[band] for band in bands))]
        lines.append(
            f"| {what} | {' | '.join(cells)} | {run['tokens_per_second']:,.0f} | {run['peak_bytes'] / 1e6:,.0f} MB |"
        )
    return "\n".join(lines) + "\n"
