"""How activations are stored, and how they are read again.

Shape suffixes: N rows, D features.
"""

from typing import Literal

import numpy as np
import torch
from torch import Tensor

from firstsight.errors import InputError
from firstsight.memory.datastore.files import Array, Column

Dtype = Literal["float16", "float32", "int8"]
DTYPES: dict[str, str] = {"float16": "<f2", "float32": "<f4", "int8": "|i1"}


def columns(dim: int, dtype: str) -> list[Column]:
    """The files that a store of such keys has a row in for each entry."""
    found = [Column("keys", DTYPES[dtype], dim), Column("labels", "<i8")]
    return [*found, Column("scales", "<f4")] if dtype == "int8" else found


def encode(h_ND: Tensor, dtype: str) -> dict[str, Array]:
    """The rows of ``keys`` (and ``scales``) for these activations.

    int8 has a scale a row, its largest magnitude over 127. InputError where a value is too large to be held.
    """
    check_range(h_ND, dtype)
    h_ND = h_ND.detach().to("cpu", torch.float32)
    if dtype == "int8":
        scale_N = h_ND.abs().amax(1) / 127
        row_ND = (h_ND / scale_N.clamp(min=torch.finfo(torch.float32).tiny)[:, None]).round().clamp(-127, 127)
        return {"keys": row_ND.to(torch.int8).numpy(), "scales": scale_N.numpy()}
    row_ND = h_ND.to(torch.float16) if dtype == "float16" else h_ND
    return {"keys": np.ascontiguousarray(row_ND.numpy())}


def check_range(hidden: Tensor, dtype: str) -> None:
    """Raise InputError unless such keys can hold these activations [..., D]."""
    most = torch.finfo(torch.float16 if dtype == "float16" else torch.float32).max
    largest = float(hidden.detach().abs().amax()) if hidden.numel() else 0.0
    if largest > most:
        raise InputError(
            f"hidden has a value of {largest:.6g}, and keys of {dtype} hold up to {most:.6g}. Give dtype='float32', or "
            "scale the activations down."
        )


class Keys:
    """The keys of so many entries, as the files hold them.

    Args:
        rows: [N, D] of ``keys``, and [N] of ``scales`` or None.
    """

    def __init__(self, rows: Array, scales: Array | None = None) -> None:
        self._rows_ND = torch.from_numpy(rows)
        self._scales_N = None if scales is None else torch.from_numpy(scales)
        self.count, self.dim = rows.shape

    def into(self, out_TD: Tensor, part: slice) -> None:
        """Write the keys of some consecutive entries into a tensor [T, D] of whatever dtype and device."""
        out_TD.copy_(self._rows_ND[part])
        if self._scales_N is not None:
            out_TD.mul_(self._scales_N[part, None].to(out_TD.device))

    def at(self, index_N: Tensor) -> Tensor:
        """The keys of some entries, [N, D] float64: what is stored, exactly."""
        row_ND = self._rows_ND.index_select(0, index_N).double()
        return row_ND if self._scales_N is None else row_ND.mul_(self._scales_N[index_N, None].double())
