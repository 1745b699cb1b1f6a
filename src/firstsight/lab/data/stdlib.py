"""The English that every Python carries: the docstrings of the standard library and the topics of ``pydoc``.

A corpus for machines without a network, under Python's own licence, read from the source files of the running
Python. Nothing is imported, so nothing is run: a module is parsed, and its docstrings are taken from the tree.

Our decisions, and why:

* A module is a top-level name; its submodules belong to it, and ``_pyio`` or ``_pydatetime`` to ``io`` or
  ``datetime``, whose docstrings they repeat. A docstring that occurs again elsewhere counts once.
* ``idlelib``, ``lib2to3`` and ``turtledemo`` are programs, not library; tests and bundled packages are left out.
* The topics of ``pydoc`` (the language reference) always train: they quote one another at length.
* Modules go to test, validation or training by the SHA-256 of their names: the same on every machine with the same
  Python. A module names its own classes and functions again and again, and no module outside training was seen
  there, so new names turn up in bursts.
* Words are put in lower case, and a line of nothing but signs (a rule under a heading) is dropped like a blank one.
* Words that training has once become ``<unk>``, so that a model learns what that is.
"""

import ast
import hashlib
import os
import platform
import sysconfig
from collections.abc import Iterator
from functools import partial
from pathlib import Path, PurePath

from firstsight.errors import InputError
from firstsight.lab.data.corpus import Corpus, write_corpus
from firstsight.lab.data.tokenize import tokenize

TOKENIZER = "words-lower"
HELD_OUT = 0.075
"""The share of all tokens that validation gets, and test."""
_LEAST_LINES = 5_000  # a whole library has some 30,000 lines of docstrings

_LEFT_OUT = {"test", "tests", "idle_test", "idlelib", "lib2to3", "turtledemo", "ensurepip"}
_LEFT_OUT |= {"site-packages", "dist-packages", "lib-dynload", "pydoc_data", "__pycache__"}


def prepare(out: str | Path) -> Corpus:
    """Make a data folder of the documentation inside the running Python.

    Raises:
        InputError: this Python comes without the sources of its library, or one of them does not parse.
    """
    root = library()
    modules, topics = collect(root), pydoc_topics(root)
    if sum(map(len, modules.values())) < _LEAST_LINES:
        raise without_sources(root)
    splits = split(modules, others=_size(topics))
    texts = {name: [line for module in names for line in modules[module]] for name, names in splits.items()}
    texts["train"] += topics
    digest = hashlib.sha256("\n".join(line for lines in texts.values() for line in lines).encode()).hexdigest()
    source = {"name": f"Python {platform.python_version()}", "modules": len(modules), "sha256": digest}
    return write_corpus(
        out,
        "stdlib",
        {name: partial(iter, lines) for name, lines in texts.items()},
        tokenizer=TOKENIZER,
        sources=[{**source, "splits": splits}],
        min_count=2,
    )


def library() -> Path:
    """Where the running Python has its standard library."""
    return Path(sysconfig.get_path("stdlib"))


def without_sources(root: Path) -> InputError:
    """What is said where the library holds too little to be one."""
    return InputError(
        f"{root}: this Python comes without the source files of its standard library, whose docstrings are the data "
        "here. Use a Python that has them (python.org, conda, a system's full package), or texts of your own."
    )


def collect(root: Path) -> dict[str, list[str]]:
    """The lines of the docstrings under ``root`` by module, in the order of the source files' names."""
    modules: dict[str, list[str]] = {}
    for module, docstring in docstrings(root):
        modules.setdefault(module, []).extend(_lines(docstring))
    return {name: lines for name, lines in modules.items() if lines}


def docstrings(root: Path) -> Iterator[tuple[str, str]]:
    """Module and text of each docstring under ``root``, in the order of the source files; one that recurs comes once.

    Raises:
        InputError: a source file does not parse.
    """
    seen: set[str] = set()
    for path in _sources(root):
        try:
            tree = ast.parse(path.read_bytes())
        except SyntaxError as error:
            raise InputError(
                f"{path}: this file does not parse ({error}), and it lies in the library of this Python. Move it away "
                "if it is not part of Python; otherwise the installation is damaged."
            ) from error
        module = module_of(path.relative_to(root))
        for docstring in _docstrings(tree):
            if docstring not in seen:
                seen.add(docstring)
                # A docstring can hold a lone surrogate, which UTF-8 cannot.
                yield module, docstring.encode("utf-8", "replace").decode()


def _sources(root: Path) -> Iterator[Path]:
    """The source files to read, in the same order on every machine."""
    for folder, folders, files in os.walk(root):
        # In place, so that os.walk does not descend into a site-packages of many thousand files.
        folders[:] = sorted(name for name in folders if name not in _LEFT_OUT and not name.startswith("config-"))
        for name in sorted(files):
            if name.endswith(".py") and not name.startswith("_sysconfigdata"):
                yield Path(folder, name)


def module_of(relative: PurePath) -> str:
    """The module that a source file belongs to: its top-level name, without the marks of a Python twin."""
    name = relative.parts[0].removesuffix(".py")
    return name.removeprefix("_py")


def _docstrings(tree: ast.AST) -> Iterator[str]:
    """In the order of the source."""
    if isinstance(tree, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        yield ast.get_docstring(tree) or ""
    for child in ast.iter_child_nodes(tree):
        if not isinstance(child, ast.expr):  # expressions are most of a tree and hold no docstrings
            yield from _docstrings(child)


def pydoc_topics(root: Path) -> list[str]:
    """The lines of the topics that ``help()`` knows; none where a distribution left them out."""
    path = root / "pydoc_data" / "topics.py"
    if not path.exists():
        return []
    for node in ast.parse(path.read_bytes()).body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict):
            topics = ast.literal_eval(node.value)
            return [line for name in sorted(topics) for line in _lines(topics[name])]
    return []


def _lines(text: str) -> list[str]:
    return [line.strip() for line in text.split("\n") if any(map(str.isalnum, line))]


def _size(lines: list[str]) -> int:
    return sum(len(tokenize(line, TOKENIZER)) + 1 for line in lines)


def split(modules: dict[str, list[str]], others: int = 0) -> dict[str, list[str]]:
    """The names of the modules of each split, in the order of the SHA-256 of their names.

    Validation and test fill up to ``HELD_OUT`` of the tokens each, ``others`` (tokens that train in any case) counted
    in. A module goes to the emptier of the two if it takes at most half of the room that is left there, and to
    training otherwise: so no module is most of a split.
    """
    sizes = {name: _size(lines) for name, lines in modules.items()}
    room = dict.fromkeys(("valid", "test"), HELD_OUT * (sum(sizes.values()) + others))
    splits: dict[str, list[str]] = {"train": [], "valid": [], "test": []}
    for name in sorted(modules, key=lambda name: hashlib.sha256(name.encode()).hexdigest()):
        into = max(room, key=lambda held: room[held])
        if sizes[name] <= room[into] / 2:
            room[into] -= sizes[name]
        else:
            into = "train"
        splits[into].append(name)
    return splits
