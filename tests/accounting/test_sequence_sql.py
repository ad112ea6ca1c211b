"""`spool_sequence` proves a loss: the analyst's query finds exactly the missing numbers, and nothing else."""

from __future__ import annotations

import json
import re
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from spool import Limits, Telemetry
from tests.support.local_posthog import LocalPostHog, accept_then_reset
from tests.support.look import look
from tests.support.processes import KEY, ROOT, flush, flush_json, run_python

GAPS, TOTALS, FEWER, *_ = (ROOT / "scripts" / "loss_by_gaps.sql").read_text(encoding="utf-8").split(";\n")
# One process for twenty homes: twenty interpreters would take most of the test's time.
FLUSH_EACH = """
import sys
from contextlib import suppress
from flusher.cli import main
for home in sys.argv[1:]:
    sys.argv[1:] = ["--home", home, "run", "--force", "--json"]
    with suppress(SystemExit): main()
"""


def in_sqlite(hogql: str) -> str:
    """Say the same to SQLite: what differs is how a property is read and what the row before is called."""
    path = re.sub(r"\bproperties((?:\.\w+)+)", r"json_extract(properties, '$\1')", hogql)
    return re.sub(r"toInt\(((?:[^()]|\([^()]*\))*)\)", r"CAST(\1 AS INTEGER)", path).replace("lagInFrame(", "lag(")


@pytest.fixture
def ask(server: LocalPostHog) -> Iterator[Any]:
    """A table of the events that arrived, every copy; gives the rows that a query finds in it."""
    with closing(sqlite3.connect(":memory:")) as database:
        database.execute("CREATE TABLE events (uuid, event, distinct_id, timestamp, properties)")

        def rows(query: str, *, but: str = "no event") -> list[tuple[Any, ...]]:
            database.execute("DELETE FROM events")
            for event in server.accepted:
                if event["properties"].get("name") != but:
                    fields = [event[name] for name in ("uuid", "event", "distinct_id", "timestamp")]
                    database.execute(
                        "INSERT INTO events VALUES (?, ?, ?, ?, ?)", [*fields, json.dumps(event["properties"])]
                    )
            return database.execute(in_sqlite(query)).fetchall()

        yield rows


class Host:
    """One install, whose events bear names; it knows the number of each, by looking into its queue."""

    def __init__(self, home: Path, server: LocalPostHog) -> None:
        self.home, self.server = home, server
        self.numbers: dict[str, int] = {}

    def capture(self, version: str, *names: str, most: int = 10_000) -> list[str]:
        """Capture an event of each name; give their uuids."""
        limits = Limits(max_events=most)
        telemetry = Telemetry("ktx", version, KEY, self.server.url, self.home, limits=limits, flush="never")
        uuids = []
        for name in names:
            uuids.append(str(telemetry.capture("scan_completed", {"name": name}).uuid))
            self.numbers[name] = max(look(self.home).numbers)
        telemetry.close()
        return uuids

    def copy(self, home: Path) -> Host:
        """Give the same home as it is now, at another place, as a backup or the layer of an image is one."""
        shutil.copytree(self.home, home)
        return Host(home, self.server)

    def flush(self) -> dict[str, Any]:
        """Deliver what waits."""
        return flush_json(self.home, "run", "--force", "--max-retries", "1")

    @property
    def id(self) -> str:
        """The install id."""
        return str(json.loads((self.home / "telemetry.json").read_text())["installId"])


def test_without_a_loss_there_is_no_gap(tmp_path: Path, server: LocalPostHog, ask: Any) -> None:
    """Two installs, two versions, an upgrade, a batch that was sent twice, and a tail that waits: no alarm."""
    one, two = Host(tmp_path / "one", server), Host(tmp_path / "two", server)
    one.capture("1.0", "a", "b", "c")
    two.capture("1.0", "a")
    server.misbehave(accept_then_reset())
    assert one.flush()["remaining"] == two.flush()["remaining"] == 0
    assert server.duplicates() != []
    one.capture("2.0", "d")
    assert one.flush()["delivered"] == 1
    one.capture("2.0", "waits", "waits too")
    assert len({event["distinct_id"] for event in server.accepted}) == 2
    assert ask(GAPS) == ask(TOTALS) == ask(FEWER) == []


def test_each_missing_number_is_found_by_install_and_version(tmp_path: Path, server: LocalPostHog, ask: Any) -> None:
    """Evicted, purged, and lost behind PostHog's 200; told by cause as far as the machine knows it."""
    one, two = Host(tmp_path / "one", server), Host(tmp_path / "two", server)
    one.capture("1.0", "a")
    two.capture("1.0", "a", "gone in PostHog", "b")
    one.flush()
    one.capture("1.0", "evicted 1", "evicted 2", "kept 1", "kept 2", most=2)
    two.flush()
    one.flush()
    one.capture("2.0", "purged")
    assert flush(one.home, "purge", "--yes").returncode == 0
    one.capture("2.0", "c")
    one.flush()
    assert [event["properties"].get("name") for event in server.accepted].count("evicted 1") == 0

    evicted, gone, purged = (one.numbers["evicted 1"], two.numbers["gone in PostHog"], one.numbers["purged"])
    assert one.numbers["evicted 2"] == evicted + 1
    found = ask(GAPS, but="gone in PostHog")
    assert sorted(found) == sorted(
        [
            (one.id, "1.0", "1.0", evicted, evicted + 1, 2),
            (one.id, "(spool_loss)", "2.0", purged, purged, 1),
            (two.id, "1.0", "1.0", gone, gone, 1),
        ]
    )
    assert sorted(ask(TOTALS, but="gone in PostHog")) == sorted([(one.id, 3, 3, 0, 0, 1), (two.id, 1, 0, 1, 0, 1)])


