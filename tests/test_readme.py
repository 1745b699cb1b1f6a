"""The README says what is so: its commands run, its code runs, its table is the committed results."""

import re
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from forked import start_with
from torch import nn

from firstsight.lab import cli
from firstsight.lab.classify.data.source import read_source
from firstsight.lab.report.figures import curricula

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def commands():
    lines = [line.split("#")[0].strip() for block in blocks("sh") for line in block.splitlines()]
    return [shlex.split(line) for line in lines if line]


def of_a_corpus(command):
    names = ("wikitext", "gutenberg", "gigaword", "omniglot", "figure")
    return any(name in word for word in command for name in names)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working folder with the files that the README's commands name."""
    monkeypatch.chdir(tmp_path)
    prose = (ROOT / "LICENSE").read_text(encoding="utf-8")
    Path("mine.txt").write_text("\n".join([prose] * 9), encoding="utf-8")
    Path("letter.txt").write_text("You may reproduce the Work, but zebras may not.\n", encoding="utf-8")
    return tmp_path


def test_own_text(folder, capsys):
    ran = [command for command in commands() if command[0] == "firstsight" and not of_a_corpus(command)]
    ran = [command for command in ran if command[1] != "try"]
    for command in ran:
        # Fewer steps than the README's: what is tested is that the command runs.
        arguments = [
            "20" if before == "--steps" else word for before, word in zip(["", *command], command, strict=False)
        ]
        arguments += ["--steps", "20"] if "demo" in command else []
        assert cli.main(arguments[1:]) == 0, command
    assert {command[1] for command in ran} == {"data", "train", "eval", "report", "score", "adapt", "store", "sweep"}
    assert (folder / "runs/comparison/report.html").stat().st_size > 10_000
    assert "zebras" in capsys.readouterr().out


def test_trials(folder, monkeypatch, capsys):
    """With little data, and the least that a budget leaves of a trial."""
    rng = np.random.default_rng(0)
    y = np.repeat(np.arange(12), 20)
    h = rng.normal(size=(12, 8))[y] + 0.2 * rng.normal(size=(240, 8))
    np.savez("vectors.npz", h=h.astype(np.float32), y=y)
    words = [[f"word{5 * label + i}" for i in range(5)] for label in range(12)]
    lines = [f"{' '.join(rng.choice(words[label], 4))} number {i},queue {label}" for i, label in enumerate(y)]
    Path("tickets.csv").write_text("\n".join(["subject,queue", *lines]), encoding="utf-8")
    source = read_source("tickets.csv", text="subject", label="queue")
    monkeypatch.setattr("firstsight.lab.classify.data.docstrings.docstrings", lambda: source)
    start_with(monkeypatch)
    ran = [command for command in commands() if command[:2] == ["firstsight", "try"]]
    assert len(ran) == 3
    for command in ran:
        assert cli.main([*command[1:], "--budget", "0.01", "--epochs", "1", "--seeds", "1"]) == 0, command
        assert "To paste; it trains anew, on all rows of the data:" in capsys.readouterr().out
    assert all(Path(f"runs/try-{name}/report.html").exists() for name in ("demo", "tickets", "vectors"))


def test_estimator(folder, capsys):
    (code,) = blocks("python")
    torch.manual_seed(0)
    centres = 3 * torch.randn(4, 6)
    X = (centres.repeat_interleave(20, 0) + 0.3 * torch.randn(80, 6)).numpy()
    names = {"X": X[:60], "y": [name for name in "abc" for _ in range(20)], "x_new": X[60:61]}
    exec(code, names)
    assert capsys.readouterr().out == "['a new label']\n"
    assert names["clf"].score(names["X"], names["y"]) > 0.9


@pytest.mark.shared
def test_corpora(folder, shared_data, monkeypatch):
    """In the README's order; a small mirror on the disk stands in for the web's, made-up articles for LDC's."""
    from books import make_book, write_mirror
    from gigaword_files import make_documents, render

    from firstsight.lab.data.gutenberg.book_ids import LISTED

    books = [book for ids in LISTED.values() for book in ids[:8]]
    write_mirror(Path("mirror"), {book: make_book(book) for book in books})
    for year in (1999, 2005, 2010):
        path = Path(f"gigaword_eng_5/data/nyt_eng/nyt_eng_{year}01")
        path.parent.mkdir(parents=True, exist_ok=True)
        articles = make_documents([f"NYT_ENG_{year}0101.{i:04}" for i in range(3)])
        path.write_text("".join(render(article) for article in articles), encoding="utf-8")
    instead = {
        "wikitext-2-v1.zip": str(shared_data / "wikitext-2" / "wikitext-2.tar.xz"),
        "https://gutenberg.pglaf.org": "mirror",
        "omniglot/python": str(shared_data / "omniglot"),
        "300": "5",
    }
    shorter = {"omniglot": ["--seeds=1", "--max-steps=4"], "figure": ["--seeds=1"]}
    monkeypatch.setattr(curricula, "STEPS", {"cpu": 2})
    start_with(monkeypatch)
    ran = [command for command in commands() if of_a_corpus(command)]
    for command in ran:
        given = [instead.get(word, word) for word in command[1:]]
        assert cli.main([*given, *shorter.get(command[1], [])]) == 0, command
    assert len(ran) == 9
    assert Path("runs/figures/figure-10.png").exists()


def test_every_other_command_is_a_make_target():
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    others = [command for command in commands() if command[0] != "firstsight"]
    assert {command[0] for command in others} == {"make"}
    assert {command[1] for command in others} <= targets


def test_adoption_diff():
    (diff,) = blocks("diff")
    code = "\n".join(line[1:] for line in diff.splitlines() if line[0] in "+ ")
    code = code.replace("512", "8").replace("50_000", "20")
    torch.manual_seed(0)
    batches = [(torch.randn(4, 6), torch.randint(20, (4,))) for _ in range(3)]
    names = {"torch": torch, "nn": nn, "body": nn.Linear(6, 8), "batches": batches}
    exec(code, names)
    seen = torch.bincount(torch.cat([y for _, y in batches]), minlength=20)
    assert torch.equal(names["head"].counts, 1 + seen)
    assert sum(line[0] in "+-" for line in diff.splitlines()) <= 7


def test_table_is_that_of_the_committed_results(monkeypatch):
    monkeypatch.setattr(sys, "path", [str(ROOT / "benchmarks"), *sys.path])
    import readme_table

    for page in (path.read_text(encoding="utf-8") for path in readme_table.PAGES):
        assert readme_table.with_table(page) == page, "run benchmarks/readme_table.py"
