"""A document of GigaWord, and the tally of a reading."""

from collections import Counter
from dataclasses import dataclass, field
from datetime import date
from typing import Any


@dataclass(frozen=True, slots=True)
class Document:
    """A document.

    Attributes:
        id: such as ``NYT_ENG_19940701.0001``.
        type: "story", "multi", "advis" or "other".
        headline: None where there is none, or an empty one.
        dateline: the same.
        paragraphs: the body; no paragraph is empty or holds a line break.
    """

    id: str
    type: str
    headline: str | None
    dateline: str | None
    paragraphs: tuple[str, ...]

    @property
    def date(self) -> date:
        """The day, as the id says it."""
        return date.fromisoformat(self.id.rpartition("_")[2][:8])

    @property
    def year(self) -> int:
        """The year, as the id says it."""
        return self.date.year

    @property
    def month(self) -> int:
        """The month, 1 to 12, as the id says it."""
        return self.date.month

    @property
    def text(self) -> str:
        """The body: a paragraph a line."""
        return "\n".join(self.paragraphs)


@dataclass
class Tally:
    """What a reading found; tallies of several files add up.

    Attributes:
        documents: the documents given.
        damaged: the documents left out, by reason. What stands between documents counts as one each time.
        duplicates: of the documents given, those whose id occurred before in their file.
        undecodable: of the documents given, those that lost bytes that are not UTF-8.
        files: name and reason of the files that are damaged themselves.
    """

    documents: int = 0
    damaged: Counter[str] = field(default_factory=Counter)
    duplicates: int = 0
    undecodable: int = 0
    files: list[tuple[str, str]] = field(default_factory=list)

    def __add__(self, other: "Tally") -> "Tally":
        return Tally(
            self.documents + other.documents,
            self.damaged + other.damaged,
            self.duplicates + other.duplicates,
            self.undecodable + other.undecodable,
            self.files + other.files,
        )

    def as_dict(self) -> dict[str, Any]:
        """The same for JSON; reasons in alphabetical order, whatever order the files were read in."""
        files = [{"name": name, "reason": reason} for name, reason in self.files]
        damaged = dict(sorted(self.damaged.items()))
        return {**vars(self), "damaged": damaged, "files": files}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Tally":
        """The reverse of ``as_dict``."""
        files = [(file["name"], file["reason"]) for file in values["files"]]
        return cls(**{**values, "damaged": Counter(values["damaged"]), "files": files})
