"""Each run leaves one line in `flush.log`, enough to explain yesterday; it never gets in a run's way."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from flusher.counts import DELAYS, DeliveryCounts
from flusher.journal import MOST_BYTES, LoggedRun, append, logged_runs
from spool.home import Paths
from spool.queue import Row
from spool.settings import VERSION
from tests.support.captures import spool_named
from tests.support.local_posthog import LocalPostHog, hang
from tests.support.processes import environment, flush, flush_json, run_python, status

FIELDS = (
    "delivered", "rejected", "remaining", "recovered_spans", "absorbed", "expired", "requests", "seconds", "result",
    "next_attempt", "reason", "exit_code",
)  # fmt: skip


def lines(home: Path) -> list[dict[str, Any]]:
    """Give the lines of the log, each whole."""
    text = (home / "spool" / "flush.log").read_text(encoding="ascii")
    assert text.endswith("\n")
    return [json.loads(line) for line in text.splitlines()]


def test_a_line_tells_what_the_run_told(home: Path, server: LocalPostHog) -> None:
    """Delivered, rejected, not reached, backing off: the numbers of `run --json`, and what it sent; private."""
    spool_named(home, server.url, "scan", "scan", "ingest", text="NOT-IN-THE-LOG")
    (bad,) = spool_named(home, server.url, "bad", text="NOT-IN-THE-LOG")
    server.reject(bad)
    began = datetime.now(UTC)
    reports = [flush_json(home, "run")]
    spool_named(home, server.url, "scan", text="NOT-IN-THE-LOG")
    reports.append(flush_json(home, "run", "--host", "http://127.0.0.1:9", "--max-retries", "0"))
    reports.append(flush_json(home, "run"))
    assert [report["exit_code"] for report in reports] == [3, 75, 0]
    told = lines(home)
    assert [{name: line[name] for name in FIELDS} for line in told] == [
        {name: report[name] for name in FIELDS} for report in reports
    ]
    assert told[0]["sent"] == {"install_first_run": 1, "scan": 2, "ingest": 1}
    assert told[0]["delays"] == [4, 0, 0, 0, 0, 0]
    assert told[1]["sent"] == told[2]["sent"] == {}
    assert all(line["version"] == VERSION and line["started_by"] == "script" for line in told)
    assert began <= datetime.fromisoformat(told[0]["started_at"]) <= datetime.fromisoformat(told[1]["started_at"])
    log = home / "spool" / "flush.log"
    assert log.stat().st_mode & 0o777 == 0o600
    assert "NOT-IN-THE-LOG" not in log.read_text()
    assert [asdict_of(entry) for entry in logged_runs(Paths(home))] == told


def asdict_of(entry: LoggedRun) -> dict[str, Any]:
    """Give an entry's fields as the file holds them."""
    return {name: getattr(entry, name) for name in LoggedRun.__slots__}


def test_losses_are_told_as_they_stood(home: Path, server: LocalPostHog) -> None:
    """By cause, those of the whole install: two lines tell what was lost between them."""
    spool_named(home, server.url, "a", "b", text="NOT-IN-THE-LOG")
    flush_json(home, "purge", "--yes")
    spool_named(home, server.url, "c", text="NOT-IN-THE-LOG")
    assert flush_json(home)["exit_code"] == 0
    assert lines(home)[-1]["losses"] == status(home)["losses"] == {"purged": 3}


def test_a_line_names_who_started_the_run(home: Path, server: LocalPostHog) -> None:
    """A host, detached or waiting for it; else a script, where no terminal is."""
    code = (
        "import sys\nfrom spool import Telemetry\n"
        "t = Telemetry('ktx', '1', 'phc_test', sys.argv[2], sys.argv[1], flush=sys.argv[3])\n"
        "t.capture('a')\nif sys.argv[3] == 'never': print(t.flush(30))\n"
    )
    assert run_python(code, home, server.url, "never").stdout == "True\n"
    os.unlink(home / "spool" / "flush.json")  # or the next is not due
    run_python(code, home, server.url, "auto")
    deadline = time.monotonic() + 30
    while len(lines(home)) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert [line["started_by"] for line in lines(home)] == ["waiting host", "host"]


