"""No event of the example host can go silent: take any one emit out of it, and its own suite fails."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

pytest.importorskip("mcp", reason="the official MCP SDK is not installed")

from tests.support.processes import ROOT, environment

HOST = ROOT / "scripts" / "ktx"
# What the one Telemetry is asked for: these put an event on disk, and these don't.
EMITS, OTHERS = {"capture", "capture_exception", "command", "main"}, {"identity", "paths", "project_id"}


# Plugins that the suite has no use for, and what rewriting asserts costs: together two thirds of a run's time.
QUICK = ["-p", "no:cacheprovider", "-p", "no:xdist", "-p", "no:anyio", "-p", "no:hypothesispytest", "--assert=plain"]


class Emit(NamedTuple):
    """A statement that emits: its file, the function around it, what it emits, and its first and last line."""

    file: str
    function: str
    what: str
    first: int
    last: int

    @property
    def name(self) -> str:
        """Its place, in words that stay the same when lines move."""
        return f"{self.file.removesuffix('.py')}.{self.function}: {self.what}"


def asked_of_telemetry(node: ast.AST) -> str | None:
    """Give what `telemetry().WHAT` asks for; None for any other expression."""
    if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "telemetry()":
        return node.attr
    return None


def emits(file: Path) -> list[Emit]:
    """Find the emits of a module: calls of telemetry's, and of the chokepoint's `emit`, which hands over to one."""
    found = []

    def visit(node: ast.AST, function: str) -> None:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            function = node.name
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call) and (what := emitted(node.value)):
            found.append(Emit(file.name, function, what, node.lineno, node.end_lineno or node.lineno))
        for child in ast.iter_child_nodes(node):
            visit(child, function)

    visit(ast.parse(file.read_text()), "")
    return found


def emitted(call: ast.Call) -> str | None:
    """Say what a call emits, by the event's name where it stands there."""
    asked = asked_of_telemetry(call.func)
    if asked == "capture":
        return str(ast.literal_eval(call.args[0]))
    if asked in EMITS:
        return f"{asked}()"
    return f"emit({ast.unparse(call.args[0])})" if ast.unparse(call.func) == "emit" else None


ALL = sorted(emit for file in HOST.glob("ktx_*.py") for emit in emits(file))


def run_suite(folder: Path, *options: str) -> tuple[int, int, int, str]:
    """Run the example host's suite in a process; give its exit code, how many passed and failed, and all it said."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *QUICK, "-c", "pytest.ini", "-q", "--tb=no", *options],
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    counts = {word: int(count) for count, word in re.findall(r"(\d+) (passed|failed)", done.stdout)}
    return done.returncode, counts.get("passed", 0), counts.get("failed", 0), done.stdout + done.stderr


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of the example host with its tests, and no configuration but its own."""
    shutil.copytree(HOST, tmp_path / "ktx", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "ktx" / "pytest.ini").write_text("[pytest]\n")
    return tmp_path / "ktx"


def test_the_suite_passes_and_captures_every_event_of_the_example_host(copy: Path) -> None:
    """Untouched, and with the session check: or a failure of a mutant would mean nothing."""
    code, passed, failed, said = run_suite(copy, "--spool-require-all-events")
    assert (code, failed) == (0, 0), said
    assert passed >= 8, said


def test_every_use_of_telemetry_in_the_example_host_is_known() -> None:
    """A new way to emit would otherwise be no mutant; and the emits that there are, are found."""
    asked = {
        what
        for file in HOST.glob("ktx_*.py")
        for node in ast.walk(ast.parse(file.read_text()))
        if (what := asked_of_telemetry(node)) is not None
    }
    assert asked <= EMITS | OTHERS
    written = sum(
        len(re.findall(r"telemetry\(\)\.(?:capture|main)\(", file.read_text())) for file in HOST.glob("ktx_*.py")
    )
    handed_over = [emit for emit in ALL if emit.what.startswith("emit(")]
    assert len(ALL) == written + len(handed_over)
    assert len(handed_over) >= 2
    assert {"scan_completed", "ingest_completed", "daemon_started", "daemon_stopped", "mcp_request_completed"} <= {
        emit.what for emit in ALL
    }


@pytest.mark.parametrize("emit", ALL, ids=lambda emit: emit.name)
def test_the_suite_fails_without_any_single_emit(emit: Emit, copy: Path) -> None:
    """The statement does nothing, or runs the program without telemetry; a test of its own file says so."""
    source = (copy / emit.file).read_text().splitlines()
    indent = " " * (len(source[emit.first - 1]) - len(source[emit.first - 1].lstrip()))
    source[emit.first - 1 : emit.last] = [indent + ("app()" if emit.what == "main()" else "pass")]
    (copy / emit.file).write_text("\n".join(source) + "\n")
    compile((copy / emit.file).read_text(), emit.file, "exec")
    own = copy / f"test_{emit.file}"
    code, passed, failed, said = run_suite(copy, own.name if own.exists() else "test_ktx.py")
    print(f"\n| {emit.name} | {failed} of {failed + passed} failed |")  # noqa: T201 - the table, with -s
    assert (code, failed > 0, "error" in said.splitlines()[-1]) == (1, True, False), said
