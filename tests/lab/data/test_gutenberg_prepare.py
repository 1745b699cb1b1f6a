import json
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
from books import make_book, write_mirror, write_tar
from mirror_server import serve
from plain_script import plain_process_text

from firstsight.errors import InputError
from firstsight.lab.data import open_corpus
from firstsight.lab.data.download import Polite
from firstsight.lab.data.gutenberg import prepare
from firstsight.lab.data.gutenberg.book_ids import TEST, TRAIN, VALID
from firstsight.lab.data.gutenberg.source import folder_of
from firstsight.lab.data.gutenberg.web import WebSource

BOOKS = {book: make_book(book) for book in (*VALID[:3], *TEST[:2], *TRAIN[:6])}


def text_of(corpus, split, name):
    documents = corpus.documents(split)
    i = documents.names.index(str(name))
    words = corpus.vocabulary.decode(corpus.split(split)[documents.starts[i] : documents.starts[i + 1]])
    return " ".join("\n" if word == "<eos>" else word for word in words).encode()


def files(folder: Path) -> dict[str, bytes]:
    told = ("meta.json", "digests.json")  # of the command and its sources
    return {path.name: path.read_bytes() for path in folder.glob("*.*") if path.name not in told and path.is_file()}


def test_every_book_decodes_to_the_script_s_bytes(tmp_path):
    corpus = prepare([str(write_mirror(tmp_path / "mirror", BOOKS))], tmp_path / "out", workers=2)
    order = {"train": TRAIN[:6], "valid": VALID[:3], "test": TEST[:2]}
    for split, books in order.items():
        assert corpus.documents(split).names == [str(book) for book in books]
    assert text_of(corpus, "train", TRAIN[3]) == plain_process_text(BOOKS[TRAIN[3]])
    # Validation has words that training lacks: each book its own.
    unknown = text_of(corpus, "valid", VALID[0])
    plain = plain_process_text(BOOKS[VALID[0]]).replace(f"{VALID[0]}word".encode(), b"<unk>")
    assert unknown == plain.replace(b"book %d" % VALID[0], b"book <unk>")
    assert corpus.meta["missing"] == {
        "train": list(TRAIN[6:]),
        "valid": list(VALID[3:]),
        "test": list(TEST[2:]),
    }
    assert not (tmp_path / "out" / ".shards").exists()
    assert open_corpus(tmp_path / "out").meta == json.loads((tmp_path / "out" / "meta.json").read_text())


def test_the_number_of_workers_and_the_kind_of_source_change_nothing(tmp_path):
    mirror = str(write_mirror(tmp_path / "mirror", BOOKS))
    tars = [str(write_tar(tmp_path / f"{i}.tar.xz", dict(list(BOOKS.items())[i::2]))) for i in range(2)]
    one = prepare([mirror], tmp_path / "one", workers=1)
    prepare([mirror], tmp_path / "three", workers=3)
    prepare(tars, tmp_path / "tars", workers=2)
    assert files(tmp_path / "one") == files(tmp_path / "three") == files(tmp_path / "tars")
    assert sorted(source["name"] for source in one.meta["sources"]) == sorted(f"{book}.txt" for book in BOOKS)


def test_a_number_of_books_takes_the_first_of_the_list_that_are_there(tmp_path):
    have = {book: raw for book, raw in BOOKS.items() if book != TRAIN[1]}
    for source in (write_mirror(tmp_path / "mirror", have), write_tar(tmp_path / "m.tar.xz", have)):
        corpus = prepare([str(source)], tmp_path / "out", books="2", workers=1)
        assert corpus.documents("train").names == [str(TRAIN[0]), str(TRAIN[2])]
        assert len(corpus.documents("valid")) == 3


def test_all_takes_every_english_book_for_training(tmp_path):
    other = {1999: make_book(1999), 1998: make_book(1998).replace(b"English", b"French"), 299: make_book(299)}
    corpus = prepare([str(write_mirror(tmp_path / "mirror", BOOKS | other))], tmp_path / "out", books="all", workers=1)
    expected = sorted({*TRAIN[:6], 1999})  # 1998 is French, 299 does not lie under 1/
    assert [int(name) for name in corpus.documents("train").names] == expected