def test_who_is_off_looks_only_or_has_no_spool_leaves_no_line(home: Path, server: LocalPostHog) -> None:
    """Off by a variable, off by the file, a dry run, a fresh machine."""
    assert flush_json(home)["exit_code"] == 0
    assert not home.exists()
    spool_named(home, server.url, "a", text="NOT-IN-THE-LOG")
    assert flush_json(home, env=environment(DO_NOT_TRACK="1"))["result"] == "telemetry off"
    flush_json(home, "run", "--dry-run")
    (home / "telemetry.json").write_text("?")
    assert flush_json(home)["result"] == "telemetry off"
    assert not (home / "spool" / "flush.log").exists()


@pytest.mark.parametrize("way", ["disable", "file"])
def test_opting_out_deletes_the_log_and_the_report(way: str, home: Path, server: LocalPostHog) -> None:
    """Both tell of events; what a killed process left half written goes as well."""
    spool_named(home, server.url, "a", text="NOT-IN-THE-LOG")
    flush_json(home)
    spool = home / "spool"
    for name in ("report.html", ".report.html.77.0a1b2c3d", ".flush.log.77.0a1b2c3d"):
        (spool / name).write_text("events")
    if way == "disable":
        assert flush(home, "disable").returncode == 0
    else:
        consent = json.loads((home / "telemetry.json").read_text())
        (home / "telemetry.json").write_text(json.dumps({**consent, "enabled": False}))
        assert flush_json(home)["result"] == "telemetry off"
    left = {path.name for path in spool.iterdir()}
    assert {name for name in left if "log" in name or "report" in name} == set()
    assert "flush.json" in left


def test_an_opt_out_during_a_run_leaves_no_line(home: Path, server: LocalPostHog) -> None:
    """The run ends after `disable` deleted everything, and writes nothing anew."""
    spool_named(home, server.url, "a", text="NOT-IN-THE-LOG")
    server.always(hang(60))
    with subprocess.Popen([sys.executable, "-m", "flusher", "--home", str(home)], env=environment()) as run:
        deadline = time.monotonic() + 30
        while not server.requests and time.monotonic() < deadline:
            time.sleep(0.05)
        assert flush(home, "disable").returncode == 0
        run.terminate()
        assert run.wait(timeout=30) == 0
    assert not (home / "spool" / "flush.log").exists()


def _link(log: Path) -> None:
    (log.parent / "elsewhere").write_text("mine\n")
    log.symlink_to(log.parent / "elsewhere")


def _second_name(log: Path) -> None:
    (log.parent / "elsewhere").write_text("mine\n")
    log.hardlink_to(log.parent / "elsewhere")


IN_THE_WAY: dict[str, Callable[[Path], None]] = {
    "a folder": lambda log: log.mkdir(),
    "a link": _link,
    "a hard link": _second_name,
}
if sys.platform != "win32":
    IN_THE_WAY["a pipe"] = os.mkfifo


@pytest.mark.parametrize("way", IN_THE_WAY)
def test_what_stands_in_the_place_of_the_log_is_set_aside(way: str, home: Path, server: LocalPostHog) -> None:
    """All is delivered, exit 0, no word of it; what stood in the way is as it was, and the log begins with this run."""
    spool_named(home, server.url, "a", text="NOT-IN-THE-LOG")
    IN_THE_WAY[way](home / "spool" / "flush.log")
    done = flush(home, "run", "--quiet")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert len(server.accepted) == 2
    if "link" in way:
        assert (home / "spool" / "elsewhere").read_text() == "mine\n"
    (run,) = logged_runs(Paths(home))
    assert (run.delivered, run.set_aside.startswith("set aside in quarantine: flush.log (")) == (2, True)
    assert flush(home, "report").returncode == 0


