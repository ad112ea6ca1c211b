"""A queue that somebody damaged: what it held before, and what a host and a flusher make of it after."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

from flusher.absorb import absorb
from flusher.context import Context, Options, Result
from flusher.run import run
from spool import Receipt, Telemetry
from spool.home import Paths
from spool.queue import DATABASE, Queue
from spool.queue.account import Account
from tests.support.local_posthog import LocalPostHog
from tests.support.processes import KEY

__all__ = ["REFUSED", "After", "Before", "check", "fill", "go_on", "quarantined", "root_of", "sql", "text"]

EVENTS, DELIVERED, DEAD, REFUSED = 200, 40, 20, 3
_STAMP = "2026-11-23T12:00:00.000000Z"


def text(number: int) -> str:
    """Give an event as capture would hand it over; sizes vary, so that pages do."""
    properties = {"number": number, "pad": "x" * (number % 90)}
    message = {"uuid": str(UUID(int=number)), "event": "scan_completed", "distinct_id": "d", "timestamp": _STAMP}
    return json.dumps({**message, "properties": properties}, separators=(",", ":"))


@dataclass(frozen=True)
class Before:
    """A sound, closed home: pending events by uuid, the uuids of dead letters, uuids by number, the account."""

    home: Path
    pending: dict[str, Any]
    dead: list[str]
    numbers: dict[int, str]
    account: Account

    def copy(self, home: Path) -> Paths:
        """Give a copy to damage."""
        shutil.copytree(self.home, home)
        return Paths(home)


def fill(home: Path) -> Before:
    """Make a queue with 141 pending events, delivered ones, dead letters and losses; closed."""
    telemetry = Telemetry("ktx", "1", KEY, home=home, flush="never")
    assert telemetry.capture("first", uuid=UUID(int=1_000))
    telemetry.close()
    queue = Queue(Paths(home), wait_s=5.0)
    absorb(Paths(home), queue, telemetry.identity.install_id)
    queue.append_all(map(text, range(EVENTS)))
    stored = list(queue.gather())
    queue.settle(stored[:DELIVERED], [(one, "bad") for one in stored[DELIVERED : DELIVERED + DEAD]])
    queue.count_lost("invalid", REFUSED)
    queue.report_losses(lambda _losses: text(EVENTS))
    pending, numbers = list(queue.gather()), {one.number: json.loads(one.text)["uuid"] for one in stored}
    numbers |= {one.number: json.loads(one.text)["uuid"] for one in pending}
    before = Before(home, _by_uuid(json.loads(one.text) for one in pending), _dead(queue), numbers, queue.account())
    queue.close()
    return before


def _by_uuid(events: Any) -> dict[str, Any]:
    return {event["uuid"]: event for event in events}


def _dead(queue: Queue) -> list[str]:
    return [json.loads(letter.text)["uuid"] for letter in queue.dead()]


@dataclass(frozen=True)
class After:
    """What became of the spool. `noticed`: the capture itself found the damage. `out`: what PostHog has."""

    receipt: Receipt
    noticed: bool
    out: dict[str, Any]
    dead: list[str]
    account: Account
    results: list[Result]

    @property
    def damaged(self) -> int:
        """How many events are counted as lost by the damage."""
        return self.account.losses.get("damaged", 0)

    @property
    def reports(self) -> list[dict[str, int]]:
        """What the events that tell of losses tell, in order."""
        return [event["properties"]["lostByCause"] for event in self.out.values() if event["event"] == "spool_loss"]

    def missing(self, before: Before) -> set[str]:
        """Give the events that waited or were dead, and are nowhere now."""
        return {*before.pending, *before.dead} - {*self.out, *self.dead}


def check(after: After, before: Before, paths: Paths) -> None:
    """What holds after any damage: nothing raises, is made up, waits for ever or vanishes uncounted."""
    assert after.receipt, after.receipt
    assert set(after.results) <= {Result.DELIVERED, Result.NOTHING}
    uuid = str(after.receipt.uuid)
    assert uuid in after.out or not after.noticed, "the capture that noticed is lost"
    known = {**before.pending, uuid: after.out.get(uuid)}
    reports = [event for event in after.out.values() if event["event"] == "spool_loss"]
    assert [event for event in after.out.values() if event not in reports and event != known.get(event["uuid"])] == []
    assert after.account.balanced
    assert after.account.pending == 0
    lost = len(after.missing(before)) + (uuid not in after.out)
    if after.account.losses.get("invalid") == REFUSED:  # the account was salvaged
        # One more: an event whose row is damaged where it does not show was delivered, and could not be settled.
        assert lost <= after.damaged <= lost + 1
    else:
        assert after.damaged >= 1
    told = [event["properties"]["lostByCause"].get("damaged", 0) for event in reports]
    assert sum(told) == after.damaged
    assert [queue for queue in quarantined(paths) if not _whole(queue)] == []


def _whole(queue: Path) -> bool:
    mode = (queue / DATABASE).lstat().st_mode & 0o777 if (queue / DATABASE).exists() else 0o600
    return mode == 0o600 and queue.with_name(f"{queue.name}.reason").read_text().strip() != ""


def go_on(paths: Paths, server: LocalPostHog) -> After:
    """Capture once, then let flushers come until nothing is left and all losses are told; five at most."""
    telemetry = Telemetry("ktx", "1", KEY, home=paths.home, flush="never")
    receipt = telemetry.capture("noticed")
    telemetry.close()
    noticed = quarantined(paths) != []
    server.clear()
    queue = Queue(paths, wait_s=5.0)
    results: list[Result] = []
    while len(results) < 5 and (not results or results[-1] is not Result.NOTHING):
        options = Options(host=server.url, key=KEY, force=True)
        results.append(run(Context(app="ktx", paths=paths, options=options, env={})).result)
    after = After(receipt, noticed, _by_uuid(server.events()), _dead(queue), queue.account(), results)
    queue.close()
    return after


def quarantined(paths: Paths) -> list[Path]:
    """Give the queues in quarantine."""
    return sorted(path for path in paths.quarantine.glob("*") if path.is_dir())


def root_of(folder: Path, table: str) -> tuple[int, bytes]:
    """Give the number of a table's or an index's first page, and that page."""
    with closing(sqlite3.connect(folder / DATABASE)) as connection:
        ((number, size),) = connection.execute(
            "SELECT rootpage, page_size FROM sqlite_master, pragma_page_size WHERE name = ?", (table,)
        )
    data = (folder / DATABASE).read_bytes()
    return number, data[(number - 1) * size : number * size]


def sql(*statements: str) -> Callable[[Path], None]:
    """Give a damage to a queue's folder: statements that somebody runs past us."""

    def damage(folder: Path) -> None:
        connection = sqlite3.connect(folder / DATABASE)
        with connection:
            for statement in statements:
                connection.execute(statement)
        connection.close()

    return damage
