"""The command line: one function a command, no logic."""

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import tyro
from tyro.conf import OmitArgPrefixes, Positional

from firstsight._version import __version__
from firstsight.errors import BadFlagError, InputError, checking_flags
from firstsight.lab.cli import screen
from firstsight.lab.cli.adapt import adapt
from firstsight.lab.cli.data import Json, data
from firstsight.lab.cli.omniglot import figure, omniglot
from firstsight.lab.cli.study import study
from firstsight.lab.cli.sweep import sweep
from firstsight.lab.lm.config import Config, load_config
from firstsight.lab.lm.recipes import RECIPES, recipe
from firstsight.lab.system.progress import say

DESCRIPTION = """A softmax that remembers a class from its first example, and the experiments around it.

Start with: firstsight demo. Then, on your own text: firstsight data text --from FILE --out data/mine;
firstsight train data/mine --out runs/mine; firstsight score runs/mine FILE. Every command takes --help and --json."""

Checkpoint = Literal["best", "last"]


@dataclass(frozen=True)
class Flags(Config):
    """Everything that decides a training run but the data."""

    def __post_init__(self) -> None:
        """Check every value."""
        with checking_flags():
            super().__post_init__()


def demo(out: Path = Path("runs/demo"), json: Json = False, seed: int = 0, steps: int = RECIPES["demo"].steps) -> int:
    """Train a plain softmax, one that writes, and the paper's rule on the text that every Python carries; compare them.

    Takes about five minutes on two cores and needs no network. Interrupted, the same command goes on.

    Example: firstsight demo --out runs/demo

    Args:
        out: folder for the data, the runs and the report.
        seed: all of them start from it.
        steps: training steps of each.
    """
    from firstsight.lab.cli.demo import run_demo

    config = recipe("demo").replace(seed=seed, steps=steps)
    found = run_demo(out, config)
    return screen.show(found, json, screen.demo)


def train_command(default: Config) -> Callable[..., int]:
    """``firstsight train`` with the settings that its flags start from."""

    def train(
        data: Positional[Path],
        out: Path,
        recipe: str = "small",
        resume: bool = False,
        json: Json = False,
        config: OmitArgPrefixes[Flags] = Flags(**default.to_dict()),  # noqa: B008 - meant once a command line
    ) -> int:
        """Train a language model on a data folder.

        Ctrl-C saves and ends; --resume goes on. At the end the best checkpoint is evaluated on the validation split.

        Example: firstsight train data/wikitext-2 --out runs/hebbian --head hebbian --precision bf16

        Args:
            data: data folder, made by firstsight data.
            out: folder of the run.
            recipe: named settings to start from: small, demo or paper; flags change single ones.
            resume: go on with the run in --out, from its last checkpoint, with its own settings.
        """
        from firstsight.lab.data import open_corpus
        from firstsight.lab.lm.results import evaluate_run
        from firstsight.lab.lm.training import train as run
        from firstsight.lab.report import write_report
        from firstsight.lab.runs.optimizer import cpu_multiplies_bf16

        if config.precision == "fp32" and cpu_multiplies_bf16():
            say("hint: this machine multiplies bfloat16 in hardware; --precision bf16 trains about 1.7 times as fast")
        outcome = run(open_corpus(data), out, config, resume=resume)
        result = None
        if not outcome.reason.startswith("SIG"):
            result = evaluate_run(out, "valid", data=str(data))
            write_report([out])
        return screen.show({"run": str(out), **vars(outcome), "result": result}, json, screen.trained)

    return train


