"""`spool_sequence` proves a loss: the analyst's query finds exactly the missing numbers, and nothing else."""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from spool import Limits, Telemetry
from tests.support.local_posthog import LocalPostHog, accept_then_reset
from tests.support.look import look
from tests.support.processes import KEY, ROOT, flush, flush_json

GAPS, TOTALS, *_ = (ROOT / "scripts" / "loss_by_gaps.sql").read_text(encoding="utf-8").split(";\n")


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
    assert ask(GAPS) == []
    assert ask(TOTALS) == []


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
    assert sorted(ask(TOTALS, but="gone in PostHog")) == sorted([(one.id, 3, 3, 0), (two.id, 1, 0, 1)])


def test_a_dead_letter_is_a_gap_until_it_is_retried(home: Path, server: LocalPostHog, ask: Any) -> None:
    """Not lost: it keeps its number, and arrives under it."""
    host = Host(home, server)
    _first, rejected, _last = host.capture("1.0", "a", "rejected", "b")
    server.reject(rejected)
    assert host.flush()["rejected"] == 1
    number = host.numbers["rejected"]
    assert ask(GAPS) == [(host.id, "1.0", "1.0", number, number, 1)]
    assert ask(TOTALS) == [(host.id, 1, 0, 1)]
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
