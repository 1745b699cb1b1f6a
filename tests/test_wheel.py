"""What is built is what works: wheel and sdist, installed where nothing else of this checkout is."""

import os
import re
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest
import torch

import firstsight

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
DATA = """
import numpy as np
import firstsight
assert "site-packages" in firstsight.__file__, firstsight.__file__
y = [name for name in "abc" for _ in range(20)]
X = 5 * np.eye(3)[["abc".index(name) for name in y]] + np.random.default_rng(0).normal(size=(60, 3))
x_new = np.array([[-5.0, -5.0, -5.0]])
"""


def run(*command, folder):
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(list(map(str, command)), cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "hatchling", "build", "-d", folder, folder=ROOT)
    (wheel,), (sdist,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
    return wheel, sdist


def test_the_wheel_has_the_package_and_nothing_else(built):
    names = zipfile.ZipFile(built[0]).namelist()
    sources = {path.relative_to(ROOT / "src").as_posix() for path in (ROOT / "src").rglob("*") if path.is_file()}
    expected = {name for name in sources if "__pycache__" not in name and ".egg-info" not in name}
    assert {name for name in names if ".dist-info/" not in name} == expected
    passage = {f"firstsight/lab/report/passage/page.{kind}" for kind in ("css", "js")}
    assert {"firstsight/py.typed", "firstsight/lab/report/page.html", *passage} <= set(names)


def test_the_sdist_builds_the_same_wheel(built, tmp_path):
    with tarfile.open(built[1]) as archive:
        archive.extractall(tmp_path, filter="data")
    (source,) = tmp_path.iterdir()
    run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", tmp_path / "again", folder=source)
    (again,) = (tmp_path / "again").glob("*.whl")
    first, second = (
        {info.filename: info.CRC for info in zipfile.ZipFile(path).infolist() if ".dist-info/" not in info.filename}
        for path in (built[0], again)
    )
    assert first == second


def test_the_first_snippet_of_the_readme_runs_in_an_empty_environment(built, tmp_path):
    empty = tmp_path / "empty"
    venv.create(empty, with_pip=False)
    python = empty / "bin" / "python"
    run(sys.executable, "-m", "pip", "--python", python, "install", "-q", "--no-deps", built[0], folder=tmp_path)
    # Its dependencies, which are large, are lent; a plain path does not run the .pth files there, as of this checkout.
    (site,) = empty.glob("lib/python*/site-packages")
    (site / "lent.pth").write_text(str(Path(torch.__file__).parent.parent))
    (snippet,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert run(python, "-c", DATA + snippet, folder=tmp_path) == "['a new label']\n"
    told = run(empty / "bin" / "firstsight", "--version", folder=tmp_path)
    assert told == f"firstsight {firstsight.__version__}\n"
