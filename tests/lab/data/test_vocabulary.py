import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from firstsight.errors import InputError
from firstsight.lab.data import EOS, UNK, Vocabulary

words = st.text(min_size=1, max_size=6)
texts = st.lists(words, max_size=60)


def built(text: list[str], **options: int) -> Vocabulary:
    return Vocabulary.build(Counter(text), tokenizer="words", **options)


def test_ids_follow_count_then_text() -> None:
    vocabulary = built(["b", "b", "a", "a", "c", "c", "c", EOS, UNK])
    assert vocabulary.tokens == [UNK, EOS, "c", "a", "b"]
    assert vocabulary.counts.tolist() == [1, 1, 3, 2, 2]
    assert vocabulary.counts.dtype == np.int64
    assert (vocabulary.unk_id, vocabulary.eos_id, len(vocabulary)) == (0, 1, 5)


def test_unknown_counts_what_it_swallowed_and_itself() -> None:
    vocabulary = built(["a"] * 3 + ["b"] * 2 + ["c", "d", UNK], min_count=2)
    assert vocabulary.tokens == [UNK, EOS, "a", "b"]
    assert vocabulary.counts.tolist() == [3, 0, 3, 2]


def test_specials_are_first_however_frequent_or_rare() -> None:
    assert built(["a"] * 9 + [EOS], min_count=5).tokens == [UNK, EOS, "a"]
    assert built([UNK] * 9 + ["a"] * 20).tokens == [UNK, EOS, "a"]


def test_largest_size_keeps_the_most_frequent() -> None:
    vocabulary = built(["a"] * 3 + ["b"] * 2 + ["c"], max_size=4)
    assert vocabulary.tokens == [UNK, EOS, "a", "b"]
    assert vocabulary.counts.tolist() == [1, 0, 3, 2]


@given(texts, texts, st.integers(1, 3))
def test_round_trip_replaces_exactly_the_unknown(train: list[str], other: list[str], min_count: int) -> None:
    vocabulary = built(train, min_count=min_count)
    ids = vocabulary.encode(iter(other))
    assert ids.dtype == np.uint32
    known = {word for word in train if train.count(word) >= min_count} | {EOS}
    assert vocabulary.decode(ids) == [word if word in known else UNK for word in other]
    assert vocabulary.counts.sum() == len(train)
    assert vocabulary.counts.tolist() == [list(vocabulary.encode(train)).count(i) for i in range(len(vocabulary))]


@given(texts)
def test_file_round_trip(tmp_path_factory: pytest.TempPathFactory, train: list[str]) -> None:
    path = tmp_path_factory.mktemp("vocabulary") / "vocabulary.json"
    vocabulary = built(train)
    vocabulary.save(path)
    loaded = Vocabulary.load(path)
    assert (loaded.tokens, loaded.tokenizer, loaded.hash) == (vocabulary.tokens, "words", vocabulary.hash)
    assert loaded.counts.tolist() == vocabulary.counts.tolist()


def test_hash_is_of_tokenizer_and_tokens_in_order() -> None:
    def hashed(*tokens: str, tokenizer: str = "words", count: int = 1) -> str:
        return Vocabulary([UNK, EOS, *tokens], [count] * (2 + len(tokens)), tokenizer).hash

    assert hashed("a", "b") == hashed("a", "b", count=7)
    others = [hashed("b", "a"), hashed("a"), hashed("ab"), hashed("a", "b", tokenizer="whitespace"), hashed('a", "b')]
    assert len({hashed("a", "b"), *others}) == 6


@pytest.mark.parametrize(("field", "value"), [("tokens", "c"), ("counts", 99), ("tokenizer", "whitespace")])
def test_tampered_file(tmp_path: Path, field: str, value: object) -> None:
    path = tmp_path / "vocabulary.json"
    built(["a", "b"]).save(path)
    values = json.loads(path.read_text())
    if field == "tokenizer":
        values[field] = value
    else:
        values[field][2] = value
    path.write_text(json.dumps(values))
    with pytest.raises(InputError, match="damaged or edited"):
        Vocabulary.load(path)


def test_other_files(tmp_path: Path) -> None:
    path = tmp_path / "vocabulary.json"
    with pytest.raises(InputError, match="there is no such file"):
        Vocabulary.load(path)
    path.write_text('{"tokens": ["<unk>"')
    with pytest.raises(InputError, match="is damaged"):
        Vocabulary.load(path)
    path.write_text("[]")
    with pytest.raises(InputError, match="not a vocabulary"):
        Vocabulary.load(path)
    built(["a"]).save(path)
    path.write_text(path.read_text().replace('"version": 1', '"version": 2'))
    with pytest.raises(InputError, match="version 2"):
        Vocabulary.load(path)


def test_bad_arguments() -> None:
    with pytest.raises(InputError, match="begins with"):
        Vocabulary(["a", "b"], [1, 1], "words")
    with pytest.raises(InputError, match="3 different"):
        Vocabulary([UNK, EOS, "a", "a"], [1, 1, 1, 1], "words")
    with pytest.raises(InputError, match="as many counts"):
        Vocabulary([UNK, EOS, "a"], [1, 1], "words")
    with pytest.raises(InputError, match="smallest count"):
        built(["a"], min_count=0)
    with pytest.raises(InputError, match="largest vocabulary"):
        built(["a"], max_size=2)
    with pytest.raises(InputError, match="The id 3 is outside"):
        built(["a"]).decode([2, 3])
