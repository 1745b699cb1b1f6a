import errno
import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from firstsight.errors import InputError
from firstsight.lab.data import Corpus, corpus, open_corpus, summary, write_corpus
from firstsight.lab.system.manifest import accept

TEXT = {"train": ["a b a", "", "c a"], "valid": ["a d"], "test": ["b c", "z z"]}


def write(folder: Path, text: dict[str, list[str]] = TEXT, **options: Any) -> Corpus:
    lines = {split: partial(iter, lines) for split, lines in text.items()}
    return write_corpus(folder, "tiny", lines, tokenizer="whitespace", sources=[{"name": "x"}], **options)


def words(corpus: Corpus, split: str) -> str:
    return " ".join(corpus.vocabulary.decode(corpus.split(split)))


def test_written_and_opened(tmp_path: Path) -> None:
    made = write(tmp_path / "data")
    for c in (made, open_corpus(tmp_path / "data")):
        assert c.name == "tiny"
        assert c.vocabulary.tokens == ["<unk>", "<eos>", "a", "b", "c"]
        assert c.vocabulary.counts.tolist() == [0, 3, 3, 1, 1]
        assert words(c, "train") == "a b a <eos> <eos> c a <eos>"
        assert words(c, "valid") == "a <unk> <eos>"
        assert words(c, "test") == "b c <eos> <unk> <unk> <eos>"
        assert summary(c) == {
            "corpus": "tiny",
            "folder": str(tmp_path / "data"),
            "tokens": {"train": 8, "valid": 3, "test": 6},
            "vocabulary": 5,
            "unknown": {"valid": pytest.approx(1 / 3), "test": pytest.approx(2 / 6)},
        }
        assert c.meta["sources"] == [{"name": "x"}]
    assert json.dumps(made.meta)
    assert sorted(path.name for path in made.folder.iterdir()) == [
        "digests.json",
        "meta.json",
        "test.tokens",
        "train.tokens",
        "valid.tokens",
        "vocabulary.json",
    ]


def test_vocabulary_is_of_training_alone(tmp_path: Path) -> None:
    c = write(tmp_path, min_count=3)
    assert c.vocabulary.tokens == ["<unk>", "<eos>", "a"]
    assert c.vocabulary.counts.tolist() == [2, 3, 3]


def test_blocks_join_seamlessly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpus, "_BLOCK", 3)
    lines = [" ".join(f"w{j % 7}" for j in range(i % 5)) for i in range(50)]
    c = write(tmp_path, {**TEXT, "train": lines})
    assert words(c, "train").split() == [token for line in lines for token in [*line.split(), "<eos>"]]


def test_another_split(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="'dev'; expected one of train, valid, test"):
        write(tmp_path).split("dev")


def test_no_data_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such folder"):
        open_corpus(tmp_path / "nowhere")
    with pytest.raises(InputError, match="unfinished, or is none"):
        open_corpus(tmp_path)
    for content in ("{}", "[]", '{"corpus": "x", "complete": false}'):
        (tmp_path / "meta.json").write_text(content)
        with pytest.raises(InputError, match="does not describe a finished corpus"):
            open_corpus(tmp_path)


def test_files_of_two_corpora(tmp_path: Path) -> None:
    one, two = write(tmp_path / "one"), write(tmp_path / "two", {**TEXT, "train": ["x y"]})
    (one.folder / "valid.tokens").write_bytes((two.folder / "valid.tokens").read_bytes())
    with pytest.raises(InputError, match="another vocabulary"):
        open_corpus(one.folder).split("valid")
    (one.folder / "vocabulary.json").write_bytes((two.folder / "vocabulary.json").read_bytes())
    with pytest.raises(InputError, match=r"vocabulary\.json: this is not the file that was written here"):
        open_corpus(one.folder)
    accept(one.folder)
    with pytest.raises(InputError, match="files of two corpora"):
        open_corpus(one.folder)


@pytest.mark.parametrize("split", ["train", "valid", "test"])
def test_empty_split(tmp_path: Path, split: str) -> None:
    with pytest.raises(InputError, match=f"the {split} split holds no text"):
        write(tmp_path, {**TEXT, split: []})
    with pytest.raises(InputError, match="unfinished"):
        open_corpus(tmp_path)


def test_no_word_frequent_enough(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no word of the 8 tokens of training occurs 4 times"):
        write(tmp_path, min_count=4)


def test_other_numbers_than_expected(tmp_path: Path) -> None:
    expected = {"train": 8, "valid": 3, "test": 6, "vocabulary": 5}
    write(tmp_path / "right", expected=expected)
    with pytest.raises(InputError, match="test 6 instead of 7, vocabulary 5 instead of 4"):
        write(tmp_path / "wrong", expected={**expected, "test": 7, "vocabulary": 4})
    assert not (tmp_path / "wrong").exists()


def test_overwriting(tmp_path: Path) -> None:
    write(tmp_path)
    write(tmp_path, {**TEXT, "valid": ["c c c"]})
    assert words(open_corpus(tmp_path), "valid") == "c c c <eos>"


def test_interrupted_half_way_the_old_corpus_stays(tmp_path: Path) -> None:
    write(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def full() -> Iterator[str]:
        yield "a"
        raise OSError(errno.ENOSPC, "No space left on device")

    lines = {"train": lambda: ["a x"], "valid": full, "test": lambda: ["a"]}
    with pytest.raises(OSError, match="No space left"):
        write_corpus(tmp_path, "tiny", lines, tokenizer="whitespace", sources=[])
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert words(open_corpus(tmp_path), "valid") == "a <unk> <eos>"


def test_an_error_while_counting_leaves_the_old_corpus(tmp_path: Path) -> None:
    write(tmp_path)
    with pytest.raises(InputError, match="holds no text"):
        write(tmp_path, {**TEXT, "train": []})
    assert words(open_corpus(tmp_path), "valid") == "a <unk> <eos>"


def test_out_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("")
    with pytest.raises(InputError, match="out: this is a file"):
        write(tmp_path / "out")
