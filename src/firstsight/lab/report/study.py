"""A study's table and figure: each variant's numbers, and its difference to the baseline paired by seed."""

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from firstsight.lab.report.style import HEAD_WORDS, method_of
from firstsight.lab.report.tables import DASH, format_perplexity, relative, signed

RARE_BAND = "<100"
SIGHTS = (1, 2, 4, 8)

Record = Mapping[str, Any]


@dataclass(frozen=True)
class Measure:
    """A column: how to read it from a job, and whether differences are percent (else nats)."""

    label: str
    read: Callable[[Record], float | None]
    percent: bool
    targets: Callable[[Record], int | None] = lambda job: None
    """how many targets it is the mean of: differences are taken only where both have as many"""


def _rare(job: Record) -> float | None:
    return next((band["perplexity"] for band in job["bands"] if band["name"] == RARE_BAND), None)


def sight(seen: int) -> Measure:
    """The NLL in training of classes seen ``seen`` to ``2 seen - 1`` times before."""

    def of(job: Record, what: str) -> Any:
        return next((one[what] for one in job["sights"] if one["seen"] == seen), None)

    return Measure(f"NLL at sight {seen}", lambda job: of(job, "nll"), False, lambda job: of(job, "tokens"))


OVERALL = Measure("perplexity", lambda job: job["perplexity"], percent=True)
RARE = Measure("below 100", _rare, percent=True)
COLUMNS = (OVERALL, RARE, *map(sight, SIGHTS))


@dataclass(frozen=True)
class Group:
    """The jobs of one data set in one regime: ``jobs[variant][seed]``; of each variant those that are done.

    ``settings[variant]`` is what the recipe says of it.
    """

    data: str
    regime: str
    baseline: str
    jobs: dict[str, dict[int, Record]]
    diverged: dict[str, int]
    planned: int
    settings: Mapping[str, Mapping[str, Any]]

    def values(self, variant: str, measure: Measure) -> dict[int, float]:
        """The measure of each seed that has it."""
        found = {seed: measure.read(job) for seed, job in self.jobs[variant].items()}
        return {seed: value for seed, value in found.items() if value is not None}

    def differences(self, variant: str, measure: Measure) -> list[float]:
        r"""One for each seed that both the variant (x) and the baseline (b) have.

        .. math:: 100 \, (x_s / b_s - 1) \text{ percent, or } x_s - b_s \text{ nats}
        """
        own, base = self.values(variant, measure), self.values(self.baseline, measure)
        jobs, others = self.jobs[variant], self.jobs[self.baseline]
        alike = [s for s in own if s in base and measure.targets(jobs[s]) == measure.targets(others[s])]
        return [relative(own[s], base[s]) if measure.percent else own[s] - base[s] for s in alike]

    def sights(self) -> list[int]:
        """Every k at which a job has an NLL, rising."""
        return sorted({one["seen"] for jobs in self.jobs.values() for job in jobs.values() for one in job["sights"]})


def groups(study: Mapping[str, Any]) -> list[Group]:
    """The jobs of ``study.json`` by data and regime, in their order."""
    recipe = study["recipe"]
    settings = {name: {**(recipe.get("base") or {}), **(own or {})} for name, own in recipe["variants"].items()}
    found: dict[tuple[str, str], Group] = {}
    for job in study["jobs"]:
        key = job["data"], job["regime"]
        group = found.setdefault(key, Group(*key, recipe["baseline"], {}, {}, len(recipe["seeds"]), settings))
        seeds = group.jobs.setdefault(job["variant"], {})
        if job["state"] == "done":
            seeds[job["seed"]] = job
        group.diverged[job["variant"]] = group.diverged.get(job["variant"], 0) + (job["state"] == "diverged")
    return list(found.values())


