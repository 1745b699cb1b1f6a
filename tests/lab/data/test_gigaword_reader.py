import gzip
import json
import re
from collections import Counter
from datetime import date
from itertools import islice
from pathlib import Path

import pytest
from gigaword_files import Form, lines_of, make_documents, make_ids, render, write
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from firstsight.errors import InputError
from firstsight.lab.data.gigaword import reader
from firstsight.lab.data.gigaword.document import Document, Tally
from firstsight.lab.data.gigaword.reader import read_documents

# Every character but surrogates and what parts words: ASCII white space.
CHARACTERS = st.characters(exclude_categories=["Cs"], exclude_characters="\t\n\v\f\r ")
WORDS = st.text(CHARACTERS, min_size=1, max_size=12) | st.sampled_from(
    ["AT&T", "<P>", "</DOC>", "<TEXT>", "&amp;", "&lt;", "&copy", "&#38;", "R&D;", "été", "\u00a0", "\u2028", "word"]
)
TEXTS = st.lists(WORDS, min_size=1, max_size=30).map(" ".join)
IDS = st.builds(
    "{}_{:%Y%m%d}.{:04d}".format,
    st.sampled_from(["AFP_ENG", "NYT_ENG", "WPB_ENG"]),
    st.dates(min_value=date(1994, 1, 1)),
    st.integers(1, 3),
)
DOCUMENTS = st.builds(
    Document,
    id=IDS,
    type=st.sampled_from(["story", "multi", "advis", "other"]),
    headline=st.none() | TEXTS,
    dateline=st.none() | TEXTS,
    paragraphs=st.lists(TEXTS, max_size=4).map(tuple),
)
FORMS = st.builds(Form, st.booleans(), st.booleans(), st.booleans(), st.sampled_from(["\n", "\r\n"]), st.booleans())
each = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def read(path: Path) -> tuple[list[Document], Tally]:
    tally = Tally()
    return list(read_documents(path, tally)), tally


def read_bytes(tmp_path: Path, content: bytes) -> tuple[list[Document], Tally]:
    (tmp_path / "nyt_eng_200001").write_bytes(content)
    return read(tmp_path / "nyt_eng_200001")


def some(number: int, paragraphs: int = 2) -> list[Document]:
    return list(make_documents(islice(make_ids(), number), paragraphs=paragraphs))


ONE, TWO, THREE = some(3)


@each
@given(st.lists(st.tuples(DOCUMENTS, FORMS), min_size=1, max_size=6), st.booleans())
def test_documents_of_every_kind_come_back(tmp_path: Path, pairs: list[tuple[Document, Form]], packed: bool) -> None:
    documents = [document for document, _ in pairs]
    content = "".join(render(document, form) for document, form in pairs).encode()
    found, tally = read(write(tmp_path / "a.gz", content)) if packed else read_bytes(tmp_path, content)
    whole = list(dict.fromkeys(documents))
    assert found == whole
    duplicates = len(whole) - len({document.id for document in whole})
    assert (tally.documents, tally.duplicates) == (len(whole), duplicates)
    assert tally.damaged.total() == len(documents) - len(whole)


@pytest.mark.parametrize("packed", [False, True])
def test_a_file_joined_with_itself_is_read_once_and_named(tmp_path: Path, packed: bool) -> None:
    content = "".join(map(render, (ONE, TWO, THREE))).encode()
    found, tally = read(write(tmp_path / "nyt_eng_200001.gz", content)) if packed else read_bytes(tmp_path, content)
    assert found == [ONE, TWO, THREE]
    assert not tally.files
    path = next(tmp_path.iterdir())
    path.write_bytes(path.read_bytes() * 2)
    found, tally = read(path)
    assert found == [ONE, TWO, THREE]
    assert tally.files == [(path.name, "3 of its documents a second time")]
    assert tally.damaged == {"the same document again": 3}
    assert not tally.duplicates


