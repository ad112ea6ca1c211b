"""Every message that a person can meet says what happened, what it means for the data, and what to do.

`pytest -s tests/operator/test_messages.py` prints them all.
"""

from __future__ import annotations

import ast
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from flusher.context import Result
from flusher.delivery.verdict import _NOT_POSTHOG, _STOPS  # the words for an operator, by status
from spool import Telemetry
from tests.support.local_posthog import LocalPostHog, html, redirect, status
from tests.support.processes import KEY, ROOT, environment, flush

# Exit code 2: the person can do something, and is told by one of these words.
DO = (
    *("allow", "check", "delete", "give", "install", "look", "mend", "pip install", "run", "schedule", "set", "try"),
    *("unset", "use", "write", "export", "see", "create"),
)
# What the tree of errors says in a receipt or a log; nobody types a command on it.
TOLD = (
    *("ConfigurationError", "SpoolError", "UnavailableError", "LockBusyError", "LockUnsupportedError"),
    *("UnsafePathError", "QueueDamagedError", "DiskFullError", "OptedOutError"),
)


def show(line: str) -> None:
    """Print a line of the list: read with -s."""
    sys.stdout.write(f"{line}\n")


def constants(tree: ast.Module) -> dict[str, str]:
    """Give the texts that a module names at its top."""
    found = (node for node in tree.body if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant))
    return {ast.unparse(node.targets[0]): str(ast.literal_eval(node.value)) for node in found}


def text_of(node: ast.expr, named: dict[str, str]) -> str | None:
    """Give the words of a message as it is written, with … for what is filled in; None for a variable's."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(
            named.get(ast.unparse(part.value), "…") if isinstance(part, ast.FormattedValue) else ast.literal_eval(part)
            for part in node.values
        )
    return None


def raised() -> Iterator[tuple[str, str, str]]:
    """Go through the messages of the errors that the code raises: where, which error, its words."""
    for path in (*ROOT.glob("flusher/**/*.py"), *ROOT.glob("spool/**/*.py")):
        tree = ast.parse(path.read_text())
        for node in ast.walk(tree):
            if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and node.exc.args:
                kind, words = ast.unparse(node.exc.func), text_of(node.exc.args[0], constants(tree))
                if kind in TOLD and words is not None:
                    yield f"{path.parent.name}/{path.name}", kind, words


RAISED = sorted(set(raised()))


def is_plain(line: str) -> bool:
    """Tell a line from a paragraph, a sentence with a period, and the insides of the program."""
    return "\n" not in line and not line.endswith(".") and not re.search(r"Traceback|Errno|<class|object at", line)


def tells_what_to_do(line: str) -> bool:
    """Tell whether a line names a step, behind a colon, a semicolon or a bracket."""
    return bool(re.search(rf"[:;(,] (or )?({'|'.join(DO)})\b", line.replace("(see", "( see")))


def test_every_error_that_is_raised_is_one_plain_line() -> None:
    """In receipts, logs and on stderr alike."""
    show("")
    for place, kind, words in RAISED:
        show(f"{place:26} {kind:22} {words}")
    assert len(RAISED) >= 60
    assert [words for _place, _kind, words in RAISED if not is_plain(words)] == []


def test_every_error_of_the_operator_says_what_to_do() -> None:
    """Exit code 2 means: somebody has to do something. So the line says what."""
    asked = [words for _place, kind, words in RAISED if kind == "ConfigurationError"]
    assert [words for words in asked if not tells_what_to_do(words)] == []


def test_every_refusal_of_a_server_says_what_to_do() -> None:
    """The reasons for which a run stops; the line adds that the events are kept."""
    for words in (*_STOPS.values(), _NOT_POSTHOG):
        show(f"{'flusher/delivery/verdict.py':26} {'exit code 75':22} {words}")
        assert is_plain(words)
        assert ":" in words


# Arguments, what is done to the home before, exit code.
CLI: dict[str, tuple[list[str], int]] = {
    "unknown option": (["run", "--bogus"], 2),
    "unknown command": (["bogus"], 2),
    "bad number": (["run", "--max-events", "many"], 2),
    "bad app": (["--app", "../x", "status"], 2),
    "host without scheme": (["run", "--host", "ph.example.com"], 2),
    "host not encrypted": (["run", "--host", "http://ph.example.com"], 2),
    "host with a user": (["run", "--host", "https://u:p@ph.example.com"], 2),
    "host with a bad port": (["run", "--host", "https://ph.example.com:x"], 2),
    "personal key": (["run", "--key", "phx_1"], 2),
    "key with a space": (["run", "--key", "phc 1"], 2),
    "no uuid": (["show", "x"], 2),
    "no such event": (["show", "0f8fad5b-d9cb-469f-a165-70867728950e"], 2),
    "no such dead letter": (["retry", "0f8fad5b-d9cb-469f-a165-70867728950e"], 2),
    "nobody to ask": (["purge"], 2),
    "file is there": (["export", "/etc/hostname"], 2),
    "no plain file": (["export", "--force", "/dev/full"], 2),
    "no such folder": (["export", "/nowhere/x"], 2),
    "no such file": (["import", "/nowhere/x"], 2),
    "json and events": (["export", "-", "--json"], 2),
    "bad interval": (["schedule", "install", "--every", "7m"], 2),
    "no interval": (["schedule", "install", "--every", "soon"], 2),
    "unknown method": (["schedule", "install", "--method", "at"], 2),
    "nobody listens": (["run", "--quiet", "--max-retries", "0", "--host", "http://127.0.0.1:9"], 75),
}
ANSWERS = {"key refused": status(401), "no PostHog": html(), "elsewhere": redirect("https://login.example.com/")}


@pytest.fixture
def waiting(home: Path, server: LocalPostHog) -> Path:
    """A home with an event that waits."""
    telemetry = Telemetry("ktx", "1", KEY, server.url, home, flush="never")
    assert telemetry.capture("a")
    telemetry.close()
    return home


def said(home: Path, arguments: list[str], code: int) -> str:
    """Run the program; give its one line on stderr, which is plain."""
    done = flush(home, *arguments, env=environment(KTX_TELEMETRY_KEY=KEY, HOME=os.environ["HOME"]))
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (code, "", 1), done
    assert done.stderr.startswith("ktx-flush: ")
    assert is_plain(done.stderr.removesuffix("\n"))
    show(f"{' '.join(arguments)[:60]:60} {code:2} {done.stderr.rstrip()}")
    return done.stderr.rstrip()


@pytest.mark.parametrize("case", CLI)
def test_what_the_program_answers_says_what_to_do(case: str, waiting: Path) -> None:
    """The real program, on a home where an event waits; afterwards it still does."""
    arguments, code = CLI[case]
    line = said(waiting, arguments, code)
    assert tells_what_to_do(line) or code != Result.MISCONFIGURED.exit_code
    if arguments[0] == "run" and "(see" not in line:
        assert line.endswith("the events are kept")
    assert len(list((waiting / "spool" / "queue").iterdir())) > 0


@pytest.mark.parametrize("case", ANSWERS)
def test_what_a_wrong_server_leads_to_is_said(case: str, waiting: Path, server: LocalPostHog) -> None:
    """What is in the way, what to look at, and that the events are kept."""
    server.always(ANSWERS[case])
    line = said(waiting, ["run", "--quiet", "--max-retries", "0"], 75)
    assert line.endswith("; the events are kept")
