"""How a study's variants differ pass by pass: perplexity by frequency of the word, and NLL by its sights in training.

Out of the ``metrics.jsonl`` of a study's runs, whose validations are one a pass. Writes NAME.json, what every run noted
at each validation, and NAME.png, the difference to the baseline over all words and over rare ones.

    python benchmarks/study/passes.py runs/tune --baseline softmax-0.004 --out benchmarks/results/study/tune
"""

import argparse
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib

from firstsight.lab.lm.config import load_config
from firstsight.lab.report.study import in_words
from firstsight.lab.report.style import MUTED, STYLE, Plot, add_legend, lines_of, method_of, new_axes
from firstsight.lab.report.tables import relative
from firstsight.lab.runs.metrics import read_metrics
from firstsight.lab.system.files import write_json
from firstsight.lab.system.machine import provenance

ALL, RARE = "all", "<100"
Runs = dict[str, dict[int, dict[str, Any]]]


def read_runs(folders: Sequence[Path]) -> Runs:
    """By variant and seed: the settings, and what was noted at each validation."""
    found: Runs = {}
    for folder in folders:
        for path in sorted(folder.glob("runs/*/*/*/*/metrics.jsonl")):
            config = load_config(path.parent / "config.yaml")[1].to_dict()
            lines = [_line(line) for line in read_metrics(path)]
            if not lines:
                continue
            found.setdefault(path.parent.parent.name, {})[config["seed"]] = {"settings": config, "passes": lines}
    return found


def shared_settings(runs: Runs) -> dict[str, Any]:
    """The settings that are the same in all runs, which are taken out of each of them."""
    every = [one["settings"] for seeds in runs.values() for one in seeds.values()]
    shared = {name: value for name, value in every[0].items() if all(name in of and of[name] == value for of in every)}
    for settings in every:
        for name in shared:
            del settings[name]
    return shared


def _line(line: Mapping[str, Any]) -> dict[str, Any]:
    bands = {band["name"]: round(band["perplexity"], 3) for band in line["valid_bands"] if band["tokens"]}
    sights = {str(one["seen"]): round(one["nll"], 4) for one in line["sights"]}  # of the same tokens in all runs
    kept = {"step": line["step"], "train_loss": round(line["train_loss"], 5), "lr": line["lr"]}
    return {**kept, "perplexity": {ALL: round(line["valid_perplexity"], 4), **bands}, "sights": sights}


def differences(runs: Runs, variant: str, baseline: str, band: str) -> list[list[float]]:
    """For each pass the percent by which the variant's perplexity differs, a value a seed that both have."""
    own, base = runs[variant], runs[baseline]
    pairs = [(own[seed]["passes"], base[seed]["passes"]) for seed in sorted(own.keys() & base.keys())]
    return [
        [relative(a[i]["perplexity"][band], b[i]["perplexity"][band]) for a, b in pairs]
        for i in range(min((min(len(a), len(b)) for a, b in pairs), default=0))
    ]


def table(runs: Runs, baseline: str) -> str:
    """The last validation of each variant, with its difference to the baseline's of the same seeds."""
    names = list(next(iter(next(iter(runs.values())).values()))["passes"][-1]["perplexity"])
    lines = [f"| variant | seeds | {' | '.join(names)} |", f"|---|---:|{'---:|' * len(names)}"]
    for variant, seeds in runs.items():
        cells = []
        for name in names:
            values = [one["passes"][-1]["perplexity"][name] for one in seeds.values()]
            change = differences(runs, variant, baseline, name)
            told = f" ({_spread(change[-1])})" if variant != baseline and change else ""
            cells.append(f"{statistics.fmean(values):,.1f}{told}")
        passes = min(len(one["passes"]) for one in seeds.values())
        ended = passes == max(len(one["passes"]) for others in runs.values() for one in others.values())
        name = variant if ended else f"{variant} (after {passes})"
        lines.append(f"| {name} | {len(seeds)} | {' | '.join(cells)} |")
    return "\n".join(lines).replace("<", "\\<") + "\n"


def _spread(values: Sequence[float]) -> str:
    spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):+.1f}%{spread}".replace("-", "−")


def draw(runs: Runs, baseline: str, band: str, name: str) -> Plot:
    """A curve a variant: the mean over seeds of the difference, after each pass, and the seeds as points."""
    which = "all words" if band == ALL else "words below 100"
    figure, axes = new_axes(f"Perplexity against {baseline}, {which}")
    shown = [variant for variant in runs if variant != baseline]
    settings = {variant: next(iter(runs[variant].values()))["settings"] for variant in runs}
    lines, words = lines_of({variant: method_of(settings[variant]) for variant in shown}), in_words(settings)
    for variant in shown:
        found = [values for values in differences(runs, variant, baseline, band) if values]
        color, passes = lines[variant].color, range(1, len(found) + 1)
        axes.plot(passes, [statistics.fmean(values) for values in found], color=color, linestyle=lines[variant].dashes)
        if len(found[0]) > 1:
            for at, values in zip(passes, found, strict=True):
                axes.plot([at] * len(values), values, "o", color=color, markersize=3, alpha=0.6, markeredgewidth=0)
    axes.axhline(0, color=MUTED, linewidth=0.8)
    axes.set_xlabel("validation, one a pass")
    axes.set_ylabel("difference in percent")
    axes.grid(axis="y")
    add_legend(axes, {words[variant]: line for variant, line in lines.items()})
    return Plot(name, f"Perplexity of {which} against {baseline}, in percent, after each pass.", figure)


def main(given: Any) -> None:
    """Read, write both, and print the table."""
    runs = read_runs(given.studies)
    if given.baseline not in runs:
        raise SystemExit(f"no run of {given.baseline}; there are {', '.join(runs)}")
    given.out.parent.mkdir(parents=True, exist_ok=True)
    with matplotlib.rc_context(STYLE):
        for band, end in ((ALL, ""), (RARE, "-rare")):
            draw(runs, given.baseline, band, given.out.name + end).save(given.out.parent)
    told = {"baseline": given.baseline, **provenance(), "settings": shared_settings(runs), "runs": runs}
    write_json(given.out.with_suffix(".json"), told)
    print(table(runs, given.baseline))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("studies", nargs="+", type=Path, help="folders of studies; their variants are put together")
    parser.add_argument("--baseline", required=True)
    parser.add_argument("--out", type=Path, required=True, help="NAME of the two files")
    main(parser.parse_args())
