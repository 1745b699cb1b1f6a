"""Saved states of a sharded head: of all processes together, for another number of them, and of a whole head.

Shapes: V classes, V_r of them on rank r, R ranks, D features.

On disk is torch's own format (``torch.distributed.checkpoint``): of each thing that there is of each class one tensor
of R x max V_r rows, in the order of the ranks, and beside it ``classes``, the class of each row, -1 of those that only
fill up. So each process writes what it has, and reads its share of what is there, whoever wrote it; then rows go to the
processes whose classes they are, once.
"""

import os
from collections.abc import Mapping
from typing import Any, Self

import torch
import torch.distributed as dist
from torch import Tensor, nn

from firstsight.errors import InputError
from firstsight.heads.shards.numbered import Numbered
from firstsight.heads.shards.ranks import padded

_OWN = ("classes", "part")
_STATE = "optimizer."


class Saving(Numbered):
    """A head whose state can be that of all processes.

    Arguments, attributes and errors as :class:`firstsight.ShardedSoftmax`.
    """

    def save_shards(self, folder: str | os.PathLike[str], optimizer: torch.optim.Optimizer | None = None) -> None:
        """Save the head of all processes, and what an optimizer keeps of its rows. A collective.

        Args:
            folder: which all processes see; made if it is not there.
            optimizer: the one that steps the head's parameters; None: nothing of it.
        """
        from torch.distributed.checkpoint.state_dict_saver import save  # takes a second

        self._ranks.check()
        state = self.state_dict()
        by_class, common = self._sorted({name: value for name, value in state.items() if name not in _OWN})
        for name, value in self._of_optimizer(optimizer).items():
            (by_class if value.ndim else common)[name] = value
        most = max(self._sizes_of_all())
        told: dict[str, Any] = {name: self._piece(padded(value, most)) for name, value in by_class.items()}
        told["classes"] = self._piece(nn.functional.pad(self.classes, (0, most - len(self.classes)), value=-1))
        save({**told, **common}, checkpoint_id=folder, **self._how())

    def load_shards(self, folder: str | os.PathLike[str], optimizer: torch.optim.Optimizer | None = None) -> None:
        """Load what any number of processes has saved by ``save_shards``. A collective.

        Class v comes to rank v % R, whoever had it. The head has as many classes then as the one that was saved.

        Args:
            folder: as given there.
            optimizer: whose state of the head's rows is to be what was saved; one that steps the head's parameters.

        Raises:
            InputError: (a ``ValueError``) there is nothing for this head in the folder, or nothing for the optimizer.
        """
        read = self._read(folder)
        state = {name: value for name, value in read.items() if not name.startswith(_STATE)}
        own = {name.removeprefix(_STATE): value for name, value in read.items() if name.startswith(_STATE)}
        if optimizer is not None and not own and any(optimizer.state.get(p) for p in self.parameters()):
            raise InputError(f"{folder} has no state of an optimizer. Save it with one, or build the optimizer anew.")
        self._take(state)
        if optimizer is None:
            return
        for parameter, name in ((p, n) for n, p in self.named_parameters(recurse=False)):
            found = {key.partition(".")[2]: value for key, value in own.items() if key.partition(".")[0] == name}
            if found:
                optimizer.state[parameter] = found

    def load_whole_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Load the state of a head that is whole, a ``Softmax`` or ``HebbianSoftmax``: each process its own rows of it.

        Args:
            state: as the ``state_dict()`` of such a head; the same on all processes.
        """
        self._ranks.check()
        by_class, common = self._sorted(dict(state))
        own_V = self._ruled(len(state["weight"]))
        self._total = len(state["weight"])
        self._take({**{name: value[own_V.to(value.device)] for name, value in by_class.items()}, **common}, own_V)

    @torch.no_grad()
    def whole_state_dict(self) -> dict[str, Tensor]:
        """The state of the head as one that is whole, on each process: all V rows. A collective."""
        by_class, common = self._sorted({name: x for name, x in self.state_dict().items() if name not in _OWN})
        if self._alone():
            return {**by_class, **common}
        sizes = self._sizes_of_all()
        order_V = self._ranks.gather(self.classes, sizes).argsort()
        return {**{name: self._ranks.gather(value, sizes)[order_V] for name, value in by_class.items()}, **common}

    def to_linear(self) -> nn.Linear:
        """As :meth:`Softmax.to_linear`, with the rows of all processes: a collective."""
        if self._alone():
            return super().to_linear()
        state = {name: x for name, x in self.whole_state_dict().items() if name in ("weight", "bias")}
        V, D = state["weight"].shape
        linear = nn.Linear(D, V, bias="bias" in state, device=self.weight.device, dtype=self.weight.dtype)
        linear.load_state_dict(state)
        return linear

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, local_metadata: dict[str, Any], *rest: Any
    ) -> None:
        if self._ranks.size > 1:
            classes, part = (state_dict.get(f"{prefix}{name}") for name in _OWN)
            told = ""
            if classes is None or part is None:
                told = "is of a whole head; head.load_whole_state_dict(state) takes this process's rows of it."
            elif (theirs := part.tolist()) != (ours := self.part.tolist()):
                told = f"is of part {theirs[0]} of {theirs[1]}, of {theirs[2]} classes; this one is part {ours[0]} of "
                told += f"{ours[1]}, of {ours[2]}. Another number of processes loads what save_shards() has saved."
            if told:
                rest[-1].append(f"the state {told}")  # torch's list of messages
                return
            if classes is not None and len(classes) != len(self.weight):  # after remove_classes
                self._fit(len(classes))
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *rest)

    # ── parts ──

    def _ruled(self, V: int) -> Tensor:
        return torch.arange(self._ranks.rank, V, self._ranks.size, device=self.classes.device)

    def _sizes_of_all(self) -> list[int]:
        return [len(self.weight)] if self._alone() else self._ranks.sizes(len(self.weight), self.classes.device)

    def _sorted(self, state: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """What there is of each class, and what there is of all together."""
        own = {name: name in self._by_class() for name in state}
        return {n: x for n, x in state.items() if own[n]}, {n: x for n, x in state.items() if not own[n]}

    def _by_class(self) -> set[str]:
        return {"weight", "bias"}

    def _of_optimizer(self, optimizer: torch.optim.Optimizer | None) -> dict[str, Tensor]:
        found = {}
        for name, parameter in self.named_parameters(recurse=False):
            for key, value in (optimizer.state.get(parameter, {}) if optimizer is not None else {}).items():
                if not isinstance(value, Tensor) or (value.ndim and value.shape[:1] != parameter.shape[:1]):
                    raise InputError(
                        f"{type(optimizer).__name__} keeps {key!r} of the head's {name}, which is no tensor of its "
                        "rows; expected the state of an optimizer of torch."
                    )
                found[f"{_STATE}{name}.{key}"] = value
        return found

    def _how(self) -> dict[str, Any]:
        if self._ranks.size == 1:
            return {"no_dist": True}
        return {"process_group": None if self._ranks.group is False else self._ranks.group}

    def _piece(self, rows: Tensor) -> Tensor:
        """This rank's rows [n, ...] of R x n, as what torch saves in parts."""
        if self._ranks.size == 1:
            return rows
        from torch.distributed.tensor import DTensor, Shard

        return DTensor.from_local(rows, self._mesh(), [Shard(0)], run_check=False)

    def _mesh(self) -> Any:
        from torch.distributed.device_mesh import DeviceMesh

        group = dist.group.WORLD if self._ranks.group in (None, False) else self._ranks.group
        assert group is not None
        return DeviceMesh.from_group(group, self.weight.device.type)  # type: ignore[arg-type]

    def _read(self, folder: str | os.PathLike[str]) -> dict[str, Tensor]:
        """This rank's classes of what is in the folder, by name."""
        from torch.distributed.checkpoint.filesystem import FileSystemReader
        from torch.distributed.checkpoint.state_dict_loader import load

        self._ranks.check()
        try:
            told = FileSystemReader(folder).read_metadata().state_dict_metadata
        except (OSError, ValueError) as error:
            raise InputError(f"{folder} holds no state that save_shards() has saved: {error}") from None
        if missing := {"classes", *self.state_dict()} - {"part"} - told.keys():
            raise InputError(f"{folder} has no {', '.join(sorted(missing))}; it is of another head.")
        rows = told["classes"].size[0]  # type: ignore[union-attr]
        share = -(-rows // self._ranks.size)
        start = min(self._ranks.rank * share, rows)
        mine = min(start + share, rows) - start
        room: dict[str, Any] = {}
        for name, one in told.items():
            size, dtype = one.size, one.properties.dtype  # type: ignore[union-attr]
            split = len(size) > 0 and (name == "classes" or name in self._by_class() or name.startswith(_STATE))
            empty = torch.empty(mine if split else size[:1], dtype=dtype) if len(size) < 2 else None
            if empty is None:
                empty = torch.empty(mine if split else size[0], *size[1:], dtype=dtype)
            empty = empty.to(self.weight.device)
            room[name] = self._share(empty, size) if split else empty
        load(room, checkpoint_id=folder, **self._how())
        local = {name: value.to_local() if hasattr(value, "to_local") else value for name, value in room.items()}
        return self._at_home(local)

    def _share(self, rows: Tensor, size: torch.Size) -> Tensor:
        if self._ranks.size == 1:
            return rows
        from torch.distributed.tensor import DTensor, Shard

        stride = torch.empty(size, device="meta").stride()
        how = {"run_check": False, "shape": size, "stride": stride}
        return DTensor.from_local(rows, self._mesh(), [Shard(0)], **how)  # type: ignore[arg-type]

    def _at_home(self, local: dict[str, Tensor]) -> dict[str, Tensor]:
        """Rows sent to the ranks whose classes they are, in rising order."""
        classes = local.pop("classes")
        real = classes >= 0
        names = [n for n, x in local.items() if x.ndim and (n in self._by_class() or n.startswith(_STATE))]
        rows = {name: local[name][real] for name in names}
        rows["classes"] = classes[real]
        if not self._alone():
            owner = rows["classes"] % self._ranks.size
            order = owner.argsort(stable=True)
            sizes = torch.bincount(owner, minlength=self._ranks.size).tolist()
            rows = {name: self._ranks.send(value[order], sizes)[0] for name, value in rows.items()}
        rising = rows["classes"].argsort()
        return {**local, **{name: value[rising] for name, value in rows.items()}}

    def _take(self, state: dict[str, Tensor], classes: Tensor | None = None) -> Self:
        """Be what a state of these classes says; of them it is told where it is not given here."""
        classes = state.pop("classes") if classes is None else classes
        total = torch.tensor(len(classes), device=self.classes.device)
        self._total = len(classes) if self._alone() else int(self._ranks.sum_(total))
        if len(classes) != len(self.weight):
            self._fit(len(classes))
        self._number(classes.to(self.classes.device))
        if self._ranks.size > 1:
            state = {**state, "classes": self.classes, "part": self.part}
        self.load_state_dict(state)
        return self
