"""A mistake of the host's author: said at the line that is wrong in strict mode, never at a command's expense."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from flusher.report.status import collect
from spool.home import Paths
from tests.support.forks import run_forked
from tests.support.local_posthog import LocalPostHog
from tests.support.processes import environment, flush_json, run_python
from tests.support.ways import HEAD

CATALOGUE = """
from spool.catalogue import Catalogue, Event
class Scan(Event): pass
class Command(Event):
    region: str
def host(*events):
    return Telemetry("ktx", "1", "phc_test", sys.argv[2], sys.argv[1], flush="never", catalogue=Catalogue(*events))
"""
# The mistake, the line that is wrong, words of the error, and the commands that are told in production.
MISTAKES: dict[str, tuple[str, str, str, list[tuple[str, str]]]] = {
    "an unknown outcome": (
        "with t.command(['one']) as span:\n    span.annotate(outcome='great', error_class='Told')\n    print('on')",
        "annotate", "one of ok, error, aborted, not 'great'", [("one", "ok")],
    ),
    "a span within a span": (
        "with t.command(['two']):\n    with t.command(['inner']): print('on')",
        "inner", "a command is under way already", [("two", "ok")],
    ),
    "no path": ("with t.command([]): print('on')", "command", "a path of at least one word", [("unknown", "ok")]),
    "a catalogue with another `command`": (
        CATALOGUE + "with host(Command).command(['three']): print('on')",
        "three",
        "command.commandPath: unknown field",
        [],
    ),
    "a span left open": (
        "t.command(['four']).__enter__(); print('on')", "four", "was never ended: use `with`", [("four", "aborted")],
    ),
}  # fmt: skip


@pytest.mark.parametrize("strict", [True, False], ids=["strict", "production"])
def test_a_mistake_is_said_where_it_is_made_and_never_costs_a_command(
    strict: bool, home: Path, server: LocalPostHog
) -> None:
    """In strict mode the last line of the error says what, and the wrong line is named; in production all goes on."""
    head = HEAD + "t.capture('x')\n" + f"os.environ['KTX_TELEMETRY_STRICT'] = '{int(strict)}'\n"
    ended = run_forked(head, {name: mistake[0] for name, mistake in MISTAKES.items()}, home, server.url)
    for name, (code, line, words, _told) in MISTAKES.items():
        if strict:
            number = 1 + next(at for at, text in enumerate(code.splitlines()) if line in text)
            assert words in ended[name].err.strip().splitlines()[-1], ended[name].err
            assert re.search(rf'<string>(", line |:){number}\b', ended[name].err), ended[name].err
        else:
            assert (name, *ended[name]) == (name, 0, "on\n", "")
    flush_json(home)
    told = [event["properties"] for event in server.accepted if event["event"] == "command"]
    if not strict:
        assert [(fields["commandPath"][0], fields["outcome"]) for fields in told] == [
            command for *_mistake, commands in MISTAKES.values() for command in commands
        ]
        assert told[0]["errorClass"] == "Told"
        assert collect("ktx", Paths(home), {}).account.losses == {"invalid": 1}


def test_a_host_without_typer_and_click_has_everything_but_their_entry(home: Path, server: LocalPostHog) -> None:
    """Neither can be imported: spans, signals and captures work."""
    code = (
        "import sys\nsys.modules['typer'] = sys.modules['click'] = None\n" + HEAD + "with t.signals():\n"
        "    with t.command(['ktx', 'work']) as span: span.annotate(outcome='error')\n"
        "    t.capture_exception(ValueError('x'))\n"
    )
    done = run_python(code, home, server.url)
    assert done.returncode == 0, done.stderr
    flush_json(home)
    assert sorted(event["event"] for event in server.accepted) == ["$exception", "command", "install_first_run"]


def test_a_catalogue_without_command_has_the_spools_own(home: Path, server: LocalPostHog) -> None:
    """It is no mistake: the command is counted, also in strict mode."""
    code = HEAD + CATALOGUE + "with host(Scan).command(['ktx', 'work']): print('on')"
    done = run_python(code, home, server.url, env=environment(KTX_TELEMETRY_STRICT="1"))
    assert (done.returncode, done.stdout) == (0, "on\n")
    flush_json(home)
    assert sorted(event["event"] for event in server.accepted) == ["command", "install_first_run"]


@pytest.mark.parametrize("off", ["", "os.environ['DO_NOT_TRACK'] = '1'\n"], ids=["on", "off"])
def test_an_app_that_is_neither_typer_nor_click_is_refused_with_words(off: str, home: Path) -> None:
    """The author sees at the first run what to use instead, also where telemetry is off."""
    apps = ["object()", "lambda: None", "__import__('argparse').ArgumentParser()", "__import__('typer')", "None"]
    ended = run_forked(HEAD + off, {app: f"t.main({app})" for app in apps}, home, "http://127.0.0.1:1")
    for done in ended.values():
        assert done.code == 1
        assert "takes a Typer or Click app" in done.err.splitlines()[-1]
