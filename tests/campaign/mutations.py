"""What happens to a file: on disks, in copies, by hand, and by somebody who means harm. Drawn by a seeded generator.

A mutation takes a generator, the file and others of its kind, and changes the file in its place; it says what it did,
or gives None where the file is none that it could be done to.
"""

import json
import os
import random
import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.campaign import hostile

Mutation = Callable[[random.Random, Path, Sequence[Path]], str | None]
TEXT = (".json", ".jsonl", ".yaml", ".csv", ".tsv", ".txt", ".md")
OUTSIDE = ("/dev/null", "/etc/hostname", "/nowhere/at/all")


def flip_bit(rng: random.Random, path: Path, _: Sequence[Path]) -> str | None:
    """One bit, as memory and disks do it."""
    content = bytearray(path.read_bytes())
    if not content:
        return None
    at, bit = position(rng, len(content)), rng.randrange(8)
    content[at] ^= 1 << bit
    path.write_bytes(content)
    return f"bit {bit} of byte {at}"


def flip_byte(rng: random.Random, path: Path, _: Sequence[Path]) -> str | None:
    """A byte becomes another one."""
    content = bytearray(path.read_bytes())
    if not content:
        return None
    at = position(rng, len(content))
    content[at] ^= rng.randrange(1, 256)
    path.write_bytes(content)
    return f"byte {at}"


def position(rng: random.Random, size: int) -> int:
    """A place in a file: anywhere, or near an end, where headers and seals are."""
    near = min(size, 200)
    return rng.choice([rng.randrange(size), rng.randrange(near), size - 1 - rng.randrange(near)])


def cut(rng: random.Random, path: Path, _: Sequence[Path]) -> str | None:
    """The end is missing."""
    size = path.stat().st_size
    if not size:
        return None
    kept = rng.choice([0, rng.randrange(size), max(0, size - 1 - rng.randrange(min(size, 40)))])
    os.truncate(path, kept)
    return f"cut to {kept} of {size} bytes"


def append(rng: random.Random, path: Path, _: Sequence[Path]) -> str:
    """Something stands behind the end."""
    more = rng.choice([b"\0", b"\n", b"}", rng.randbytes(40), path.read_bytes()])
    with open(path, "ab") as file:
        file.write(more)
    return f"{len(more)} bytes more"


def zero(rng: random.Random, path: Path, _: Sequence[Path]) -> str | None:
    """A range of zeros, as a crash leaves them in files that were not synced."""
    content = path.read_bytes()
    if not content:
        return None
    first = rng.choice([0, rng.randrange(len(content))])
    stop = min(len(content), first + rng.choice([4, 64, 4096]))
    path.write_bytes(content[:first] + bytes(stop - first) + content[stop:])
    return f"zeros from {first} to {stop}"


def noise(rng: random.Random, path: Path, _: Sequence[Path]) -> str | None:
    """A range of noise."""
    content = path.read_bytes()
    if not content:
        return None
    first = rng.randrange(len(content))
    more = rng.randbytes(min(len(content) - first, rng.choice([4, 64, 4096])))
    path.write_bytes(content[:first] + more + content[first + len(more) :])
    return f"noise from {first} to {first + len(more)}"


def swap(rng: random.Random, path: Path, others: Sequence[Path]) -> str | None:
    """A whole file of the same kind, of another run, corpus or split."""
    content = path.read_bytes()
    fitting = [other for other in others if other.read_bytes() != content]
    if not fitting:
        return None
    other = rng.choice(fitting)
    shutil.copyfile(other, path)
    return f"{other.parent.name}/{other.name} in its place"


def remove(_: random.Random, path: Path, __: Sequence[Path]) -> str:
    """It is gone."""
    path.unlink()
    return "removed"


def link_to_itself(_: random.Random, path: Path, __: Sequence[Path]) -> str:
    """A symbolic link that leads to itself."""
    path.unlink()
    path.symlink_to(path.name)
    return "a link to itself"


def link_elsewhere(rng: random.Random, path: Path, others: Sequence[Path]) -> str:
    """A symbolic link to something else."""
    path.unlink()
    path.symlink_to(rng.choice([*OUTSIDE, *(os.path.relpath(other, path.parent) for other in others[:3])]))
    return f"a link to {os.readlink(path)}"


def directory(rng: random.Random, path: Path, _: Sequence[Path]) -> str:
    """A folder has its name."""
    path.unlink()
    path.mkdir()
    if full := rng.random() < 0.5:
        (path / "note.txt").write_text("somebody's")
    return "a folder with a file in it" if full else "an empty folder"


