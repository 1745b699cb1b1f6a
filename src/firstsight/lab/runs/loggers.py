"""A run's metrics for other tools: Fabric's loggers, which show what ``metrics.jsonl`` says and nothing else."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning_fabric.loggers.csv_logs import CSVLogger
from lightning_fabric.loggers.logger import Logger
from lightning_fabric.loggers.tensorboard import TensorBoardLogger

from firstsight.errors import InputError
from firstsight.lab.runs.metrics import flat, read_metrics
from firstsight.lab.system.progress import is_utf8

# Where in a run's folder each of them writes, and what its files are called.
FOLDER, FILES = "logs", {"csv": "metrics.csv", "tensorboard": "events.out.tfevents.*"}


class Loggers:
    """The loggers of a run: those that are named, and those that it has had before, so that a resumed run goes on.

    A start writes their files anew from ``metrics.jsonl``, so that no step is there twice, whatever was killed when.

    Args:
        folder: of the run.
        names: of ``FILES``.

    Raises:
        InputError: there is no such logger, or it needs a package that is not installed.
    """

    def __init__(self, folder: Path, names: Sequence[str] = ()) -> None:
        for name in names:
            if name not in FILES:
                raise InputError(f"logger is {name!r}; expected one of {', '.join(FILES)}, or several with commas.")
        self._folder = folder
        self._names = [name for name in FILES if name in names or any((folder / FOLDER / name).glob(FILES[name]))]
        self._loggers = [_logger(folder, name) for name in self._names]

    def begin(self) -> None:
        """Take in the lines that ``metrics.jsonl`` has."""
        for name in self._names:
            for old in (self._folder / FOLDER / name).glob(FILES[name]):
                old.unlink()
        path = self._folder / "metrics.jsonl"
        for line in read_metrics(path) if self._names and path.exists() else []:
            self._log(line)
        self._save()

    def beside(self, watch: Callable[[Mapping[str, Any]], bool] | None) -> Callable[[Mapping[str, Any]], bool]:
        """What is given each line of metrics as it is written, before ``watch`` is: on the disk when it returns."""

        def told(line: Mapping[str, Any]) -> bool:
            self._log(line)
            self._save()
            return watch is None or watch(line)

        return told

    def close(self) -> None:
        """End the files."""
        for logger in self._loggers:
            logger.finalize("success")

    def _log(self, line: Mapping[str, Any]) -> None:
        numbers = flat(line)
        step = int(numbers.pop("step"))
        for logger in self._loggers:
            logger.log_metrics(numbers, step)

    def _save(self) -> None:
        for logger in self._loggers:
            logger.save()


def _logger(folder: Path, name: str) -> Logger:
    where: dict[str, Any] = {"root_dir": folder, "name": FOLDER, "version": name}
    if name == "csv":
        return CSVLogger(**where)
    if not is_utf8(str(folder)):
        raise InputError(
            f"{folder}: logger is 'tensorboard', which cannot write into a folder whose name is not UTF-8. Rename the "
            "folder, or take the logger csv."
        )
    try:
        return TensorBoardLogger(**where)
    except ModuleNotFoundError as error:
        raise InputError(
            "logger is 'tensorboard', whose package is not installed: it is in the extra tensorboard, "
            "pip install '.[tensorboard]' in a checkout."
        ) from error
