"""The command line: a file for each command, with its printer; no logic."""

import sys
from collections.abc import Sequence
from typing import Any

import tyro

from firstsight._version import __version__
from firstsight.errors import InputError
from firstsight.lab.cli.accept import accept
from firstsight.lab.cli.adapt import adapt
from firstsight.lab.cli.data import data
from firstsight.lab.cli.demo import demo
from firstsight.lab.cli.eval import evaluate
from firstsight.lab.cli.figure import figure
from firstsight.lab.cli.omniglot import omniglot
from firstsight.lab.cli.output import BadFlagError, fail, spoken, tell
from firstsight.lab.cli.report import report
from firstsight.lab.cli.score import score
from firstsight.lab.cli.store import store
from firstsight.lab.cli.study import study
from firstsight.lab.cli.sweep import sweep
from firstsight.lab.cli.train import default_settings, train_command
from firstsight.lab.cli.try_data import default_trial, try_command
from firstsight.lab.system.job import as_one, launched
from firstsight.lab.system.machine import flushed_denormals

DESCRIPTION = """A softmax that remembers a class from its first example, and the experiments around it.

Start with: firstsight demo. With labelled data of your own: firstsight try DATA. With plain text of your own:
firstsight data text --from FILE --out data/mine; firstsight train data/mine --out runs/mine; firstsight score runs/mine
FILE. Every command takes --help and --json."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line and return its exit code: 0, 1 (training diverged or lost a process), 2 (bad input), 128 + n
    (signal n)."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    with flushed_denormals():
        return spoken(lambda: _begin(arguments))


def _begin(arguments: list[str]) -> int:
    try:
        several = launched()
    except InputError as error:
        return fail(str(error), error.exit_code)
    return as_one(lambda: _run(arguments)) if several else _run(arguments)


def _run(arguments: list[str]) -> int:
    if arguments == ["--version"]:
        tell(f"firstsight {__version__}")
        return 0
    try:
        if launched() and arguments[:1] != ["train"]:
            raise InputError("of all commands torchrun can start firstsight train alone. Start this one without it.")
        app = tyro.extras.SubcommandApp()
        train = train_command(default_settings(arguments))
        trial = try_command(default_trial(arguments))
        names: dict[Any, str] = {evaluate: "eval", trial: "try"}
        commands = (demo, trial, data, train, evaluate, score, report, study, adapt, sweep, store, omniglot, figure)
        for command in (*commands, accept):
            app.command(name=names.get(command))(command)
        return int(app.cli(prog="firstsight", description=DESCRIPTION, args=arguments))
    except InputError as error:
        return fail(str(error), error.exit_code)
    except BadFlagError as error:
        return fail(str(error), InputError.exit_code)
    except OSError as error:
        what = f"{error.filename}: {error.strerror}" if error.filename else str(error)
        return fail(f"{what}. No file was left half-written: mend this and run the command again.", 2)
    except KeyboardInterrupt:
        return fail("interrupted; nothing was left half-written", 130)