def test_a_dead_letter_is_a_gap_until_it_is_retried(home: Path, server: LocalPostHog, ask: Any) -> None:
    """Not lost: it keeps its number, and arrives under it."""
    host = Host(home, server)
    _first, rejected, _last = host.capture("1.0", "a", "rejected", "b")
    server.reject(rejected)
    assert host.flush()["rejected"] == 1
    number = host.numbers["rejected"]
    assert ask(GAPS) == [(host.id, "1.0", "1.0", number, number, 1)]
    assert ask(TOTALS) == [(host.id, 1, 0, 1, 0, 1)]
    server._rejected.clear()  # noqa: SLF001 - PostHog was mended
    assert flush(home, "retry").returncode == 0
    assert host.flush()["delivered"] == 1
    assert (ask(GAPS), ask(TOTALS)) == ([], [])


def test_a_loss_before_the_queue_takes_no_number(home: Path, server: LocalPostHog, ask: Any) -> None:
    """`spool_loss` alone tells of it; a gap would not."""
    host = Host(home, server)
    host.capture("1.0", "a")
    telemetry = Telemetry("ktx", "1.0", KEY, server.url, home, flush="never")
    assert telemetry.capture("scan_completed", {"no": object()}).state == "lost"
    telemetry.close()
    host.capture("1.0", "b")
    host.flush()
    (told,) = [event["properties"] for event in server.accepted if event["event"] == "spool_loss"]
    assert told["lostByCause"] == {"invalid": 1}
    assert (ask(GAPS), ask(TOTALS)) == ([], [])


def test_a_restored_backup_is_told_and_hides_no_gap(tmp_path: Path, server: LocalPostHog, ask: Any) -> None:
    """Its numbers stand twice. What no copy sent is missing, and what one told of explains no gap of another."""
    host = Host(tmp_path / "home", server)
    host.capture("1.0", "a")
    host.flush()
    restored = host.copy(tmp_path / "restored")
    host.capture("1.0", "b", "c", "d", "e", "f", "gone in PostHog", "g")
    host.flush()
    restored.capture("1.0", "evicted", "b again", most=1)
    restored.flush()
    assert restored.id == host.id
    assert restored.numbers["evicted"] == host.numbers["b"]
    gone, twice = host.numbers["gone in PostHog"], list(standing_twice(server).values())
    assert twice == [2] * len(twice) != []
    assert ask(GAPS, but="gone in PostHog") == [(host.id, "1.0", "1.0", gone, gone, 1)]
    assert ask(TOTALS, but="gone in PostHog") == [(host.id, 1, 1, None, len(twice), 2)]
    assert ask(TOTALS) == [(host.id, 0, 1, None, len(twice), 2)]
    assert ask(FEWER) == []


def test_clones_of_a_home_never_pass_as_without_loss(tmp_path: Path, server: LocalPostHog, ask: Any) -> None:
    """Twenty containers with a home from the image: a loss in one shows by a number that stands 19 times."""
    baked = Host(tmp_path / "image", server)
    baked.capture("1.0", "a")
    baked.flush()
    clones = [baked.copy(tmp_path / str(number)) for number in range(20)]
    for clone in clones[:-1]:
        clone.capture("1.0", "b", "c", "d", "e")
    clones[-1].capture("1.0", "b", "gone in PostHog", "d", "e")
    clones[0].capture("1.0", "f")
    done = run_python(FLUSH_EACH, *(clone.home for clone in clones))
    assert done.stdout.count('"remaining": 0') == 20, done.stderr
    assert list(standing_twice(server).values()) == [20] * 4
    gone = clones[-1].numbers["gone in PostHog"]
    assert ask(GAPS, but="gone in PostHog") == []
    assert ask(TOTALS, but="gone in PostHog") == [(baked.id, 0, 0, None, 4, 20)]
    assert ask(FEWER, but="gone in PostHog") == [(baked.id, gone, 19, 20)]
    assert ask(FEWER) == []


def test_an_event_that_was_sent_twice_makes_no_clone(tmp_path: Path, server: LocalPostHog, ask: Any) -> None:
    """With the same uuid it counts once, also from a copy of the home, and so does what it tells of."""
    host = Host(tmp_path / "home", server)
    host.capture("1.0", "a")
    restored = host.copy(tmp_path / "restored")
    assert host.flush()["delivered"] == restored.flush()["delivered"] != 0
    assert ask(TOTALS) == ask(FEWER) == []
    host.capture("1.0", "evicted", "b", most=1)
    server.misbehave(accept_then_reset())
    host.flush()
    assert "spool_loss" in [event["event"] for event in server.duplicates()]
    assert ask(TOTALS) == [(host.id, 1, 1, 0, 0, 1)]
    assert ask(FEWER) == []


def standing_twice(server: LocalPostHog) -> dict[int, int]:
    """Give the numbers that stand for more than one uuid, each with how many."""
    uuids: dict[int, set[str]] = {}
    for event in server.accepted:
        uuids.setdefault(event["properties"]["spool_sequence"], set()).add(event["uuid"])
    return {number: len(found) for number, found in sorted(uuids.items()) if len(found) > 1}
