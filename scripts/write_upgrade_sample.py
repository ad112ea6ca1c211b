#!/usr/bin/env python3
"""Write a spool as this release leaves it, for every later one to read: `tests/accounting/test_upgrade.py` does.

Run it once for a release: scripts/write_upgrade_sample.py tests/data/spool-0.1
The folder gets `home`, and `expected.json` with what waits there. It tells no path, name of a host or user.
"""

from __future__ import annotations

import getpass
import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from uuid import UUID

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from flusher.delivery import state  # noqa: E402 - the path comes first
from flusher.events import dead, waiting  # noqa: E402 - as above
from spool import Limits, Telemetry  # noqa: E402 - as above
from spool.catalogue import Catalogue, Event  # noqa: E402 - as above
from spool.home import Paths  # noqa: E402 - as above
from spool.queue import FileLock, Queue  # noqa: E402 - as above

URL = "https://ph.example.com"
# The sample must not expire before the tests of a later year.
FOR_EVER = Limits(max_age_s=1e10)
# A command whose process ends without a word: its span's file stays.
KILLED = """
import os, sys
from spool import Limits, Telemetry
home, host = sys.argv[1:]
t = Telemetry("ktx", "1.2.3", "phc_sample", host, home, limits=Limits(max_age_s=1e10), flush="never")
t.command(["ktx", "ingest"]).__enter__()
os._exit(9)
"""


class Sampled(Event):
    """The one event of the sample's catalogue."""

    number: int


def must(holds: bool, what: str) -> None:  # noqa: FBT001 - a check of one thing
    """End the script where the sample would not be what it is to be."""
    if not holds:
        sys.exit(f"not as it should be: {what}; nothing of it is a sample")


def fill(home: Path) -> None:
    """Let a host and a flusher do what fills a spool, without any network."""
    paths = Paths(home)
    telemetry = Telemetry("ktx", "1.2.3", "phc_sample", URL, home, Catalogue(Sampled), FOR_EVER, flush="never")
    for number in range(1, 9):
        must(telemetry.capture("sampled", {"number": number}, uuid=UUID(int=number)).state == "queued", "queued")
    must(telemetry.capture("sampled", {"number": "none"}).state == "lost", "lost")
    telemetry.close()
    queue = Queue(paths, FOR_EVER, wait_s=5.0)
    stored = [one for one in queue.gather() if '"sampled"' in one.text]
    queue.settle(stored[:2], [(one, "rejected with 400: sample") for one in stored[2:4]])
    queue.close()
    state.store(paths, state.FlushState(1.79e9, 1.79e9, "rejected", "sample"))
    with FileLock(paths.queue_lock).held(1.0):  # somebody is at the queue: the next event goes aside
        must(telemetry.capture("sampled", {"number": 9}, uuid=UUID(int=9)).state == "aside", "aside")
    telemetry.close()
    command = [sys.executable, "-c", KILLED, str(home), URL]
    subprocess.run(command, check=False, env={**os.environ, "PYTHONPATH": str(ROOT)})


def expected(home: Path) -> dict[str, object]:
    """Give what a later release must find: the events that wait and those that are dead, spans, the account."""
    paths = Paths(home)
    queue = Queue(paths, FOR_EVER, wait_s=5.0)
    wait = {event["uuid"]: event for event in (json.loads(letter.text) for letter in waiting(paths, queue))}
    died = {json.loads(letter.text)["uuid"]: letter.reason for letter in dead(queue)}
    account = queue.account()
    queue.close()
    spans = [path.stem for path in paths.spans.glob("*.json")]
    return {"waiting": wait, "dead": died, "spans": spans, "account": account.as_json(), "losses": account.losses}


def main() -> None:
    """Write the sample; it must be complete, and tell nothing of this machine."""
    folder = Path(sys.argv[1])
    home = folder / "home"
    folder.mkdir(parents=True)
    fill(home)
    found = expected(home)
    (folder / "expected.json").write_text(json.dumps(found, indent=2, sort_keys=True) + "\n")
    for name in ("flush.json", "destination.json", "emitted.json", "aside", "spans", "queue/cache.db"):
        must((home / "spool" / name).exists(), name)
    tells = [str(home.resolve()), str(ROOT), socket.gethostname(), str(Path.home()) + "/", f"/{getpass.getuser()}/"]
    for path in filter(Path.is_file, folder.rglob("*")):
        data = path.read_bytes()
        must(not [word for word in tells if word.encode() in data], f"{path} tells nothing of this machine")
        print(path.relative_to(folder), len(data))


if __name__ == "__main__":
    main()