def evaluate(
    run: Positional[Path],
    split: Literal["valid", "test"] = "valid",
    memory: str | None = None,
    tuned: Path | None = None,
    checkpoint: Checkpoint = "best",
    data: Path | None = None,
    json: Json = False,
) -> int:
    """Perplexity of a trained run, overall and by training frequency; writes its result.json and report.html.

    With --memory also under memories of the text just read. Interrupted, the same command goes on.

    Example: firstsight eval runs/hebbian --split test

    Example: firstsight eval runs/hebbian --split test --memory cache,mbpa --tuned runs/hebbian/memory/sweep.json

    Args:
        run: folder of the run.
        split: which text.
        memory: cache, mbpa or cache,mbpa: neural cache, MbPA, or both; by default none.
        tuned: settings of the memories that sweep memory chose, RUN/memory/sweep.json; by default the paper's.
        checkpoint: which weights.
        data: the data folder, if it was moved since training.
    """
    from firstsight.lab.lm.results import evaluate_run
    from firstsight.lab.report import write_report

    where: dict[str, Any] = {"checkpoint": checkpoint, "data": None if data is None else str(data)}
    if memory is not None:
        from firstsight.lab.reading.memories import evaluate_with_memory

        result = evaluate_with_memory(run, split, memory, tuned=tuned, **where)
    elif tuned is not None:
        raise InputError(f"--tuned {tuned} holds settings of memories: say which with --memory cache,mbpa.")
    else:
        result = evaluate_run(run, split, **where)
    write_report([run])
    return screen.show(result, json, screen.result)


def score(
    run: Positional[Path], file: Positional[Path], top: int = 20, checkpoint: Checkpoint = "best", json: Json = False
) -> int:
    """Perplexity of your own text under a trained run, and the tokens that surprised the model most.

    Example: firstsight score runs/hebbian letter.txt

    Args:
        run: folder of the run.
        file: a plain text file in UTF-8.
        top: how many tokens to list.
        checkpoint: which weights.
    """
    from firstsight.lab.lm.results import score_text

    return screen.show(score_text(run, file, top=top, checkpoint=checkpoint), json, screen.score)


def report(runs: Positional[tuple[Path, ...]], out: Path | None = None, force: bool = False, json: Json = False) -> int:
    """One self-contained HTML page for a run, or to compare several that were evaluated on the same split.

    Example: firstsight report runs/softmax runs/hebbian --out runs/comparison

    Args:
        runs: folders of runs; the first is what the others are held against.
        out: folder for the page and its plots; for one run, by default, its own.
        force: compare perplexities of different vocabularies or texts all the same; the page says so.
    """
    from firstsight.lab.report import write_report

    return screen.show({"report": str(write_report(runs, out, force))}, json, lambda found: print(found["report"]))


def _option(arguments: Sequence[str], name: str) -> str | None:
    for i, argument in enumerate(arguments):
        if argument == name:
            return arguments[i + 1] if i + 1 < len(arguments) else None
        if argument.startswith(f"{name}="):
            return argument.removeprefix(f"{name}=")
    return None


def _default(arguments: Sequence[str]) -> Config:
    """The settings that the flags of ``firstsight train`` change: a recipe's, or those of the run to resume."""
    if arguments[:1] != ["train"]:
        return recipe("small")
    name, out = _option(arguments, "--recipe"), _option(arguments, "--out")
    if name is None and "--resume" in arguments and out and (Path(out) / "config.yaml").exists():
        return load_config(Path(out) / "config.yaml")[1]
    return recipe(name or "small")


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line and return its exit code: 0, 1 (training diverged), 2 (bad input), 128 + n (signal n)."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments == ["--version"]:
        print(f"firstsight {__version__}")
        return 0
    try:
        app = tyro.extras.SubcommandApp()
        train = train_command(_default(arguments))
        commands: dict[str, Callable[..., int]] = {"demo": demo, "data": data, "train": train, "eval": evaluate}
        commands |= {"score": score, "report": report, "study": study, "adapt": adapt, "sweep": sweep}
        commands |= {"omniglot": omniglot, "figure": figure}
        for name, command in commands.items():
            app.command(name=name)(command)
        return int(app.cli(prog="firstsight", description=DESCRIPTION, args=arguments))
    except InputError as error:
        return screen.fail(str(error), error.exit_code)
    except BadFlagError as error:
        return screen.fail(str(error), InputError.exit_code)
    except BrokenPipeError:  # the reader of standard output, `head` say, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what Python flushes when it ends
        return 0
    except OSError as error:
        what = f"{error.filename}: {error.strerror}" if error.filename else str(error)
        return screen.fail(f"{what}. No file was left half-written: mend this and run the command again.", 2)
    except KeyboardInterrupt:
        return screen.fail("interrupted; what was saved before is whole and stays", 130)
