"""The commands that make, describe and audit the paper's corpora, as a user meets them."""

import json
from pathlib import Path

import pytest
from books import make_book, write_mirror
from command import assert_refused, call
from gigaword_files import make_documents, render, write

from firstsight.lab.data.gutenberg.book_ids import TEST, TRAIN, VALID

BOOKS = {book: make_book(book) for book in (*VALID[:2], TEST[0], *TRAIN[:3])}
BOOKS[TRAIN[2]] = BOOKS[TEST[0]].replace(b"licence", b"another edition")  # training holds a test book


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sources")
    write_mirror(folder / "mirror", BOOKS)
    (folder / "gigaword").mkdir()
    for month in ("199901", "200001", "201001"):
        documents = make_documents([f"NYT_ENG_{month}01.000{i}" for i in (1, 2)], seed=int(month), paragraphs=3)
        write(folder / "gigaword" / f"nyt_eng_{month}.gz", "".join(map(render, documents)).encode())
    return folder


@pytest.fixture
def books(sources: Path, tmp_path: Path, capfd: pytest.CaptureFixture) -> Path:
    """A data folder of books that a test may write into."""
    arguments = ["--from", sources / "mirror", "--out", tmp_path / "books", "--workers", "1"]
    assert call(capfd, "data", "gutenberg", *arguments)[0] == 0
    return tmp_path / "books"


def flags(sources: Path, corpus: str, out: Path) -> list[object]:
    source = sources / ("mirror" if corpus == "gutenberg" else corpus)
    return ["data", corpus, "--from", source, "--out", out, "--workers", "1"]


@pytest.mark.parametrize("corpus", ["gutenberg", "gigaword"])
def test_making_a_corpus(corpus, sources, tmp_path, capfd):
    code, out, err = call(capfd, *flags(sources, corpus, tmp_path / "json"), "--max-size=50", "--json")
    assert code == 0, err
    found = json.loads(out)  # which refuses anything beside the one value
    meta = json.loads((tmp_path / "json" / "meta.json").read_text())
    assert found["tokens"] == meta["tokens"]
    assert list(found["tokens"]) == ["train", "valid", "test"]
    assert min(found["tokens"].values()) > 0
    assert found["vocabulary"] == 50

    code, out, err = call(capfd, *flags(sources, corpus, tmp_path / "out"), "--max-size=50")
    assert code == 0, err
    assert f"{corpus}: 50 types" in out
    for split, tokens in found["tokens"].items():
        (row,) = [line for line in out.splitlines() if line.split()[1:2] == [split]]
        assert f" {tokens:,} " in row
        assert split == "train" or f"{found['unknown'][split]:.2%}" in row
    assert "Next: firstsight train" in out


def test_the_options_reach_the_corpus(sources, tmp_path, capfd):
    some = ["--books", "1", "--robust", "--min-count", "2"]
    assert call(capfd, *flags(sources, "gutenberg", tmp_path / "a"), *some)[0] == 0
    meta = json.loads((tmp_path / "a" / "meta.json").read_text())
    assert [meta[name] for name in ("books", "mode", "min_count")] == ["1", "robust", 2]
    assert meta["documents"]["train"] == 1
    some = ["--train-years=1999", "--valid-years", "2000", "--types", "story", "other", "--headlines"]
    assert call(capfd, *flags(sources, "gigaword", tmp_path / "b"), *some)[0] == 0
    meta = json.loads((tmp_path / "b" / "meta.json").read_text())
    assert meta["years"] == {"train": [1999, 1999], "valid": [2000, 2000], "test": [2010, 2010]}
    assert (meta["document_types"], meta["headlines"]) == (["story", "other"], True)


def test_info(books, capfd):
    code, out, err = call(capfd, "data", "info", books, "--json")
    assert code == 0, err
    found = json.loads(out)
    meta = json.loads((books / "meta.json").read_text())
    assert (found["tokens"], found["vocabulary"]) == (meta["tokens"], meta["vocabulary"])
    assert found["documents"] == {"train": 3, "valid": 2, "test": 1}
    code, out, _ = call(capfd, "data", "info", books)
    assert code == 0
    assert not out.startswith("{")
    for number in (*meta["tokens"].values(), meta["vocabulary"], 609_545):  # the last is the paper's
        assert f"{number:,}" in out
    assert f"Zipf plot: {books / 'plots' / 'zipf.png'}" in out
    assert (books / "plots" / "zipf.png").exists()


