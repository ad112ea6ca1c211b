"""A wrong clock loses nothing: an event expires when two failed runs, a day apart, found it too old.

The flusher's clock is given to it, or `faketime` gives one to the whole process: behind, ahead, or jumping.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from flusher.context import Context, Options, Result, RunReport
from flusher.delivery import expiry
from flusher.delivery.expiry import FailedRun
from flusher.run import run
from spool import Telemetry
from spool.home import Paths
from spool.queue import Queue
from spool.queue.account import Account
from tests.support.captures import spool_events
from tests.support.damage import text
from tests.support.local_posthog import LocalPostHog, slow
from tests.support.local_posthog import status as answer
from tests.support.processes import KEY, environment, flush_json, status

DAY_S = 24 * 3600.0
NOWHERE = "http://127.0.0.1:9"
# What faketime makes of the clock costs a process some milliseconds; that a test waits for nothing is its point.
needs_faketime = pytest.mark.skipif(shutil.which("faketime") is None, reason="needs faketime (apt install faketime)")


class Install:
    """An install whose events are stored, and whose runs happen, in days from now by the clock of the moment."""

    def __init__(self, home: Path) -> None:
        self.paths = Paths(home)
        self.now = time.time()
        self._stored = 0
        self.uptime: Callable[[], tuple[str, float]] = lambda: ("", 0.0)
        telemetry = Telemetry("ktx", "1", KEY, NOWHERE, home, flush="never")
        telemetry.capture("first")
        telemetry.close()
        self.made(datetime.fromtimestamp(self.now - 100 * DAY_S, UTC).isoformat())
        self.run(0)  # takes in the event of the first run
        with closing(self._queue(0)) as queue:
            queue.wipe()  # which nobody is told of
        self.paths.flush_state.unlink()

    def made(self, created_at: str) -> None:
        """Let the install be of this time."""
        identity = json.loads(self.paths.identity.read_text())
        self.paths.identity.write_text(json.dumps({**identity, "createdAt": created_at}))

    def _queue(self, days: float) -> Queue:
        return Queue(self.paths, wait_s=5.0, clock=lambda: self.now + days * DAY_S)

    def store(self, days: float, count: int = 3) -> None:
        """Put events into the queue, stored at that time."""
        with closing(self._queue(days)) as queue:
            queue.append_all(text(self._stored + number) for number in range(count))
        self._stored += count

    def run(self, days: float, env: dict[str, str] | None = None, **options: Any) -> RunReport:
        """Do one pass at that time, which doesn't get through."""
        chosen = Options(force=True, max_retries=0, **options)
        at = self.now + days * DAY_S
        return run(Context("ktx", self.paths, chosen, env or environment(), clock=lambda: at, uptime=self.uptime))

    def expired(self, *days: float) -> list[int]:
        """Give how many events expire in each of these runs."""
        reports = [self.run(at) for at in days]
        assert {report.result for report in reports} == {Result.UNREACHABLE}
        return [report.expired for report in reports]

    def account(self) -> Account:
        """Give the account, which adds up."""
        with closing(self._queue(0)) as queue:
            account = queue.account()
        assert account.balanced
        return account


@pytest.fixture
def install(home: Path) -> Install:
    """An install that was made a hundred days ago; nothing waits."""
    return Install(home)


# -- the rule -----------------------------------------------------------------------------------------------


def test_an_event_expires_when_two_runs_a_day_apart_found_it_too_old(install: Install) -> None:
    """Not by the first, nor by others of that day; it is counted, and the account adds up."""
    install.store(-1)
    assert install.expired(28, 29.5, 29.9, 30.4, 30.6) == [0, 0, 0, 0, 3]
    assert install.account().losses["expired"] == 3


def test_each_run_has_tried_to_deliver_before(install: Install, server: LocalPostHog) -> None:
    """Where the second one gets through, nothing expires."""
    install.store(-40)
    assert install.expired(0) == [0]
    report = install.run(2, host=server.url)
    assert (report.delivered, report.expired, report.remaining) == (3, 0, 0)
    assert json.loads(install.paths.flush_state.read_text())["failed_runs"] == []


def test_a_run_that_made_no_attempt_counts_for_nothing(install: Install) -> None:
    """No key, telemetry off, a proxy that can't be used, backing off: these events wait by contract."""
    install.store(-40)
    left = json.loads(install.paths.destination.read_text())
    install.paths.destination.write_text(json.dumps({**left, "project_key": None}))
    assert [install.run(days).result for days in (0, 2)] == [Result.NO_KEY] * 2
    install.paths.destination.write_text(json.dumps(left))
    broken = environment(HTTP_PROXY="http://[")
    assert [install.run(days, broken).result for days in (4, 6)] == [Result.MISCONFIGURED] * 2
    assert [install.run(days, environment(CI="1")).result for days in (8, 10)] == [Result.OFF] * 2
    assert install.account().pending == 3
    assert install.expired(12, 14) == [0, 3]


