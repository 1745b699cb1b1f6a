import json
import sys
import sysconfig
from pathlib import Path, PurePath

import pytest

from firstsight.errors import InputError
from firstsight.lab.data import Corpus, stdlib, summary

SOURCE = '''
"""Module   words.

    Indented line.
    ----
"""
raise RuntimeError("a module must never be run")

class Shape(object):
    """A shape."""
    def area(self):
        """Its area."""
        def inner():
            "Inner words."

if True:
    async def twice():
        """A shape."""
        "not a docstring"
'''


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return stdlib.prepare(tmp_path_factory.mktemp("stdlib"))


def test_sizes(corpus: Corpus) -> None:
    result = summary(corpus)
    total = sum(result["tokens"].values())
    assert 400_000 < total < 560_000
    assert 6_000 < result["vocabulary"] < 10_000
    for split in ("valid", "test"):
        assert result["tokens"][split] / total == pytest.approx(0.075, abs=0.005)
        assert 0.01 < result["unknown"][split] < 0.10
    assert corpus.vocabulary.counts[2:].min() == 2
    assert corpus.vocabulary.counts[0] > 1000  # a model learns what <unk> is


def test_same_bytes_each_time(corpus: Corpus, tmp_path: Path) -> None:
    before = set(sys.modules)
    again = stdlib.prepare(tmp_path)
    assert set(sys.modules) == before  # nothing was imported
    for name in ("train.tokens", "valid.tokens", "test.tokens", "vocabulary.json"):
        assert (again.folder / name).read_bytes() == (corpus.folder / name).read_bytes()
    assert again.meta == corpus.meta


def test_modules_are_in_one_split_each(corpus: Corpus) -> None:
    (source,) = corpus.meta["sources"]
    names = [name for split in ("train", "valid", "test") for name in source["splits"][split]]
    assert len(names) == len(set(names)) == source["modules"]
    assert min(len(split) for split in source["splits"].values()) > 10
    assert {"argparse", "json", "asyncio"} <= set(names)
    assert {"test", "idlelib", "site-packages", "pydoc_data", "_pyio"}.isdisjoint(names)


def test_docstrings_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "shapes").mkdir()
    (tmp_path / "shapes" / "one.py").write_text(SOURCE)
    (tmp_path / "shapes" / "tests").mkdir()
    (tmp_path / "shapes" / "tests" / "bad.py").write_text('"""Left out')
    (tmp_path / "_pyshapes.py").write_text('"""Twin."""')
    (tmp_path / "silent.py").write_text("x = 1")
    (tmp_path / "latin.py").write_bytes('# coding: latin1\n"""\xe9t\xe9 \\ud800"""'.encode("latin1"))
    assert stdlib.collect(tmp_path) == {
        "shapes": ["Twin.", "Module   words.", "Indented line.", "A shape.", "Its area.", "Inner words."],
        "latin": ["été ?"],
    }


def test_topics_without_import(tmp_path: Path) -> None:
    assert stdlib.pydoc_topics(tmp_path) == []
    (tmp_path / "pydoc_data").mkdir()
    (tmp_path / "pydoc_data" / "topics.py").write_text("# x\ntopics = {'b': 'B one\\n****\\n\\nB two', 'a': 'A'}")
    assert stdlib.pydoc_topics(tmp_path) == ["A", "B one", "B two"]


@pytest.mark.parametrize(
    ("path", "module"),
    [("json/decoder.py", "json"), ("io.py", "io"), ("_pyio.py", "io"), ("_weakrefset.py", "_weakrefset")],
)
def test_module_of_a_file(path: str, module: str) -> None:
    assert stdlib.module_of(PurePath(path)) == module


def test_split_fills_both_and_loses_nothing() -> None:
    modules = {f"m{i}": ["one two three"] * (i % 9 + 1) for i in range(300)}
    splits = stdlib.split(modules)
    assert sorted(name for names in splits.values() for name in names) == sorted(modules)
    sizes = {split: sum(4 * len(modules[name]) for name in names) for split, names in splits.items()}
    total = sum(sizes.values())
    assert sizes["valid"] / total == pytest.approx(0.075, abs=0.005)
    assert sizes["test"] / total == pytest.approx(0.075, abs=0.005)
    assert stdlib.split(dict(reversed(modules.items()))) == splits
    assert "huge" in stdlib.split({**modules, "huge": ["word " * 9] * 10_000})["train"]


def test_no_sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path))
    with pytest.raises(InputError, match="without the source files"):
        stdlib.prepare(tmp_path / "out")
    (tmp_path / "stray.py").write_text("def (:")
    with pytest.raises(InputError, match=r"stray\.py: this file does not parse"):
        stdlib.prepare(tmp_path / "out")


def test_meta_is_plain(corpus: Corpus) -> None:
    meta = json.loads((corpus.folder / "meta.json").read_text(encoding="utf-8"))
    assert meta == corpus.meta
    assert meta["tokenizer"] == "words-lower"
    assert meta["python"] in meta["sources"][0]["name"]
