"""Open a spool as any other process would: what it holds, and what a next capture or flusher makes of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

from flusher.absorb import absorb
from spool import Telemetry
from spool.beside import aside
from spool.consent import consent
from spool.home import Paths
from spool.launch.destination import host_catalogue
from spool.queue import Queue
from spool.queue.account import Account

__all__ = ["View", "capture", "look", "put_aside"]


class View(NamedTuple):
    """What a spool holds: the uuids of pending and dead events; of all pending ones, numbers and moments."""

    pending: list[str]
    dead: list[str]
    numbers: list[int]
    moments: set[tuple[str, str]]
    account: Account


def look(home: Path, *, absorbing: bool = False) -> View:
    """Open the spool and count, after absorbing what lies aside if wanted, as the next flusher would.

    The event of the first run is seen in the numbers only.
    """
    paths = Paths(home)
    queue = Queue(paths, wait_s=5)
    try:
        if absorbing:
            absorb(paths, queue, consent("ktx", paths, {}).identity.install_id, host_catalogue(paths))
        events = [(stored.number, json.loads(stored.text)) for stored in queue.gather()]
        return View(
            [event["uuid"] for _number, event in events if event["event"] != "install_first_run"],
            [json.loads(letter.text)["uuid"] for letter in queue.dead()],
            [number for number, _event in events],
            {(event["uuid"], event["timestamp"]) for _number, event in events},
            queue.account(),
        )
    finally:
        queue.close()


def capture(home: Path, *uuids: str) -> bool:
    """Capture events in this process; tell whether all were queued."""
    telemetry = Telemetry("ktx", "1", "phc_test", home=home, flush="never")
    try:
        return all(telemetry.capture("scan_completed", uuid=uuid).state == "queued" for uuid in uuids)
    finally:
        telemetry.close()


def put_aside(home: Path, uuid: str, name: str = "scan") -> None:
    """Write one event's file through the side door, as a program in another language would."""
    stamp = "2026-11-23T12:00:00+00:00"
    event = {"uuid": uuid, "event": name, "distinct_id": "d", "timestamp": stamp, "properties": {}}
    aside.put(Paths(home), uuid, json.dumps(event))