def test_a_document_as_it_stands(tmp_path: Path) -> None:
    content = b"""<DOC id="WPB_ENG_20100930.0012" type="other">
<HEADLINE>
AT&amp;T, R&AMP;D &lt;b&GT; &amp;lt;
 on two lines
</HEADLINE>
<DATELINE>

</DATELINE>
<TEXT>
bare &region  lines
  (of &quot;two&apos;)

 \t
paragraphs: &#233; caf\xc3\xa9
<P>
tagged <b>\rline
<P>
no end

but a blank line
</P>
</TEXT>
</DOC>
"""
    (document,), tally = read_bytes(tmp_path, content)
    assert document == Document(
        "WPB_ENG_20100930.0012",
        "other",
        "AT&T, R&D <b> &lt; on two lines",
        None,
        ("bare &region  lines (of \"two')", "paragraphs: &#233; café", "tagged <b> line", "no end", "but a blank line"),
    )
    assert (document.year, document.month, document.date.isoformat()) == (2010, 9, "2010-09-30")
    assert document.text.splitlines() == list(document.paragraphs)
    assert tally == Tally(documents=1)


@pytest.mark.parametrize(
    "line",
    [
        '<DOC type="story" id="{}">',
        "<doc ID='{}'   TYPE = 'Story'>",
        "  <DOC id={} type=story >",
        '<DOC id="{}" lang="en" type="story"\t>\r',
        '<DOC\tid=" {} " type="story">',
    ],
)
def test_spellings_of_the_doc_line(tmp_path: Path, line: str) -> None:
    content = render(ONE).split("\n", 1)
    found, tally = read_bytes(tmp_path, f"{line.format(ONE.id)}\n{content[1]}".encode())
    assert found == [ONE]
    assert tally == Tally(documents=1)


def cut_line(document: Document, *lines: str) -> str:
    return "".join(line + "\n" for line in lines_of(document, Form()) if line not in lines)


FIRST = next(lines_of(TWO, Form()))
DAMAGES = {
    "DOC line without a valid id": [
        render(TWO).replace("id=", "name="),
        render(TWO).replace("NYT_ENG_2", "NYT_2"),
        render(TWO).replace(".0002", ""),
    ],
    "id without a valid date": [render(TWO).replace("20000101", "20001301")],
    "DOC line without a type": [render(TWO).replace(' type="story"', "")],
    "malformed DOC line": [
        render(TWO).replace('" type', " type"),
        render(TWO).replace(' type="story" >', "\n>"),
        "<DOC\n",
    ],
    "no </DOC>": [cut_line(TWO, "</DOC>"), render(TWO)[:300] + "\n"],
    "no TEXT": [f"{FIRST}\n</DOC>\n"],
    "tags out of order": [
        cut_line(TWO, "</TEXT>"),
        cut_line(TWO, "</HEADLINE>"),
        cut_line(TWO, "</DATELINE>"),
        cut_line(TWO, "<TEXT>"),
        render(TWO).replace("</TEXT>", "</TEXT>\n<TEXT>\n</TEXT>"),
        render(TWO).replace("</TEXT>", "<HEADLINE>"),
        render(TWO).replace("<HEADLINE>", "<KEYWORD>"),
    ],
    "text outside of its parts": [render(TWO).replace("<TEXT>", "text"), cut_line(TWO, "<HEADLINE>")],
    "tag beside text": [render(TWO).replace("\n</P>\n", "</P>\n"), render(TWO).replace("</HEADLINE>", "a <DOC id=")],
    "text between documents": [cut_line(TWO, FIRST), "\n\x00\n\nsome lines\n</DOC>\n"],
}


@pytest.mark.parametrize(("reason", "damaged"), [(reason, text) for reason, texts in DAMAGES.items() for text in texts])
def test_a_damaged_document_is_left_out_and_counted(tmp_path: Path, reason: str, damaged: str) -> None:
    if "a <DOC" in damaged:
        damaged = damaged.replace("a <DOC id=", "a <DOC id=\n</HEADLINE>")
    found, tally = read_bytes(tmp_path, (render(ONE) + damaged + render(THREE)).encode())
    assert found == [ONE, THREE]
    assert tally == Tally(documents=2, damaged={reason: 1})


@each
@given(st.data())
def test_any_lines_lost_or_doubled(tmp_path: Path, data: st.DataObject) -> None:
    """What is not itself touched comes back; what holds a document together does not go missing unnoticed."""
    documents = some(5, paragraphs=1)
    lines = [[*lines_of(document, Form())] for document in documents]
    touched = data.draw(st.integers(0, 4))
    number = data.draw(st.integers(0, len(lines[touched]) - 1))
    copies = data.draw(st.sampled_from([0, 2]))
    line = lines[touched][number]
    lines[touched][number : number + 1] = [line] * copies
    content = "".join(f"{line}\n" for document in lines for line in document)
    found, tally = read_bytes(tmp_path, content.encode())
    others = [document for i, document in enumerate(documents) if i != touched]
    assert [document for document in found if document.id != documents[touched].id] == others
    given = [document for document in found if document.id == documents[touched].id]
    if not re.match("</?(DOC|TEXT|HEADLINE|DATELINE)", line):  # a line of text, or <P>
        assert (len(given), tally.damaged) == (1, {})
    else:  # of a doubled <DOC or </DOC> one is too many, and the document is whole
        assert given == [documents[touched]] * ("DOC" in line and copies == 2)
        assert tally.damaged.total() == 1
    started = content.count("<DOC ") + tally.damaged["text between documents"]
    assert tally.documents + tally.damaged.total() == started
    assert tally.documents == len(found)