def in_words(settings: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """What each variant is, by its settings: ``softmax``, ``the default rule``, ``the paper's rule, lr 0.002``.

    Settings that all variants share are not told, nor T and gamma where what is left tells all of them apart. Where
    nothing does, they have their own names.
    """
    names = dict.fromkeys(name for of in settings.values() for name in of)
    told = [name for name in names if len({str(of.get(name)) for of in settings.values()}) > 1]
    for left_out in (("head", "rule", "T", "gamma"), ("head", "rule")):
        words = {
            variant: ", ".join(
                [_head(of), *(f"{name} {of[name]}" for name in told if name in of and name not in left_out)]
            )
            for variant, of in settings.items()
        }
        if len(set(words.values())) == len(words):
            return words
    return {variant: variant for variant in settings}


def _head(settings: Mapping[str, Any]) -> str:
    method = method_of(settings)
    return HEAD_WORDS.get(method, f"rule {method}")


def spread(values: Sequence[float]) -> tuple[float, float]:
    """Mean and sample standard deviation (n - 1); NaN for the mean of nothing and for the deviation of one value."""
    mean = statistics.fmean(values) if values else math.nan
    return mean, statistics.stdev(values) if len(values) > 1 else math.nan


def format_difference(values: Sequence[float], percent: bool) -> str:
    """``−2.31% ± 0.15`` or ``−0.124 ± 0.010``: mean and sample standard deviation; empty without values."""
    mean, deviation = spread(values)
    if math.isnan(mean):
        return ""
    places = 2 if percent else 3
    text = signed(mean, places) + ("%" if percent else "")
    return text if math.isnan(deviation) else f"{text} ± {deviation:,.{places}f}"


def _cell(group: Group, variant: str, measure: Measure) -> str:
    form = format_perplexity if measure.percent else "{:.3f}".format
    mean, deviation = spread(list(group.values(variant, measure).values()))
    if math.isnan(mean):
        return DASH
    text = form(mean) if math.isnan(deviation) else f"{form(mean)} ± {form(deviation)}"
    change = format_difference(group.differences(variant, measure), measure.percent)
    return f"{text} ({change})" if change and variant != group.baseline else text


def _row(group: Group, variant: str) -> list[str]:
    done, diverged = len(group.jobs[variant]), group.diverged[variant]
    notes = [f"{done} of {group.planned} seeds"] if done < group.planned else []
    notes += [f"{diverged} diverged"] if diverged else []
    name = f"{variant} ({', '.join(notes)})" if notes else variant
    if diverged and not done:
        return [name, *["diverged"] * 2, *[DASH] * len(SIGHTS)]
    return [name, *[_cell(group, variant, measure) for measure in COLUMNS]]


def markdown(study: Mapping[str, Any]) -> str:
    """One table for each data set and regime; columns are padded, so that it reads well as plain text too."""
    parts = []
    for group in groups(study):
        head = ["variant", *[measure.label for measure in COLUMNS]]
        rows = [head, *[_row(group, variant) for variant in group.jobs]]
        widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
        lines = [" | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
        rule = " | ".join("-" * width if i == 0 else "-" * (width - 1) + ":" for i, width in enumerate(widths))
        lines.insert(1, rule)
        seeds = f"{group.planned} seed{'s' if group.planned > 1 else ''}"
        title = f"### {group.data}, {group.regime}: {seeds}{_tokens(group)}"
        parts.append("\n".join([title, "", *[f"| {line} |" for line in lines], ""]))
    split = study["recipe"].get("split", "valid")
    commits = sorted({str(job["git_commit"]) for job in study["jobs"] if job["state"] == "done"})
    told = (
        f"Perplexity of the {split} split after the last step, overall and on words seen 1 to 99 times in training; "
        "NLL in nats, during training, of words seen k to 2k - 1 times before. Mean ± sample standard deviation over "
        f"seeds; in brackets the difference to {study['recipe']['baseline']}, seed by seed. "
        f"Commit {', '.join(commits) or 'none yet'}; "
        f"{study['machine']}."
    )
    return "\n".join([*parts, told, ""])


def _tokens(group: Group) -> str:
    """Comparisons are meant at equal tokens: says how many, or that they differ."""
    seen = sorted({job["tokens"] for jobs in group.jobs.values() for job in jobs.values() if job["tokens"]})
    if not seen:
        return ""
    return f", {seen[0]:,} tokens each" if len(seen) == 1 else f", UNEQUAL tokens: {seen[0]:,} to {seen[-1]:,}"
