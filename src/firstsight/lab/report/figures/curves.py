"""Figures 5 to 9: learning curves of language models. What they share, from the runs to the files."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from firstsight.errors import InputError
from firstsight.lab.curriculum.summary import Panel
from firstsight.lab.data import Corpus, open_corpus, stdlib
from firstsight.lab.lm.config import Config
from firstsight.lab.lm.dry_run.pace import step_ratio
from firstsight.lab.lm.recipes import recipe
from firstsight.lab.report.figures.draw import curve_plot
from firstsight.lab.runs.head import HeadSettings
from firstsight.lab.runs.jobs import JobsFailedError, check_workers, run_all
from firstsight.lab.studies.cost import Cost, estimate, one_thread
from firstsight.lab.studies.curves import CurveJob, Measure, make_jobs, summarise_line
from firstsight.lab.studies.study import check_jobs
from firstsight.lab.system.files import read_json, write_json
from firstsight.lab.system.machine import cores, provenance
from firstsight.lab.system.progress import duration, say
from firstsight.lab.system.settings import check_seeds
from firstsight.lab.system.shape import COUNT, LIST, Named, Shape

__all__ = ["GIGAWORD", "GUTENBERG", "HEADS", "PAPER", "SCALES", "SIGHT", "SOFTMAX", "WIKITEXT", "CurvesFigure", "Panel"]

SEEDS = 3
WALL_TIME, COSTS = "wall-time.json", "costs.json"


_PAIR: Shape = {"settings": LIST, "median": COUNT, "quartile_1": COUNT, "quartile_3": COUNT}


@dataclass(frozen=True)
class Scale:
    """The settings that all lines of a figure start from, and how long they train."""

    base: Config
    passes: int = 0
    """so many passes over the training text in place of ``base.steps``; 0 for these"""
    most: int = 0
    """with ``passes``: no more steps than that"""
    checks: int = 12
    """with ``passes``: so many validations"""

    def settings(self, corpus: Corpus) -> Config:
        """``base`` with the steps that the corpus asks for."""
        if not self.passes:
            return self.base
        a_pass = corpus.meta["tokens"]["train"] // self.base.batch // self.base.length
        steps = max(1, min(self.passes * a_pass, self.most))
        every = max(1, steps // self.checks)
        return self.base.replace(steps=steps, eval_every=every, checkpoint_every=every)


SCALES = {"cpu": Scale(recipe("demo"), passes=4, most=8000), "paper": Scale(recipe("paper"))}
"""cpu: the model of ``firstsight demo``, whose text is the default too; paper: the appendix's settings."""


@dataclass(frozen=True)
class Source:
    """The data folder that a figure takes by default, and the command that makes it."""

    folder: Path
    command: str

    def open(self, data: Path | None) -> Corpus:
        """The corpus in ``data``, else the default one; that of Python's documentation is made where it is missing."""
        if data is not None:
            return open_corpus(data)
        if (self.folder / "meta.json").exists():
            return open_corpus(self.folder)
        if self.folder == STDLIB.folder:
            say(f"{self.folder}: made from the documentation inside this Python")
            return stdlib.prepare(self.folder)
        raise InputError(
            f"{self.folder}: there is no data folder here, and this figure needs one. Make it with {self.command}, or "
            "name another corpus with --data DIR."
        )


STDLIB = Source(Path("data/stdlib"), "firstsight data stdlib --out data/stdlib")
WIKITEXT = {
    "cpu": STDLIB,
    "paper": Source(Path("data/wikitext-103"), "firstsight data wikitext-103 --out data/wikitext-103"),
}
_MIRROR = "firstsight data gutenberg --from https://gutenberg.pglaf.org --out"
GUTENBERG = {
    "cpu": Source(Path("data/gutenberg-25"), f"{_MIRROR} data/gutenberg-25 --books 25 --max-size 10000"),
    "paper": Source(Path("data/gutenberg"), f"{_MIRROR} data/gutenberg"),
}
GIGAWORD = Source(Path("data/gigaword"), "firstsight data gigaword --from gigaword_eng_5/data --out data/gigaword")

