import json
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from firstsight.errors import InputError
from firstsight.lab.data import Corpus, Vocabulary, open_corpus, write_tokens
from firstsight.lab.data.audit import shingles
from firstsight.lab.data.audit.audit import audit, audit_corpus
from firstsight.lab.data.audit.cleaning import clean_corpus
from firstsight.lab.data.documents import Documents, write_documents
from firstsight.lab.system.files import write_json

Texts = dict[str, list[list[int]]]
WORDS = 60


def build(folder: Path, texts: Texts, *, boundaries: bool = True) -> Corpus:
    """A data folder of documents given as ids; document i of a split is called ``split i``."""
    folder.mkdir(exist_ok=True)
    flat = {split: np.array([i for d in documents for i in d], dtype=np.uint32) for split, documents in texts.items()}
    counts = np.bincount(flat["train"], minlength=WORDS)
    vocabulary = Vocabulary(["<unk>", "<eos>", *(f"w{i}" for i in range(2, WORDS))], counts, "whitespace")
    vocabulary.save(folder / "vocabulary.json")
    for split, documents in texts.items():
        write_tokens(folder / f"{split}.tokens", [flat[split]], vocabulary)
        if boundaries:
            names = [f"{split} {i}" for i in range(len(documents))]
            write_documents(
                folder / f"{split}.documents.npz",
                Documents(names, np.cumsum([0, *map(len, documents)], dtype=np.int64)),
            )
    meta: dict[str, Any] = {
        "corpus": "made",
        "tokens": {split: len(ids) for split, ids in flat.items()},
        "vocabulary": WORDS,
        "vocabulary_hash": vocabulary.hash,
        "unknown": dict.fromkeys(texts, 0.0),
        "complete": True,
    }
    if boundaries:
        meta["documents"] = {split: len(documents) for split, documents in texts.items()}
    write_json(folder / "meta.json", meta)
    return open_corpus(folder)


def told(document: list[int], n: int) -> dict[int, tuple[int, ...]]:
    """The shingles of an evaluation document that say something, by position."""
    words = [i for i in document if i != 1]
    every = {p: tuple(words[p : p + n]) for p in range(len(words) - n + 1)}
    return {p: s for p, s in every.items() if 0 not in s and len(set(s)) >= min(4, n)}


def plain_pairs(texts: Texts, n: int, common: int) -> dict[tuple[str, str], tuple[int, float, int]]:
    """The pairs by sets of tuples: (evaluation, other) to shingles, share, longest."""
    pairs = {}
    for split, against in (("valid", "train"), ("test", "train"), ("test", "valid")):
        held = [set(told(document, n).values()) for document in texts[against]]
        for i, document in enumerate(texts[split]):
            own = told(document, n)
            for j, others in enumerate(held):
                at = [p for p, s in own.items() if s in others and sum(s in h for h in held) <= common]
                if at:
                    runs = [len(list(run)) for _, run in groupby(enumerate(at), lambda pair: pair[1] - pair[0])]
                    pairs[f"{split} {i}", f"{against} {j}"] = (len(at), len(at) / len(own), max(runs) + n - 1)
    return pairs


def found_pairs(pairs: list[dict[str, Any]]) -> dict[tuple[str, str], tuple[int, float, int]]:
    return {(p["evaluation"], p["training"]): (p["shingles"], p["share"], p["longest"]) for p in pairs}


@st.composite
def splits(draw: st.DrawFn) -> Texts:
    """Documents, some empty or short, out of few words, with passages of training planted in the others."""
    seed = draw(st.integers(0, 2**32 - 1))
    rng = np.random.default_rng(seed)
    top = draw(st.sampled_from([4, 8, WORDS]))

    def some(most: int) -> list[list[int]]:
        sizes = rng.integers(0, 40, rng.integers(1, most + 1))
        return [rng.integers(0 if rng.random() < 0.5 else 2, top, size).tolist() for size in sizes]

    texts = {"train": [*some(6), rng.integers(2, top, 30).tolist()], "valid": some(4), "test": some(4)}
    for split in ("train", "valid", "test"):
        for _ in range(draw(st.integers(0, 4))):
            source = texts["train"][rng.integers(len(texts["train"]))]
            start = rng.integers(0, len(source) + 1)
            passage = source[start : start + rng.integers(0, 30)]
            for i in rng.integers(0, len(passage) + 1, rng.integers(0, 3)):
                passage = [*passage[:i], 1, *passage[i:]]  # sentences split in another way
            texts[split][rng.integers(len(texts[split]))] += passage
    for split in ("valid", "test"):
        texts[split][0] += [5, 1]  # no split is empty
    return texts


