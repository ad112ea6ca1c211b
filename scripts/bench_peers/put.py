"""Put COUNT events on disk with one peer, when a line comes on stdin; print how long each took.

`put.py PEER FOLDER COUNT`. Says "open" when it is ready. Each peer as its own documentation calls it; what is
timed is the call after which the event is on disk.
"""

from __future__ import annotations

import json
import sqlite3
import sys
import time
from collections import Counter
from collections.abc import Callable

from scripts.bench_peers.sample_event import PROPERTIES, TEXT

Put = Callable[[], object]


def spool(folder: str) -> Put:
    """With everything that a host has on: consent, a command under way, the default limits."""
    from spool import Telemetry

    telemetry = Telemetry("bench", "1.0.0", "phc_bench", home=folder, flush="never")
    telemetry.command(["work"]).__enter__()
    return lambda: telemetry.capture("work_done", PROPERTIES).state


def persist_queue(folder: str) -> Put:
    """The acknowledged queue: what a durable sender would take."""
    from persistqueue import SQLiteAckQueue

    queue = SQLiteAckQueue(folder, auto_commit=True)
    return lambda: queue.put(TEXT)


def litequeue(folder: str) -> Put:
    """It sets WAL and synchronous NORMAL itself."""
    from litequeue import LiteQueue

    queue = LiteQueue(folder + "/queue.db")
    return lambda: queue.put(TEXT)


def raw_sqlite(folder: str) -> Put:
    """The limit: one INSERT, committed; no lock of our own, no consent, no limits."""
    connection = sqlite3.connect(folder + "/raw.db", isolation_level=None, timeout=60)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = NORMAL")
    connection.execute("CREATE TABLE IF NOT EXISTS events (number INTEGER PRIMARY KEY, text TEXT)")
    return lambda: connection.execute("INSERT INTO events (text) VALUES (?)", (TEXT,))


def diskcache(folder: str) -> Put:
    """A plain diskcache, pushed to as a queue."""
    import diskcache as library

    cache = library.Cache(folder, timeout=60)
    return lambda: cache.push(TEXT)


def azure(folder: str) -> Put:
    """The part of azure-cli-telemetry that writes; its `save` would also start an upload to Microsoft."""
    from azure.cli.telemetry.util import save_payload

    return lambda: save_payload(folder, TEXT)


PEERS = {
    "spool": spool,
    "persist-queue": persist_queue,
    "litequeue": litequeue,
    "raw sqlite3": raw_sqlite,
    "diskcache": diskcache,
    "azure-cli-telemetry": azure,
}


def main(peer: str, folder: str, count: str) -> None:
    """Open, warm up with one, wait for the start, put the others."""
    put = PEERS[peer](folder)
    put()
    print("open", flush=True)
    sys.stdin.readline()
    taken: list[float] = []
    states: Counter[str] = Counter()
    first, cpu = time.monotonic(), time.process_time()
    for _ in range(int(count)):
        started = time.perf_counter()
        state = put()
        taken.append(time.perf_counter() - started)
        states[state if isinstance(state, str) else "put"] += 1
    cpu, last = time.process_time() - cpu, time.monotonic()
    print(json.dumps({"taken_s": taken, "cpu_s": cpu, "states": states, "from": first, "to": last}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
