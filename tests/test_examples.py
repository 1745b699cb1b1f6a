"""Every example runs and proves what it claims, and the docs show the lines that each one adds."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
ADOPT = "".join((ROOT / f"docs/{name}.md").read_text(encoding="utf-8") for name in ("adopt", "huggingface"))


def by_name(path):
    return path.stem


@pytest.mark.timeout(300)
@pytest.mark.parametrize("example", EXAMPLES, ids=by_name)
def test_runs(example, tmp_path):
    offline = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [sys.executable, example], cwd=tmp_path, env={**os.environ, **offline}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
    assert not list(tmp_path.iterdir()), "an example leaves nothing behind"


@pytest.mark.parametrize("example", EXAMPLES, ids=by_name)
def test_is_short_and_says_what_it_shows(example):
    text = example.read_text(encoding="utf-8")
    assert text.count("\n") < 80
    assert text.startswith('"""')
    assert "def main():" in text
    assert "assert" in text


@pytest.mark.parametrize("example", EXAMPLES, ids=by_name)
def test_the_page_shows_its_lines(example):
    lines = [line.strip() for line in example.read_text(encoding="utf-8").splitlines()]
    marked = [line.removesuffix("# firstsight").strip() for line in lines if line.endswith("# firstsight")]
    section = ADOPT.split(f"`examples/{example.name}`", 1)[1]
    diff = re.search(r"```diff\n(.*?)```", section, re.DOTALL)[1].splitlines()
    added = [line[1:].strip() for line in diff if line[0] == "+"]
    assert added == marked
    assert len(added) <= 5
    plain = [line.split("  # firstsight")[0] for line in lines]
    assert all(line[1:].strip() in plain for line in diff if line[0] == " " and line[1:].strip() != "...")