@settings(max_examples=150, deadline=None)
@given(splits(), st.integers(1, 13), st.integers(1, 8), st.sampled_from([1, 7, 1000]), st.sampled_from([1, 50, 10_000]))
def test_equals_sets_of_tuples(
    tmp_path_factory: pytest.TempPathFactory, texts: Texts, n: int, common: int, block: int, bound: int
) -> None:
    corpus = build(tmp_path_factory.mktemp("audit"), texts)
    found = audit(corpus, n=n, common=common, min_share=0, block=block, piece=bound, rows=bound)
    expected = plain_pairs(texts, n, common)
    assert found_pairs(found.pairs) == expected
    assert found.found == len(expected)
    shares = [pair["share"] for pair in found.pairs]
    assert shares == sorted(shares, reverse=True)
    held = [set(told(document, n).values()) for document in texts["train"]]
    for split in ("valid", "test"):
        own = [told(document, n) for document in texts[split]]
        matched = [sum(any(s in h for h in held) for s in shingles.values()) for shingles in own]
        assert found.splits[split]["documents"] == len(own)
        assert found.splits[split]["shingles"] == sum(map(len, own))
        assert found.splits[split]["matched"] == sum(matched)
        listed = {d["evaluation"]: (d["shingles"], d["matched"]) for d in found.documents if d["split"] == split}
        assert listed == {f"{split} {i}": (len(own[i]), m) for i, m in enumerate(matched) if m}
    for j, largest in enumerate(found.held):
        shares = {a: share for (a, b), (_, share, _) in expected.items() if b == f"train {j}"}
        assert largest == max(shares.values(), default=0)
        if shares:
            assert shares[found.places[found.of[j]].name] == largest


def planted() -> Texts:
    rng = np.random.default_rng(0)
    train = [rng.integers(2, WORDS, 300).tolist() for _ in range(3)]
    valid = [rng.integers(2, WORDS, 100).tolist() for _ in range(2)]
    valid[1][20:60] = [*train[2][100:120], 1, *train[2][120:139]]
    return {"train": train, "valid": valid, "test": [rng.integers(2, WORDS, 50).tolist()]}


def test_the_file_and_its_passage(tmp_path: Path) -> None:
    texts = planted()
    corpus = build(tmp_path, texts)
    result = audit_corpus(tmp_path)
    assert json.loads((tmp_path / "audit.json").read_text()) == result
    (pair,) = result["pairs"]
    size = len(told(texts["valid"][1], 13))
    assert {name: pair[name] for name in ("evaluation", "split", "training", "found_in", "shingles", "longest")} == {
        "evaluation": "valid 1",
        "split": "valid",
        "training": "train 2",
        "found_in": "train",
        "shingles": 27,
        "longest": 39,
    }
    assert pair["share"] == 27 / size
    assert pair["excerpt"].split() == corpus.vocabulary.decode(texts["train"][2][100:139])
    assert result["splits"]["valid"]["matched"] == 27
    assert result["splits"]["test"]["matched"] == 0
    assert result["n"] == 13


def test_without_boundaries_a_split_is_one_document(tmp_path: Path) -> None:
    build(tmp_path, planted(), boundaries=False)
    (pair,) = audit_corpus(tmp_path)["pairs"]
    assert (pair["evaluation"], pair["training"], pair["shingles"]) == ("valid", "train", 27)


def test_pairs_below_the_smallest_share_are_left_out(tmp_path: Path) -> None:
    build(tmp_path, planted())
    share = audit_corpus(tmp_path)["pairs"][0]["share"]
    assert audit_corpus(tmp_path, min_share=share)["pairs_found"] == 1
    assert audit_corpus(tmp_path, min_share=np.nextafter(share, 1))["pairs"] == []


