"""A book read as it is meant: every kind of marker, every declared encoding. Ours, not the paper's; off by default."""

import codecs
import re
from typing import Any

from firstsight.lab.data.gutenberg.script import END, START, between_markers, extract

_HEAD = 30_000  # characters in which a file's preamble ends
_STARTS = (
    # *** START OF THE PROJECT GUTENBERG EBOOK TITLE ***, whose title may run on over a line or two
    re.compile(r"\*{3} ?START OF TH(?:E|IS) PROJECT GUTENBERG E-?(?:BOOK|TEXT)[^*]{0,400}\*{3}"),
    re.compile(r"START OF TH(?:E|IS) PROJECT GUTENBERG E-?(?:BOOK|TEXT)[^\n]*"),
    # Files of before 2004 end their preamble with *END*THE SMALL PRINT! FOR PUBLIC DOMAIN ETEXTS*Ver.04.29.93*END*
    re.compile(r"\*END\*? ?THE SMALL PRINT![^\n]*"),
)
_END = re.compile(
    r"^[* ]*END OF TH(?:E|IS) PROJECT GUTENBERG"
    r"|^ *End of (?:The |the )?Project Gutenberg(?:'s|’s| E-?[Bb]ook| E[Tt]ext)",
    re.MULTILINE,
)
_CHARSET = re.compile(rb"character set encoding: *([\w -]+)", re.IGNORECASE)


def robust_text(raw: bytes) -> str:
    """The text of a book, from behind any of the usual markers up to the first that ends it, line ends as blanks.

    UTF-8 where the bytes are UTF-8; else the encoding that the file declares; else Windows-1252, which has Latin-1's
    letters and the dashes and quotes that files which say Latin-1 often hold as well.
    """
    text = _decode(raw)
    start = next((found.end() for kind in _STARTS if (found := kind.search(text, 0, _HEAD))), 0)
    end = _END.search(text, start)
    text = text[start : end.start() if end else len(text)]
    return text.replace("\r", " ").replace("\n", " ").strip(" *")


def _decode(raw: bytes) -> str:
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        declared = _CHARSET.search(raw[:_HEAD])
    name = declared[1].decode().strip().lower().replace("iso latin-1", "latin-1") if declared else ""
    try:
        codec = codecs.lookup(name).name
    except LookupError:
        codec = "cp1252"
    if codec in ("ascii", "utf-8", "iso8859-1"):  # declared, but not so, or a subset of Windows-1252
        codec = "cp1252"
    try:  # UTF-16, say, is declared in letters that UTF-16 reads as others
        if declared and declared[0].decode(codec) != declared[0].decode("ascii"):
            codec = "cp1252"
        return raw.decode(codec, "replace").replace("\ufffd", "")
    except (LookupError, UnicodeError):  # "hex", say: Python has it, but it is no encoding of text
        return raw.decode("cp1252", "replace").replace("\ufffd", "")


def damage(raw: bytes) -> dict[str, Any]:
    """What the paper's script does to a book that it was not meant for; nothing for a book that comes through whole.

    Keys, each only where it applies: ``no_start`` and ``no_end`` (a marker is missing, so the licence is part of the
    text), ``dropped_bytes`` (between the markers, not UTF-8), ``kept`` (the characters that the script keeps for each
    one that the robust mode keeps, where the two differ by more than a hundredth).
    """
    markers = {"no_start": START, "no_end": END}
    found: dict[str, Any] = {name: True for name, marker in markers.items() if marker not in raw}
    text = extract(raw)
    if dropped := len(between_markers(raw)) - len(text.encode("utf-8")):
        found["dropped_bytes"] = dropped
    robust = len(" ".join(robust_text(raw).split()))
    kept = len(" ".join(text.split())) / max(robust, 1)
    if abs(kept - 1) > 0.01:
        found["kept"] = round(kept, 4)
    return found
