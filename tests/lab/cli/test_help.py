"""``--help`` of every command names no file that is not there, and tab completion knows all commands."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from command import call

ROOT = Path(__file__).resolve().parents[3]
COMMANDS = ["demo", "try", "data", "train", "eval", "score", "report", "study", "adapt", "sweep", "omniglot", "figure"]
COMMANDS += ["store", "accept"]
CORPORA = ["stdlib", "text", "wikitext-2", "wikitext-103", "gutenberg", "gigaword", "omniglot", "info", "audit"]
SWEEPS = ["lm", "memory", "show"]
STORES = ["build", "info", "delete", "compact", "join"]
ALL = [[], *([name] for name in COMMANDS), *(["data", name] for name in CORPORA), *(["sweep", name] for name in SWEEPS)]
ALL += [["store", name] for name in STORES]
# Names of what the user has or gets: runs and data folders are made by the commands, the rest is theirs.
OURS = ("benchmarks/", "docs/", "examples/", "tests/", "src/", "Makefile", "README.md")


def named(text):
    """The files of this repository that a text names."""
    words = re.findall(r"[\w./*-]+", text)
    return {word.rstrip(".,;:") for word in words if word.startswith(OURS)}


def help_of(command, capfd, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")  # so that no path is broken into two lines
    code, out, _ = call(capfd, *command, "--help")
    assert code == 0
    return re.sub(r"\x1b\[[0-9;]*m", "", out)


@pytest.mark.parametrize("command", ALL, ids=" ".join)
def test_every_file_that_help_names_is_there(command, capfd, monkeypatch):
    text = help_of(command, capfd, monkeypatch)
    assert f"firstsight {' '.join(command)}".strip() in text
    assert not [name for name in named(text) if not (ROOT / name).exists()]
    assert "{None}" not in text  # tyro's word for what may be left out


def test_a_file_that_is_not_there_would_be_found(capfd, monkeypatch):
    assert "benchmarks/study/gutenberg.yaml" in named(help_of(["study"], capfd, monkeypatch))
    assert named("as in (docs/nothing.md). See benchmarks/a.yaml, runs/x") == {"docs/nothing.md", "benchmarks/a.yaml"}


def test_all_commands_are_looked_at(capfd, monkeypatch):
    for command, expected in (([], COMMANDS), (["data"], CORPORA), (["sweep"], SWEEPS), (["store"], STORES)):
        text = help_of(command, capfd, monkeypatch)
        (choices,) = re.findall(r"\{([\w,-]+)\}", text)[:1]
        assert sorted(choices.split(",")) == sorted(expected)


COMPLETE = """
source "$1"; shift
COMP_WORDS=(firstsight "$@"); COMP_CWORD=$#
$(complete -p firstsight | sed -E 's/.*-F ([^ ]+) .*/\\1/')
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.fixture(scope="module")
def script(tmp_path_factory):
    path = tmp_path_factory.mktemp("completion") / "firstsight.bash"
    command = [sys.executable, "-m", "firstsight", "--tyro-write-completion", "bash", str(path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return path


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ([""], COMMANDS),
        (["tr"], ["train", "try"]),
        (["data", "wiki"], ["wikitext-2", "wikitext-103"]),
        (["sweep", ""], SWEEPS),
        (["train", "--hea"], ["--head"]),
        (["train", "--head", "h"], ["hebbian"]),
        (["report", "--plots", ""], ["png", "svg", "pdf"]),
    ],
    ids=lambda value: " ".join(value),
)
def test_bash_completes_commands_flags_and_choices(typed, expected, script):
    done = subprocess.run(["bash", "-c", COMPLETE, "bash", str(script), *typed], capture_output=True, text=True)
    found = done.stdout.split()
    assert set(expected) <= set(found), done.stderr
    assert all(name.startswith(typed[-1]) for name in found)


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_the_script_is_printed_too_and_names_the_commands(shell, capfd):
    code, printed, _ = call(capfd, "--tyro-print-completion", shell)
    assert not code
    assert "firstsight" in printed
    assert all(f"'{name}'" in printed for name in [*COMMANDS, *CORPORA, *SWEEPS])
