"""The project's source as trees: who imports whom, what is defined, and which private names of others are used."""

from __future__ import annotations

import ast
import sys
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from tests.support.processes import ROOT

__all__ = [
    "circles",
    "defined_private",
    "foreign_private",
    "import_graph",
    "imported",
    "module_of",
    "name_of",
    "trees",
    "used_names",
    "walk",
]

# Documented in Python's own manual, underscore or not.
_DOCUMENTED = {"_asdict", "_exit", "_field_defaults", "_fields", "_make", "_replace"}
_BY_NAME = {"delattr", "getattr", "hasattr", "setattr"}


def trees(*folders: str) -> dict[Path, ast.Module]:
    """Read every module of some folders."""
    return {path: ast.parse(path.read_text()) for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))}


def name_of(path: Path) -> str:
    """Give a file's path as the tables have it."""
    return path.relative_to(ROOT).as_posix()


def module_of(path: Path) -> str:
    """Give the name by which a file is imported; a package's is that of its folder."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def walk(node: ast.AST) -> Iterator[ast.AST]:
    """Walk all that can run, functions as well; not what only type checkers read."""
    for inner in ast.iter_child_nodes(node):
        if isinstance(inner, ast.If) and "TYPE_CHECKING" in ast.unparse(inner.test):
            continue
        yield inner
        yield from walk(inner)


def imported(node: ast.AST) -> Iterator[str]:
    """Name the modules that a statement imports; of `from spool import x` both, since x may be a module."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        assert node.module, "a relative import: they hide who imports whom"
        yield node.module
        yield from (f"{node.module}.{alias.name}" for alias in node.names)


def import_graph(sources: Mapping[str, ast.Module]) -> dict[str, set[str]]:
    """Give for each module those that it imports anywhere, by what it says: a package is not meant by its module."""
    graph: dict[str, set[str]] = {}
    for module, tree in sources.items():
        graph[module] = set()
        for node in walk(tree):
            if isinstance(node, ast.ImportFrom):
                package, *inner = imported(node)
                graph[module] |= {name if name in sources else package for name in inner} & set(sources)
            else:
                graph[module] |= {name for name in imported(node) if name in sources}
    return graph


def circles(graph: Mapping[str, Iterable[str]]) -> list[list[str]]:
    """Give the shortest circle through each module that is in one, each circle once."""
    found: dict[frozenset[str], list[str]] = {}
    for start in sorted(graph):
        before: dict[str, str] = {}
        ahead = deque([start])
        while ahead and start not in before:
            module = ahead.popleft()
            for name in sorted(graph[module]):
                if name not in before:
                    before[name] = module
                    ahead.append(name)
        if start in before:
            way = [start]
            while (step := before[way[-1]]) != start:
                way.append(step)
            found.setdefault(frozenset(way), [start, *reversed(way)])
    return list(found.values())


def used_names(tree: ast.Module) -> Iterator[str]:
    """Name all that a module reads, imports or takes as an attribute."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
            yield node.id
        elif isinstance(node, ast.Attribute):
            yield node.attr
        elif isinstance(node, ast.ImportFrom):
            yield from (alias.name for alias in node.names)


def _is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__") and name not in {"_", *_DOCUMENTED}


def defined_private(tree: ast.Module) -> Iterator[str]:
    """Name the private functions, classes, variables and attributes that a module defines itself."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            if isinstance(node.value, ast.Name) and node.value.id in ("self", "cls"):
                yield node.attr
        elif isinstance(node, ast.Assign) and any(ast.unparse(target) == "__slots__" for target in node.targets):
            yield from (str(part.value) for part in ast.walk(node.value) if isinstance(part, ast.Constant))


def _standard(tree: ast.Module) -> set[str]:
    """Give the names under which a module knows modules of the standard library and what it took out of them."""
    known = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            roots = {alias.asname or alias.name.split(".")[0]: alias.name.split(".")[0] for alias in node.names}
            known |= {name for name, root in roots.items() if root in sys.stdlib_module_names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] in sys.stdlib_module_names:
            known |= {alias.asname or alias.name for alias in node.names}
    return known


def foreign_private(tree: ast.Module, ours: set[str]) -> Iterator[str]:
    """Name the private modules, functions and attributes of others that a module uses.

    `ours` are the private names that the project defines. An attribute is somebody else's where its root is of the
    standard library (`os.environ._data`), and where nothing of ours has that name (`self._lock._is_owned`); also as a
    text (`getattr(os.environ, "_data")`). An object of Python's own in which ours has a private name is not told.
    """
    standard = _standard(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            for name in imported(node):
                parts = name.split(".")
                if parts[0] in sys.stdlib_module_names or parts[0] not in ("spool", "flusher"):
                    yield from (part for part in parts if _is_private(part))
        elif isinstance(node, ast.Attribute) and _is_private(node.attr):
            if node.attr not in ours or _root(node) in standard:
                yield node.attr
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in _BY_NAME:
            for word in node.args[1:2]:
                name = str(word.value) if isinstance(word, ast.Constant) else ""
                if _is_private(name) and (name not in ours or _root(node.args[0]) in standard):
                    yield name


def _root(node: ast.expr) -> str:
    """Give the name that an expression of attributes begins with; of a call of another kind, nothing."""
    while isinstance(node, ast.Attribute):
        node = node.value
    return node.id if isinstance(node, ast.Name) else ""
