import io
import os
from pathlib import Path

import pytest

from firstsight.errors import InputError
from firstsight.lab.data import Corpus, lines, open_corpus, text
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


TEXTS = {
    "English": "some text\nand more of it\n",
    "one word": "words",
    "old Mac": "some text\rand more of it\r",
    "Chinese": "一个人的战争\r\n中国一\r\n",
    "Russian": "Все счастливые семьи\n",
    "astral": "\U0001f600\U0001f601 smile\n",
}


@pytest.mark.parametrize("content", TEXTS.values(), ids=TEXTS)
@pytest.mark.parametrize("marked", [False, True])
@pytest.mark.parametrize("kind", ["UTF-16LE", "UTF-16BE", "UTF-32LE", "UTF-32BE"])
def test_utf16_and_utf32_are_known_with_and_without_a_mark(
    tmp_path: Path, content: str, marked: bool, kind: str
) -> None:
    """They would become letters and NULs, or lines of signs that nobody wrote."""
    (tmp_path / "a").write_bytes((("\ufeff" if marked else "") + content * 30).encode(kind))
    named = kind[:6] if marked else kind
    with pytest.raises(InputError, match=rf"/a: this looks like {named}\. .*iconv -f {named} -t UTF-8 OLD > NEW"):
        text.prepare(tmp_path / "a", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_utf16_is_known_however_long_it_is(tmp_path: Path) -> None:
    """The bytes that are looked at end in the middle of a character, and a chunk in the middle of a line."""
    (tmp_path / "a").write_bytes(b"x" + "y".encode("utf-16-be") + "\U0001f600 \n".encode("utf-16-le") * 300_000)
    with pytest.raises(InputError, match=r"holds a NUL|looks like"):
        text.prepare(tmp_path / "a", tmp_path / "out")
    (tmp_path / "a").write_bytes("\U0001f600 ab\n".encode("utf-16-le") * 300_000)
    with pytest.raises(InputError, match="looks like UTF-16LE"):
        text.prepare(tmp_path / "a", tmp_path / "out")


def test_a_nul_is_no_letter(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"some text\n" * 40 + b"and\0more\n")
    with pytest.raises(InputError, match=r"line 41 holds a NUL \(byte 0x00 at position 403 of the file\).*tr -d"):
        text.prepare(tmp_path / "a", tmp_path / "out")
    for stray in (b"\0", b"x\0\0", b"\0" * 7):
        raw = "un été\nà la mer\n".encode("latin-1") * 40 + stray
        assert (
            lines.encoding_of(raw) == lines.encoding_of(stray + raw) == lines.encoding_of(b"text\n" * 9 + stray) is None
        )


def test_lines_of_an_old_mac_of_windows_and_of_unix(tmp_path: Path) -> None:
    for end in ("\r", "\n", "\r\n", "\r\r\n"):
        (tmp_path / "a").write_bytes(end.join(LINES).encode())
        assert words(text.prepare(tmp_path / "a", tmp_path / "out", min_count=1), "train") == LINES[:90], repr(end)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 8, 1000])
def test_lines_do_not_depend_on_the_chunks_they_come_in(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    monkeypatch.setattr(lines, "_CHUNK", size)
    raw = "\ufeffone\r\ntwo\rthree\x0b\x85\u2028\n\r\r\nfour é\r".encode()
    assert list(lines.read_lines(io.BytesIO(raw), "a")) == [
        *("one\r", "two", "three\x0b\x85\u2028", "", "\r", "four é")
    ]
    assert list(lines.read_lines(io.BytesIO(raw), "a", lone_cr=False)) == [
        *("one\r", "two\rthree\x0b\x85\u2028", "\r\r", "four é\r")
    ]
    assert "".join(lines.read_lines(io.BytesIO(raw), "a", ends=True)) == raw.decode()[1:]
    assert list(lines.read_lines(io.BytesIO(b""), "a")) == []


def test_what_is_not_read_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "source"
    (source / "b").mkdir(parents=True)
    (source / "a.TXT").write_text("\n".join(LINES), encoding="utf-8")
    for name in ("b/notes.csv", "x\x1b[31m.md", *(f"z{i}.gz" for i in range(9))):
        (source / name).touch()
    os.mkfifo(source / "pipe.txt")
    (source / "gone.txt").symlink_to("nothing")
    (source / "around").symlink_to(source)
    assert words(text.prepare(source, tmp_path / "out", min_count=1), "train") == LINES[:90]
    said = " ".join(capsys.readouterr().err.split())
    assert (
        "not read, since only files *.txt are: around, b/notes.csv, gone.txt, pipe.txt, 'x\\x1b[31m.md' and 9" in said
    )
    for name in ("train", "valid", "test"):
        (source / f"{name}.txt").write_text("x y\nx y\n")
    text.prepare(source, tmp_path / "out")
    said = " ".join(capsys.readouterr().err.split())
    assert "not read, since beside the three splits nothing is: a.TXT, around, b/notes.csv" in said


def test_one_split_under_two_names_is_refused(tmp_path: Path) -> None:
    for name in ("train.txt", "train.TXT", "valid.txt", "test.txt"):
        (tmp_path / name).write_text("x y\nx y\n")
    with pytest.raises(InputError, match=r"it holds train\.TXT, train\.txt, valid\.txt, test\.txt.*one of each"):
        text.prepare(tmp_path, tmp_path / "out")


def test_what_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(InputError, match=f"{path}: this is a"):
            text.prepare(path, tmp_path / "out")
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(InputError, match="loop: there is no such file or folder"):
        text.prepare(tmp_path / "loop", tmp_path / "out")


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


@pytest.mark.parametrize("split", ["train", "valid", "test"])
@pytest.mark.parametrize("content", ["", "\n \n"])
def test_an_empty_file_of_a_split_is_named(tmp_path, split, content):
    source = tmp_path / "texts"
    source.mkdir()
    for name in ("train", "valid", "test"):
        (source / f"{name}.txt").write_text(content if name == split else "one two one two\n" * 30)
    with pytest.raises(
        InputError, match=rf"{split}\.txt: this file holds no text, and the {split} split is made of it"
    ):
        text.prepare(source, tmp_path / "data")
