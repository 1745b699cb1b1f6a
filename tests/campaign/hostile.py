"""Values and files that are made to hurt: what parsers stumble over, what promises too much, what runs code."""

import hashlib
import io
import json
import os
import pickle
import random
import re
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

DEEP = 100_000
OWNED = "owned"  # the file that code from outside would leave in the working directory

YAML = [
    "2023-99-99",
    "0x_",
    "!!bool x",
    "!!int ''",
    "!!python/object/apply:os.system [touch owned]",
    "!!binary =",
    "!!timestamp x",
    ".nan",
    "-.inf",
    "1" * 5000,
    "1e999",
    "[" * 2000,
    "{a: {b: [c]}}",
    "*nobody",
    "&a [*a]",
    "'\\u202e'",
    "~",
    "-1",
    "999999999999999999999999",
    "0",
    "\t",
]


class _Run:
    """Unpickled, it runs a command."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, (f"touch {OWNED}",)


def changed_json(rng: random.Random, value: Any, indent: int | None) -> tuple[str, str]:
    """The text of a JSON in which one value was changed, and how."""
    places = list(_places(value))
    holder, key = rng.choice(places) if places else ([value], 0)
    old = holder[key]
    where = f"{key!r}"
    how = rng.choice(["missing", "kind", "number", "deep", "long", "twice"])
    if how == "missing":
        del holder[key]
        return json.dumps(value, indent=indent), f"{where} is missing"
    if how == "kind":
        others = [None, True, "x", -1, 0.5, [], {}, [[1]], {"a": 1}, "\x1b[31m\u202e"]
        holder[key] = rng.choice([other for other in others if type(other) is not type(old)])
        return json.dumps(value, indent=indent), f"{where} is {json.dumps(holder[key])}"
    mark = "@campaign@"
    holder[key] = mark
    text = json.dumps(value, indent=indent)
    if how == "twice" and isinstance(holder, dict):
        return text.replace(f'"{mark}"', f"{json.dumps(old)}, {json.dumps(key)}: 7"), f"{where} stands twice"
    given = {
        "number": lambda: rng.choice(
            ["NaN", "Infinity", "-Infinity", "1e999", "10000000000000000000000", "-0", "1E400"]
        ),
        "deep": lambda: rng.choice(["[" * DEEP + "]" * DEEP, '{"a":' * DEEP + "1" + "}" * DEEP]),
        "long": lambda: rng.choice(["1" * 5000, '"' + "x" * 1_000_000 + '"', "[" + "1," * 200_000 + "1]"]),
        "twice": lambda: "[]",
    }[how]()
    return text.replace(f'"{mark}"', given), f"{where} is {given[:24]}{'...' if len(given) > 24 else ''}"


def _places(value: Any) -> Any:
    """Every (holder, key) of a JSON; of long lists the first and the last."""
    if isinstance(value, dict):
        for key in value:
            yield value, key
            yield from _places(value[key])
    elif isinstance(value, list):
        for key in sorted({0, len(value) - 1}) if value else ():
            yield value, key
            yield from _places(value[key])


def deep_json(_: random.Random, path: Path) -> None:
    """Nested deeper than a parser's stack."""
    path.write_text("[" * DEEP + "]" * DEEP)


def other_json(rng: random.Random, path: Path) -> None:
    """A JSON, of something else."""
    path.write_text(rng.choice(["null", "[]", "{}", "3", '"x"', '{"corpus": 1}', "[{}]", "1" * 6000, "NaN"]))


def alias_bomb(rng: random.Random, path: Path) -> None:
    """A few hundred bytes in place of a value, which are gigabytes once they are told."""
    rows = path.read_text(encoding="utf-8").splitlines()
    at = rng.choice([n for n, row in enumerate(rows) if re.match(r"\w+:", row)] or [0])
    stop = next((n for n in range(at + 1, len(rows)) if rows[n][:1] not in (" ", "-")), len(rows))
    bomb = ["&x0 [lol, lol, lol, lol, lol, lol, lol, lol, lol]"]
    bomb += [f"&x{i} [{', '.join([f'*x{i - 1}'] * 9)}]" for i in range(1, 10)]
    rows[at:stop] = [f"{rows[at].split(':')[0] if rows else 'data'}: [{', '.join(bomb)}]"]
    path.write_text("\n".join(rows) + "\n")