def test_without_training_text_every_word_is_kept(tmp_path, capsys):
    books = {book: raw for book, raw in BOOKS.items() if book in VALID}
    corpus = prepare(write_mirror(tmp_path / "mirror", books), tmp_path / "out", workers=1)
    assert corpus.meta["tokens"]["train"] == corpus.meta["tokens"]["test"] == 0
    assert corpus.meta["unknown"] == {"valid": 0.0, "test": None}
    assert text_of(corpus, "valid", VALID[1]) == plain_process_text(BOOKS[VALID[1]])
    assert not corpus.vocabulary.counts.any()
    assert "no training text" in capsys.readouterr().err
    with pytest.raises(InputError, match="holds no tokens"):
        corpus.split("train")


def test_vocabulary_limits(tmp_path):
    source = [str(write_mirror(tmp_path / "mirror", BOOKS))]
    whole = prepare(source, tmp_path / "whole", workers=1)
    small = prepare(source, tmp_path / "small", workers=1, max_size=30)
    frequent = prepare(source, tmp_path / "frequent", workers=1, min_count=3)
    assert small.vocabulary.tokens == whole.vocabulary.tokens[:30]
    assert (
        frequent.vocabulary.tokens[2:]
        == [token for token, count in zip(whole.vocabulary.tokens, whole.vocabulary.counts, strict=True) if count >= 3][
            2 - 1 :
        ]
    )
    assert small.meta["unknown"]["valid"] > whole.meta["unknown"]["valid"] > 0
    assert small.vocabulary.hash != whole.vocabulary.hash


def test_robust_reads_what_the_script_damages(tmp_path, capsys):
    broken = make_book(TRAIN[0]).replace(b"OF THIS", b"OF THE").replace(b"late", b"d\xe9j\xe0")
    mirror = [str(write_mirror(tmp_path / "mirror", {**BOOKS, TRAIN[0]: broken}))]
    script = prepare(mirror, tmp_path / "script", workers=1)
    found = script.meta["damaged"][str(TRAIN[0])]
    assert (found["no_start"], found["no_end"], found["dropped_bytes"] > 0) == (True, True, True)
    assert list(script.meta["damaged"]) == [str(TRAIN[0])]
    assert "1 lack a marker" in capsys.readouterr().err
    assert "licence" in script.vocabulary.tokens or "licenc" in script.vocabulary.tokens
    robust = prepare(mirror, tmp_path / "robust", workers=1, robust=True)
    assert "licence" not in robust.vocabulary.tokens
    assert "déjà" in robust.vocabulary.tokens
    assert robust.meta["mode"] == "robust"


def test_a_shard_of_other_bytes_is_made_anew(tmp_path, monkeypatch):
    mirror = write_mirror(tmp_path / "mirror", BOOKS)
    monkeypatch.setattr("firstsight.lab.data.gutenberg.books.join_shards", lambda *a, **k: None)  # as if killed before
    prepare([str(mirror)], tmp_path / "out", workers=1)
    kept = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out" / ".shards").iterdir()}
    assert len(kept) == len(BOOKS)
    write_mirror(mirror, {TRAIN[0]: make_book(TRAIN[0], 41)})
    (tmp_path / "out" / ".shards" / f"{TRAIN[1]}.npz").write_bytes(b"damaged")
    monkeypatch.undo()
    monkeypatch.setattr("firstsight.lab.data.shards.shutil", SimpleNamespace(rmtree=lambda folder: None))
    prepare([str(mirror)], tmp_path / "out", workers=1)
    now = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out" / ".shards").iterdir()}
    assert {name for name in now if now[name] != kept[name]} == {f"{TRAIN[0]}.npz", f"{TRAIN[1]}.npz"}
    prepare([str(mirror)], tmp_path / "fresh", workers=1)
    assert files(tmp_path / "fresh") == files(tmp_path / "out")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"books": "0"}, "books is '0'; expected all, listed, or a number"),
        ({"books": "some"}, "books is 'some'"),
        ({"workers": 0}, "workers is 0; expected 1 or more"),
        ({"min_count": 0}, "smallest count of a word is 0"),
        ({"max_size": 2}, "largest vocabulary is 2"),
        ({"min_count": 10_000}, "smaller --min-count"),
    ],
)
def test_bad_options(tmp_path, options, said):
    with pytest.raises(InputError, match=said):
        prepare([str(write_mirror(tmp_path / "mirror", BOOKS))], tmp_path / "out", **{"workers": 1, **options})
    assert not (tmp_path / "out" / "meta.json").exists()


