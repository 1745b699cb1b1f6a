"""The documents of English GigaWord v5 (LDC2011T07), out of one of its files as a stream.

A file is a bare concatenation of documents, and every tag stands alone on its line::

    <DOC id="NYT_ENG_19940701.0001" type="story" >
    <HEADLINE>
    ...
    </HEADLINE>
    <DATELINE>
    ...
    </DATELINE>
    <TEXT>
    <P>
    ...
    </P>
    </TEXT>
    </DOC>

Our decisions, and why:

* ``<P>``, ``</P>`` and blank lines all part paragraphs, in documents of every type: so a missing ``</P>`` does no harm,
  and a body of bare lines is one paragraph, or several where blank lines stand in it.
* The lines of a paragraph, of a headline and of a dateline are stripped and joined by a blank. The paper's script
  turns every line break into a blank, and the breaks only wrap the text at 80 columns.
* ``&amp;``, ``&lt;``, ``&gt;``, ``&quot;`` and ``&apos;``, in either case and with their semicolon, are replaced, once:
  ``&amp;lt;`` is ``&lt;``. Everything else stays, for a newspaper writes ``AT&T`` and ``R&D``. ``html.unescape`` would
  do harm: it needs no semicolon, and makes ``®ion`` of ``&region``.
* Bytes that are not UTF-8 are dropped, as the paper's script drops them, and the document is counted.
* A document whose id occurred before in the file is counted and given all the same where it differs. One that is the
  same to the last character is left out, and its file named: a file was joined with itself.
* A document is damaged, and left out, where its structure is not the one above: its text might be cut short or be
  another's. Attributes in another order, other blanks, quotes or case do no harm. An empty body is none either.
* A document of more than 16 MiB counts as damaged, so memory stays bounded. Real ones stay far below 1 MiB.
"""

import gzip
import io
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from functools import partial
from pathlib import Path
from typing import IO, Any

from firstsight.errors import InputError
from firstsight.lab.data.gigaword.document import Document, Tally
from firstsight.lab.data.lines import encoding_of

MAX_DOCUMENT_BYTES = 1 << 24
"""A longer document, or one whose lines would need more memory than this, counts as damaged."""

_COPY = "the same document again"
_BUFFER = 1 << 16  # unpacked bytes at a time; what stands in the last of them before a damage of the gzip may be lost

_START = re.compile(rb"\s*<DOC(?=[\s>]|$)", re.IGNORECASE)
_VALUE = rb"""("[^"]*"|'[^']*'|[^\s"'>]+)"""
_ATTRIBUTE = re.compile(rb"\s+(\w+)\s*=\s*" + _VALUE)
_START_LINE = re.compile(rb"<DOC(?:\s+\w+\s*=\s*" + _VALUE + rb")*\s*>", re.IGNORECASE)
_ID = re.compile(r"[A-Z]{3}_[A-Z]{3}_(\d{8})\.\d+", re.IGNORECASE | re.ASCII)
_PARTS = (b"<HEADLINE>", b"<DATELINE>", b"<TEXT>")
_TAG_IN_LINE = re.compile(rb"</?(?:DOC|HEADLINE|DATELINE|TEXT|P)\s*>|<DOC\s", re.IGNORECASE)
_ENTITY = re.compile("&(amp|lt|gt|quot|apos);", re.IGNORECASE)
_CHARACTERS = {"amp": "&", "lt": "<", "gt": ">", "quot": '"', "apos": "'"}


class _Damaged(Exception):  # noqa: N818 - no error of anyone's: it ends the reading of one document
    """Why a document is damaged, and the line at which that showed, with which the next one may begin."""

    def __init__(self, reason: str, line: bytes = b"") -> None:
        super().__init__(reason)
        self.line = line


