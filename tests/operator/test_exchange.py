"""Events travel as NDJSON to a machine with network: each once, and no bad line keeps a good one back."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest

from spool.home import Paths
from spool.queue import Queue
from tests.support.captures import spool_named
from tests.support.letters import kill_some, listed, put_aside
from tests.support.local_posthog import LocalPostHog
from tests.support.processes import KEY, ROOT, environment, flush, flush_json, status


def line(number: int, **changes: Any) -> str:
    """Write an event of somebody else as a line."""
    message = {"uuid": str(UUID(int=number)), "event": "e", "distinct_id": "d", "timestamp": "2026-11-23T12:00:00Z"}
    return json.dumps({**message, "properties": {"number": number}, **changes}) + "\n"


def test_events_reach_posthog_by_way_of_another_machine(home: Path, tmp_path: Path, server: LocalPostHog) -> None:
    """Queue and side door are exported, dead letters are not; imported twice is imported once."""
    uuids = spool_named(home, server.url, "a", "b", "c")
    kill_some(home, server, uuids[0])
    more, beside = spool_named(home, server.url, "d", "e"), put_aside(home)
    file, other = tmp_path / "events.ndjson", tmp_path / "other"
    assert flush_json(home, "export", file)["exported"] == 3
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert [path.name for path in tmp_path.glob("*events*")] == ["events.ndjson"]
    assert [json.loads(text) for text in file.read_text().splitlines()] == listed(home)
    report = flush_json(other, "import", file)
    assert (report["exit_code"], report["imported"], report["known"], report["refused"]) == (0, 3, 0, 0)
    report = flush_json(other, "import", file)
    assert (report["imported"], report["known"]) == (0, 3)
    server.clear()
    assert flush_json(other, "run", "--host", server.url, "--key", KEY)["delivered"] == 3
    assert {event["uuid"] for event in server.accepted} == {*more, beside}
    assert flush_json(home, "run", "--force")["delivered"] == 3
    assert len({(event["uuid"], event["timestamp"]) for event in server.accepted}) == 3
    assert (len(server.accepted), len(server.events())) == (6, 3)


def test_import_knows_what_waits_what_is_aside_and_what_is_dead(home: Path, server: LocalPostHog) -> None:
    """An event of this spool comes in once, wherever it stands; twice in one file likewise."""
    uuids = spool_named(home, server.url, "a", "b", "c")
    kill_some(home, server, uuids[0])
    pending, beside = spool_named(home, server.url, "d"), put_aside(home)
    known = [uuids[0], *pending, beside]
    text = "".join(line(0, uuid=uuid) for uuid in known) + line(7) + line(7)
    (home / "in").write_text(text)
    report = flush_json(home, "import", home / "in")
    assert (report["imported"], report["known"], report["refused"]) == (1, 4, 0)
    accounting = status(home)["accounting"]
    assert (accounting["pending"], accounting["dead"]) == (3, 1)


BAD = {
    "not JSON": b"{",
    "a list": b"[]",
    "no uuid": line(2, uuid="").encode(),
    "uuid in capitals": line(2, uuid=str(uuid4()).upper().replace("-", "", 1)).encode(),
    "no time zone": line(2, timestamp="2026-11-23T12:00:00").encode(),
    "an escape for a time": line(2, timestamp="\x1b[31m" * 1000).encode(),
    "properties that are a text": line(2, properties="x").encode(),
    "too deep": line(2).replace('"number": 2', '"a":' + "[" * 200 + "]" * 200).encode(),
    "far too deep": b"[" * 200_000,
    "no UTF-8": b'{"\xff": 1}',
    "an event that is too large": line(2, properties={"a": "x" * 950_000}).encode(),
    "a line without end": b"x" * 5_000_000,
    "a huge number": line(2).replace('"number": 2', '"a":' + "9" * 5000).encode(),
}


def test_bad_lines_are_named_and_all_others_imported(home: Path) -> None:
    """Each wrong line by its number, in one plain line; blank lines are none; exit code 3; nothing counts as lost."""
    bad = [text.rstrip(b"\n") for text in BAD.values()]
    lines = [part for number, text in enumerate(bad) for part in (line(100 + number).encode().rstrip(b"\n"), text)]
    (home.parent / "in").write_bytes(b"\r\n\n".join([*lines, line(1).encode().rstrip()]))
    report = flush_json(home, "import", home.parent / "in")
    assert (report["exit_code"], report["imported"], report["refused"]) == (3, len(bad) + 1, len(bad))
    said = report["stderr"].splitlines()
    assert [text.split(":")[1] for text in said] == [f" line {4 * number + 3}" for number in range(len(bad))]
    assert all(text.isprintable() and len(text) < 400 for text in said)
    assert all(len(text.split(": ", 2)[2]) > 3 for text in said)
    accounting = status(home)["accounting"]
    assert accounting == {"captured": len(bad) + 1, "delivered": 0, "pending": len(bad) + 1, "dead": 0, "lost": 0}


def test_ten_thousand_lines_are_imported_in_little_memory(home: Path, server: LocalPostHog) -> None:
    """Over the host's limit of events nothing is dropped; all arrive, each once, a bad line in the middle told."""
    file = home.parent / "in"
    with file.open("w") as out:
        for number in range(12_000):
            out.write(line(number, properties={"a": "x" * 4000}) if number != 6_000 else "{\n")
    code = f"""
import runpy, sys
sys.argv = ["ktx-flush", "--home", {str(home)!r}, "import", {str(file)!r}]
try:
    runpy.run_module("flusher", run_name="__main__")
finally:
    # Not ru_maxrss: a new process begins with the peak of the one that started it.
    print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment(), capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 3, done.stderr
    assert done.stdout.startswith("imported: 11,999 events,")
    assert done.stderr.startswith("ktx-flush: line 6001: no JSON")
    assert "the host keeps 10,000" in done.stderr
    assert int(done.stdout.split()[-1]) < 100_000, "kilobytes, for a file of 48 MB"
    assert flush_json(home, "run", "--host", server.url, "--key", KEY)["delivered"] == 11_999
    assert len({event["uuid"] for event in server.accepted}) == len(server.accepted) == 11_999


def waiting_texts(home: Path) -> list[str]:
    """Give the texts of the events that wait in the queue."""
    with closing(Queue(Paths(home), wait_s=5.0)) as queue:
        return [row.text for row in queue.gather()]


def test_a_killed_import_is_done_again_and_every_event_is_here_once(home: Path) -> None:
    """Killed three times at different points, then run to its end: nothing is missing, nothing twice."""
    file = home.parent / "in"
    file.write_text("".join(line(number) for number in range(6_000)))
    done = []
    for wanted in (500, 1_500, 3_000):
        command = [sys.executable, "-m", "flusher", "--home", str(home), "import", str(file)]
        with subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE) as process:
            while process.poll() is None and len(waiting_texts(home)) < wanted:
                time.sleep(0.01)
            process.kill()
        done.append(status(home)["pending"])
    report = flush_json(home, "import", file)
    assert (report["imported"], report["known"]) == (6_000 - done[-1], done[-1])
    assert done == sorted(done)
    numbers = [json.loads(text)["properties"]["number"] for text in waiting_texts(home)]
    assert sorted(numbers) == list(range(6_000))


def test_stdout_and_stdin_make_a_pipe(home: Path, server: LocalPostHog) -> None:
    """`export - | import -`: the events and nothing else go through it."""
    uuids = spool_named(home, server.url, "a", "b", "c")
    done = flush(home, "export", "-")
    assert (done.returncode, done.stderr, done.stdout.count("\n")) == (0, "", 4)
    command = [sys.executable, "-m", "flusher", "--home", str(home.parent / "other"), "import", "-", "--json"]
    taken = subprocess.run(
        command, input=done.stdout, env=environment(), cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert json.loads(taken.stdout)["imported"] == 4
    assert set(uuids) < {event["uuid"] for event in listed(home.parent / "other")}


def test_export_spoils_no_file(home: Path, tmp_path: Path, server: LocalPostHog) -> None:
    """A file that is there needs --force; a link, a folder, a device never; one line, exit 2, nothing left over."""
    spool_named(home, server.url, "a", "b", "c")
    file, link, before = tmp_path / "file", tmp_path / "link", set(tmp_path.iterdir())
    file.write_text("mine")
    link.symlink_to(file)
    for words in (
        [file],
        [link, "--force"],
        [tmp_path, "--force"],
        [os.devnull, "--force"],
        [tmp_path / "no" / "file"],
        ["-", "--json"],
    ):
        done = flush(home, "export", *words)
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1), words
    assert file.read_text() == "mine"
    assert flush_json(home, "export", file, "--force")["exported"] == 4
    assert file.read_text().count("\n") == 4
    assert set(tmp_path.iterdir()) - before == {file, link}


def test_a_file_that_cannot_be_read_is_named(home: Path, tmp_path: Path) -> None:
    """Missing, or a folder: one line, exit 2, and no spool appears."""
    for source in (tmp_path / "missing", tmp_path):
        done = flush(home, "import", source)
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
        assert str(source) in done.stderr
    assert not home.exists()


@pytest.mark.parametrize("how", ["file", "unreadable", "variable"])
def test_who_opted_out_neither_imports_nor_exports(how: str, home: Path, tmp_path: Path, server: LocalPostHog) -> None:
    """It is said which rule decided, exit 0, and not a byte goes in or out."""
    spool_named(home, server.url, "a", "b", "c")
    (tmp_path / "in").write_text(line(1))
    identity = home / "telemetry.json"
    if how != "variable":
        identity.write_text(identity.read_text().replace("true", "false") if how == "file" else "{")
    env = environment(DO_NOT_TRACK="1") if how == "variable" else environment()
    rule = {"file": "telemetry.json", "unreadable": "unreadable telemetry.json", "variable": "DO_NOT_TRACK"}[how]
    for words in (["import", tmp_path / "in"], ["export", tmp_path / "out"], ["export", "-"]):
        done = flush(home, *words, env=env)
        assert done.returncode == 0
        assert rule in done.stdout + done.stderr
    assert not (tmp_path / "out").exists()
    assert status(home)["pending"] == 4
