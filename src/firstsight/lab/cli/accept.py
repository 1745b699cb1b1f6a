"""``firstsight accept``: take the files of a folder as they are."""

from pathlib import Path

from tyro.conf import Positional

from firstsight.lab.cli.output import Found, Json, show, tell


def accept(folder: Positional[Path], json: Json = False) -> int:
    """Take a folder's files as they are now, after you edited them by hand, for those that firstsight wrote.

    Every folder that firstsight writes keeps the SHA-256 of its files in digests.json, and a file that does not fit is
    refused: it was damaged, swapped with another, or edited. This says that it was edited on purpose.

    Example: firstsight accept runs/hebbian

    Args:
        folder: a run, a data folder, or whatever the message named.
    """
    from firstsight.lab.system.folder import hold
    from firstsight.lab.system.manifest import accept as take

    with hold(folder, make=False):
        found: Found = {"folder": str(folder), **take(folder)}
    return show(found, json, _print)


def _print(found: Found) -> None:
    for name in found["changed"]:
        tell(f"taken as it is: {name}")
    for name in found["missing"]:
        tell(f"not there any more: {name}")
    if not (found["changed"] or found["missing"]):
        tell("every file is as it was written")