def deep_yaml(_: random.Random, path: Path) -> None:
    """The same in YAML."""
    path.write_text("data: " + "[" * 5000 + "]" * 5000 + "\n")


def other_yaml(rng: random.Random, path: Path) -> None:
    """A YAML, of something else."""
    path.write_text(
        rng.choice(["", "3\n", "- a\n- b\n", "a: b: c\n", "\t\n", "--- a\n--- b\n", "? [a]\n: b\n", "%YAML 9\n"])
    )


def sealed_noise(rng: random.Random, path: Path) -> None:
    """Noise, or a damaged checkpoint, with a checksum that fits."""
    content = bytearray(path.read_bytes()[:-66])
    if rng.random() < 0.5:
        content = bytearray(rng.randbytes(rng.choice([0, 10, 3000])))
    else:
        for _ in range(rng.randrange(1, 20)):
            content[rng.randrange(len(content))] ^= rng.randrange(1, 256)
    _write_sealed(path, bytes(content))


def _write_sealed(path: Path, content: bytes) -> None:
    digest = hashlib.sha256(content).hexdigest().encode()
    path.write_bytes(content + len(digest).to_bytes(2, "little") + digest)


def sealed_pickle(rng: random.Random, path: Path) -> None:
    """A checkpoint that runs a command when it is unpickled, with a checksum that fits."""
    import torch

    buffer = io.BytesIO()
    if rng.random() < 0.5:
        torch.save({"format": 1, "model": _Run()}, buffer)
        _write_sealed(path, buffer.getvalue()[:-2])
    else:
        _write_sealed(path, pickle.dumps(_Run()))


def sealed_fields(rng: random.Random, path: Path) -> None:
    """A checkpoint with another or a missing field, with a checksum that fits."""
    import torch

    from firstsight.lab.runs.checkpoint import save_checkpoint

    state = torch.load(path, weights_only=True)
    state.pop("format")
    key = rng.choice(sorted(state))
    how = rng.randrange(4)
    if how == 0:
        del state[key]
    elif how == 1:
        state[key] = rng.choice([10**9, -1, float("nan"), "x", None, {}, [1], torch.zeros(3)])
    elif how == 2 and "step" in state:
        state["step"] = rng.choice([10**9, -5, 2.5, "4"])
    else:
        inner = [name for name in state if isinstance(state[name], dict) and state[name]]
        name = rng.choice(inner) if inner else key
        if inner:
            state[name][rng.choice(list(state[name]))] = rng.choice([None, torch.zeros(2, 2), float("nan"), "x"])
        else:
            state[name] = None
    save_checkpoint(path, state)


def pickled_arrays(_: random.Random, path: Path) -> None:
    """Arrays of objects, which numpy unpickles if it is let."""
    array = np.array([_Run(), _Run()], dtype=object)
    if path.suffix == ".npy":
        np.save(path, array, allow_pickle=True)
    else:
        with np.load(path, allow_pickle=False) as file:
            names = list(file)
        np.savez(path, **dict.fromkeys(names, array))  # type: ignore[arg-type]


def other_arrays(rng: random.Random, path: Path) -> None:
    """Arrays of another kind of number, another shape, or with one of them missing."""
    if path.suffix == ".npy":
        np.save(path, _other(rng, np.load(path, allow_pickle=False)))
        return
    with np.load(path, allow_pickle=False) as file:
        arrays = {name: file[name] for name in file}
    name = rng.choice(sorted(arrays))
    if rng.random() < 0.3:
        del arrays[name]
    else:
        arrays[name] = _other(rng, arrays[name])
    np.savez(path, **arrays)  # type: ignore[arg-type]