def test_a_destination_that_refuses_is_no_reason_to_keep_events_for_ever(
    install: Install, server: LocalPostHog
) -> None:
    """A key that nobody mends: an attempt is one that the destination answered, or did not."""
    install.store(-40)
    server.always(answer(401))
    reports = [install.run(days, host=server.url) for days in (0, 2)]
    assert [(report.result, report.expired) for report in reports] == [(Result.REFUSED, 0), (Result.REFUSED, 3)]


def test_a_destination_that_takes_some_events_has_refused_none_of_the_others(
    install: Install, server: LocalPostHog
) -> None:
    """They were not tried: the run ended before their turn."""
    install.store(-40, 4)
    for days in (0, 2, 4):
        server.misbehave(slow(0.0), answer(503))
        report = install.run(days, host=server.url, batch_size=1)
        assert (report.result, report.delivered, report.expired) == (Result.UNREACHABLE, 1, 0)
    assert install.account().pending == 1


# -- clocks that are ahead ----------------------------------------------------------------------------------


def test_one_run_with_the_clock_a_year_ahead_loses_nothing(install: Install) -> None:
    """Nor do many on the same wrong day; and what it noted counts for nothing once the clock is right again."""
    install.store(0)
    assert install.expired(0.1, 365, 365.3, 0.5, 1.6, 3, 365.9, 4.5) == [0] * 8
    assert install.account().pending == 3


def test_a_clock_that_jumps_between_two_runs_is_not_enough(install: Install) -> None:
    """Each run must find the event too old; the one before the jump did not."""
    install.store(-1)
    assert install.expired(0, 31, 31.5) == [0, 0, 0]


def test_a_day_by_a_clock_that_jumps_again_is_no_day(install: Install) -> None:
    """As long as the machine is up its uptime tells; after a restart only the clock is left."""
    install.store(-40)
    up = [("boot", 1000.0), ("boot", 1600.0), ("boot", 2200.0), ("boot", 1000 + DAY_S)]
    for days, moment, gone in zip((0, 40, 80, 81), up, (0, 0, 0, 3), strict=True):
        install.uptime = lambda moment=moment: moment  # type: ignore[misc]
        assert install.expired(days) == [gone]


def test_an_event_that_was_stored_ahead_keeps_no_other_from_expiring_and_counts_from_when_it_was_seen(
    install: Install,
) -> None:
    """It stands before the others in the queue."""
    install.store(400, 2)
    install.store(-1, 3)
    assert install.expired(0, 31, 33) == [0, 0, 5]
    install.store(400, 2)
    assert install.expired(34, 36, 50, 63, 65) == [0] * 5
    assert install.expired(67) == [3]  # and the event that tells of the loss before


# -- clocks that are behind ---------------------------------------------------------------------------------


@pytest.mark.parametrize("days", [-20_000, -120], ids=["1970", "before the install"])
def test_a_backlog_from_before_the_install_counts_from_when_it_was_first_seen(days: float, install: Install) -> None:
    """Captured before the clock was set: thirty days later it may go, not at once."""
    install.store(days)
    assert install.expired(1, 3, 5, 29, 30.5) == [0] * 5
    assert install.expired(32, 34) == [0, 3]


def test_a_run_at_1970_notes_nothing(install: Install) -> None:
    """By its clock nothing can be old; when the clock is right, time begins to count."""
    install.store(-install.now / DAY_S + 0.1)
    assert install.expired(-install.now / DAY_S + 0.2, -install.now / DAY_S + 1.5, 0, 2) == [0] * 4
    install.store(0)
    assert install.expired(31, 33) == [0, 6]


@pytest.mark.parametrize(
    "created_at", ["", "yesterday", "0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-12:00", "1970-01-01T00:00:00Z"]
)
def test_an_install_made_at_a_time_that_can_not_be_decides_nothing(created_at: str, install: Install) -> None:
    """Then only what is older than PostHog itself can't be."""
    install.made(created_at)
    install.store(-60)
    install.store(-20_000)
    assert install.expired(0, 2, 4) == [0, 3, 0]


# -- what is noted ------------------------------------------------------------------------------------------


def test_few_runs_are_noted_however_many_fail_and_however_old_an_event_may_be() -> None:
    """Some thirty: those within the age, and one before."""
    for max_age_s in (60.0, 30 * DAY_S, 3650 * DAY_S):
        apart_s, runs = expiry.apart_s(max_age_s), list[FailedRun]()
        for number in range(500):
            runs = [*expiry.noted([*runs, FailedRun(1.8e9 + number * apart_s, number)], max_age_s)]
            assert len(runs) <= 36
        assert runs[0].at <= runs[-1].at - min(max_age_s, 499 * apart_s)


@pytest.mark.parametrize(
    "noted",
    [None, {}, "x", [1], [[1]], [["x", 1, "", 0]], [[1e300, 1, "", 0]], [[-1, 1, "", 0]], [[1.7e9, 1.5, "", 0]],
     [[10**400, 1, "", 0]], [[1.7e9, 1, 7, 0]], [[float("nan"), 1, "", 0]]],
)  # fmt: skip
def test_a_note_that_does_not_read_is_none(noted: Any, install: Install) -> None:
    """Damaged, or dropped by an older release that shares the home: the next run begins anew."""
    install.store(-40)
    assert install.expired(0) == [0]
    state = install.paths.flush_state
    state.write_text(json.dumps({**json.loads(state.read_text()), "failed_runs": noted}))
    assert install.expired(2, 3.5) == [0, 3]


