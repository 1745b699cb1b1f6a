"""The commands on a datastore, and what they print."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from firstsight.errors import InputError
from firstsight.lab.cli.output import Checkpoint, Device, Found, Json, MaybeInt, MaybePath, MaybeText, Moved, show, tell
from firstsight.lab.system.devices import AUTO

Stores = Annotated[tuple[Path, ...], arg(metavar="STORE [STORE ...]")]


@dataclass(frozen=True)
class Build:
    """Write what a run's model makes of its training text, and the word that followed each time, into a store.

    Interrupted, the same command goes on.

    Example: firstsight store build runs/hebbian

    Example: firstsight store build runs/hebbian --index ivf
    """

    run: Positional[Path]
    """folder of the run"""
    split: Literal["train", "valid", "test"] = "train"
    """which text"""
    out: MaybePath = None
    """folder of the store; by default RUN/memory/store"""
    dtype: Literal["float16", "float32", "int8"] = "float16"
    """how the activations are kept"""
    index: Annotated[Literal["ivf", "ivfpq", "hnsw"] | None, arg(metavar="{ivf,ivfpq,hnsw}")] = None
    """make an approximate index too, by faiss, and measure what it finds"""
    checkpoint: Checkpoint = "best"
    data: Moved = None
    device: Device = AUTO
    json: Json = False


@dataclass(frozen=True)
class Info:
    """What a store holds, after checking all of it.

    Example: firstsight store info runs/hebbian/memory/store
    """

    folder: Positional[Path]
    """the store"""
    json: Json = False


@dataclass(frozen=True)
class Delete:
    """Delete a document, a word or an entry from a store: no search finds it from now on. compact removes its bytes.

    Example: firstsight store delete runs/hebbian/memory/store --document 12

    Example: firstsight store delete runs/hebbian/memory/store --word Smith --run runs/hebbian
    """

    folder: Positional[Path]
    """the store"""
    document: MaybeInt = None
    """the number of a document, as the data folder has them"""
    word: MaybeText = None
    """a word of the run's vocabulary"""
    entry: MaybeInt = None
    """the number of an entry: the position of its word in the text"""
    run: MaybePath = None
    """folder of the run, for --word"""
    json: Json = False


@dataclass(frozen=True)
class Compact:
    """Write a store anew without what was deleted from it.

    Example: firstsight store compact runs/hebbian/memory/store --out stores/clean
    """

    folder: Positional[Path]
    """the store"""
    out: Path
    """folder of the new one"""
    json: Json = False


@dataclass(frozen=True)
class Join:
    """Write one store of several that are of the same model, one text after another.

    Example: firstsight store join runs/hebbian/memory/store stores/letters --out stores/both
    """

    folders: Positional[Stores]
    """the stores"""
    out: Path
    """folder of the new one"""
    json: Json = False


def act(command: Build | Info | Delete | Compact | Join) -> int:
    """Do what is asked."""
    from firstsight.lab.reading import stored

    if isinstance(command, Build):
        data = None if command.data is None else str(command.data)
        options = {name: value for name, value in vars(command).items() if name not in ("run", "data", "json")}
        found = stored.store_run(command.run, data=data, **options)
    elif isinstance(command, Info):
        found = stored.store_info(command.folder)
    elif isinstance(command, Delete):
        given = {name: getattr(command, name) for name in ("document", "word", "entry")}
        asked = {name: value for name, value in given.items() if value is not None}
        if len(asked) != 1:
            raise InputError("store delete takes one of --document, --word and --entry.")
        found = stored.delete_from(command.folder, run=command.run, **asked)
    elif isinstance(command, Compact):
        found = stored.compact_store(command.folder, command.out)
    else:
        found = stored.join_stores(command.folders, command.out)
    return show(found, command.json, _print)


def _print(found: Found) -> None:
    about, index = found["about"], found["index"]
    if "now" in found:
        tell(f"{found['now']:,} entries deleted now")
    entries = f"{found['entries']:,} entries of {found['dim']} x {found['dtype']}, {found['deleted']:,} deleted"
    tell(f"{found['store']}: {entries}, {found['documents']:,} documents, {found['bytes'] / 1e6:,.0f} MB")
    tell(f"of {about.get('corpus')}, {about.get('split')}, checkpoint {str(about.get('checkpoint'))[:12]}")
    if index:
        tell(f"index {index['kind']}: finds {index['recall']:.1%} of the {index['k']:,} nearest")
