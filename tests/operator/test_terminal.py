"""Pleasant on a terminal, exact for a program, silent with --quiet; nothing of a terminal in a pipe."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.support.captures import spool_events
from tests.support.local_posthog import LocalPostHog, slow
from tests.support.processes import environment, flush, flush_json, status
from tests.support.terminal import on_a_terminal, terminal

HIDE_CURSOR, SHOW_CURSOR = b"\x1b[?25l", b"\x1b[?25h"


def plain(shown: bytes) -> str:
    """Leave out the escapes of a terminal."""
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.decode()).replace("\r\n", "\n")


@pytest.mark.parametrize("command", ["status", "list", "list --dead", "show UUID", "purge --yes", "retry", "run"])
def test_a_pipe_gets_no_colour_json_is_one_object_and_quiet_is_silent(
    command: str, home: Path, server: LocalPostHog
) -> None:
    """Each command three ways, also where the environment asks for colours: exit 0, nothing on stderr."""
    uuids = spool_events(home, server.url, 3)
    env = environment(FORCE_COLOR="1", CLICOLOR_FORCE="1", COLUMNS="40")
    words = command.replace("UUID", uuids[0]).split()
    quiet = flush(home, *words[:2], "--quiet", *words[2:], env=env) if command != "run" else None
    if quiet is not None:
        assert (quiet.returncode, quiet.stdout, quiet.stderr) == (0, "", "")
    if command == "purge --yes":
        spool_events(home, server.url, 3)
    piped = flush(home, *words, env=env)
    assert (piped.returncode, piped.stderr) == (0, "")
    assert re.sub(r"[^ -~\n]", "?", piped.stdout) == piped.stdout
    assert all(line == line.rstrip() for line in piped.stdout.splitlines())
    assert isinstance(json.loads(flush(home, *words, "--json", env=env).stdout), dict)


def test_status_tells_the_same_on_a_terminal_and_in_a_pipe(home: Path, server: LocalPostHog) -> None:
    """In colours and in two columns; in a pipe a line for each name, however long."""
    spool_events(home, server.url, 3)
    flush(home, "run", "--host", "http://127.0.0.1:9", "--max-retries", "0")
    code, shown = on_a_terminal(home, "status", width=60)
    assert (code, b"\x1b[32mon" in shown) == (0, True)
    assert max(len(line.rstrip()) for line in plain(shown).splitlines()) <= 60
    piped = flush(home, "status").stdout
    rows = {line[:14].strip(): line[14:] for line in piped.splitlines()}
    assert rows["telemetry"] == "on (decided by telemetry.json)"
    assert rows["account"] == "4 captured = 0 delivered + 4 pending + 0 dead + 0 lost"
    assert "destination not reached, the host refuses connections; " in rows["last run"]
    assert rows["account"].split() == plain(shown).split("account")[1].split("losses")[0].split()


@pytest.mark.parametrize("width", [160, 80, 50])
def test_a_list_fits_the_terminal(width: int, home: Path, server: LocalPostHog) -> None:
    """Each event's uuid and whole name stand there, whatever the width; nothing is cut off."""
    uuids = spool_events(home, server.url, 2, "an_event_with_a_name")
    code, shown = on_a_terminal(home, "list", width=width)
    assert code == 0
    text = plain(shown)
    assert max(len(line.rstrip()) for line in text.splitlines()) <= width
    assert all(uuid in text for uuid in uuids)
    assert "".join(text.split()).count("an_event_with_a_name") == 2
    assert (" pending" in text) is (width == 160)


def test_show_on_a_terminal_is_the_event_in_colours(home: Path, server: LocalPostHog) -> None:
    """Without the colours it is the JSON of the pipe, to the letter."""
    (uuid,) = spool_events(home, server.url, 1, "\x1b]0;title\x07 \u202e [red]")
    code, shown = on_a_terminal(home, "show", uuid, width=40)
    assert (code, b"\x1b[" in shown) == (0, True)
    assert plain(shown) == flush(home, "show", uuid).stdout


def test_purge_says_how_many_before_it_asks(home: Path, server: LocalPostHog) -> None:
    """And an end of input is no yes: one line, nothing changed."""
    spool_events(home, server.url, 3)
    code, shown = on_a_terminal(home, "purge", typed=b"\x04")
    assert code == 1
    assert f"Delete 4 events that wait in {home}, unsent? [y/N]: \nktx-flush: stopped; nothing is lost\n" in plain(
        shown
    )
    assert status(home)["pending"] == 4


def test_a_long_drain_shows_how_far_it_is(home: Path, server: LocalPostHog) -> None:
    """A bar with numbers, rate and rest; at the end the line of the run alone, and a cursor that is seen."""
    spool_events(home, server.url, 11)
    server.always(slow(0.25))
    code, shown = on_a_terminal(home, "run", "--batch-size", "2", width=90)
    assert code == 0
    text = plain(shown)
    assert re.search(r"delivering .+ +\d+/12 +[\d,]+/s +\d:\d\d:\d\d +left", text)
    assert text.rstrip().endswith("s)")
    assert re.search(r"12 delivered, 1 absorbed from aside \(\d requests, [\d.]+ s\)$", text.rstrip())
    assert shown.rfind(SHOW_CURSOR) > shown.rfind(HIDE_CURSOR)


def test_a_short_drain_a_pipe_quiet_and_json_get_no_bar(home: Path, server: LocalPostHog) -> None:
    """A second of work in a pipe or with --quiet, and a moment's on a terminal: not one escape of a bar."""
    server.always(slow(0.9))
    spool_events(home, server.url, 1)
    done = flush(home, "run")
    assert (done.returncode, done.stderr, "\x1b" in done.stdout) == (0, "", False)
    for option in ("--quiet", "--json"):
        spool_events(home, server.url, 1)
        code, shown = on_a_terminal(home, "run", option)
        assert (code, HIDE_CURSOR in shown, b"delivering" in shown) == (0, False, False)
    server.behave()
    spool_events(home, server.url, 1)
    code, shown = on_a_terminal(home, "run")
    assert (code, HIDE_CURSOR in shown) == (0, False)


def test_a_drain_that_is_killed_leaves_the_cursor_to_be_seen(home: Path, server: LocalPostHog) -> None:
    """In the middle of the bar, with no time to tidy up; the events are kept."""
    spool_events(home, server.url, 4)
    server.always(slow(60))
    with terminal(home, "run", width=90) as running:
        running.read_until(SHOW_CURSOR)
        running.process.kill()
        shown = running.read_all()
    assert shown.rfind(SHOW_CURSOR) > shown.rfind(HIDE_CURSOR) >= 0
    server.behave()
    assert flush_json(home, "run", "--force")["delivered"] == 5


def test_a_drain_says_why_nothing_moves(home: Path, server: LocalPostHog) -> None:
    """Between two requests to a host that isn't there: the reason, and when it is asked again."""
    spool_events(home, server.url, 1)
    code, shown = on_a_terminal(home, "run", "--host", "http://127.0.0.1:9", "--max-retries", "1", width=60)
    assert code == 75
    assert "the host refuses connections: again in 1 s\n" in plain(shown)
