import os
import subprocess
import sys
import tarfile
import zipfile

import nltk
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nltk import redos
from plain_script import plain_process_text

from firstsight.errors import InputError
from firstsight.lab.data import punkt
from firstsight.lab.data.gutenberg import process_text
from firstsight.lab.data.gutenberg.robust import damage, robust_text
from firstsight.lab.data.gutenberg.script import END, START

BODY = b"It was late.  He said: 'Go!' and \"why?\" \r\nMr. Brown (of No. 5) didn't... "
BODY += b"\x93caf\xe9\x94 \xc3\xa9t\xc3\xa9 -- A.B.\r\n"


def book(body: bytes = BODY, start: bytes = START, end: bytes = END) -> bytes:
    head, tail = b"The Project Gutenberg EBook\r\n*** ", b"\r\n\r\n*** "
    return head + start + b" A TITLE ***\r\n" + body + tail + end + b" A TITLE ***\r\nlicence. And so on."


@pytest.mark.shared
def test_every_validation_book_and_variant(shared_data):
    seen = 0
    with tarfile.open(shared_data / "gutenberg" / "mirror-valid.tar.xz") as archive:
        for entry in archive:
            if entry.isfile():
                raw = archive.extractfile(entry).read()
                assert process_text(raw) == plain_process_text(raw), entry.name
                seen += 1
    assert seen == 21


@pytest.mark.parametrize(
    "raw",
    [
        book(),
        book(start=b"START OF THE PROJECT GUTENBERG EBOOK"),
        book(end=b"END OF THE PROJECT GUTENBERG EBOOK"),
        END + b" before " + START + b" after. So nothing is left?",
        START + END,
        b"",
        b"short",
        START,
        book(b"\xff\xfe\x00 \x80\x81"),
        book("“Curly,” he said. ‘Quotes.’ «Chevrons!» İstanbul ΣΑΣ. ".encode()),
        book(b"no full stop at all\n\nand a tab\there \x0b \x1c \xc2\x85 \xe2\x80\xa8 end"),
        book(b"A ... B .. C. . . D! ! ?! (E.) F.\" G.' h i.e. this, vs. that 3.14 5.\n"),
    ],
)
def test_quirks(raw):
    assert process_text(raw) == plain_process_text(raw)


# Everything that NLTK's regular expressions name, and what stands around it.
PIECES = st.sampled_from(
    [
        "word",
        "Mr.",
        "U.S.",
        "e.g.",
        ".",
        "!",
        "?",
        "...",
        '"',
        "'",
        "''",
        "``",
        "(",
        ")",
        "--",
        ",",
        "can't",
        "gonna",
        "5.",
    ]
    + [
        "\r\n",
        " ",
        "\u00a0",
        "\u2019",
        "\u201d",
        "\u00ab",
        "A.",
        "No.",
        "\u0130",
        "\u03a3",
        ":",
        ";",
        "&",
        "[",
        "]",
        "\x1c",
    ]
    + [
        "'s",
        "'S",
        "'ll",
        "n't",
        "N'T",
        "cannot",
        "more'n",
        "wanna",
        "'tis",
        "'Twas",
        "d'ye",
        "gimme",
        "lemme",
        "`",
        "<",
        "}",
    ]
    + ["*", "1", "\u2014", "\u2018", "\u201c", "\u00bb", "\ue000", "%", "@", "x", "\n", "\t", "  "]
)


@settings(max_examples=int(os.environ.get("FIRSTSIGHT_FUZZ", 500)), deadline=None)
@given(st.lists(PIECES | st.text(max_size=4), max_size=40), st.sampled_from(["", " "]))
def test_any_text(pieces, between):
    raw = book(between.join(pieces).encode("utf-8", "surrogatepass"))
    assert process_text(raw) == plain_process_text(raw)


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes(raw):
    assert process_text(raw) == plain_process_text(raw)
    assert process_text(book(raw)) == plain_process_text(book(raw))


