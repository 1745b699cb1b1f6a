"""What the source's syntax trees say of its imports: which run up, which run in a circle, which take private names.

A module is its dotted name below the package: ``lab.lm.training``; ``""`` is the package itself. Its folder is all but
the last part.
"""

import ast
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

PACKAGE = "firstsight"
STANDARD = sys.stdlib_module_names


class Import(NamedTuple):
    """``source`` imports ``name`` (or the whole module, "") from the module ``target``."""

    source: str
    target: str
    name: str


def read_modules(root: Path) -> dict[str, str]:
    """The text of every module under ``root``, the package's folder."""
    found = {}
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path.read_text(encoding="utf-8")
    return found


def folder_of(module: str, modules: Mapping[str, str]) -> str:
    """The folder that a module's file lies in; of a package's ``__init__`` the package."""
    is_package = any(other.startswith(f"{module}.") for other in modules) or module == ""
    return module if is_package else module.rpartition(".")[0]


def imports(modules: Mapping[str, str]) -> Iterator[Import]:
    """Every import of a module of the package, those inside functions and for the type checker alone too."""
    for source, text in modules.items():
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    if alias.name.split(".")[0] == PACKAGE:
                        yield Import(source, alias.name.removeprefix(PACKAGE).lstrip("."), "")
            elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == PACKAGE:
                target = (node.module or "").removeprefix(PACKAGE).lstrip(".")
                for alias in node.names:
                    inner = f"{target}.{alias.name}".lstrip(".")
                    yield Import(source, inner, "") if inner in modules else Import(source, target, alias.name)


def third_party(modules: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Every import from outside of the package: (module, top name)."""
    for source, text in modules.items():
        for node in ast.walk(ast.parse(text)):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            yield from ((source, name.split(".")[0]) for name in names if name.split(".")[0] != PACKAGE)


def layer_of(module: str, layers: Mapping[str, int]) -> int:
    """The layer of the longest prefix that ``layers`` knows."""
    parts = module.split(".")
    known = [".".join(parts[:n]) for n in range(len(parts), 0, -1) if ".".join(parts[:n]) in layers]
    if not known:
        raise KeyError(f"{module or 'the package'} stands on no layer: add its room to LAYERS")
    return layers[known[0]]


def upward(modules: Mapping[str, str], layers: Mapping[str, int], rooms: Iterable[str]) -> set[str]:
    """Imports from a higher layer, or from another room of one's own: "source -> target"."""
    rooms = list(rooms)

    def room(module: str) -> str:
        return max((r for r in rooms if f"{module}.".startswith(f"{r}.")), key=len, default="")

    found = set()
    for source, target, _ in imports(modules):
        if source in ("", "__main__") or target == "":
            continue  # the package's face and its entry see the floors that test_layers names
        low, high = layer_of(source, layers), layer_of(target, layers)
        if high > low or (high == low and room(source) != room(target)):
            found.add(f"{source} -> {target}")
    return found


def circles(modules: Mapping[str, str]) -> list[list[str]]:
    """The strongly connected groups of more than one module (Tarjan)."""
    arrows: dict[str, set[str]] = {module: set() for module in modules}
    for source, target, _ in imports(modules):
        if source != target and target in arrows:
            arrows[source].add(target)
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(module: str) -> None:
        index[module] = low[module] = len(index)
        stack.append(module)
        for target in sorted(arrows[module]):
            if target not in index:
                visit(target)
                low[module] = min(low[module], low[target])
            elif target in stack:
                low[module] = min(low[module], index[target])
        if low[module] == index[module]:
            group = stack[stack.index(module) :]
            del stack[stack.index(module) :]
            if len(group) > 1:
                found.append(sorted(group))

    for module in sorted(modules):
        if module not in index:
            visit(module)
    return found


def private(modules: Mapping[str, str]) -> set[str]:
    """Private names (``_x``) used outside of the folder that owns them: "module: name".

    An imported name, a private part of an imported module's path, and an attribute of anything but ``self`` and ``cls``
    whose name another folder defines and this one does not.
    """
    folders = {module: folder_of(module, modules) for module in modules}
    defined: dict[str, set[str]] = {}
    for module, text in modules.items():
        defined.setdefault(folders[module], set()).update(_defined(ast.parse(text)))
    anywhere = set().union(*defined.values()) - {"_version"}  # torch's, of tensors and of modules
    found = set()
    for source, target, name in imports(modules):
        inside = target in folders and folders[target] == folders[source]
        hidden = [part for part in [*target.split("."), name] if part.startswith("_") and not part.startswith("__")]
        own = target.rpartition(".")[0] == folders[source]
        if hidden and not (inside or own) and target != "_version":
            found.add(f"{source}: {target}{f'.{name}' if name else ''}")
    for module, text in modules.items():
        here = defined[folders[module]]
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.startswith("__"):
                of_self = isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")
                of_super = isinstance(node.value, ast.Call) and getattr(node.value.func, "id", "") == "super"
                if not (of_self or of_super) and node.attr in anywhere - here:
                    found.add(f"{module}: .{node.attr}")
    return found


def _defined(tree: ast.AST) -> Iterator[str]:
    """The private names that a file defines: functions, classes, variables, attributes of ``self``."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names = [node.name]
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names = [node.id]
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            names = [node.attr]
        else:
            names = []
        yield from (name for name in names if name.startswith("_") and not name.startswith("__"))