def test_boilerplate_makes_no_pairs(tmp_path: Path) -> None:
    licence = list(range(10, 40))
    texts = {"train": [licence] * 5, "valid": [licence], "test": [licence[:5]]}
    build(tmp_path, texts)
    assert audit_corpus(tmp_path, common=5)["pairs_found"] == 5
    result = audit_corpus(tmp_path, common=4)
    assert result["pairs"] == []
    (document,) = result["documents"]
    assert (document["share"], document["boilerplate"]) == (1, 1)


def test_a_collision_in_the_index_takes_another_hash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # With the multiplier 1 the hash is the sum of the ids, the same for every order of the words.
    words = list(range(2, 15))
    texts = {"train": [words[::-1]], "valid": [words, words[::-1]], "test": [[5, 6]]}
    corpus = build(tmp_path, texts)
    monkeypatch.setattr(shingles, "_MULTIPLIERS", (1, 3))
    assert found_pairs(audit(corpus).pairs) == {("valid 1", "train 0"): (1, 1.0, 13)}


def test_a_collision_with_training_is_no_match(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = list(range(2, 15))
    corpus = build(tmp_path, {"train": [words[::-1]], "valid": [words], "test": [[5, 6]]})
    monkeypatch.setattr(shingles, "_MULTIPLIERS", (1,))
    assert audit(corpus).pairs == []


@pytest.mark.parametrize("options", [{"n": 0}, {"n": 1001}, {"common": 0}, {"min_share": -0.1}, {"min_share": 1.5}])
def test_numbers_out_of_range(tmp_path: Path, options: dict[str, Any]) -> None:
    build(tmp_path, planted())
    with pytest.raises(InputError, match="expected 1 to 1,000, 1 or more, and 0 to 1"):
        audit_corpus(tmp_path, **options)


def test_no_training_text(tmp_path: Path) -> None:
    build(tmp_path, {"train": [], "valid": [[2, 3]], "test": [[4, 5]]})
    with pytest.raises(InputError, match="no training text to search"):
        audit_corpus(tmp_path)


def test_cleaned(tmp_path: Path) -> None:
    texts = planted()
    corpus = build(tmp_path / "data", texts)
    before = {path.name: path.read_bytes() for path in corpus.folder.iterdir()}
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "audit.json").write_text("{}")
    made = clean_corpus(tmp_path / "data", tmp_path / "out")
    assert {path.name: path.read_bytes() for path in corpus.folder.iterdir()} == before
    assert made.split("train").tolist() == texts["train"][0] + texts["train"][1]
    assert made.vocabulary.hash == corpus.vocabulary.hash
    assert made.vocabulary.counts.tolist() == np.bincount(made.split("train"), minlength=WORDS).tolist()
    left = made.documents("train")
    assert left is not None
    assert (left.names, left.starts.tolist()) == (["train 0", "train 1"], [0, 300, 600])
    for split in ("valid", "test"):
        assert made.split(split).tolist() == corpus.split(split).tolist()
        own = made.documents(split)
        assert own is not None
        assert own.names == [f"{split} {i}" for i in range(len(texts[split]))]
    assert made.meta["tokens"] == {"train": 600, "valid": 200, "test": 50}
    (dropped,) = made.meta["cleaned"]["dropped"]
    assert dropped.pop("share") == 27 / len(told(texts["valid"][1], 13))
    assert dropped == {"name": "train 2", "tokens": 300, "evaluation": "valid 1", "split": "valid"}
    assert not (tmp_path / "out" / "audit.json").exists()
    assert audit_corpus(tmp_path / "out", min_share=0)["pairs"] == []


def test_what_may_stay_stays(tmp_path: Path) -> None:
    build(tmp_path / "data", planted())
    made = clean_corpus(tmp_path / "data", tmp_path / "out", max_share=0.5)
    assert made.meta["tokens"]["train"] == 900
    assert made.meta["cleaned"]["dropped"] == []


def test_cleaning_refuses(tmp_path: Path) -> None:
    build(tmp_path / "data", planted(), boundaries=False)
    with pytest.raises(InputError, match="this is the data folder itself"):
        clean_corpus(tmp_path / "data", tmp_path / "data" / "..." / "..")
    with pytest.raises(InputError, match="nothing would be left to train on"):
        clean_corpus(tmp_path / "data", tmp_path / "out")
    assert not (tmp_path / "out").exists()