@each
@given(st.integers(min_value=0), st.integers(0, 255))
def test_a_changed_byte(tmp_path: Path, position: int, value: int) -> None:
    """No exception, the counts add up, and no other document is touched than the one that holds the byte."""
    documents = some(5, paragraphs=1)
    texts = [render(document) for document in documents]
    content = bytearray("".join(texts).encode())
    position %= len(content)
    content[position] = value
    found, tally = read_bytes(tmp_path, bytes(content))
    ends = [sum(map(len, texts[: i + 1])) for i in range(5)]
    touched = next(i for i in range(5) if position < ends[i])
    # The first byte of a document also ends the one before, where its line break is lost.
    near = {documents[touched].id} | (
        {documents[touched + 1].id} if position == ends[touched] - 1 and touched < 4 else set()
    )
    expected = [document for document in documents if document.id not in near]
    assert [document for document in found if document in expected] == expected
    assert len(found) <= 5
    started = sum(1 for line in bytes(content).split(b"\n") if re.match(rb"\s*<DOC(\s|>|$)", line))
    assert tally.documents + tally.damaged.total() == started + tally.damaged["text between documents"]


@each
@given(st.integers(min_value=0))
def test_a_plain_file_cut_anywhere(tmp_path: Path, size: int) -> None:
    documents = some(4, paragraphs=1)
    content = "".join(map(render, documents)).encode()
    content = content[: size % len(content)]
    found, tally = read_bytes(tmp_path, content)
    whole = content.count(b"</DOC>")
    assert found == documents[:whole]
    ended = not content or content.endswith((b"</DOC>", b"</DOC>\n"))
    assert tally.documents + tally.damaged.total() == whole + (not ended)
    assert bool(tally.files) == (whole == 0)


@each
@given(st.integers(min_value=0))
def test_a_gzip_file_cut_anywhere(tmp_path: Path, size: int) -> None:
    documents = some(30)
    path = write(tmp_path / "nyt_eng_200001.gz", "".join(map(render, documents)).encode())
    packed = path.read_bytes()
    size %= len(packed)
    path.write_bytes(packed[:size])
    found, tally = read(path)
    assert found == documents[: len(found)]
    assert tally.documents == len(found)
    assert tally.damaged.total() <= 1
    reason = "empty" if not size else "no document in it" if size == 1 else "cut short"
    assert tally.files == [("nyt_eng_200001.gz", reason)]


def test_documents_before_the_damage_are_given(tmp_path: Path) -> None:
    documents = some(400)
    path = write(tmp_path / "a.gz", "".join(map(render, documents)).encode())
    packed = path.read_bytes()
    path.write_bytes(packed[: len(packed) * 3 // 4])
    found, tally = read(path)
    assert len(found) > 200
    assert tally.damaged == {"cut short by the end of the file": 1}
    path.write_bytes(packed[:-6])  # all but the end of the checksum
    found, tally = read(path)
    assert found == documents
    assert tally == Tally(documents=400, files=[("a.gz", "cut short")])


@each
@given(st.integers(min_value=0), st.integers(1, 255))
def test_a_changed_byte_of_a_gzip_file(tmp_path: Path, position: int, difference: int) -> None:
    """All documents, or a file that is called damaged."""
    documents = some(30)
    path = write(tmp_path / "a.gz", "".join(map(render, documents)).encode())
    packed = bytearray(path.read_bytes())
    packed[position % len(packed)] ^= difference
    path.write_bytes(packed)
    found, tally = read(path)
    assert found == documents or tally.files
    assert tally.documents == len(found)


def test_gzip_in_several_members_and_with_something_behind(tmp_path: Path) -> None:
    content = [gzip.compress(render(document).encode()) for document in (ONE, TWO)]
    path = tmp_path / "a.gz"
    path.write_bytes(b"".join(content) + b"\0" * 100)
    assert read(path) == ([ONE, TWO], Tally(documents=2))
    path.write_bytes(b"".join(content) + b"something else")
    found, tally = read(path)
    assert found == [ONE, TWO]
    assert tally.files[0][1].startswith("damaged gzip: Not a gzipped file")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty"),
        (gzip.compress(b"", mtime=0), "empty"),
        (b"\n \n", "no document in it"),
        (gzip.compress(b"some text\n", mtime=0), "no document in it"),
        (b"\x1f\x8b", "cut short"),
        (b"BZh91AY&SY" + bytes(range(256)), "no document in it"),
    ],
)
def test_files_without_a_document(tmp_path: Path, content: bytes, reason: str) -> None:
    found, tally = read_bytes(tmp_path, content)
    assert (found, tally.files) == ([], [("nyt_eng_200001", reason)])


