import gzip
from collections import Counter
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import nltk
import pytest
from gigaword_files import make_documents, render, write

from firstsight.errors import InputError
from firstsight.lab.data import open_corpus
from firstsight.lab.data.corpus import SPLITS, Corpus
from firstsight.lab.data.gigaword import Document, prepare

IDS = {  # by file; the third document of the first one is of another year than its file, and of another split
    "nyt_eng_199912": ["NYT_ENG_19991201.0001", "NYT_ENG_19991231.0001", "NYT_ENG_20000101.0001"],
    "xin_eng_200001": ["XIN_ENG_20000101.0001", "XIN_ENG_20000101.0002", "XIN_ENG_20000102.0001"],
    "afp_eng_200912": ["AFP_ENG_20091231.0001", "AFP_ENG_20091231.0001", "AFP_ENG_20100101.0001"],
    "nyt_eng_200912": ["NYT_ENG_20091231.0001"],
    "nyt_eng_201001": ["NYT_ENG_20100101.0001", "NYT_ENG_20100102.0001"],
    "nyt_eng_199407": ["NYT_ENG_19940701.0001"],
    "nyt_eng_201101": ["NYT_ENG_20110101.0001"],
}
IN_ORDER = sorted(IDS, key=lambda name: (name[-6:], name))
YEARS = {"train": range(2000, 2010), "valid": [1999], "test": [2010]}
SAID = "He said: 'Go!' Mr. Brown didn't -- at No. 5, they paid $3.50... \"Why?\" he asked. ÉTÉ at AT&T rose <b>."


def make(name: str) -> list[Document]:
    """Stories with sentences that are hard to cut, and a word that no other file has."""
    seed = sum(map(ord, name))
    return [
        replace(document, headline=f"Headline {i}. {SAID}", paragraphs=(*document.paragraphs, SAID, f"Only {name}."))
        for i, document in enumerate(make_documents(IDS[name], seed, paragraphs=2))
    ]


DOCUMENTS = {name: make(name) for name in IDS}
_first, _second, _third = DOCUMENTS["xin_eng_200001"]
DOCUMENTS["xin_eng_200001"] = [_first, replace(_second, type="advis", headline=None), replace(_third, paragraphs=())]


def path_of(source: Path, name: str) -> Path:
    return source / "data" / name[:7] / f"{name}.gz"


def content(name: str) -> bytes:
    return "".join(map(render, DOCUMENTS[name])).encode()


@pytest.fixture
def source(tmp_path: Path) -> Path:
    for name in IDS:
        path_of(tmp_path / "gigaword", name).parent.mkdir(parents=True, exist_ok=True)
        write(path_of(tmp_path / "gigaword", name), content(name))
    (tmp_path / "gigaword" / "nyt_eng.txt").write_text("none of the files")
    return tmp_path / "gigaword"


def plain(text: str) -> list[str]:
    """The paper's script without its markers, plainly."""
    words = []
    for sentence in nltk.sent_tokenize(text.replace("\n", " ")):
        words += [word.lower() for word in nltk.word_tokenize(sentence)] + ["<eos>"]
    return words


def expected(types=("story",), headlines=False, years=YEARS, documents=DOCUMENTS) -> dict[str, list]:
    """Name and words of each document of each split; words that training lacks are <unk>."""
    splits: dict[str, list] = {split: [] for split in SPLITS}
    for document in (document for name in IN_ORDER for document in documents.get(name, [])):
        split = next((split for split in SPLITS if document.year in years[split]), None)
        if split and document.type in types:
            headline = plain(document.headline) if headlines and document.headline else []
            splits[split].append((document.id, headline + plain(document.text)))
    known = {word for _, words in splits["train"] for word in words}
    return {
        split: [(name, [word if word in known else "<unk>" for word in words]) for name, words in splits[split]]
        for split in SPLITS
    }


def found(corpus: Corpus) -> dict[str, list]:
    splits: dict[str, list] = {split: [] for split in SPLITS}
    for split in corpus.meta["documents"]:
        documents, words = corpus.documents(split), corpus.vocabulary.decode(corpus.split(split))
        spans = pairwise(documents.starts)
        splits[split] = [(name, words[start:stop]) for name, (start, stop) in zip(documents.names, spans, strict=True)]
    return splits


