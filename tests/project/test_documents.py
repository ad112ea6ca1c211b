"""The documents name what is there: files, tests, commands, options and variables, and all of those that count."""

from __future__ import annotations

import ast
import inspect
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from posthog import Posthog

from flusher.cli import app
from spool import Telemetry
from tests.support.documents import DOCUMENTS, blocks, names, text
from tests.support.processes import ROOT

# Where a name in code type is that of a file of the project.
_PATH = re.compile(r"(?:\.ci|flusher|scripts|spool|tests)/[\w./*-]*|[\w.-]+\.(?:md|toml|txt)")
# Names that begin like a path of the project and lie below a user's home.
_HOME = {"spool/queue", "spool/aside", "spool/spans", "spool/quarantine"}
_HOME |= {f"spool/{name}" for name in ("emitted.json", "flush.log", "report.html", "reserve", "flush.lock")}
PATHS = sorted(
    {
        (document, name)
        for document in DOCUMENTS
        for name in names(document)
        if _PATH.fullmatch(name) and name not in _HOME
    }
)
TESTS = {
    node.name
    for folder in ("tests", "scripts/ktx")
    for path in (ROOT / folder).rglob("test_*.py")
    for node in ast.walk(ast.parse(path.read_bytes()))
    if isinstance(node, ast.FunctionDef)
}


@pytest.mark.parametrize(("document", "name"), PATHS, ids=[" ".join(pair) for pair in PATHS])
def test_a_file_that_a_document_names_is_there(document: str, name: str) -> None:
    """Also where a pattern stands for several."""
    assert list(ROOT.glob(name)), f"{document} names {name}"


@pytest.mark.parametrize("document", DOCUMENTS)
def test_a_test_that_a_document_names_is_there(document: str) -> None:
    """By its function's name."""
    assert set(re.findall(r"`(test_\w+)`", text(document))) - TESTS == set()


def commands(group: Any, words: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Walk the tree of `ktx-flush`: each command's words, and the command."""
    yield words, group
    for name, command in getattr(group, "commands", {}).items():
        yield from commands(command, (*words, name))


TREE = dict(commands(typer.main.get_command(app)))


def shown(document: str) -> list[str]:
    """Give the command lines of `ktx-flush` that a document shows, in blocks and in its text."""
    lines = [line for block in blocks(document) if block.language == "sh" for line in block.lines]
    parts = [part.strip() for line in lines for part in line.split("#")[0].split("|")]
    return [line for line in [*parts, *names(document)] if line.startswith("ktx-flush ")]


def read(line: str) -> tuple[tuple[str, ...], set[str]]:
    """Give the command and the options of a command line; its arguments and values are left out."""
    found: tuple[str, ...] = ()
    options = set()
    for word in shlex.split(line)[1:]:
        if word.startswith("--"):
            options.add(word.partition("=")[0])
        elif (*found, word) in TREE:
            found = (*found, word)
    return found, options


@pytest.mark.parametrize("document", DOCUMENTS)
def test_a_command_line_that_a_document_shows_is_one(document: str) -> None:
    """Its command is there, and takes these options."""
    for line in shown(document):
        found, options = read(line)
        known = {name for words in ((), found) for option in TREE[words].params for name in option.opts}
        assert options - known == set(), line
        assert found or options & {"--app", "--home"}, f"{line}: no command of ktx-flush"


def test_the_readme_shows_every_command() -> None:
    """Those that do something, not the groups."""
    there = {words for words, command in TREE.items() if words and not hasattr(command, "commands")}
    assert there - {read(line)[0] for line in shown("README.md")} == set()


def rows(document: str, head: str) -> list[str]:
    """Give the first cells of the table that begins so."""
    table = text(document).partition(f"| {head} |")[2].partition("\n\n")[0]
    return [line.split("|")[1] for line in table.splitlines()[2:]]


def test_the_readme_has_every_option_of_telemetry_with_its_default() -> None:
    """In the order of the code."""
    table = text("README.md").partition("| option of `Telemetry` |")[2].partition("\n\n")[0]
    said = [tuple(cell.strip().strip("`") for cell in line.split("|")[1:3]) for line in table.splitlines()[2:]]
    parameters = list(inspect.signature(Telemetry).parameters.values())
    assert [name for name, _default in said] == [parameter.name for parameter in parameters]
    for parameter, (_name, default) in zip(parameters, said, strict=True):
        given = "" if parameter.default is inspect.Parameter.empty else repr(parameter.default)
        assert default.strip('"') == ("Limits()" if parameter.name == "limits" else given.strip("'"))


def test_the_readme_has_every_variable_that_the_code_reads() -> None:
    """Those of the app's own prefix."""
    code = "".join(path.read_text() for name in ("spool", "flusher") for path in (ROOT / name).rglob("*.py"))
    ends = {name.removesuffix("_") for name in re.findall(r'prefix \+ "(?:TELEMETRY_)?(\w+)', code)}
    ends |= {"DISABLED", "DEBUG", "STRICT", "ENDPOINT", "KEY", "ALLOW_HTTP", "HOME"}
    said = " ".join(rows("README.md", "variable"))
    assert [end for end in sorted(ends) if end != "TELEMETRY" and f"_{end}`" not in said] == []


def test_what_the_migration_page_says_of_posthog_is_there() -> None:
    """Each call and each option in the first column exists in the posthog-python that is installed."""
    calls = [name for cell in rows("MIGRATING.md", "with posthog-python") for name in re.findall(r"`(\w+)[`(]", cell)]
    assert len(calls) > 15
    assert [name for name in calls if name != "Posthog" and not hasattr(Posthog, name)] == []
    options = [name for cell in rows("MIGRATING.md", "option of `Posthog`") for name in re.findall(r"`(\w+)", cell)]
    assert len(options) > 15
    assert set(options) - set(inspect.signature(Posthog.__init__).parameters) == set()


def test_the_first_screen_says_problem_promise_limits_and_two_commands() -> None:
    """Within the first 45 lines."""
    screen = "\n".join(text("README.md").splitlines()[:45])
    for words in ("**The problem.**", "**The promise.**", "**Not promised.**", "telemetry.capture(", "scripts/demo"):
        assert words in screen
    host = next(block for block in blocks("README.md") if block.language == "python")
    assert len([line for line in host.text.splitlines() if line.strip()]) <= 10


def test_every_document_is_one_of_these() -> None:
    """A page at the top that nobody tests would be missed here."""
    assert {path.name for path in Path(ROOT).glob("*.md")} == {
        "CHANGELOG.md",
        "CONTRIBUTING.md",
        "MIGRATING.md",
        "README.md",
        "SECURITY.md",
        "SUPPORT.md",
        "TELEMETRY.md",
    }