def test_no_file(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "nothing.gz"):
        with pytest.raises(InputError, match=r"there is no such file\. Expected a file of GigaWord"):
            list(read_documents(path, Tally()))


@each
@given(st.lists(st.text(st.characters(min_codepoint=0xA1, max_codepoint=0xFF), min_size=1, max_size=9), min_size=1))
def test_what_is_not_utf8_is_dropped_and_counted(tmp_path: Path, words: list[str]) -> None:
    raw = b"a " + " ".join(words).encode("latin-1") + b" z"
    content = render(ONE) + render(TWO).replace("<P>\n", "<P>\nMARK\n", 1) + render(THREE)
    found, tally = read_bytes(tmp_path, content.encode().replace(b"MARK", raw))
    assert (found[0], found[2]) == (ONE, THREE)
    assert found[1].paragraphs[0] == f"{raw.decode('utf-8', 'ignore')} {TWO.paragraphs[0]}"
    try:
        raw.decode()
    except UnicodeDecodeError:
        assert tally == Tally(documents=3, undecodable=1)
    else:
        assert tally == Tally(documents=3)


@pytest.mark.parametrize(
    "line", ["word " * 100_000, "x\n" * 20_000, "<DOC " * 100_000, "word <DOC id=" + "\r" * 99_998]
)
@pytest.mark.parametrize("place", ["<P>", "<TEXT>", "<DOC"])
def test_too_long_a_document(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str, place: str) -> None:
    monkeypatch.setattr(reader, "MAX_DOCUMENT_BYTES", 100_000)
    between = place == "<DOC"
    damaged = render(TWO).replace(place, f"{line}\n{place}" if between else f"{place}\n{line}", 1)
    found, tally = read_bytes(tmp_path, (render(ONE) + damaged + render(THREE)).encode())
    assert found == ([ONE, TWO, THREE] if between else [ONE, THREE])
    # A line that begins with <DOC begins a document, wherever it stands.
    reason = "malformed DOC line" if line.startswith("<DOC") else "text between documents"
    expected = {reason: 1} if between else {"too long": 1, reason: 1} if line.startswith("<DOC") else {"too long": 1}
    assert tally == Tally(documents=len(found), damaged=Counter(expected))


def test_tallies_add_up_and_go_to_json() -> None:
    one = Tally(3, Counter(b=1, a=1), 1, 0, [("a.gz", "empty")])
    two = Tally(4, Counter(a=2), 0, 2, [("b.gz", "cut short")])
    total = one + two
    assert json.loads(json.dumps(total.as_dict())) == {
        "documents": 7,
        "damaged": {"a": 3, "b": 1},
        "duplicates": 1,
        "undecodable": 2,
        "files": [{"name": "a.gz", "reason": "empty"}, {"name": "b.gz", "reason": "cut short"}],
    }
    assert list(total.as_dict()["damaged"]) == ["a", "b"]
    assert one.documents == 3
    assert sum([one, two], Tally()) == total


@pytest.mark.parametrize("kind", ["UTF-16LE", "UTF-16BE", "UTF-32LE"])
@pytest.mark.parametrize("packed", [False, True])
def test_a_file_in_utf_16_is_named(tmp_path: Path, kind: str, packed: bool) -> None:
    raw = render(TWO).encode(kind)
    path = tmp_path / "nyt_eng_200001"
    path.write_bytes(gzip.compress(raw) if packed else raw)
    tally = Tally()
    assert list(read_documents(path, tally)) == []
    assert tally.files == [("nyt_eng_200001", f"it looks like {kind}, and UTF-8 was expected")]