def files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_articles_go_to_the_splits_of_their_dates(source, tmp_path, capsys):
    corpus = prepare(source, tmp_path / "out", workers=2)
    assert found(corpus) == expected() == found(open_corpus(tmp_path / "out"))
    assert corpus.documents("valid").names == ["NYT_ENG_19991201.0001", "NYT_ENG_19991231.0001"]
    assert corpus.documents("train").names[0] == "NYT_ENG_20000101.0001"  # out of the file of December 1999
    assert corpus.documents("test").names == ["AFP_ENG_20100101.0001", "NYT_ENG_20100101.0001", "NYT_ENG_20100102.0001"]
    counter = Counter(word for _, words in expected()["train"] for word in words)
    counts = zip(corpus.vocabulary.tokens[1:], corpus.vocabulary.counts[1:].tolist(), strict=True)
    assert dict(counts) == counter
    assert all(0 < share < 1 for share in corpus.meta["unknown"].values())

    meta = corpus.meta
    assert [entry["name"] for entry in meta["sources"]] == [f"{name}.gz" for name in IN_ORDER[1:-1]]
    assert meta["years"] == {"train": [2000, 2009], "valid": [1999, 1999], "test": [2010, 2010]}
    assert (meta["document_types"], meta["headlines"]) == (["story"], False)
    # Two articles with one id are two documents, and counted.
    assert corpus.documents("train").names.count("AFP_ENG_20091231.0001") == 2
    assert meta["tally"] == {"documents": 12, "damaged": {}, "duplicates": 1, "undecodable": 0, "files": []}
    said = " ".join(capsys.readouterr().err.split())
    assert "12 documents read; 1 with an id seen before" in said
    assert "gigaword: not read, since only files named like nyt_eng_199407.gz are: nyt_eng.txt" in said
    parts = [f"{split}.{end}" for split in SPLITS for end in ("tokens", "documents.npz")]
    made = {path.name for path in (tmp_path / "out").iterdir()}
    assert made == {"digests.json", "vocabulary.json", "meta.json", *parts}


def test_types_and_headlines(source, tmp_path):
    corpus = prepare(source, tmp_path / "out", types=["advis", "story"], headlines=True, workers=1)
    assert found(corpus) == expected(("advis", "story"), headlines=True)
    assert (corpus.meta["document_types"], corpus.meta["headlines"]) == (["advis", "story"], True)


def test_other_years_and_an_empty_split(source, tmp_path, capsys):
    years = {"train": "1994-1999", "valid": "2001-2008", "test": "2011"}
    corpus = prepare(source, tmp_path / "out", years=years, workers=1)
    assert found(corpus) == expected(years={"train": range(1994, 2000), "valid": [], "test": [2011]})
    assert corpus.meta["tokens"]["valid"] == 0
    assert "warning: the valid split is empty" in (said := capsys.readouterr().err)
    assert "set --valid-years" in said
    with pytest.raises(InputError, match="holds no tokens"):
        corpus.split("valid")


def test_no_training_text(source, tmp_path, capsys):
    corpus = prepare(source, tmp_path / "out", years={"train": "2005"}, workers=1)
    assert corpus.meta["tokens"]["train"] == 0
    assert corpus.meta["unknown"] == {"valid": 0.0, "test": 0.0}
    assert "the train split is empty" in capsys.readouterr().err


def test_damaged_files_survive_and_are_counted(source, tmp_path):
    whole = path_of(source, "nyt_eng_200912").read_bytes()
    path_of(source, "nyt_eng_200912").write_bytes(whole[:-8] + bytes([whole[-8] ^ 1]) + whole[-7:])  # its checksum
    text = content("afp_eng_200912")
    path_of(source, "afp_eng_200912").write_bytes(gzip.compress(text)[:-20])
    latin = content("nyt_eng_201001").replace("ÉTÉ".encode(), "ÉTÉ".encode("latin-1"))
    write(path_of(source, "nyt_eng_201001"), latin)
    broken = content("xin_eng_200001").replace(b"</TEXT>", b"", 1)
    write(path_of(source, "xin_eng_200001"), broken)
    path_of(source, "wpb_eng_201002").parent.mkdir()
    path_of(source, "wpb_eng_201002").write_bytes(b"")
    corpus = prepare(source, tmp_path / "out", workers=1)

    tally = corpus.meta["tally"]
    files = {entry["name"]: entry["reason"] for entry in tally["files"]}
    assert set(files) == {"nyt_eng_200912.gz", "afp_eng_200912.gz", "wpb_eng_201002.gz"}
    assert "CRC" in files["nyt_eng_200912.gz"]
    assert (files["afp_eng_200912.gz"], files["wpb_eng_201002.gz"]) == ("cut short", "empty")
    assert tally["damaged"] == {"tags out of order": 1, "cut short by the end of the file": 1}
    assert tally["undecodable"] == 2
    without = {
        **DOCUMENTS,
        "afp_eng_200912": DOCUMENTS["afp_eng_200912"][:2],
        "xin_eng_200001": DOCUMENTS["xin_eng_200001"][1:],
        "nyt_eng_201001": [
            replace(document, paragraphs=tuple(text.replace("É", "") for text in document.paragraphs))
            for document in DOCUMENTS["nyt_eng_201001"]
        ],
    }
    assert found(corpus) == expected(documents=without)


def test_unpacked_files_and_any_number_of_workers_give_the_same(source, tmp_path):
    for workers in (1, 3):
        prepare(source, tmp_path / str(workers), workers=workers)
    assert files(tmp_path / "1") == files(tmp_path / "3")
    for path in source.rglob("*.gz"):
        path.with_suffix("").write_bytes(gzip.decompress(path.read_bytes()))
        path.unlink()
    prepare(source, tmp_path / "unpacked", workers=2)
    assert {name for name, raw in files(tmp_path / "unpacked").items() if raw != files(tmp_path / "1")[name]} == {
        "meta.json",  # names and checksums of the sources
        "digests.json",
    }


