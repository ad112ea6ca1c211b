"""What would harm who uses or changes the code: a crossed import wall, circles, dead code, borrowed private names."""

from __future__ import annotations

import ast
import sys
from collections import Counter, defaultdict

import pytest

from tests.support.processes import ROOT
from tests.support.source_code import (
    circles,
    defined_private,
    foreign_private,
    import_graph,
    imported,
    module_of,
    name_of,
    trees,
    used_names,
    walk,
)

PACKAGES = ("spool", "flusher")

# What PyInstaller runs while it builds a program, and first of all in that, is no module of ours.
HOOKS = ROOT / "spool" / "freezing" / "hooks"
SOURCES = {path: tree for path, tree in trees(*PACKAGES).items() if HOOKS not in path.parents}

# Each third-party library, the modules that import it, and why, where it is more than one.
IMPORTERS = {
    "crontab": {"flusher/schedule/cron.py"},
    "diskcache": {"spool/queue/cache.py"},
    "filelock": {"spool/queue/lock.py"},
    "jinja2": {"flusher/report/page.py"},
    "leather": {"flusher/report/page.py"},
    "markupsafe": {"flusher/report/page.py"},  # jinja2's own word for text that is HTML already
    # Catalogues are msgspec classes: ours, a host's base class, and what is read out of the classes. The flusher reads
    # two fields of each event by one.
    "msgspec": {
        "flusher/counts.py",
        "spool/catalogue/__init__.py",
        "spool/catalogue/schema.py",
        "spool/ktx_events.py",
    },
    "posthog": {"flusher/delivery/wire.py"},
    "requests": {"flusher/delivery/wire.py"},  # posthog takes a session of it
    # The guard kit is a plugin of pytest, loaded by pytest alone; the session check is a part of its own.
    "pytest": {"spool/testing/all_events.py", "spool/testing/__init__.py"},
    # What prints for a person; the progress bar takes more of it, and is shown by few runs.
    "rich": {"flusher/commands/progress.py", "flusher/commands/screen.py"},
    # A command is a function with typer's annotations: the modules of commands, and what they share.
    "typer": {
        "flusher/cli.py",
        "flusher/commands/enable_disable.py",
        "flusher/commands/events.py",
        "flusher/commands/export_import.py",
        "flusher/commands/health.py",
        "flusher/commands/report.py",
        "flusher/commands/run.py",
        "flusher/commands/schedule.py",
        "flusher/commands/screen.py",
        "flusher/commands/shared.py",
    },
}
# A host pays for what spool imports. click and typer stand nowhere: `spool/command/click_app.py` works with the module
# that the host's own app came from.
FOR_HOSTS = {"diskcache", "filelock", "msgspec", "pytest"}

# Read by no module of ours: hosts call them, pytest, typer or requests does.
CALLED_FROM_OUTSIDE = {
    # By hosts and their tests.
    *("capture_exception", "finish", "json_schema", "mark_expected", "none", "opted_out", "signals"),
    "PRIVATE_NAMES",  # what is relied on of diskcache, read by its test
    "_make",  # by a named tuple's `_replace`
    "get_redirect_target",  # by requests, of our session
    "hook_folders",  # by PyInstaller
    *("pytest_addoption", "pytest_configure", "pytest_testnodedown"),
    *("pytest_sessionfinish", "pytest_terminal_summary"),
}

# Private names of Python or of a library that are used all the same, by module, each with its reason.
PRIVATE_NAMES = {
    "spool/command/span.py": {
        "_getframe": "documented; a mistake is said at the line of the host that made it, and inspect is slow to load",
    },
}
# By fcntl, msvcrt and os. filelock has its own words for each.
CALLS_THAT_LOCK = {"flock", "lockf", "locking", "F_SETLK", "F_SETLKW", "F_OFD_SETLK", "F_OFD_SETLKW"}
MOST_MODULES = 16


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
    """The table could be got around with importlib: one call loads the catalogue that a host's tests name.

    Another one loads the flusher that a frozen app becomes, in a process of its own.
    """
    calls = {
        name_of(path)
        for path, tree in SOURCES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "__import__"))
    }
    assert calls == {"spool/testing/all_events.py", "spool/launch/mark.py"}