def test_what_the_script_damages_is_reported():
    assert damage(book(b"Plain. " * 400)) == {}
    assert damage(book(b"Caf\xe9. " + b"Plain. " * 400)) == {"dropped_bytes": 1}
    found = damage(book(b"Plain. " * 400, start=b"START OF THE PROJECT GUTENBERG EBOOK"))
    assert found["no_start"] is True
    assert found["kept"] > 1
    assert damage(book(b"Plain. " * 400, end=b"THE END"))["no_end"] is True
    assert damage(END + b" before " + START + b" after. Everything is lost.")["kept"] == 0


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (book(b"Body."), "Body."),
        (book(b"Body.", b"START OF THE PROJECT GUTENBERG EBOOK", b"END OF THE PROJECT GUTENBERG EBOOK"), "Body."),
        (book(b"Body.\r\nEnd of Project Gutenberg's A Title"), "Body."),
        (
            b"*END*THE SMALL PRINT! FOR PUBLIC DOMAIN ETEXTS*Ver.04.29.93*END*\n"
            b"Body.\nEnd of The Project Gutenberg Etext",
            "Body.",
        ),
        (book("Été “x”".encode()), "Été “x”"),
        (b"\xef\xbb\xbf" + book("Été".encode()), "Été"),
        (b"Character set encoding: ISO-8859-1\n" + book(b"caf\xe9 \x97 x"), "café — x"),
        (b"Character set encoding: KOI8-R\n" + book("мир".encode("koi8-r")), "мир"),
        (b"Character set encoding: nonsense\n" + book(b"caf\xe9"), "café"),
        (b"No marker at all.", "No marker at all."),
        (b"Character set encoding: hex\n" + book(b"caf\xe9"), "café"),
        (b"Character set encoding: idna\n" + book(b"caf\xe9"), "café"),
        (b"Character set encoding: UTF-16\n" + book(b"caf\xe9"), "café"),
        (b"Character set encoding: utf-32-be\n" + book(b"caf\xe9"), "café"),
        (b"Character set encoding: cp037\n" + book(b"caf\xe9"), "café"),
    ],
)
def test_robust(raw, expected):
    assert robust_text(raw) == expected


def plain_sentences(text):
    return [nltk.word_tokenize(sentence) for sentence in nltk.sent_tokenize(text)]


def test_the_order_of_calls_does_not_matter(monkeypatch):
    monkeypatch.setattr(punkt, "_REMEMBERED", 3)
    texts = [f"One w{i} two, w{i}x three. Four 'w{i}y' five {i}." for i in range(6)]
    running = [punkt.sentences(text) for text in texts]
    found = [[next(one)] for one in running]  # each has learnt, and made the others' forgotten, before any goes on
    for rest, one in zip(found, running, strict=True):
        rest += one
    assert found == [plain_sentences(text) for text in texts]


def test_no_time_limit_on_a_long_text(monkeypatch):
    text = "Mr. A. said U.S. no. 5. " * 3000
    expected = plain_sentences(text)
    monkeypatch.setattr(redos, "DEFAULT_TIMEOUT", 0.001)
    with pytest.raises(TimeoutError):
        plain_sentences(text)
    punkt._lift_time_limit.cache_clear()
    assert list(punkt.sentences(text)) == expected


def test_a_sentence_model_that_is_still_zipped(tmp_path, monkeypatch):
    (tmp_path / "tokenizers").mkdir()
    with zipfile.ZipFile(tmp_path / "tokenizers" / "punkt_tab.zip", "w") as archive:
        archive.writestr("punkt_tab/english/abbrev_types.txt", "")
    monkeypatch.setattr(nltk.data, "path", [str(tmp_path)])
    with pytest.raises(InputError, match=r"Unzip punkt_tab\.zip"):
        punkt.find_model.__wrapped__()


def test_without_a_sentence_model(tmp_path):
    code = (
        "import nltk; nltk.data.path[:] = []; nltk.download = lambda *a, **k: False\n"
        "from firstsight.lab.data.gutenberg import process_text\n"
        "from firstsight.errors import InputError\n"
        "try: process_text(b'x')\n"
        "except InputError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={"HOME": str(tmp_path)})
    for said in ("python -m nltk.downloader punkt_tab", "NLTK_DATA"):
        assert said in done.stdout, done.stderr
