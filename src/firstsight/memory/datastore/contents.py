"""What a store is of: the file that names its others, each with its checksum, and is written last."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from firstsight.errors import InputError
from firstsight.memory.datastore.files import (
    AGAIN,
    FORMAT,
    VERSION,
    Column,
    Value,
    check_version,
    page,
    put_in_place,
    read_page,
    read_some,
)
from firstsight.memory.datastore.keys import Dtype

CONTENTS, LOG = "store.json", "building.jsonl"
DOCUMENTS = Column("documents", "<i8", 2)  # where each begins, and its number
_FORMAT = f"{FORMAT}, contents"


@dataclass(frozen=True)
class Contents:
    """What a finished store holds."""

    dim: int
    dtype: Dtype
    count: int
    documents: int
    origin: str
    """how it was made: "pairs" as they were read, "compacted" or "joined" from other stores"""
    about: dict[str, Value]
    sha256: dict[str, str]
    """the checksums in the headers of the files that never change, by name"""

    @property
    def tombstones(self) -> Column:
        """The file of which entries were deleted: a bit each, the first the lowest of its byte."""
        return Column("deleted", "|u1", of=self.sha256["keys"])

    @property
    def tombstone_bytes(self) -> int:
        """How many bytes it has."""
        return -(-self.count // 8)


def write_contents(folder: Path, contents: Contents) -> None:
    """Make a store of the files in a folder."""
    with put_in_place(folder / CONTENTS) as file:
        file.write(page({"format": _FORMAT, "version": VERSION, **asdict(contents)}))


def read_contents(folder: Path) -> Contents:
    """What the store in a folder holds; InputError where there is none, or its file is damaged."""
    path = folder / CONTENTS
    if not path.exists() and (folder / LOG).exists():
        raise InputError(
            f"{folder}: this store was not built to its end. Build it again with the same command: it goes on after "
            "the last block that is safe."
        )
    raw = read_some(path, "what a store holds")
    try:
        values = read_page(raw)
    except ValueError as error:
        raise InputError(
            f"{path}: this should say what a store holds, but it was altered ({error}). {AGAIN}"
        ) from error
    check_version(path, values, _FORMAT)
    return Contents(**{name: value for name, value in values.items() if name not in ("format", "version")})


def check_about(folder: Path, held: Mapping[str, Value], given: Mapping[str, Value]) -> None:
    """Raise InputError unless a store is of what is asked for; it names what differs."""
    if held == given:
        return
    names = [name for name in {**held, **given} if held.get(name) != given.get(name)]
    differs = "; ".join(f"{name} is {held.get(name)!r} there and {given.get(name)!r} here" for name in names)
    raise InputError(
        f"{folder}: this store is of something else: {differs}. Its keys mean nothing to another model, and its labels "
        "to another vocabulary. Give the store of this one, or build it into another folder."
    )
