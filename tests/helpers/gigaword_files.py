"""Documents and files in the format of GigaWord, for the tests and the benchmark."""

import gzip
import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import date, timedelta
from itertools import count
from pathlib import Path

from firstsight.lab.data.gigaword.document import Document


@dataclass(frozen=True)
class Form:
    """How a document is written down; all forms read back as the same document."""

    blank: bool = True  # before the > of the DOC line
    tags: bool = True  # <P>, or bare lines with a blank line between paragraphs
    close: bool = True  # </P>
    newline: str = "\n"
    upper: bool = False  # entities


def escape(text: str, form: Form) -> str:
    for character, name in (("&", "amp"), ("<", "lt"), (">", "gt")):
        text = text.replace(character, f"&{name.upper() if form.upper else name};")
    return text


def wrap(text: str, form: Form) -> list[str]:
    lines: list[str] = []
    for word in escape(text, form).split(" "):  # textwrap would drop words that are white space by Unicode
        if lines and len(lines[-1]) + len(word) < 78:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return lines


def lines_of(document: Document, form: Form) -> Iterator[str]:
    yield f'<DOC id="{document.id}" type="{document.type}"{" " * form.blank}>'
    for tag, part in (("HEADLINE", document.headline), ("DATELINE", document.dateline)):
        if part is not None:
            yield from (f"<{tag}>", *wrap(part, form), f"</{tag}>")
    yield "<TEXT>"
    for number, paragraph in enumerate(document.paragraphs):
        if form.tags:
            yield from ("<P>", *wrap(paragraph, form), *["</P>"] * form.close)
        else:
            yield from ([""] * bool(number) + wrap(paragraph, form))
    yield from ("</TEXT>", "</DOC>")


def render(document: Document, form: Form | None = None) -> str:
    form = form or Form()
    return "".join(line + form.newline for line in lines_of(document, form))


def write(path: Path, content: bytes, level: int = 6) -> Path:
    """A gzip file, the same each time."""
    path.write_bytes(gzip.compress(content, level, mtime=0))
    return path


def make_documents(ids: Iterable[str], seed: int = 0, paragraphs: int = 10) -> Iterator[Document]:
    """Stories of paragraphs of 150 to 250 characters, words by Zipf's law."""
    rng = random.Random(seed)
    words = ["".join(rng.choices("etaoinshrdlu", k=rng.randint(2, 10))) for _ in range(5000)]
    words[7] = "AT&T"
    weights = [1 / (rank + 1) for rank in range(5000)]

    def text(number: int) -> str:
        return " ".join(rng.choices(words, weights, k=number))

    for name in ids:
        yield Document(name, "story", text(8), text(3), tuple(text(rng.randint(22, 36)) for _ in range(paragraphs)))


def make_ids(source: str = "NYT_ENG", first: date = date(2000, 1, 1), a_day: int = 1000) -> Iterator[str]:
    """Ids without end, so many a day."""
    for number in count():
        day = first + timedelta(number // a_day)
        yield f"{source}_{day:%Y%m%d}.{number % a_day + 1:04d}"
