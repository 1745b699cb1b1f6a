"""The site builds without a warning, its code runs, and it asks nothing of other hosts."""

import importlib
import inspect
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


def documented():
    """The names that docs/api.md shows."""
    return re.findall(r"^::: (\S+)", (ROOT / "docs/api.md").read_text(encoding="utf-8"), re.MULTILINE)


def test_every_public_name_is_on_the_api_page(site):
    api = (site / "api/index.html").read_text(encoding="utf-8")
    names = [f"firstsight.{name}" for name in firstsight.__all__ if name != "__version__"]
    names += [f"firstsight.functional.{name}" for name in firstsight.functional.__all__ if not name.isupper()]
    for name in [*names, *documented()]:
        assert f'id="{name}"' in api, name


def test_what_the_commands_call_is_on_the_api_page():
    """Every function of the lab that a command calls to make something is documented, or only prints."""
    shown = {name.rpartition(".")[2] for name in documented() if name.startswith("firstsight.lab.")}
    made = r"(?:train|open_|prepare|write_|evaluate_|score_|recall_|sweep_m|adapt_|run_|make_|list_s|audit_|clean_)\w*"
    own = {"run_seconds"}  # said before a run, no more
    for path in (ROOT / "src/firstsight/lab/cli").glob("*.py"):
        for names in re.findall(
            r"from firstsight\.lab\.(?!cli|system)\S+ import ([\w, ]+)", path.read_text(encoding="utf-8")
        ):
            for name in (one.split(" as ")[0].strip() for one in names.split(",")):
                assert not re.fullmatch(made, name) or name in shown | own, (path.name, name)


@pytest.mark.parametrize("name", [name for name in documented() if name.startswith("firstsight.lab.")])
def test_paths_may_be_strings(name):
    module, _, function = name.rpartition(".")
    for parameter in inspect.signature(getattr(importlib.import_module(module), function)).parameters.values():
        kind = str(parameter.annotation)
        assert "Path" not in kind or "str" in kind, (name, parameter)
        assert "Path]" not in kind.replace("str | pathlib.Path]", ""), (name, parameter)


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


def code_of(page):
    return re.findall(r"```python\n(.*?)```", (ROOT / f"docs/{page}.md").read_text(encoding="utf-8"), re.DOTALL)


def test_the_language_page_runs():
    layer = code_of("language")[0]
    names = {"counts": torch.arange(50), "x": torch.randn(2, 6, 64), "y": torch.randint(50, (2, 6))}
    exec(layer.replace("5_000", "50"), names)
    assert int(names["head"].counts.sum()) > 50  # something was written


def test_the_page_of_the_datastore_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names = {}
    for code in code_of("datastore"):
        exec(code, names)
    with_store, without = re.findall(r"([\d.]+) nats with the store, ([\d.]+) without", capsys.readouterr().out)[0]
    assert float(with_store) < float(without) / 2
    assert len(names["small"]) == len(names["store"]) < 2000


def test_the_page_of_very_many_classes_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    steps, index, sharded = code_of("scale")
    names = {}
    exec(steps, names)
    exec(index, names)
    assert names["classes"].shape == (256, 10)
    started = f'"gloo", init_method="file://{tmp_path}/meeting", rank=0, world_size=1'
    sharded = sharded.replace("init_process_group()", f"init_process_group({started})").replace("1_000_000", "20_000")
    names = {}
    try:
        exec(sharded, names)
    finally:
        if torch.distributed.is_initialized():  # where it ended before it says so itself
            torch.distributed.destroy_process_group()
    assert names["classes"].shape == (256, 10)
    assert (tmp_path / "checkpoint" / ".metadata").exists()


def test_a_training_from_python_runs_with_strings_for_paths(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    text = "the cat sat on the mat\nthe dog sat on the log\n" * 400
    for name in ("mine.txt", "letter.txt"):
        Path(name).write_text(text, encoding="utf-8")
    training = code_of("language")[1]
    small = "steps=2, eval_every=2, hidden=8, embedding=8, batch=2, length=8"
    assert "steps=300" in training
    exec(training.replace("steps=300", small), {})
    out = capsys.readouterr().out
    assert "runs/comparison/report.html" in out
    assert {path.name for path in Path("runs").iterdir()} == {"softmax", "hebbian", "comparison"}
    assert (tmp_path / "runs/hebbian/result.json").exists()


def test_the_memory_page_runs():
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs/memory.md").read_text(encoding="utf-8"), re.DOTALL)
    head, h, y = torch.nn.Linear(4, 9), torch.randn(2, 30, 4), torch.randint(9, (2, 30))
    names = {"firstsight": firstsight, "head": head, "h": h, "y": y}
    exec(code, names)
    model = torch.nn.functional.cross_entropy(head(h).movedim(-1, 1), y, reduction="none")
    assert names["nll"].shape == y.shape
    assert torch.allclose(names["nll"][:, 0], model[:, 0], atol=1e-5)
    assert not torch.allclose(names["nll"][:, 1:], model[:, 1:], atol=1e-2)
