"""Where the documents of a split begin: books, articles. A small file beside the split's tokens.

Legend: M documents, N tokens.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from firstsight.errors import InputError
from firstsight.lab.data.arrays import load_arrays
from firstsight.lab.system.files import atomic_write, naming


@dataclass(frozen=True)
class Documents:
    """The documents of a split, in the order of its text.

    Attributes:
        names: M names; two documents may have one name.
        starts: int64 [M + 1]: document i is ``tokens[starts[i]:starts[i + 1]]``; from 0 to N, never falling.
    """

    names: list[str]
    starts: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.names)


def write_documents(path: str | Path, documents: Documents) -> None:
    """Write the documents of a split as an ``.npz`` of plain arrays, atomically."""
    width = max((len(name.encode()) for name in documents.names), default=1)
    names = np.fromiter((name.encode() for name in documents.names), dtype=f"S{width}", count=len(documents))
    with atomic_write(path, "wb") as file:
        np.savez_compressed(file, names=names, starts=documents.starts)


def open_documents(path: str | Path, tokens: int) -> Documents:
    """Read what ``write_documents`` wrote, for a split of that many tokens."""
    path, broken = Path(path), ("this list of documents", "Prepare the data again.")
    arrays = load_arrays(path, ("names", "starts"), *broken)
    starts = arrays["starts"]
    with naming(path, *broken):
        names = [name.decode() for name in arrays["names"].tolist()]
    sound = starts.dtype == np.int64 and starts.shape == (len(names) + 1,) and not np.any(np.diff(starts) < 0)
    if not sound or starts[0] != 0 or starts[-1] != tokens:
        raise InputError(
            f"{path}: these are the documents of another text: they do not add up to the {tokens:,} tokens of this "
            "split. Prepare the data again."
        )
    return Documents(names, starts)
