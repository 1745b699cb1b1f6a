"""Writing a store block by block: what was written before a kill stays, and the same bytes come of it.

Shape suffixes: N entries of a call, D features.
"""

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import numpy as np
from torch import Tensor

from firstsight.errors import InputError
from firstsight.functional import IGNORE_INDEX
from firstsight.memory.datastore import files
from firstsight.memory.datastore.contents import (
    CONTENTS,
    DOCUMENTS,
    LOG,
    Contents,
    check_about,
    read_contents,
    write_contents,
)
from firstsight.memory.datastore.files import FORMAT, HEADER_BYTES, VERSION, Array, Value
from firstsight.memory.datastore.keys import DTYPES, Dtype, Keys, columns, encode
from firstsight.memory.store import check_pairs, check_whole

_BLOCK_BYTES = 2**22  # of keys: what a kill loses at most, and what one checksum is of
_FORMAT = f"{FORMAT}, being built"


class DatastoreWriter:
    """Writes a store, block by block; a build that was killed goes on behind the last whole block.

    A block (4 MiB of keys) counts once its bytes are on the disk and its checksum is noted; what stands behind the
    last one is cut when the folder is opened again. The finished store then has the same bytes as one that was built
    in one go. An exception inside of ``with`` leaves it to go on with; the end of it finishes the store, and a store
    that is finished already is left as it is. Memory: that of the call's pairs.

    Args:
        path: the folder: a new or empty one, or one in which such a build was ended.
        dim: D, the width of the activations.
        about: what the store is of, by name: checkpoint, corpus, split. It is refused with any other.
        dtype: float16 (values up to 65,504), float32, or int8 with a scale a row.
        origin: "pairs", of entries in the order in which they were read.

    Attributes:
        done: how many entries are written and safe: with the n-th of these, counted from 0, the build goes on. If a
            document begins with it, ``new_document`` is due once more.
        finished: whether it is a store already.

    Raises:
        InputError: (a ``ValueError``) an argument is not as above; the folder holds something else, or a store or
            build of another ``dim``, ``dtype`` or ``about``; or what was written before is damaged.
    """

    def __init__(
        self, path: str | Path, dim: int, *, about: Mapping[str, Value], dtype: Dtype = "float16", origin: str = "pairs"
    ) -> None:
        check_whole("dim", dim)
        if dtype not in DTYPES:
            raise InputError(f"dtype is {dtype!r}; expected one of {', '.join(DTYPES)}.")
        self.path, self.dim, self.dtype, self.origin, self.about = Path(path), dim, dtype, origin, dict(about)
        self.columns = columns(dim, dtype)
        self.block = max(8, _BLOCK_BYTES // self.columns[0].row_bytes // 8 * 8)
        self.done, self.finished = 0, False
        self._digests: dict[str, list[bytes]] = {column.name: [] for column in self.columns}
        self._documents = [(0, 0)]
        self._files: dict[str, IO[bytes]] = {}
        try:
            self._start()
        except BaseException:
            self.close()
            raise
        self._count = self.done
        self._hashes = {name: hashlib.sha256() for name in self._digests}

    def __enter__(self) -> "DatastoreWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.finish()
        self.close()

    def __len__(self) -> int:
        """Entries written so far, safe or not."""
        return self._count

    def append(self, hidden: Tensor, label: Tensor) -> None:
        """Add entries; those with the label -100 are left out.

        Args:
            hidden: [N, D] float, finite.
            label: [N] int64, 0 or more.

        Raises:
            InputError: (a ``ValueError``) a shape, dtype or value is not as above, or the store is finished. Nothing
                is added then.
        """
        check_pairs(hidden, label)
        if hidden.ndim != 2 or hidden.shape[1] != self.dim:
            raise InputError(f"hidden is {list(hidden.shape)}; expected [N, {self.dim}], the width of the store.")
        kept_N = label != IGNORE_INDEX
        rows = encode(hidden[kept_N], self.dtype)
        self.put({**rows, "labels": label[kept_N].cpu().numpy()})

    def new_document(self, number: int | None = None) -> None:
        """The next entry begins a document, which can be deleted as one; the first entry does without being told.

        Args:
            number: what it is called, 0 or more; by default one more than the last.
        """
        start, last = self._documents[-1]
        if start < self._count:
            self._documents.append((self._count, last + 1 if number is None else number))
        elif number is not None:
            self._documents[-1] = (start, number)

    def put(self, rows: Mapping[str, Array]) -> None:
        """Add entries as the files hold them: the rows of each, by its name."""
        at, total = 0, len(rows["labels"])
        if not self._files and total:
            raise InputError(f"{self.path}: this store is finished. Build another one, and join the two.")
        while at < total:
            n = min(total - at, self.block - self._count % self.block)
            for column in self.columns:
                data = np.ascontiguousarray(rows[column.name][at : at + n], dtype=column.dtype).tobytes()
                self._files[column.name].write(data)
                self._hashes[column.name].update(data)
            self._count, at = self._count + n, at + n
            if self._count % self.block == 0:
                self._note()
        for file in self._files.values():
            file.flush()

    def keys(self) -> Keys:
        """The keys written so far, to be searched."""
        mapped = {column.name: column.mapped(self.path, self._count) for column in self.columns}
        return Keys(mapped["keys"], mapped.get("scales"))

    def labels(self) -> Array:
        """The labels written so far, [N]."""
        return self.columns[1].mapped(self.path, self._count)

    def finish(self) -> None:
        """Make the store of what was written: from now on it can be opened, and no longer be added to."""
        if self.finished:
            return
        if self._count % self.block:
            self._end_block()
        sums = {
            column.name: files.finish(self._files[column.name], column, self._count, self.block, digests)
            for column, digests in zip(self.columns, self._digests.values(), strict=True)
        }
        documents = np.array([pair for pair in self._documents if pair[0] < self._count]).reshape(-1, 2)
        sums[DOCUMENTS.name] = files.write_column(self.path, DOCUMENTS, documents, self.block)
        contents = Contents(self.dim, self.dtype, self._count, len(documents), self.origin, self.about, sums)
        files.write_column(self.path, contents.tombstones, np.zeros(contents.tombstone_bytes), self.block)
        write_contents(self.path, contents)
        self.close()
        self._end_log()

    def close(self) -> None:
        """Leave the build as it is, to be gone on with another time."""
        for file in self._files.values():
            file.close()
        self._files = {}

    def _end_log(self) -> None:
        (self.path / LOG).unlink(missing_ok=True)
        self.done, self.finished = self._count, True

    def _start(self) -> None:
        """Open the files where a build ended, or new ones."""
        self.path.mkdir(parents=True, exist_ok=True)
        if (self.path / CONTENTS).exists():
            held = read_contents(self.path)
            self._check_plan(held.about, held.dim, held.dtype, held.origin)
            self._count = held.count
            self._end_log()
            return
        if not (self.path / LOG).exists():
            if any(path.suffix != ".new" for path in self.path.iterdir()):
                raise InputError(f"{self.path}: this folder holds something that is no store. Give an empty one.")
            with files.put_in_place(self.path / LOG) as file:
                file.write(files.sealed(self._plan()).encode() + b"\n")
        self._files["log"] = open(self.path / LOG, "ab")  # noqa: SIM115  # closed by close()
        self._lock()
        self._read_log()
        for column in self.columns:
            path, end = self.path / column.file, HEADER_BYTES + self.done * column.row_bytes
            path.touch()
            if path.stat().st_size < end and self.done:
                raise InputError(
                    f"{path}: {self.done:,} entries were noted as written, {end:,} bytes, and the file has "
                    f"{path.stat().st_size:,}: it was cut short. Remove {self.path} and build the store again."
                )
            self._files[column.name] = file = open(path, "r+b")  # noqa: SIM115
            file.truncate(end)
            file.seek(end)

    def _lock(self) -> None:
        """Have no other process write into the same files; the lock goes with this one, however it ends."""
        if os.name != "posix":
            return
        import fcntl

        try:
            fcntl.flock(self._files["log"], fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise InputError(
                f"{self.path}: another process is building this store. Wait for it, or give another folder."
            ) from error

    def _plan(self) -> dict[str, Any]:
        return {
            "format": _FORMAT,
            "version": VERSION,
            "dim": self.dim,
            "dtype": self.dtype,
            "block": self.block,
            "origin": self.origin,
            "about": self.about,
        }

    def _check_plan(self, about: Mapping[str, Value], dim: int, dtype: str, origin: str) -> None:
        plan: dict[str, Value] = {"width of the activations": dim, "dtype": dtype, "origin": origin}
        given: dict[str, Value] = {"width of the activations": self.dim, "dtype": self.dtype, "origin": self.origin}
        check_about(self.path, {**about, **plan}, {**self.about, **given})

    def _read_log(self) -> None:
        """What blocks are safe. A last line without an end is of a block that is not; the others are to be whole."""
        path = self.path / LOG
        lines = path.read_bytes().split(b"\n")
        try:
            plan, *blocks = (files.unsealed(line) for line in lines[:-1])
            documents = [(start, number) for block in blocks for start, number in block["documents"]]
            digests = {n: [bytes.fromhex(block["sha256"][n]) for block in blocks] for n in self._digests}
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"{path}: the notes of this build were altered ({error}). Remove {self.path} and build the store again."
            ) from error
        files.check_version(path, plan, _FORMAT)
        self._check_plan(plan["about"], plan["dim"], plan["dtype"], plan["origin"])
        self.block = plan["block"]
        self._digests, self._documents = digests, documents or self._documents
        self.done = len(blocks) * self.block
        os.truncate(path, path.stat().st_size - len(lines[-1]))

    def _end_block(self) -> dict[str, str]:
        found = {}
        for name, hash_ in self._hashes.items():
            self._digests[name].append(hash_.digest())
            found[name] = hash_.hexdigest()
            self._files[name].flush()
            os.fsync(self._files[name].fileno())
        self._hashes = {name: hashlib.sha256() for name in self._hashes}
        return found

    def _note(self) -> None:
        """Have a whole block on the disk, and then a line that says so."""
        documents = [list(pair) for pair in self._documents if self.done <= pair[0] < self._count]
        line = files.sealed({"sha256": self._end_block(), "documents": documents})
        log = self._files["log"]
        log.write(line.encode() + b"\n")
        log.flush()
        os.fsync(log.fileno())
        self.done = self._count