def read_documents(path: Path, tally: Tally) -> Iterator[Document]:
    """Give the documents of a file, gzip or plain (its first bytes tell), and count into ``tally``.

    Damaged documents are left out, and reading goes on at the next ``<DOC``. Of a damaged gzip file the documents
    before the damage are given, and the file is named in ``tally.files``: it ended too early, or a checksum failed,
    which shows only at the end, when documents with altered characters may have been given. A file without a single
    whole document is named there too. Memory holds one document, and the ids of the file.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: there is no such file. Expected a file of GigaWord, such as nyt_eng_199407.gz.")
    before, files, copies = tally.documents, len(tally.files), tally.damaged[_COPY]
    yield from _documents(_lines(path, tally), tally)
    if found := tally.damaged[_COPY] - copies:
        tally.files.append((path.name, f"{found:,} of its documents a second time"))
    if tally.documents == before and len(tally.files) == files:
        tally.files.append((path.name, "no document in it"))


def _lines(path: Path, tally: Tally) -> Iterator[bytes]:
    """The lines of a file, which ends where it is damaged; of a line past the bound its beginning only."""
    line, first = None, True
    try:
        with _open(path) as file:
            for line in iter(partial(file.readline, MAX_DOCUMENT_BYTES + 1), b""):
                if first and (kind := encoding_of(line)):
                    tally.files.append((path.name, f"it looks like {kind}, and UTF-8 was expected"))
                    return
                first = False
                yield line
                if len(line) > MAX_DOCUMENT_BYTES:
                    while line and not line.endswith(b"\n"):
                        line = file.readline(MAX_DOCUMENT_BYTES)
    except EOFError:
        tally.files.append((path.name, "cut short"))
    except (gzip.BadGzipFile, zlib.error) as error:
        tally.files.append((path.name, f"damaged gzip: {error}"))
    else:
        if line is None:
            tally.files.append((path.name, "empty"))


class _Unpacked(io.RawIOBase):
    """A gzip file read by no more than it has at once: a full buffer of it would be lost where an error comes up."""

    def __init__(self, file: gzip.GzipFile) -> None:
        self.file = file

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self.file.read1(len(buffer))
        buffer[: len(data)] = data
        return len(data)


@contextmanager
def _open(path: Path) -> Iterator[IO[bytes]]:
    with open(path, "rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
        file.seek(0)
        if not packed:
            yield file
            return
        with gzip.GzipFile(fileobj=file) as unpacked:
            yield io.BufferedReader(_Unpacked(unpacked), _BUFFER)


def _documents(lines: Iterator[bytes], tally: Tally) -> Iterator[Document]:
    seen: dict[str, set[int]] = {}
    between = False  # in a run of lines that belong to no document
    line = next(lines, b"")
    while line:
        if not _START.match(line):
            if not between and line.strip():
                between = True
                tally.damaged["text between documents"] += 1
            line = next(lines, b"")
            continue
        between = False
        try:
            document, decodable = _read(line, lines)
        except _Damaged as damage:
            tally.damaged[str(damage)] += 1
            line = _skip(damage.line, lines)
            continue
        line = next(lines, b"")
        known, content = seen.setdefault(document.id, set()), hash(document)
        if content in known:
            tally.damaged[_COPY] += 1
            continue
        tally.documents += 1
        tally.duplicates += bool(known)
        tally.undecodable += not decodable
        known.add(content)
        yield document


def _skip(line: bytes, lines: Iterator[bytes]) -> bytes:
    """From a line within a damaged document to the line after its end, or the one that begins the next."""
    while not _START.match(line):
        ended = _tag(line) == b"</DOC>"
        line = next(lines, b"")
        if ended or not line:
            break
    return line


def _tag(line: bytes) -> bytes:
    return b"".join(line.split()).upper()


def _read(line: bytes, lines: Iterator[bytes]) -> tuple[Document, bool]:
    """The document that begins with ``line``, and whether it is all UTF-8."""
    identity, kind = _attributes(line)
    parts: dict[bytes, list[bytes]] = {}
    part: list[bytes] | None = None  # the lines of the one that is open
    end = b""
    room = MAX_DOCUMENT_BYTES
    for line in lines:
        room -= len(line) + 64  # what Python needs for a line beside its text
        if room < 0:
            raise _Damaged("too long", line)
        line = line.strip()
        if line[:1] != b"<":
            if part is not None:
                part.append(line)
            elif line:
                raise _Damaged("text outside of its parts", line)
            continue
        tag = line if line in (b"<P>", b"</P>") else _tag(line)
        if tag in (b"<P>", b"</P>") and end == b"</TEXT>" and part is not None:
            part.append(b"")
        elif part is None and tag in _PARTS and tag not in parts:
            part = parts[tag] = []
            end = b"</" + tag[1:]
        elif part is not None and tag == end:
            part = None
        elif part is None and tag == b"</DOC>":
            return _document(identity, kind, parts)
        elif _START.match(line):
            raise _Damaged("no </DOC>", line)
        elif part is None or _TAG_IN_LINE.search(line):
            raise _Damaged("tags out of order", line)
        else:
            part.append(line)
    raise _Damaged("cut short by the end of the file")


def _attributes(line: bytes) -> tuple[str, str]:
    """The id and the type that a DOC line gives."""
    line = line.strip()
    if not _START_LINE.fullmatch(line):
        raise _Damaged("malformed DOC line")
    found = {name.lower(): value.strip(b"\"' ").decode("utf-8", "replace") for name, value in _ATTRIBUTE.findall(line)}
    identity = _ID.fullmatch(found.get(b"id", ""))
    if not identity:
        raise _Damaged("DOC line without a valid id")
    try:
        date.fromisoformat(identity[1])
    except ValueError:
        raise _Damaged("id without a valid date") from None
    if not found.get(b"type"):
        raise _Damaged("DOC line without a type")
    return identity[0], found[b"type"].lower()


def _document(identity: str, kind: str, parts: dict[bytes, list[bytes]]) -> tuple[Document, bool]:
    if b"<TEXT>" not in parts:
        raise _Damaged("no TEXT", b"</DOC>")
    joined = {tag: b"\n".join(part).replace(b"\r", b" ") for tag, part in parts.items()}
    if any(b"<" in part and _TAG_IN_LINE.search(part) for part in joined.values()):
        raise _Damaged("tag beside text", b"</DOC>")
    decodable = True
    try:
        texts = {tag: part.decode() for tag, part in joined.items()}
    except UnicodeDecodeError:
        texts = {tag: part.decode("utf-8", "ignore") for tag, part in joined.items()}
        decodable = False
    headline, dateline, body = (_paragraphs(texts.get(tag, "")) for tag in _PARTS)
    return Document(identity, kind, " ".join(headline) or None, " ".join(dateline) or None, tuple(body)), decodable


def _paragraphs(text: str) -> list[str]:
    if "&" in text:
        text = _ENTITY.sub(lambda entity: _CHARACTERS[entity[1].lower()], text)
    pieces = (piece.strip(" \n") for piece in text.split("\n\n"))  # three line breaks leave one at a piece
    return [piece.replace("\n", " ") for piece in pieces if piece]
