"""Every event can be seen, sent again and deleted by a person, and the account stays whole."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.captures import spool_named
from tests.support.letters import kill_some, listed, put_aside
from tests.support.local_posthog import LocalPostHog
from tests.support.processes import environment, flush, flush_json, status
from tests.support.terminal import on_a_terminal

# Markup of rich, an escape sequence, an 8-bit one, a new title, a line of its own, text that runs backwards.
HOSTILE = (
    "[red]a[/red]",
    "\x1b[31mb",
    "\x9b31mc",
    "\x1b]0;title\x07d",
    "e\r\nktx-flush: f",
    "\u202eg",
    "[/]",
    "[link=x]",
)


def test_list_shows_exactly_what_is_sent(home: Path, server: LocalPostHog) -> None:
    """Queue and side door, the first run with them; an event aside gets its number on its way."""
    uuids = spool_named(home, server.url, "a", "b", "c")
    beside = put_aside(home)
    put_aside(home, distinct_id="")  # no event: nobody would send it
    events = listed(home)
    assert {*uuids, beside} <= {event["uuid"] for event in events}
    assert len(events) == 5
    report = flush_json(home, "run")
    assert report["delivered"] == 6  # the loss of the file that was no event travels too
    sent = {event["uuid"]: event for event in server.accepted}
    for event in events:
        sent[event["uuid"]]["properties"].pop("spool_sequence")
        event["properties"].pop("spool_sequence", None)
        assert sent[event["uuid"]] == event
    assert listed(home) == []


def test_looking_creates_nothing(home: Path) -> None:
    """A home without a spool: nothing to show, nothing to delete, nothing on disk after it."""
    assert listed(home) == listed(home, "--dead") == []
    assert flush_json(home, "purge", "--yes")["purged"] == 0
    assert flush_json(home, "retry")["retried"] == 0
    assert not home.exists()


@pytest.mark.parametrize("dead", [False, True])
def test_what_an_event_is_called_is_neither_markup_nor_an_escape(dead: bool, home: Path, server: LocalPostHog) -> None:
    """On a terminal each hostile name is one row of plain letters; what the server answered likewise."""
    uuids = spool_named(home, server.url, *HOSTILE)
    options = ["--dead"] if dead else []
    if dead:
        kill_some(home, server, *uuids)
    code, shown = on_a_terminal(home, "list", *options)
    assert code == 0
    rows = [line for line in shown.decode().split("\r\n") if any(uuid in line for uuid in uuids)]
    assert len(rows) == len(HOSTILE)
    assert all("".join(row.split()).isprintable() for row in rows)
    for shape in ("[red]a[/red]", r"\x1b[31mb", r"\x9b31mc", r"\x1b]0;title\x07d", r"e\r\nktx-flush: f", r"\u202eg"):
        assert any(shape in row for row in rows)
    assert flush(home, "list", *options).stdout.isascii()


def test_show_gives_one_event_as_it_is_sent(home: Path, server: LocalPostHog) -> None:
    """Waiting, aside or dead: the event on stdout, the reason of a dead one on stderr."""
    uuids = spool_named(home, server.url, "a", "b", "c")
    beside = put_aside(home)
    assert json.loads(flush(home, "show", beside).stdout)["event"] == "other"
    (event,) = [event for event in listed(home) if event["uuid"] == uuids[0]]
    done = flush(home, "show", uuids[0].upper())
    assert (done.returncode, json.loads(done.stdout), done.stderr) == (0, event, "")
    kill_some(home, server, uuids[0])
    done = flush(home, "show", uuids[0])
    assert (done.returncode, json.loads(done.stdout)) == (0, event)
    assert "rejected with 400: event rejected" in done.stderr
    report = flush_json(home, "show", uuids[0])
    assert (report["state"], report["event"]) == ("dead", event)
    assert "400" in report["reason"]


@pytest.mark.parametrize("command", ["show", "retry"])
@pytest.mark.parametrize("uuid", ["\x1b[31m", "7", "0b9f8c1e-5a3f-4a63-9c1c-0a1d2e3f4a5b"])
def test_a_uuid_that_is_not_there_changes_nothing(command: str, uuid: str, home: Path, server: LocalPostHog) -> None:
    """One line on stderr, exit 2; of several names one wrong is enough."""
    uuids = spool_named(home, server.url, "a", "b", "c")
    kill_some(home, server, uuids[0])
    done = flush(home, command, uuid, *(uuids[:1] if command == "retry" else []))
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert done.stderr.strip().isprintable()
    assert status(home)["accounting"]["dead"] == 1


def test_dead_letters_come_back_and_arrive(home: Path, server: LocalPostHog) -> None:
    """One by name, then all others; delivered with uuid, timestamp and number as they were."""
    uuids = spool_named(home, server.url, "a", "b", "c")
    events = {event["uuid"]: event for event in listed(home)}
    kill_some(home, server, *uuids)
    assert [letter["event"] for letter in listed(home, "--dead")] == [events[uuid] for uuid in uuids]
    assert flush_json(home, "retry", uuids[1], uuids[1])["retried"] == 1
    assert [letter["event"]["uuid"] for letter in listed(home, "--dead")] == [uuids[0], uuids[2]]
    assert flush_json(home, "retry")["retried"] == 2
    for uuid in uuids:
        server._rejected.pop(uuid)  # noqa: SLF001 - the server has no word for forgiving
    assert flush_json(home, "run", "--force")["delivered"] == 3
    sent = {event["uuid"]: event for event in server.accepted}
    assert [sent[uuid] for uuid in uuids] == [events[uuid] for uuid in uuids]
    assert status(home)["accounting"] == {"captured": 4, "delivered": 4, "pending": 0, "dead": 0, "lost": 0}


def test_purge_deletes_what_waits_and_counts_it(home: Path, server: LocalPostHog) -> None:
    """Queue and side door, but no dead letters; then those. Nothing of them is sent."""
    uuids = spool_named(home, server.url, "a", "b", "c")
    kill_some(home, server, uuids[0])
    server.clear()
    spool_named(home, server.url, "a", "b", "c")
    put_aside(home)
    assert flush_json(home, "purge", "--yes")["purged"] == 4
    told = status(home)
    assert (told["pending"], told["aside"], told["accounting"]["dead"], told["losses"]) == (0, 0, 1, {"purged": 4})
    assert flush_json(home, "purge", "--dead", "--yes")["purged"] == 1
    told = status(home)
    assert (told["accounting"]["dead"], told["losses"]) == (0, {"purged": 5})
    flush_json(home, "run", "--force")
    assert [event["event"] for event in server.events()] == ["spool_loss"]


def test_nothing_is_deleted_that_nobody_agreed_to(home: Path, server: LocalPostHog) -> None:
    """Without a terminal and without --yes: one line, exit 2. On a terminal: a question."""
    spool_named(home, server.url, "a", "b", "c")
    for options in ([], ["--dead"]):
        done = flush(home, "purge", *options)
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
        assert "--yes" in done.stderr
    assert on_a_terminal(home, "purge", typed=b"n\n")[0] == 0
    assert status(home)["pending"] == 4
    code, shown = on_a_terminal(home, "purge", typed=b"y\n")
    assert (code, b"deleted: 4 events" in shown) == (0, True)
    assert status(home)["pending"] == 0


def test_who_opted_out_can_still_look_and_delete(home: Path, server: LocalPostHog) -> None:
    """An unreadable consent file means off: no event goes back to the queue, but each can be seen and deleted."""
    uuids = spool_named(home, server.url, "a", "b", "c")
    kill_some(home, server, uuids[0])
    (home / "telemetry.json").write_text("?")
    report = flush_json(home, "retry")
    assert (report["exit_code"], report["retried"], report["result"]) == (0, 0, "telemetry off")
    assert "unreadable telemetry.json" in flush(home, "retry").stdout
    assert [letter["event"]["uuid"] for letter in listed(home, "--dead")] == uuids[:1]
    assert flush(home, "show", uuids[0]).returncode == 0
    assert flush_json(home, "purge", "--dead", "--yes")["purged"] == 1


def test_a_reader_that_has_seen_enough_is_no_error(home: Path, server: LocalPostHog) -> None:
    """`ktx-flush list | head -1` ends without a word."""
    spool_named(home, server.url, *"a" * 400)
    words = f"{sys.executable} -m flusher --home {home} list | head -1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", words], env=environment(), capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr, done.stdout.count("\n")) == (0, "", 1)
