"""What others left behind, dead commands and events aside, costs a host next to nothing, however many there are.

The bounds on time tell a moment from seconds. How much a host does is bounded by a number as well.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from uuid import UUID

import pytest

from spool.home import Paths
from spool.queue import FileLock
from spool.settings import Limits
from tests.support.local_posthog import LocalPostHog
from tests.support.odd_entries import event
from tests.support.processes import flush_json, run_python, status

if sys.platform == "win32":
    pytest.skip("the odd entries are those of POSIX", allow_module_level=True)

# More than a host may see to, and enough for what is quadratic to take minutes.
MANY = 10_000
# With everything loaded before, by a capture into a home of its own.
HOST = """
import sys, tempfile, time
from spool import Limits, Telemetry
{before}
with tempfile.TemporaryDirectory() as scratch:
    first = Telemetry("ktx", "1", "phc_test", home=scratch, flush="never")
    first.capture("captured")
    first.close()
telemetry = Telemetry("ktx", "1", "phc_test", sys.argv[2], home=sys.argv[1], flush="never")
started = time.process_time()
state = telemetry.capture("captured").state
print(state, time.process_time() - started)
telemetry.close()
"""
STOPPED = """
import freezegun
freezegun.freeze_time("2026-11-30T12:00:00", ignore=["threading"]).start()
"""


def leave(home: Path, *, dead: int = 0, beside: int = 0) -> Paths:
    """Leave dead commands and events aside in a home that works."""
    paths = Paths(home)
    assert run_python(HOST.format(before=""), home, "http://127.0.0.1:9").stdout.startswith("queued ")
    for folder, count in ((paths.aside, beside), (paths.spans, dead)):
        folder.mkdir(mode=0o700, exist_ok=True)
        for number in range(count):
            uuid = str(UUID(int=number + (folder == paths.spans) * 10**6, version=4))
            name = f"{uuid}.json" if folder == paths.spans else f"{number:020d}-{uuid}.json"
            (folder / name).write_bytes(event(uuid))
    return paths


@pytest.mark.parametrize(("dead", "beside"), [(MANY, 0), (0, MANY), (MANY, 4_000), (1_000, MANY)])
def test_a_first_capture_takes_a_moment_whatever_others_left(
    dead: int, beside: int, home: Path, server: LocalPostHog
) -> None:
    """It takes some of the dead commands along, and a flusher all the others, in one run: each once."""
    paths = leave(home, dead=dead, beside=beside)
    state, seconds = run_python(HOST.format(before=""), home, server.url).stdout.split()
    assert state == "queued"
    assert float(seconds) < 0.5
    left = len(list(paths.spans.iterdir()))
    assert dead - 100 < left <= dead
    assert left < dead or beside == MANY or dead == 0  # where so many wait aside, they are left to the flusher
    report = flush_json(home, "run", "--force")
    assert (report["exit_code"], report["recovered_spans"]) == (0, left)
    assert list(paths.spans.iterdir()) == []
    sent = [arrived["uuid"] for arrived in server.accepted if arrived["event"] == "command"]
    assert (len(sent), len(set(sent))) == (dead + beside, dead + beside)
    assert status(home)["losses"] == {}


def test_a_clock_that_stands_still_does_not_make_a_host_do_it_all(home: Path, server: LocalPostHog) -> None:
    """A host's own test may have stopped it: then the number is what ends it."""
    paths = leave(home, dead=500)
    done = run_python(HOST.format(before=STOPPED), home, server.url)
    assert done.stdout.startswith("queued "), done.stderr
    assert 400 < len(list(paths.spans.iterdir())) < 500


def test_what_is_odd_is_left_to_the_flusher(home: Path, server: LocalPostHog) -> None:
    """A host takes the sound ones among them, and names, moves or counts nothing."""
    paths = leave(home, dead=3)
    (paths.spans / "0.json").write_text("{")
    (paths.spans / "1.json").mkdir()
    os.mkfifo(paths.spans / "2.json")
    assert run_python(HOST.format(before=""), home, server.url).stdout.startswith("queued ")
    assert sorted(path.name for path in paths.spans.iterdir()) == ["0.json", "1.json", "2.json"]
    assert (status(home)["losses"], paths.quarantine.exists()) == ({}, False)
    assert flush_json(home)["recovered_spans"] == 0
    assert (status(home)["losses"], list(paths.spans.iterdir())) == ({"damaged": 1}, [])


def test_events_aside_over_the_limit_go_a_few_at_a_time(home: Path, server: LocalPostHog) -> None:
    """Where no flusher comes the oldest are dropped, each counted; a host looks at no more of them than it must."""
    paths = leave(home, beside=2_000)
    code = HOST.format(before="").replace("sys.argv[2], home", "sys.argv[2], limits=Limits(max_events=1_000), home")
    with FileLock(paths.queue_lock).held(1.0):
        done = run_python(code, home, server.url)
    state, seconds = done.stdout.split()
    assert (state, float(seconds) < 0.5) == ("aside", True)
    notes = [path for path in paths.aside.iterdir() if path.suffix == ".lost"]
    assert len(notes) == 128
    assert Limits().max_events == MANY
    flush_json(home, "run", "--force")
    assert status(home)["losses"] == {"over_count": 128}