def test_a_number_of_books_leaves_out_nothing_else(tmp_path, capsys):
    train = {book: raw for book, raw in BOOKS.items() if book in TRAIN}
    others = {book: raw for book, raw in BOOKS.items() if book not in TRAIN}
    sources = [str(write_tar(tmp_path / "train.tar.xz", train)), str(write_tar(tmp_path / "others.tar.xz", others))]
    corpus = prepare(sources, tmp_path / "out", books="2", workers=1)
    assert corpus.meta["documents"] == {"train": 2, "valid": 3, "test": 2}
    assert "were asked for" not in capsys.readouterr().err
    corpus = prepare(sources[::-1], tmp_path / "out", books="9", workers=1)
    assert corpus.meta["documents"] == {"train": 6, "valid": 3, "test": 2}
    assert "9 training books were asked for, and the given mirrors have 6" in capsys.readouterr().err


def test_a_number_of_books_from_the_web_asks_for_no_more(tmp_path, monkeypatch):
    monkeypatch.setattr("firstsight.lab.data.gutenberg.mirror.WebSource", partial(WebSource, polite=Polite(0)))
    with serve({f"{folder_of(book)}/{book}.txt": raw for book, raw in BOOKS.items()}) as mirror:
        corpus = prepare([mirror.url], tmp_path / "out", books="2", workers=1, cache=tmp_path / "cache")
    assert corpus.meta["documents"] == {"train": 2, "valid": 3, "test": 2}
    assert not mirror.requests[f"{folder_of(TRAIN[2])}/{TRAIN[2]}.txt"]


def test_each_mirror_has_a_memory_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setattr("firstsight.lab.data.gutenberg.mirror.WebSource", partial(WebSource, polite=Polite(0)))
    for split, ids in {"TRAIN": TRAIN[:3], "VALID": VALID[:2], "TEST": ()}.items():  # or it would ask for 6,000 files
        monkeypatch.setattr(f"firstsight.lab.data.gutenberg.books.{split}", ids)
    books = {book: BOOKS[book] for book in (VALID[0], TRAIN[0])}
    paths = {book: f"{folder_of(book)}/{book}.txt" for book in books}
    with serve({paths[VALID[0]]: books[VALID[0]]}) as one, serve({paths[TRAIN[0]]: books[TRAIN[0]]}) as two:
        for _ in range(2):  # the second time with what the first has noted down
            corpus = prepare([one.url, two.url], tmp_path / "out", workers=1, cache=tmp_path / "cache")
            assert corpus.meta["documents"] == {"train": 1, "valid": 1}
        assert one.requests[paths[VALID[0]]] == two.requests[paths[TRAIN[0]]] == 1


def test_a_book_damaged_on_one_mirror_and_whole_on_the_next(tmp_path, capsys):
    bad = write_mirror(tmp_path / "bad", {TRAIN[0]: b"PK no zip"}, ".zip")
    good = write_mirror(tmp_path / "good", BOOKS)
    corpus = prepare([str(bad), str(good)], tmp_path / "out", workers=1)
    assert (corpus.meta["unreadable"], len(corpus.documents("train"))) == ({}, 6)
    assert "cannot be read" not in capsys.readouterr().err


def test_a_cache_without_a_download(tmp_path):
    with pytest.raises(InputError, match="none of the sources is an address"):
        prepare([str(write_mirror(tmp_path / "mirror", BOOKS))], tmp_path / "out", cache=tmp_path / "cache")


def test_none_of_the_books(tmp_path):
    with pytest.raises(InputError, match="none of the books"):
        prepare([str(write_mirror(tmp_path / "mirror", {1999: make_book(1999)}))], tmp_path / "out", workers=1)