def test_the_log_is_bounded_and_keeps_the_newer_half(home: Path, server: LocalPostHog) -> None:
    """Over the limit whole lines of the newer half stay, and the run's own."""
    spool_named(home, server.url, "a", text="NOT-IN-THE-LOG")
    paths = Paths(home)
    append(paths, LoggedRun(started_at="2026-11-23T12:00:00+00:00", reason="x" * 100))
    line = json.loads(paths.flush_log.read_text())
    older = [json.dumps({**line, "requests": number}) for number in range(MOST_BYTES // 400)]
    paths.flush_log.write_text("\n".join(older) + "\n")
    assert flush_json(home)["delivered"] == 2
    told = logged_runs(paths)
    assert MOST_BYTES // 4 < paths.flush_log.stat().st_size < MOST_BYTES
    assert told[-1].delivered == 2
    numbers = [entry.requests for entry in told[:-1]]
    assert numbers == list(range(numbers[0], MOST_BYTES // 400))
    assert paths.flush_log.stat().st_mode & 0o777 == 0o600


def test_lines_of_many_runs_at_once_are_whole(home: Path, server: LocalPostHog) -> None:
    """One delivers, the others find it at work or nothing to do; each leaves its line."""
    spool_named(home, server.url, "a", text="NOT-IN-THE-LOG")
    command = [sys.executable, "-m", "flusher", "--home", str(home), "run", "--quiet"]
    runs = [subprocess.Popen(command, env=environment()) for _ in range(5)]
    assert [run.wait(timeout=60) for run in runs] == [0] * 5
    assert len(lines(home)) == 5
    assert sum(line["delivered"] for line in lines(home)) == 2


SOUND = '{"started_at": "2026-11-23T12:00:00+00:00"'
UNSOUND = {
    "empty": "",
    "half a line": '{"started_at": "2026-11-',
    "no object": "[]",
    "no time": '{"delivered": 1}',
    "no moment": '{"started_at": "yesterday"}',
    "a time out of range": f'{SOUND}, "seconds": 1e15}}',
    "a number that is none": f'{SOUND}, "delivered": "many"}}',
    "a negative number": f'{SOUND}, "delivered": -1}}',
    "a yes": f'{SOUND}, "delivered": true}}',
    "not a number": f'{SOUND}, "seconds": NaN}}',
    "counts that are none": f'{SOUND}, "sent": {{"a": []}}}}',
    "too few delays": f'{SOUND}, "delays": [1]}}',
    "endless depth": "[" * 100_000,
    "no text": "\0\xff",
}


def test_lines_that_do_not_read_are_passed_over(paths: Paths) -> None:
    """Whatever stands between them, sound lines read; a part of a line is ended before the next one."""
    paths.spool.mkdir(parents=True)
    for line in UNSOUND.values():
        with paths.flush_log.open("ab") as file:
            file.write(line.encode("latin-1"))
        append(paths, LoggedRun(started_at="2026-11-23T12:00:00+00:00"))
    assert len(logged_runs(paths)) == len(UNSOUND)
    newer = f'{SOUND}, "what a later version tells": 1, "delivered": 3}}'
    paths.flush_log.write_text(newer + "\n")
    (entry,) = logged_runs(paths)
    assert (entry.delivered, entry.requests) == (3, 0)


def test_names_are_bounded_and_delays_fall_into_classes() -> None:
    """Sixty names make fifty and a rest; an event of the future took no time."""
    counts, now = DeliveryCounts(), 1_800_000_000.0
    ages_s = [-5, 0, 59, 60, 599, 600, 3599, 3600, 86_399, 86_400, 604_799, 604_800]
    for place in range(60):
        happened = datetime.fromtimestamp(now - ages_s[place % len(ages_s)], UTC).isoformat()
        text = json.dumps({"event": f"{place:03}" + "x" * 200, "timestamp": happened})
        counts.add([Row(place, "", text, now)], now)
    assert (len(counts.events), counts.other_events) == (50, 10)
    assert max(map(len, counts.events)) == 64
    assert dict(zip(DELAYS, counts.delays, strict=True)) == {
        "< 1 min": 15, "< 10 min": 10, "< 1 h": 10, "< 1 day": 10, "< 1 week": 10, "longer": 5,
    }  # fmt: skip
    assert counts.longest_delay_s == 604_800