def test_ten_thousand_events_are_looked_through_once_a_day(install: Install) -> None:
    """An event that is no event makes whoever reads it mend the queue: the other runs of the day leave it alone."""
    install.store(-20, 10_000)
    install.store(-40, 5)
    assert install.expired(0, 0.2, 0.9, 1.1, 1.3, 2.2) == [0, 0, 0, 5, 0, 0]


# -- the whole process --------------------------------------------------------------------------------------

HOST = """
import sys
from spool import Telemetry
telemetry = Telemetry("ktx", "1", "phc_test", sys.argv[2], home=sys.argv[1], flush="never")
for number in range(3):
    print(telemetry.capture("scan_completed", {"number": number}).uuid)
telemetry.close()
"""


def at(clock: str, *arguments: object, **more: str) -> subprocess.CompletedProcess[str]:
    """Run Python to its end by another clock."""
    command = ["faketime", *(["-f", clock] if clock[0] in "+-@" else [clock]), sys.executable, *map(str, arguments)]
    return subprocess.run(command, env=environment(**more), capture_output=True, text=True, timeout=120, check=False)


def run_at(clock: str, home: Path) -> tuple[int, dict[str, Any]]:
    """Run the flusher by another clock."""
    done = at(clock, "-m", "flusher", "--home", home, "run", "--force", "--max-retries", "0", "--json")
    return done.returncode, json.loads(done.stdout)


@needs_faketime
def test_a_backlog_captured_at_1970_arrives_with_its_times_once_the_clock_is_set(
    home: Path, server: LocalPostHog
) -> None:
    """A device without a clock: install, captures and failed runs before NTP; nothing expires, nothing changes."""
    server.stop()
    done = at("1970-01-01 00:10:00", "-c", HOST, home, server.url)
    assert (done.returncode, len(done.stdout.split())) == (0, 3)
    assert run_at("1970-01-01 00:20:00", home)[0] == 75
    for clock in ("+0d", "+2d", "+9d"):
        code, report = run_at(clock, home)
        assert (code, report["expired"], report["remaining"]) == (75, 0, 4)
    listed = {event["uuid"]: event["timestamp"] for event in json.loads(_listed(home))["events"]}
    server.start()
    assert flush_json(home, "run", "--force")["delivered"] == 4
    assert {event["uuid"]: event["timestamp"] for event in server.accepted} == listed
    assert all(moment.startswith("1970-01-01T00:1") for moment in listed.values())


def _listed(home: Path) -> str:
    return at("+0d", "-m", "flusher", "--home", home, "list", "--json").stdout


@needs_faketime
def test_a_whole_process_a_year_ahead_loses_nothing_and_two_days_apart_expire(home: Path, server: LocalPostHog) -> None:
    """The clock of the process, uptime and all."""
    server.stop()
    spool_events(home, server.url, 3)
    clocks = ["+0d", "+400d", "+400d", "+1h", "+31d", "+31d", "+33d"]
    assert [run_at(clock, home)[1]["expired"] for clock in clocks] == [0, 0, 0, 0, 0, 0, 4]
    assert status(home)["losses"] == {"expired": 4}


@needs_faketime
@pytest.mark.parametrize("clock", ["1970-01-02", "-400d", "+400d", "@2030-01-01 00:00:00 x0"])
def test_no_age_and_no_wait_is_negative_or_absurd_by_any_clock(clock: str, home: Path, server: LocalPostHog) -> None:
    """Status, doctor, log, report, list and a run of a spool from now, by a clock that is elsewhere or stands still."""
    spool_events(home, server.url, 3)
    server.always(answer(503, headers={"Retry-After": "7200"}))
    assert flush_json(home, "run", "--max-retries", "0")["exit_code"] == 75
    for command in (("status",), ("list",), ("doctor",), ("audit",), ("report", "--json"), ("schedule", "show")):
        done = at(clock, "-m", "flusher", "--home", home, *command)
        assert ("Traceback" in done.stderr, done.returncode in (0, 2, 75)) == (False, True)
    told = json.loads(at(clock, "-m", "flusher", "--home", home, "status", "--json").stdout)
    assert 0 <= told["oldest_age_s"] <= 1200 * DAY_S
    if told["next_attempt"] is not None:
        ahead_s = (datetime.fromisoformat(told["next_attempt"]) - datetime.now(UTC)).total_seconds()
        assert ahead_s < 9000
    server.behave()
    code, report = run_at(clock, home)
    assert (code, report["delivered"], report["seconds"] >= 0) == (0, 4, True)
    log = [json.loads(line) for line in (home / "spool/flush.log").read_text().splitlines()]
    assert all(line["seconds"] >= 0 and line["longest_delay_s"] >= 0 for line in log)
