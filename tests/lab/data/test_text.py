from pathlib import Path

import pytest

from firstsight.errors import InputError
from firstsight.lab.data import Corpus, open_corpus, text
from firstsight.lab.data.lines import MAX_LINE_BYTES

LINES = [f"line {i} of the text" for i in range(100)]


def words(corpus: Corpus, split: str) -> list[str]:
    joined = " ".join(corpus.vocabulary.decode(corpus.split(split)))
    return [line.strip() for line in joined.split("<eos>")[:-1]]


def test_one_file_is_cut_into_contiguous_pieces(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text("\n\n \n".join(LINES), encoding="utf-8")
    corpus = text.prepare(tmp_path / "a.md", tmp_path / "out", min_count=1)
    assert words(corpus, "train") == LINES[:90]
    assert words(corpus, "valid") == ["line <unk> of the text"] * 5
    assert words(corpus, "test") == ["line <unk> of the text"] * 5
    assert open_corpus(tmp_path / "out").meta["sources"][0]["name"] == "a.md"


def test_a_folder_is_one_text_in_the_order_of_paths(tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "b").mkdir(parents=True)
    (source / "c.txt").write_text("\n".join(LINES[70:]), encoding="utf-8")
    (source / "b" / "x.txt").write_text("\n".join(LINES[30:70]), encoding="utf-8")
    (source / "a.txt").write_text("\ufeff" + "\r\n".join(LINES[:30]), encoding="utf-8")
    (source / "notes.csv").write_text("not read")
    corpus = text.prepare(source, tmp_path / "out", min_count=1)
    assert words(corpus, "train") == LINES[:90]
    assert [entry["name"] for entry in corpus.meta["sources"]] == ["a.txt", "b/x.txt", "c.txt"]


def test_named_splits_are_taken_as_they_are(tmp_path: Path) -> None:
    for split, content in {"train": "x y\nx y\n", "valid": "x\n", "test": "z x\n", "other": "o\n"}.items():
        (tmp_path / f"{split}.txt").write_text(content, encoding="utf-8")
    corpus = text.prepare(tmp_path, tmp_path / "out")
    assert [words(corpus, split) for split in ("train", "valid", "test")] == [["x y", "x y"], ["x"], ["<unk> x"]]


def test_min_count_tokenizer_and_lower(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("\n".join(["It's HERE, twice", *["it's here"] * 30]), encoding="utf-8")
    corpus = text.prepare(tmp_path / "a", tmp_path / "words", lower=True)
    assert corpus.vocabulary.tokens == ["<unk>", "<eos>", "here", "it's"]
    assert corpus.vocabulary.tokenizer == "words-lower"
    assert words(corpus, "train")[0] == "it's here <unk> <unk>"
    corpus = text.prepare(tmp_path / "a", tmp_path / "whitespace", tokenizer="whitespace", min_count=1)
    assert words(corpus, "train")[0] == "It's HERE, twice"


@pytest.mark.parametrize("content", ["", "\n \n", "one huge line " * 1000, "line\n" * 19])
def test_too_few_lines(tmp_path: Path, content: str) -> None:
    (tmp_path / "a").write_text(content)
    with pytest.raises(InputError, match=r"\d+ lines? of text cannot be cut .* expected 20 or more. Put a line break"):
        text.prepare(tmp_path / "a", tmp_path / "out")


def test_a_line_past_the_bound(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"a\n" * 30 + b"word " * (MAX_LINE_BYTES // 5 + 1))
    with pytest.raises(InputError, match="line 31 is longer than 16 MiB"):
        text.prepare(tmp_path / "a", tmp_path / "out")


def test_no_source(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file or folder"):
        text.prepare(tmp_path / "nothing", tmp_path / "out")
    with pytest.raises(InputError, match=r"no \.txt file in this folder"):
        text.prepare(tmp_path, tmp_path / "out")


def test_not_utf8_says_where(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes("été\n".encode() * 40 + "été".encode("latin1"))
    with pytest.raises(InputError, match=r"line 41 is not UTF-8 \(byte 0xe9 at position 240"):
        text.prepare(tmp_path / "a", tmp_path / "out")
    (tmp_path / "a").write_bytes("some text\n".encode("utf-16") * 30)
    with pytest.raises(InputError, match=r"line 1 is not UTF-8 \(byte 0xff at position 0"):
        text.prepare(tmp_path / "a", tmp_path / "out")


def test_bad_options(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("a b\n" * 40)
    with pytest.raises(InputError, match="smallest count of a word is 0"):
        text.prepare(tmp_path / "a", tmp_path / "out", min_count=0)
    with pytest.raises(InputError, match="'bpe'; expected one of"):
        text.prepare(tmp_path / "a", tmp_path / "out", tokenizer="bpe")


@pytest.mark.parametrize("valid", ["val.txt", "dev.txt", "validation.txt", "VALID.TXT"])
def test_other_names_of_the_validation_split(tmp_path: Path, valid: str) -> None:
    for name, content in {"train.txt": "x y\nx y\n", valid: "x\n", "test.txt": "z x\n"}.items():
        (tmp_path / name).write_text(content, encoding="utf-8")
    corpus = text.prepare(tmp_path, tmp_path / "out")
    assert [words(corpus, split) for split in ("train", "valid", "test")] == [["x y", "x y"], ["x"], ["<unk> x"]]


@pytest.mark.parametrize(
    "names", [("train", "test"), ("train", "val"), ("test",), ("dev", "other"), ("train", "valid", "val", "test")]
)
def test_some_of_the_splits_are_refused(tmp_path: Path, names: tuple[str, ...]) -> None:
    """Cut like one text, a folder of train.txt and test.txt would train on its test split."""
    for name in names:
        (tmp_path / f"{name}.txt").write_text("a b\n" * 40, encoding="utf-8")
    with pytest.raises(InputError, match=r"it holds .*\.txt.* Expected train\.txt, valid\.txt \(or val\.txt, dev\.txt"):
        text.prepare(tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_large_letters_in_a_name_are_read_too(tmp_path: Path) -> None:
    (tmp_path / "a.TXT").write_text("\n".join(LINES), encoding="utf-8")
    assert words(text.prepare(tmp_path, tmp_path / "out", min_count=1), "train") == LINES[:90]


def test_what_looks_wrong_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "marked").write_text("a <unk> b\n" * 40)
    text.prepare(tmp_path / "marked", tmp_path / "out")
    assert "--tokenizer whitespace takes it as it is" in capsys.readouterr().err
    text.prepare(tmp_path / "marked", tmp_path / "out", tokenizer="whitespace")
    assert capsys.readouterr().err == ""
    for name, content in {"train": "x y\nx y\n", "valid": "u v\n", "test": "x y\n"}.items():
        (tmp_path / f"{name}.txt").write_text(content)
    text.prepare(tmp_path, tmp_path / "out")
    assert "warning: 67% of the valid split are words that training does not have" in capsys.readouterr().err