def fifo(_: random.Random, path: Path, __: Sequence[Path]) -> str:
    """A pipe to which nobody writes."""
    path.unlink()
    os.mkfifo(path)
    return "a pipe"


def encoding(rng: random.Random, path: Path, _: Sequence[Path]) -> str | None:
    """Another program saved it."""
    if path.suffix not in TEXT:
        return None
    name = rng.choice(["utf-16", "utf-16-le", "utf-16-be", "utf-32", "latin-1", "utf-8-sig", "cp037"])
    text = path.read_text(encoding="utf-8", errors="replace").replace("\ufffd", "?")
    path.write_bytes((f"é{text}" if name == "latin-1" else text).encode(name, errors="replace"))
    return f"in {name}"


def digit(rng: random.Random, path: Path, _: Sequence[Path]) -> str | None:
    """One digit is another one."""
    text = _text(path)
    places = [match.start() for match in re.finditer(r"\d", text)]
    if not places:
        return None
    at = rng.choice(places)
    other = rng.choice([c for c in "0123456789" if c != text[at]])
    path.write_text(text[:at] + other + text[at + 1 :], encoding="utf-8")
    return f"digit at {at}: {text[max(0, at - 12) : at + 4]!r} has {other}"


def lines(rng: random.Random, path: Path, _: Sequence[Path]) -> str | None:
    """A line is missing, stands twice, or has changed its place with the next."""
    rows = _text(path).splitlines(keepends=True)
    if len(rows) < 2:
        return None
    at, how = rng.randrange(len(rows) - 1), rng.choice(["missing", "twice", "after the next"])
    changed = {"missing": [], "twice": [rows[at]] * 2, "after the next": [rows[at + 1], rows[at]]}[how]
    stop = at + 2 if how == "after the next" else at + 1
    path.write_text("".join(rows[:at] + changed + rows[stop:]), encoding="utf-8")
    return f"line {at + 1} {how}"


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.suffix in TEXT else ""


def json_value(rng: random.Random, path: Path, _: Sequence[Path]) -> str | None:
    """A value of a JSON is missing, of another kind, not finite, far too long or far too deep."""
    if path.suffix not in (".json", ".jsonl"):
        return None
    rows = path.read_text(encoding="utf-8").splitlines() if path.suffix == ".jsonl" else [path.read_text("utf-8")]
    at = rng.randrange(len(rows)) if rows else 0
    try:
        value = json.loads(rows[at])
    except (IndexError, ValueError):
        return None
    rows[at], told = hostile.changed_json(rng, value, indent=None if path.suffix == ".jsonl" else 2)
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")
    return told


def yaml_value(rng: random.Random, path: Path, _: Sequence[Path]) -> str | None:
    """A value of a YAML that its parser stumbles over."""
    if path.suffix != ".yaml":
        return None
    rows = path.read_text(encoding="utf-8").splitlines()
    places = [at for at, row in enumerate(rows) if re.match(r" *[\w]+: \S", row)]
    if not places:
        return None
    at, value = rng.choice(places), rng.choice(hostile.YAML)
    rows[at] = f"{rows[at].split(':')[0]}: {value}"
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")
    return f"line {at + 1} is {rows[at][:60].strip()}"


def whole(rng: random.Random, path: Path, _: Sequence[Path]) -> str | None:
    """The file of somebody who means harm, under this one's name."""
    makers = hostile.WHOLE.get(path.suffix)
    if not makers:
        return None
    maker = rng.choice(makers)
    maker(rng, path)
    return maker.__name__.replace("_", " ")


def header(rng: random.Random, path: Path, _: Sequence[Path]) -> str | None:
    """A length or a kind of number in a header is another one."""
    return hostile.changed_header(rng, path)


MUTATIONS: dict[str, Mutation] = {
    "flip a bit": flip_bit,
    "flip a byte": flip_byte,
    "cut": cut,
    "append": append,
    "zeros": zero,
    "noise": noise,
    "swap": swap,
    "remove": remove,
    "link to itself": link_to_itself,
    "link elsewhere": link_elsewhere,
    "folder": directory,
    "pipe": fifo,
    "encoding": encoding,
    "digit": digit,
    "lines": lines,
    "JSON value": json_value,
    "YAML value": yaml_value,
    "hostile file": whole,
    "header": header,
}


def kin(path: Path, place: Path) -> list[Path]:
    """Files of the same kind, those of the same name first."""
    found = [p for p in sorted(place.rglob(f"*{path.suffix}")) if p != path and p.is_file() and not p.is_symlink()]
    alike = [p for p in found if p.suffix == path.suffix]
    return sorted(alike, key=lambda p: (p.name != path.name, p.parent != path.parent))[:8]
