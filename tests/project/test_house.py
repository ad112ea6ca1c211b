"""The house stays in order: who may import what, no circles, one importer a library, nothing dead."""

from __future__ import annotations

import ast
import graphlib
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from tests.support.processes import ROOT

PACKAGES = ("spool", "flusher")


def trees(*folders: str) -> dict[Path, ast.Module]:
    """Read every module of some folders."""
    return {path: ast.parse(path.read_text()) for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))}


SOURCES = trees(*PACKAGES)
EVERYTHING = SOURCES | trees("scripts", "tests")

# Each third-party library, the modules that import it, and why, where it is more than one.
IMPORTERS = {
    "crontab": {"flusher/schedule/cron.py"},
    "diskcache": {"spool/queue/cache.py"},
    "filelock": {"spool/queue/lock.py"},
    "jinja2": {"flusher/report/page.py"},
    "leather": {"flusher/report/charts.py"},
    "markupsafe": {"flusher/report/page.py"},  # jinja2's own word for text that is HTML already
    # Catalogues are msgspec classes: ours, a host's base class, and what is read out of the classes. The flusher reads
    # two fields of each event by one.
    "msgspec": {
        "flusher/delivery/counts.py",
        "spool/catalogue/__init__.py",
        "spool/catalogue/schema.py",
        "spool/ktx_events.py",
    },
    "posthog": {"flusher/delivery/wire.py"},
    "requests": {"flusher/delivery/wire.py"},  # posthog takes a session of it
    # The guard kit is a plugin of pytest, loaded by pytest alone; the session check is a part of its own.
    "pytest": {"spool/testing/all_events.py", "spool/testing/__init__.py"},
    # What prints for a person: one module for each thing that is shown.
    "rich": {
        "flusher/doctor/render.py",
        "flusher/commands/letter_table.py",
        "flusher/commands/progress.py",
        "flusher/commands/render.py",
        "flusher/schedule/table.py",
    },
    # A command is a function with typer's annotations: the modules that register commands, and what they share.
    "typer": {
        "flusher/commands/audit.py",
        "flusher/cli.py",
        "flusher/commands/events.py",
        "flusher/commands/doctor.py",
        "flusher/commands/look.py",
        "flusher/commands/render.py",
        "flusher/commands/report.py",
        "flusher/commands/schedule.py",
        "flusher/commands/shared.py",
    },
}
# A host pays for what spool imports. click and typer stand nowhere: `spool/command/click_app.py` works with the module
# that the host's own app came from.
FOR_HOSTS = {"diskcache", "filelock", "msgspec", "pytest"}

# Read by no module of ours: hosts call them, pytest, typer or requests does.
CALLED_FROM_OUTSIDE = {
    *("capture_exception", "hide", "json_schema", "mark_expected", "none", "opted_out"),  # by hosts and their tests
    "_make",  # by a named tuple's `_replace`
    "get_redirect_target",  # by requests, of our session
    *("pytest_addoption", "pytest_configure", "pytest_testnodedown"),
    *("pytest_sessionfinish", "pytest_terminal_summary"),
    *("run_command", "status_command", "enable_command", "disable_command"),  # typer's decorator takes them
}


def name_of(path: Path) -> str:
    """Give a file's path as the tables have it."""
    return path.relative_to(ROOT).as_posix()


def imported(node: ast.AST) -> Iterator[str]:
    """Name the modules that a statement imports; of `from spool import x` both, since x may be a module."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        assert node.module, "a relative import: they hide who imports whom"
        yield node.module
        yield from (f"{node.module}.{alias.name}" for alias in node.names)


def at_import(node: ast.AST) -> Iterator[ast.AST]:
    """Walk what runs when a module is imported: not functions, not what only type checkers read."""
    for inner in ast.iter_child_nodes(node):
        if isinstance(inner, ast.If) and "TYPE_CHECKING" in ast.unparse(inner.test):
            continue
        if not isinstance(inner, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield inner
            yield from at_import(inner)


def roots(tree: ast.Module) -> set[str]:
    """Name the packages that a module imports anywhere, without those of Python itself."""
    found = {name.split(".")[0] for node in ast.walk(tree) for name in imported(node)}
    return found - set(sys.stdlib_module_names)


def test_each_library_is_imported_where_the_table_says() -> None:
    """One module each, which translates its errors; where it is more, the table tells why. No row is idle."""
    found: dict[str, set[str]] = defaultdict(set)
    for path, tree in SOURCES.items():
        for root in roots(tree) - set(PACKAGES):
            found[root].add(name_of(path))
    assert found == IMPORTERS


def test_spool_imports_nothing_that_delivers() -> None:
    """No module of spool names flusher or a library of the delivery side, not even inside a function."""
    for path, tree in SOURCES.items():
        if path.relative_to(ROOT).parts[0] == "spool":
            assert roots(tree) <= FOR_HOSTS | {"spool"}, path


def test_what_is_imported_by_a_name_in_a_variable_is_a_catalogue() -> None:
    """The table could be got around with importlib: its one call loads the catalogue that a host's tests name."""
    calls = {
        name_of(path)
        for path, tree in SOURCES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "__import__"))
    }
    assert calls == {"spool/testing/all_events.py"}


def test_no_circle_of_imports() -> None:
    """Each module can be imported first, in any order."""
    modules = {".".join(path.relative_to(ROOT).with_suffix("").parts): tree for path, tree in SOURCES.items()}
    graph = {
        module: {name for node in at_import(tree) for name in imported(node) if name in modules}
        for module, tree in modules.items()
    }
    assert graph["spool.telemetry"]
    assert next(iter(graphlib.TopologicalSorter(graph).static_order()))


def test_the_walk_over_imports_sees_a_circle() -> None:
    """The test above would find one: also below `try`, and not what only a type checker reads."""
    tree = ast.parse("if TYPE_CHECKING:\n import a\ntry:\n import b\nexcept ImportError:\n import c\ndef f(): import d")
    assert [name for node in at_import(tree) for name in imported(node)] == ["b", "c"]


def used_names(tree: ast.Module) -> Iterator[str]:
    """Name all that a module reads, imports or passes by keyword."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
            yield node.id
        elif isinstance(node, ast.Attribute):
            yield node.attr
        elif isinstance(node, ast.ImportFrom):
            yield from (alias.name for alias in node.names)


def test_no_function_class_or_constant_is_dead() -> None:
    """Each is used by the packages themselves, a test alone is no use; what others call stands in a list."""
    used = {name for tree in SOURCES.values() for name in used_names(tree)}
    dead = set()
    for tree in SOURCES.values():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                dead.add(node.name)
        for statement in tree.body:
            if isinstance(statement, ast.Assign):
                dead |= {target.id for target in statement.targets if isinstance(target, ast.Name)}
    assert {name for name in dead - used if not name.startswith("__")} == CALLED_FROM_OUTSIDE