def test_no_circle_of_imports() -> None:
    """Each module can be imported first, in any order, and none hides a circle in a function."""
    graph = import_graph({module_of(path): tree for path, tree in SOURCES.items()})
    assert graph["spool.telemetry"]
    assert [" -> ".join(circle) for circle in circles(graph)] == []


def test_the_walk_over_imports_sees_a_circle() -> None:
    """The test above would find one: below `try`, in a function, through a package; not for a type checker only."""
    code = "if TYPE_CHECKING:\n import a\ntry:\n import b\nexcept ImportError:\n import c\ndef f(): import d"
    assert [name for node in walk(ast.parse(code)) for name in imported(node)] == ["b", "c", "d"]
    sources = {
        "p": "from p.a import x",
        "p.a": "def f(): from p import b, y",
        "p.b": "import q",
        "q": "from p import b",
    }
    graph = import_graph({name: ast.parse(text) for name, text in sources.items()})
    assert graph == {"p": {"p.a"}, "p.a": {"p.b", "p"}, "p.b": {"q"}, "q": {"p.b"}}
    assert circles(graph) == [["p", "p.a", "p"], ["p.b", "q", "p.b"]]


def test_no_private_name_of_others_is_used() -> None:
    """Neither of Python nor of a library: the next release may take it away. Each exception has its reason."""
    ours = {name for tree in SOURCES.values() for name in defined_private(tree)}
    found = {name_of(path): set(foreign_private(tree, ours)) for path, tree in SOURCES.items()}
    assert {path: names for path, names in found.items() if names} == {
        path: set(reasons) for path, reasons in PRIVATE_NAMES.items()
    }


@pytest.mark.parametrize(
    ("code", "names"),
    [
        ("import os\nos.environ._data", ["_data"]),
        ("from os import environ as env\nenv._data", ["_data"]),
        ("import os\ngetattr(os.environ, '_data', None)", ["_data"]),
        ("from _signal import pthread_sigmask", ["_signal", "_signal"]),
        ("import _thread", ["_thread"]),
        ("from threading import _active", ["_active"]),
        ("class C:\n def f(self): return self._lock._is_owned()", ["_is_owned"]),
        ("cache._sql('x')", ["_sql"]),
        ("import os\nos._exit(0)\nlimits._replace(a=1)\nfrom __future__ import annotations", []),
        ("self._lock._mine\ngetattr(self, '_lock')\nfrom spool.x import _mine\ntype(self).__name__", []),
    ],
)
def test_a_private_name_of_others_is_seen(code: str, names: list[str]) -> None:
    """The test above would find it: as an attribute, in a text, by an import; and leaves ours and public ones alone."""
    assert list(foreign_private(ast.parse(code), {"_lock", "_mine"})) == names


def test_no_destructor_repairs_anything() -> None:
    """When `__del__` runs nobody knows: in another thread, inside an append, at the interpreter's end or never."""
    found = {
        name_of(path)
        for path, tree in SOURCES.items()
        for node in ast.walk(tree)
        if (isinstance(node, ast.FunctionDef) and node.name == "__del__")
        or (isinstance(node, ast.Name | ast.Attribute) and ast.unparse(node).endswith("__del__"))
    }
    assert found == set()


def test_every_lock_is_taken_by_filelock() -> None:
    """No call of the system's that locks a file, under any name: two ways to lock would not keep each other out."""
    found = {
        f"{name_of(path)}: {name}" for path, tree in SOURCES.items() for name in {*used_names(tree)} & CALLS_THAT_LOCK
    }
    assert found == set()


def test_a_folder_can_be_taken_in_at_a_glance() -> None:
    """At most sixteen modules in one; a seventeenth shows that a folder has two concerns."""
    counts = Counter(name_of(path.parent) for path in SOURCES if path.name != "__init__.py")
    assert {folder: count for folder, count in counts.items() if count > MOST_MODULES} == {}


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


def test_no_test_module_imports_another() -> None:
    """What several share stands in tests/support: else a test can't be moved, or run, without the other."""
    found = {
        f"{name_of(path)}: {name}"
        for path, tree in trees("tests").items()
        for node in ast.walk(tree)
        for name in imported(node)
        if name.startswith("tests.") and not name.startswith("tests.support")
    }
    assert found == set()
