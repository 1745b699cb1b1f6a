"""A small mirror of every kind of file, and the texts that are to be found in it."""

import io
import random
import zipfile
from pathlib import Path

from firstsight.lab.data.download import Polite
from firstsight.lab.data.gutenberg.web import WebSource


def zipped(members: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, raw in members.items():
            archive.writestr(name, raw)
    return file.getvalue()


def text(seed: int) -> bytes:
    return random.Random(seed).randbytes(3000)


TRAVERSAL = zipped({"../10500.txt": b"evil", "10500.txt": b"good"})
FILES = {
    "1/0/2/6/10268/10268.txt": text(1),
    "1/0/2/6/10268/10268-8.txt": text(2),
    "1/0/2/6/10268/10268.zip": zipped({"10268.txt": text(1)}),
    "1/0/2/6/10268/old/10268.txt": b"old",
    "1/0/2/6/10269/10269-0.txt": text(3),
    "1/0/2/6/10269/10269-8.txt": text(4),
    "1/10/10.zip": zipped({"10/10.TXT": text(5)}),
    "1/0/101/101-0.zip": zipped({"101-0.txt": text(6), "readme": b""}),
    "1/0/101/101-8.zip": b"PK broken",
    "0/5/5.txt": text(7),
    "1/0/5/0/10500/10500.zip": TRAVERSAL,
    "1/0/5/0/10501/10501-h.htm": b"<p>",
    "2/6/0/2609/2609.txt": text(8),
    "1/0/2/6/10268.txt": b"not in the folder of the book",
    "README": b"",
}
EXPECTED = {
    10268: ("10268.txt", text(1)),
    10269: ("10269-8.txt", text(4)),
    10: ("10.txt", text(5)),
    101: ("101-0.txt", text(6)),
    5: ("5.txt", text(7)),
    2609: ("2609.txt", text(8)),
}
ASKED = [10269, 2609, 10500, 101, 5, 10268, 7777, 10, 10268, 10501]
UNDER_1 = [10, 101, 10268, 10269, 10500]


def quick(url: str, cache: Path) -> WebSource:
    return WebSource(url, cache, Polite(0.0, sleep=lambda _: None))


def contents(found) -> dict[int, tuple[str, bytes]]:
    books = list(found)
    assert len({book.book for book in books}) == len(books)
    return {book.book: (book.name, book.raw) for book in books}
