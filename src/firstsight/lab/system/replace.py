"""A folder whose content is made anew: beside the old one, which is there, whole, until the new one is."""

import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from firstsight.errors import InputError
from firstsight.lab.system.folder import hold
from firstsight.lab.system.manifest import DIGESTS, listed, seal

NEW, READY = ".new", ".ready"
_PATIENCE = 10.0  # seconds for another process that is finishing it


@contextmanager
def replacing(folder: str | Path, kind: str, stale: Iterable[str] = ()) -> Iterator[Path]:
    """A folder inside of ``folder`` to be filled, whose files take the place of the old ones when the block ends well.

    Killed before that, or with an exception, the old ones stay; killed later, the next who looks finishes it.

    Args:
        kind: of the folder, as ``hold`` takes it.
        stale: what may be left of a folder that has no manifest. What the old one's manifest lists goes by itself.
    """
    folder = Path(folder)
    with hold(folder, kind):
        finish_replacing(folder)
        new = folder / NEW
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir()
        try:
            yield new
            for path in new.iterdir():
                check_no_folder(folder / path.name)
        except BaseException:
            shutil.rmtree(new, ignore_errors=True)
            raise
        seal(new, kind)
        os.replace(new, folder / READY)
        finish_replacing(folder)
        for name in set(stale) - set(listed(folder)):
            (folder / name).unlink(missing_ok=True)


def check_no_folder(path: Path) -> None:
    """Raise InputError if there is a folder where a file is to be written."""
    if path.is_dir():
        raise InputError(f"{path}: this is a folder, and a file is to be written in its place. Move it away.")


def finish_replacing(folder: Path, kind: str = "") -> None:
    """Move what is ready into its place, the manifest last; nothing where nothing is."""
    ready = folder / READY
    if not ready.is_dir():
        return
    with hold(folder, kind, wait=_PATIENCE):
        if not ready.is_dir():
            return
        names = sorted(path.relative_to(ready).as_posix() for path in ready.rglob("*") if path.is_file())
        if (ready / DIGESTS).exists():  # the last of all to go
            for name in set(listed(folder)) - set(listed(ready)):
                if not (folder / name).is_dir():
                    (folder / name).unlink(missing_ok=True)
        for name in sorted(names, key=lambda name: name == DIGESTS):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            os.replace(ready / name, folder / name)
        shutil.rmtree(ready)
