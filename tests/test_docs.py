"""The site builds without a warning, its code runs, and it asks nothing of other hosts."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import firstsight

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


def test_every_page_is_there(site):
    pages = {page.stem for page in (ROOT / "docs").glob("*.md")}
    assert {path.parent.name for path in site.glob("*/index.html")} == pages - {"index"}
    api = (site / "api/index.html").read_text(encoding="utf-8")
    for name in ("attach", "HebbianSoftmax.add_classes", "HebbianSoftmax.observe", "functional.hebbian_update_"):
        assert f'id="firstsight.{name}"' in api, name
    assert not re.findall(r":(?:meth|class|func|math):|\.\. math", api), "roles that no reader understands"


def test_formulas_are_drawn(site):
    pages = {path.parent.name: path.read_text(encoding="utf-8") for path in site.glob("*/index.html")}
    assert not [name for name, page in pages.items() if "arithmatex" in page or "$$" in page]
    assert all(pages[name].count("<math ") > 2 for name in ("rule", "try", "api"))
    assert 'display="block"' in pages["rule"]


def test_nothing_is_loaded_from_elsewhere(site):
    for page in site.rglob("*.html"):
        loaded = re.findall(
            r'<(?:script|img|link)[^>]*(?:src|href)="(https?://[^"]*)"', page.read_text(encoding="utf-8")
        )
        assert not loaded, page


def test_the_start_page_runs():
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs/index.md").read_text(encoding="utf-8"), re.DOTALL)
    body = torch.nn.Linear(3, 512)
    names = {"torch": torch, "body": body, "x": torch.randn(2, 3), "y": torch.tensor([1, 7])}
    exec(code.replace("50_000", "20"), names)
    assert names["head"].counts.tolist() == [1, 2, *[1] * 5, 2, *[1] * 12]


def test_the_memory_page_runs():
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs/memory.md").read_text(encoding="utf-8"), re.DOTALL)
    head, h, y = torch.nn.Linear(4, 9), torch.randn(2, 30, 4), torch.randint(9, (2, 30))
    names = {"firstsight": firstsight, "head": head, "h": h, "y": y}
    exec(code, names)
    model = torch.nn.functional.cross_entropy(head(h).movedim(-1, 1), y, reduction="none")
    assert names["nll"].shape == y.shape
    assert torch.allclose(names["nll"][:, 0], model[:, 0], atol=1e-5)
    assert not torch.allclose(names["nll"][:, 1:], model[:, 1:], atol=1e-2)