def test_vocabulary_limits(source, tmp_path):
    whole = prepare(source, tmp_path / "whole", workers=1)
    small = prepare(source, tmp_path / "small", max_size=20, workers=1)
    frequent = prepare(source, tmp_path / "frequent", min_count=4, workers=1)
    assert small.vocabulary.tokens == whole.vocabulary.tokens[:20]
    pairs = zip(whole.vocabulary.tokens, whole.vocabulary.counts, strict=True)
    assert frequent.vocabulary.tokens == ["<unk>"] + [token for token, count in pairs if count >= 4]
    assert whole.meta["types"] == small.meta["types"] == len(whole.vocabulary) - 1
    assert small.meta["unknown"]["test"] > frequent.meta["unknown"]["test"] > whole.meta["unknown"]["test"] > 0


def test_a_run_that_was_killed_goes_on(source, tmp_path, monkeypatch):
    prepare(source, tmp_path / "fresh", workers=1)
    monkeypatch.setattr(
        "firstsight.lab.data.gigaword.articles.join_shards", lambda *a, **k: None
    )  # as if killed before
    prepare(source, tmp_path / "out", workers=1)
    shards = tmp_path / "out" / ".shards"
    kept = {path.name: path.stat().st_mtime_ns for path in shards.iterdir()}
    assert sorted(kept) == sorted(f"{name}.npz" for name in IN_ORDER[1:-1])
    (shards / "nyt_eng_201001.npz").write_bytes(b"cut short")
    (shards / "xin_eng_200001.npz").unlink()
    (shards / ".xin_eng_200001.npz.abcd1234.part").write_bytes(b"cut")
    monkeypatch.undo()
    monkeypatch.setattr("firstsight.lab.data.shards.shutil", SimpleNamespace(rmtree=lambda folder: None))
    prepare(source, tmp_path / "out", workers=1)
    now = {path.name: path.stat().st_mtime_ns for path in shards.glob("*.npz")}
    assert {name for name in now if now[name] != kept[name]} == {"nyt_eng_201001.npz", "xin_eng_200001.npz"}
    prepare(source, tmp_path / "out", headlines=True, workers=1)  # another corpus: no shard of this one will do
    again = {path.name: path.stat().st_mtime_ns for path in shards.glob("*.npz")}
    assert not {name for name in again if again[name] == now[name]}
    monkeypatch.undo()
    prepare(source, tmp_path / "out", workers=1)
    assert files(tmp_path / "out") == files(tmp_path / "fresh")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"types": ["story", "essay"]}, "types are story, essay; expected some of story, multi, advis, other"),
        ({"types": []}, "types are none; expected some of"),
        ({"years": {"test": "2009-2010"}}, "test-years 2009-2010 and train-years 2000-2009 overlap"),
        ({"years": {"valid": "99"}}, "valid-years is '99'; expected a year, like 2010, or a span"),
        ({"years": {"train": "2009-2000"}}, "train-years is '2009-2000'; expected"),
        ({"years": {"train": "2000 - 2009"}}, "train-years is '2000 - 2009'; expected"),
        ({"years": {"dev": "1998"}}, "years are given for dev; expected train, valid, test"),
        ({"years": {"train": "1951", "valid": "1952", "test": "1953"}}, "of its 7 files none is of"),
        ({"types": ["multi"]}, "no document of type multi is of"),
        ({"workers": 0}, "workers is 0"),
        ({"min_count": 0}, "smallest count of a word is 0"),
        ({"max_size": 2}, "largest vocabulary is 2"),
        ({"min_count": 10_000}, "smaller --min-count"),
    ],
)
def test_bad_options(source, tmp_path, options, said):
    with pytest.raises(InputError, match=said):
        prepare(source, tmp_path / "out", **{"workers": 1, **options})
    assert not (tmp_path / "out" / "meta.json").exists()


def test_bad_sources(source, tmp_path):
    with pytest.raises(InputError, match="no such folder"):
        prepare(tmp_path / "none", tmp_path / "out")
    with pytest.raises(InputError, match="no such folder"):
        prepare(path_of(source, "nyt_eng_199407"), tmp_path / "out")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no file of GigaWord is in this folder"):
        prepare(tmp_path / "empty", tmp_path / "out")
    (source / "NYT_ENG_199912").write_bytes(content("nyt_eng_199912"))
    with pytest.raises(InputError, match=r"same month twice\. Remove one"):
        prepare(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_documents_without_a_word(tmp_path):
    (tmp_path / "gigaword").mkdir()
    empty = replace(DOCUMENTS["nyt_eng_200912"][0], paragraphs=())
    write(tmp_path / "gigaword" / "nyt_eng_200912.gz", render(empty).encode())
    with pytest.raises(InputError, match="no document of any split holds text"):
        prepare(tmp_path / "gigaword", tmp_path / "out", workers=1)