_OURS = HeadSettings()  # what is recommended today is the default
SOFTMAX, PAPER, SIGHT = "softmax", "Hebbian, the paper's rule", f"Hebbian, rule {_OURS.rule} (ours)"
HEADS: dict[str, tuple[str, dict[str, Any]]] = {
    SOFTMAX: ("softmax", {"head": "softmax"}),
    PAPER: ("paper", {"head": "hebbian", "rule": "paper", "T": 500, "gamma": 0.01}),
    SIGHT: (_OURS.rule, {"head": "hebbian", "rule": _OURS.rule, "T": _OURS.T, "gamma": _OURS.gamma}),
}
"""Of each line that all figures have: the name of its runs' folder, and its settings."""


@dataclass(frozen=True)
class CurvesFigure:
    """What is drawn, of which runs, on which text."""

    title: str
    says: str
    """what the appendix says of it"""
    panels: Sequence[Panel]
    """``{classes}`` in a title becomes the size of the vocabulary"""
    variants: Mapping[str, Mapping[str, Any]]
    """what each has otherwise than its scale's base"""
    source: Source
    measure: Measure = "valid"
    split: str = "test"
    """read by each run at its end, that of validation where the corpus has none; "" for none"""
    classes: bool = False
    """draw the share of classes seen, and of those past T, on a second axis"""
    timed: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    """pairs of variants whose steps are timed beside each other, by the line's name"""

    def make(
        self,
        name: str,
        scale: str,
        data: Path | None,
        seeds: int,
        out: Path,
        workers: int | None,
        about: Mapping[str, Any],
    ) -> dict[str, Any]:
        """Run what the figure lacks in ``out/runs/SCALE/DATA``, and write ``out/NAME.json``, PNG and SVG.

        Gives, and raises, what :func:`firstsight.lab.report.figures.make_figure` does.
        """
        check_seeds(seeds)
        check_workers(workers)
        corpus = self.source.open(data)
        base = SCALES[scale].settings(corpus)
        variants = {name: base.replace(**changes) for name, changes in self.variants.items()}
        self._check_samples(corpus, variants)
        runs = out / "runs" / scale / corpus.folder.resolve().name
        split = "valid" if self.split and not corpus.meta["tokens"][self.split] else self.split
        jobs = make_jobs(variants, range(seeds), corpus, scale, runs, split, self.measure)
        check_jobs(jobs)
        about = {**about, "title": self.title, "says": self.says, "seeds": seeds, "measure": self.measure}
        try:
            signal = self._run(jobs, corpus, runs, workers or cores())
        except JobsFailedError:
            self._write(jobs, corpus, runs, out, name, about)
            raise
        return self._write(jobs, corpus, runs, out, name, {**about, **({"interrupted": signal} if signal else {})})

    def _check_samples(self, corpus: Corpus, variants: Mapping[str, Config]) -> None:
        samples, classes = max(config.samples for config in variants.values()), len(corpus.vocabulary)
        if samples >= classes:
            raise InputError(
                f"{corpus.folder} has {classes:,} classes, and this figure samples {samples:,} of them: expected more "
                "classes than that. Name a larger corpus with --data DIR."
            )

    def _run(self, jobs: Sequence[CurveJob], corpus: Corpus, runs: Path, workers: int) -> str:
        """Say what it will cost, time what is timed, and run what is left; the signal that ended it, or ""."""
        waiting = [job for job in jobs if job.ended() is None]
        try:
            if waiting:
                path = runs / COSTS
                known = read_json(path, "what runs cost", Named(COUNT), "Delete it.") if path.exists() else {}
                new = {job.variant for job in waiting} - set(known)
                tried = "; trying a few steps of each line first" if new else ""
                say(f"{self.title}: {len(waiting)} of {len(jobs)} runs are left{tried}")
                cost = estimate(waiting, corpus, workers, jobs, known)
                write_json(path, known | cost.seconds)
                say(_told(cost, workers))
                self._time(jobs, corpus, runs)
        except KeyboardInterrupt:
            return "SIGINT"
        return run_all(jobs, runs, workers=workers)

    def _pairs(self, jobs: Sequence[CurveJob]) -> dict[str, tuple[Config, Config]]:
        configs = {job.variant: job.config for job in reversed(jobs)}  # of the first seed
        return {line: (configs[one], configs[other]) for line, (one, other) in self.timed.items()}

    def _time(self, jobs: Sequence[CurveJob], corpus: Corpus, runs: Path) -> None:
        """Time the pairs that are to be, unless it was done, before the runs take all cores."""
        if not self.timed or self._wall_time(jobs, runs):
            return
        say("timing steps beside each other")
        with one_thread():
            found = {
                line: {**step_ratio(corpus, *pair), "settings": [config.to_dict() for config in pair]}
                for line, pair in self._pairs(jobs).items()
            }
        write_json(runs / WALL_TIME, {"pairs": found, **provenance()})

    def _wall_time(self, jobs: Sequence[CurveJob], runs: Path) -> dict[str, Any] | None:
        """The timed pairs, if they are of these settings."""
        path = runs / WALL_TIME
        if not self.timed or not path.exists():
            return None
        found = read_json(path, "the time of steps beside each other", {"pairs": Named(_PAIR)}, "Delete it.")["pairs"]
        wanted = {line: [config.to_dict() for config in pair] for line, pair in self._pairs(jobs).items()}
        same = {line: found[line]["settings"] for line in found} == wanted
        return {line: {k: v for k, v in found[line].items() if k != "settings"} for line in found} if same else None

    def _write(
        self, jobs: Sequence[CurveJob], corpus: Corpus, runs: Path, out: Path, name: str, about: Mapping[str, Any]
    ) -> dict[str, Any]:
        found = self._summarise(jobs, corpus, runs, about)
        plot = curve_plot(found, name)
        if plot is None:
            return {**found, "files": {}}
        write_json(out / f"{name}.json", found)
        files = {str(out / f"{name}.json"): "The numbers."}
        files |= {str(path): plot.caption for path in (plot.save(out), plot.save(out, "svg"))}
        return {**found, "files": files}

    def _summarise(
        self, jobs: Sequence[CurveJob], corpus: Corpus, runs: Path, about: Mapping[str, Any]
    ) -> dict[str, Any]:
        """The JSON object of the figure: see ``summarise_line`` for what a line holds."""
        lines = {name: summarise_line([job for job in jobs if job.variant == name]) for name in self.variants}
        states = [run["state"] for line in lines.values() for run in line["runs"].values()]
        tests = [run["test"] for line in lines.values() for run in line["runs"].values() if run["test"]]
        base, tokens, classes = jobs[0].config, corpus.meta["tokens"], len(corpus.vocabulary)
        a_pass = tokens["train"] // base.batch // base.length * base.batch * base.length
        panels = [
            {
                "title": panel.title.format(classes=f"{classes:,}"),
                "lines": [{"name": line, "variant": name, **lines[name]} for line, name in panel.lines.items()],
            }
            for panel in self.panels
        ]
        return {
            **about,
            "data": {
                "name": jobs[0].data,
                "corpus": corpus.name,
                "tokens": tokens,
                "classes": classes,
                "a_pass": a_pass,
            },
            "tokens": int(jobs[0].work),
            "runs": {state: states.count(state) for state in ("done", "diverged", "under way", "waiting")},
            "panels": panels,
            "second_axis": self.classes,
            "wall_time": self._wall_time(jobs, runs),
            "core_seconds": round(sum(run["seconds"] for line in lines.values() for run in line["runs"].values()), 1),
            "run_by": {key: sorted({str(test[key]) for test in tests}) for key in ("git_commit", "machine")},
            "made_by": provenance(),
        }


def _told(cost: Cost, workers: int) -> str:
    each = ", ".join(f"{name} {duration(seconds)}" for name, seconds in cost.seconds.items())
    side = f"; about {duration(cost.wall_seconds)} with {workers} at a time" if workers > 1 else ""
    return f"a whole run takes about: {each}. What is left: {duration(cost.core_seconds)} of one core{side}"
