"""Small books, laid out as on a mirror."""

import io
import random
import tarfile
from pathlib import Path

from firstsight.lab.data.gutenberg.source import folder_of

OPENINGS = [
    "It was late.",
    "Mr. Brown said: 'Go!'",
    "They didn't -- not at No. 5.",
    'She asked, "Why?"',
    "He went on... and on.",
]


def make_book(book: int, sentences: int = 40) -> bytes:
    rng = random.Random(book)
    words = [f"w{i}" for i in range(60)]
    lines = [f"{rng.choice(OPENINGS)} {' '.join(rng.choices(words, k=9))} {book}word." for _ in range(sentences)]
    title = f"PROJECT GUTENBERG EBOOK BOOK {book} ***"
    body = "\r\n".join(lines)
    return f"Language: English\r\n*** START OF THIS {title}\r\n{body}\r\n*** END OF THIS {title}\r\nlicence".encode()


def write_mirror(folder: Path, books: dict[int, bytes], suffix: str = ".txt") -> Path:
    for book, raw in books.items():
        path = folder / folder_of(book) / f"{book}{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(raw)
    return folder


def write_tar(path: Path, books: dict[int, bytes]) -> Path:
    with tarfile.open(path, "w:xz") as archive:
        for book, raw in books.items():
            entry = tarfile.TarInfo(f"{folder_of(book)}/{book}.txt")
            entry.size = len(raw)
            archive.addfile(entry, io.BytesIO(raw))
    return path