def _other(rng: random.Random, array: np.ndarray) -> np.ndarray:
    ways: list[Callable[[], np.ndarray]] = [
        lambda: array[None],
        lambda: array.reshape(-1)[: array.size // 2],
        lambda: np.array(3),
        lambda: np.empty((0, 4)),
        lambda: array.astype("S8"),
        lambda: np.zeros(array.shape, dtype="M8[s]"),
    ]
    if array.dtype.kind in "biuf":
        ways += [lambda: array.astype(np.float16), lambda: array.astype(np.complex64), lambda: array.astype(">i8")]
        ways += [lambda: np.full(array.shape, np.nan)]
    return rng.choice(ways)()


def executing_sqlite(rng: random.Random, path: Path) -> None:
    """A database of something else, or none."""
    import sqlite3

    path.unlink()
    if rng.random() < 0.5:
        path.write_bytes(b"SQLite format 3\0" + rng.randbytes(4080))
    else:
        with sqlite3.connect(path) as base:
            base.execute("CREATE TABLE studies (study_id TEXT)")
        base.close()


def bomb(_: random.Random, path: Path) -> None:
    """An archive that is small and holds half a gigabyte of zeros."""
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for number, name in enumerate(names):
            archive.writestr(name, bytes(1 << 29) if number == 0 else b"x")


JSON_FILES = [deep_json, other_json]
WHOLE: dict[str, list[Callable[[random.Random, Path], None]]] = {
    ".json": JSON_FILES,
    ".jsonl": JSON_FILES,
    ".yaml": [alias_bomb, deep_yaml, other_yaml],
    ".pt": [sealed_noise, sealed_pickle, sealed_fields],
    ".npy": [pickled_arrays, other_arrays],
    ".npz": [pickled_arrays, other_arrays],
    ".db": [executing_sqlite],
    ".zip": [bomb],
}


def changed_header(rng: random.Random, path: Path) -> str | None:
    """A huge or negative number where a header has a length, or another kind of number."""
    content = path.read_bytes()
    if path.suffix == ".tokens":
        return _changed_tokens(rng, path, content)
    if path.suffix == ".npy" or path.suffix == ".npz":
        for old, new in _SHAPES if rng.random() < 0.5 else reversed(_SHAPES):
            if old in content:
                path.write_bytes(content.replace(old, new, 1))
                return f"{old!r} became {new!r}"
        return None
    if path.suffix in (".zip", ".gz", ".pt", ".safetensors", "") and len(content) > 64:
        width = rng.choice([2, 4, 8])
        at = rng.choice([0, 4, 8, 12, 18, 22, 26, 28, len(content) - 4, len(content) - 8, len(content) - 12])
        huge = rng.choice([b"\xff" * 8, struct.pack("<Q", 1 << 40), struct.pack("<Q", 1 << 31), bytes(8)])[:width]
        path.write_bytes(content[:at] + huge + content[at + width :])
        return f"{huge.hex()} at {at}"
    return None


_SHAPES = [
    (b"'descr': '<f4'", b"'descr': '<i4'"),
    (b"'descr': '<i8'", b"'descr': '<f8'"),
    (b"'descr': '|u1'", b"'descr': '|i1'"),
    (b"'descr': '<u4'", b"'descr': '<f4'"),
    (b"'shape': (", b"'shape': (9999999999,"),
    (b"'fortran_order': False", b"'fortran_order': True "),
]


def _changed_tokens(rng: random.Random, path: Path, content: bytes) -> str:
    header = json.loads(content[:4096])
    key = rng.choice(sorted(header))
    header[key] = rng.choice([10**18, -1, 10**400, "x", None, [], 2.0, 1 << 62])
    text = json.dumps(header).encode()[:4095]
    path.write_bytes(text.ljust(4095) + b"\n" + content[4096:])
    return f"{key} in the header is {str(header[key])[:24]}"