def test_audit(books, tmp_path, capfd):
    code, out, err = call(capfd, "data", "audit", books, "--json")
    assert code == 0, err
    found = json.loads(out)
    assert found == json.loads((books / "audit.json").read_text())
    first = found["pairs"][0]
    assert (first["evaluation"], first["training"], first["share"]) == (str(TEST[0]), str(TRAIN[2]), 1.0)
    code, out, _ = call(capfd, "data", "audit", books)
    assert code == 0
    assert not out.startswith("{")
    assert f"test {TEST[0]}" in out
    assert "100.00%" in out
    assert "--clean DIR" in out

    code, out, err = call(capfd, "data", "audit", books, "--clean", tmp_path / "clean", "--json")
    assert code == 0, err
    cleaned = json.loads(out)["cleaned"]
    assert cleaned["folder"] == str(tmp_path / "clean")
    assert [dropped["name"] for dropped in cleaned["dropped"]] == [str(TRAIN[2])]
    code, out, _ = call(capfd, "data", "audit", books, "--clean", tmp_path / "again")
    assert f"left out of training: {TRAIN[2]}" in out
    code, out, _ = call(capfd, "data", "info", tmp_path / "clean", "--json")
    assert json.loads(out)["documents"]["train"] == 2


@pytest.mark.parametrize(
    ("corpus", "more", "said"),
    [
        ("gutenberg", ["--books", "some"], ["books is 'some'; expected all, listed, or a number"]),
        ("gutenberg", ["--books=-3"], ["books is '-3'"]),
        ("gutenberg", ["--from", "none.tar"], ["none.tar", "no such file"]),
        ("gutenberg", ["--from", "ftp://mirror"], ["ftp://mirror", "expected http://"]),
        ("gutenberg", ["--workers=0"], ["workers is 0; expected 1 or more"]),
        ("gutenberg", ["--max-size=2"], ["largest vocabulary is 2"]),
        ("gutenberg", ["--min-count=5000"], ["smaller --min-count"]),
        ("gigaword", ["--from", "none"], ["none", "no such folder"]),
        ("gigaword", ["--train-years=1999-2009"], ["overlap"]),
        ("gigaword", ["--test-years=soon"], ["test-years is 'soon'; expected a year"]),
        ("gigaword", ["--types"], ["types are none"]),
        ("gigaword", ["--types=other"], ["no document of type other"]),
        ("gigaword", ["--min-count=0"], ["smallest count of a word is 0"]),
    ],
)
def test_mistakes_in_making_a_corpus(corpus, more, said, sources, tmp_path, capfd):
    given = flags(sources, corpus, tmp_path / "out")
    if more[0] == "--from":
        given = [*given[:2], *given[4:]]
    assert_refused(call(capfd, *given, *more), *said)
    assert not (tmp_path / "out" / "meta.json").exists()


@pytest.mark.parametrize("command", ["info", "audit"])
def test_folders_that_are_none(command, tmp_path, capfd):
    assert_refused(call(capfd, "data", command, tmp_path / "none"), "no such folder", "firstsight data")
    assert_refused(call(capfd, "data", command, tmp_path), "it has no meta.json")


def test_audits_that_cannot_be(books, sources, tmp_path, capfd):
    assert_refused(call(capfd, "data", "audit", books, "--clean", books), "the data folder itself")
    assert_refused(call(capfd, "data", "audit", books, "--words=0"), "shingles of 0 words", "expected 1 to 1,000")
    assert_refused(
        call(capfd, "data", "audit", books, "--clean", tmp_path / "a", "--max-share=2"), "expected 1 to 1,000"
    )
    assert_refused(call(capfd, "data", "audit", books, "--max-share=0.1"), "--max-share 0.1", "--clean DIR")
    assert not (tmp_path / "a").exists()
    write_mirror(tmp_path / "valid", {book: raw for book, raw in BOOKS.items() if book in VALID})
    call(capfd, "data", "gutenberg", "--from", tmp_path / "valid", "--out", tmp_path / "untrained", "--workers=1")
    assert_refused(call(capfd, "data", "audit", tmp_path / "untrained"), "no training text")


@pytest.mark.parametrize(
    "arguments",
    [["gutenberg"], ["gutenberg", "--from"], ["gigaword", "--out", "x"], ["gigaword", "--types", "essay"], ["info"]]
    + [["audit"], ["gutenbreg"]],
)
def test_flags_that_are_none(arguments, capfd):
    code, out, err = call(capfd, "data", *arguments)
    assert (code, out) == (2, "")
    assert "Traceback" not in err
    assert err.strip()


@pytest.mark.parametrize("command", ["gutenberg", "gigaword", "info", "audit"])
def test_help_shows_an_example(command, capfd):
    code, out, _ = call(capfd, "data", command, "--help")
    assert code == 0
    assert f"Example: firstsight data {command} " in out
