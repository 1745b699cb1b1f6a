"""``firstsight train``: train a language model on a data folder."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Annotated

from tyro.conf import OmitArgPrefixes, Positional, arg

from firstsight.errors import InputError
from firstsight.lab.cli.eval import print_result
from firstsight.lab.cli.output import Checked, Device, Found, Json, MaybePath, console, new_table, show, tell
from firstsight.lab.lm.config import Config, load_config
from firstsight.lab.lm.recipes import recipe
from firstsight.lab.system.devices import AUTO
from firstsight.lab.system.folder import RUN, hold
from firstsight.lab.system.job import rank, world_size
from firstsight.lab.system.machine import cpu_multiplies_bf16
from firstsight.lab.system.progress import duration, say


@dataclass(frozen=True)
class Flags(Checked, Config):
    """Everything that decides a training run but the data."""


def train_command(default: Config) -> Callable[..., int]:
    """``firstsight train`` with the settings that its flags start from."""

    def train(
        data: Positional[Path],
        out: MaybePath = None,
        recipe: str = "small",
        settings: Annotated[Path | None, arg(name="config", metavar="PATH")] = None,
        resume: bool = False,
        dry_run: bool = False,
        ranks: int = 1,
        device: Device = AUTO,
        logger: str = "",
        json: Json = False,
        config: OmitArgPrefixes[Flags] = Flags(**default.to_dict()),  # noqa: B008 - meant once a command line
    ) -> int:
        """Train a language model on a data folder.

        Ctrl-C saves and ends; --resume goes on. At the end the best checkpoint is evaluated on the validation split.
        On several CPUs or GPUs: torchrun --standalone --nproc-per-node 8 -m firstsight train DATA --out RUN ...

        Example: firstsight train data/wikitext-2 --out runs/hebbian --head hebbian --precision bf16

        The same with --dry-run writes nothing, and tells parameters, memory and time first.

        Args:
            data: data folder, made by firstsight data.
            out: folder of the run; by default a new one, runs/ with the names of data and head and a number.
            recipe: named settings to start from: small, demo or paper; flags change single ones.
            settings: in place of a recipe, a file of settings to start from: the config.yaml of a run, or what sweep lm
                found best.
            resume: go on with the run in --out, from its last checkpoint, with its own settings.
            dry_run: tell what it would take, by an account and a few steps; nothing is written.
            logger: csv, tensorboard or csv,tensorboard: what metrics.jsonl says, for other tools, in the run's logs/.
            ranks: with --dry-run, for so many processes that share each batch: memory is that of one of them.
        """
        from firstsight.lab.data import open_corpus
        from firstsight.lab.lm.dry_run import dry_run as rehearsal
        from firstsight.lab.lm.dry_run import run_seconds
        from firstsight.lab.lm.results import evaluate_run
        from firstsight.lab.lm.run import check_folder
        from firstsight.lab.lm.training import train as run
        from firstsight.lab.report import write_report
        from firstsight.lab.runs.loggers import FOLDER
        from firstsight.lab.runs.metrics import last_step
        from firstsight.lab.runs.names import new_run, no_run_named

        if ranks != 1 and not dry_run:
            raise InputError(f"--ranks is {ranks}, which only --dry-run takes. Training counts its own processes.")
        if resume and out is None:
            raise no_run_named()
        if dry_run and resume:
            raise InputError("--dry-run tells what a whole run takes, from its first step. Leave --resume out.")
        if dry_run:
            if out is not None:
                check_folder(out, config, resume=False)
            return show(rehearsal(open_corpus(data), config, ranks=ranks, device=device), json, _print_dry_run)
        corpus, loggers, result = open_corpus(data), [name for name in logger.split(",") if name], None
        with ExitStack() as stack:
            folder = stack.enter_context(new_run(data, config.head)) if out is None else out
            if world_size() == 1:
                stack.enter_context(hold(folder, RUN))
            check_folder(folder, config, resume)
            if out is None:
                say(f"run: {folder}")
            if loggers:
                say(f"{logger}: in {folder / FOLDER}")
            if world_size() == 1:
                done = last_step(folder / "metrics.jsonl")
                seconds = run_seconds(corpus, config, device=device, done=done)
                left = f" for the {config.steps - done:,} that are left" if done else ""
                about = f"about {duration(seconds)} of training{left} on this machine"
                say(f"{config.steps:,} steps: {about}; --dry-run tells more")
            if config.precision == "fp32" and cpu_multiplies_bf16():
                say("hint: this machine multiplies bfloat16 in hardware; --precision bf16 trains 1.7 times as fast")
            outcome = run(corpus, folder, config, resume=resume, device=device, loggers=loggers)
            if rank() == 0 and not outcome.reason.startswith("SIG"):
                result = evaluate_run(folder, "valid", data=data, device=device)
                write_report([folder])
        return show({"run": str(folder), **vars(outcome), "result": result}, json, _print_trained)

    return train


def _print_trained(found: Found) -> None:
    if found["result"]:
        print_result(found["result"])
        tell("Read in one stream; validation on the way reads the text in parts side by side, and is a little higher.")
        tell(f"Report: {found['run']}/report.html")
    else:
        say(
            f"stopped at step {found['step']:,} by {found['reason']}; "
            f"the same command with --resume --out {found['run']} goes on"
        )


def _print_dry_run(found: Found) -> None:
    worked, measured, run = found["operations_per_token"], found["measured"], found["estimate"]
    table = new_table("The model", ["", "parameters", "operations a token"])
    for part in sorted(found["parameters"] | worked, key=lambda part: part == "total"):
        table.add_row(part, *(f"{of[part]:,}" if part in of else "" for of in (found["parameters"], worked)))
    console.print(table)
    table = new_table("Memory of its tensors, MB", ["", *found["memory"]])
    for part in next(iter(found["memory"].values())):
        values = [of.get(part, "") for of in found["memory"].values()]
        table.add_row(part, *(value if isinstance(value, str) else f"{value / 1e6:,.1f}" for value in values))
    console.print(table)
    tried = f"{measured['batch']} of {measured['of']} sequences a step"
    tell(
        f"Measured here ({measured['device']}, {measured['threads']} threads, {tried}): "
        f"{measured['tokens_per_second']:,.0f} tokens/s, {measured['seconds_per_step']:.3f} s a step; "
        f"peak memory {measured['peak_bytes'] / 1e6:,.0f} MB; {measured['valid_tokens_per_second']:,.0f} tokens/s read."
    )
    shared = ""
    if run["ranks"] > 1:
        sent = run["sent_bytes_per_step"] / 1e6
        shared = f" by {run['ranks']} ranks, if sending {sent:,.0f} MB each a step took no time"
    tell(
        f"Estimated for {run['steps']:,} steps, {run['tokens']:,} tokens{shared}: {duration(run['seconds'])}, "
        f"{duration(run['validation_seconds'])} of it for {run['validations']:,} validations."
    )


def _option(arguments: Sequence[str], name: str) -> str | None:
    for argument, following in zip_longest(arguments, arguments[1:]):
        flag, equals, value = argument.partition("=")
        if flag == name:
            return value if equals else following
    return None


def default_settings(arguments: Sequence[str]) -> Config:
    """The settings that the flags of ``firstsight train`` change: a recipe's, a file's, or the run's to resume."""
    if arguments[:1] != ["train"]:
        return recipe("small")
    name, out, file = (_option(arguments, flag) for flag in ("--recipe", "--out", "--config"))
    if file is not None:
        if name is not None:
            raise InputError(f"--recipe {name} and --config {file} both say what to start from. Give one of them.")
        return load_config(file)[1]
    if name is None and "--resume" in arguments and out and (Path(out) / "config.yaml").exists():
        return load_config(Path(out) / "config.yaml")[1]
    return recipe(name or "small")
