"""docs/extend.md does what it says: a rule, a memory and a figure are one new file each, and lines in a list."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from command import write_text
from omniglot_folder import write_data

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs/extend.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r'```(\w+)(?: title="(.*?)")?\n(.*?)```', PAGE, re.DOTALL)
TINY = ["--embedding=16", "--hidden=16", "--batch=4", "--length=10", "--steps=8", "--eval-every=4"]


def apply(text: str, diff: str) -> str:
    """The text with a diff's lines: `` context``, ``-gone``, ``+new`` after what stands before it."""
    lines, at = text.splitlines(), -1
    for line in diff.splitlines():
        if line[0] == "+":
            at += 1
            lines.insert(at, line[1:])
        else:
            at = lines.index(line[1:], at + 1)
            if line[0] == "-":
                del lines[at]
                at -= 1
    return "\n".join(lines) + "\n"


@pytest.fixture(scope="module")
def tree(tmp_path_factory) -> Path:
    """A copy of the sources with all that the page adds."""
    tree = tmp_path_factory.mktemp("extended")
    shutil.copytree(ROOT / "src", tree / "src", ignore=shutil.ignore_patterns("__pycache__"))
    for language, title, text in BLOCKS:
        if language == "python" and title != "use":
            assert not (tree / title).exists()
            (tree / title).write_text(text, encoding="utf-8")
        elif language == "diff":
            (tree / title).write_text(apply((tree / title).read_text(encoding="utf-8"), text), encoding="utf-8")
    return tree


def python(tree: Path, *arguments: object) -> str:
    threads = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    environment = {**os.environ, **threads, "PYTHONPATH": str(tree / "src")}
    done = subprocess.run(
        [sys.executable, *map(str, arguments)], cwd=tree, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_each_takes_one_new_file_and_lines_in_a_list():
    files = [title for language, title, _ in BLOCKS if language == "python" and title != "use"]
    lists = [title for language, title, _ in BLOCKS if language == "diff"]
    assert len(files) == len(lists) == len({*files, *lists}) / 2 == 3
    for language, _, text in BLOCKS:
        if language == "diff":
            assert sum(line[0] in "+-" for line in text.splitlines()) <= 3


def test_the_python_of_the_page(tree):
    uses = [text for _, title, text in BLOCKS if title == "use"]
    assert len(uses) == 2
    python(tree, "-c", "import torch; torch.manual_seed(0)\n" + "\n".join(uses))


def test_the_commands_of_the_page(tree):
    def command(*arguments: object) -> dict:
        return json.loads(python(tree, "-m", "firstsight", *arguments, "--json"))

    command("data", "text", "--from", write_text(tree / "text.txt"), "--out", "data/mine")
    commands = [text.split()[1:] for language, _, text in BLOCKS if language == "sh"]
    assert [words[0] for words in commands] == ["train", "eval", "figure"]
    assert command(*commands[0], *TINY)["reason"] == "steps"
    found = command(*commands[1])
    names = ["model", "+ cache", "+ unigram", "+ cache + unigram"]
    assert [row["name"] for row in found["memory"]["variants"]] == names
    assert len({row["nll"] for row in found["memory"]["variants"]}) == 4
    assert "for-unigram" in (tree / "runs/clipped/report.html").read_text(encoding="utf-8")


def test_the_figure_of_the_page(tree):
    write_data(tree / "data/omniglot", classes=40)
    short = "from firstsight.lab.report.figures import curricula; curricula.STEPS['cpu'] = 2"
    run = "import sys; from firstsight.lab.cli import main; sys.exit(main(sys.argv[1:]))"
    words = next(text.split()[1:] for language, _, text in BLOCKS if language == "sh" and "figure" in text)
    found = json.loads(python(tree, "-c", f"{short}; {run}", *words, "--json"))
    assert [line["name"] for line in found["panels"][0]["lines"]] == ["T = 10", "T = 100"]
    assert all((tree / path).exists() for path in found["files"])
