"""Damage to whole files by random numbers, and what must hold after it: `python -m tests.support.damage_fuzz 0 1000`.

A seed chooses the spool, what is damaged and how. One line is printed for each seed before it is tried, so that a hang
names its seed, and one for each that fails; `--keep` leaves the damaged spool of a failure where it is.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import zlib
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

from flusher.context import Context, Options, Result, open_queue
from flusher.report.status import collect
from flusher.run import run
from spool import Telemetry
from spool.beside.wipe import wipe
from spool.home import Paths, signature
from spool.queue import DATABASE, Queue
from tests.support.damage import fill, quarantined, text
from tests.support.local_posthog import LocalPostHog
from tests.support.processes import KEY, SILENT, flush, run_python

__all__ = ["DAMAGES", "Found", "Spool", "Spools", "damaged", "trial", "write_from_outside"]

PAGE = 4096
# Nobody listens there.
NOBODY = "http://127.0.0.1:9"
LOG, INDEX = f"{DATABASE}-wal", f"{DATABASE}-shm"
_ROW = re.compile(rb"(\d{1,12}\.\d{3}) ([0-9a-f]{8}) (\{\"uuid\":\"([0-9a-f-]{36})\".*?\"spool_sequence\":(\d+)\}\})")

KILLED = """
import os, signal, sys
from pathlib import Path
from spool.beside.wipe import wipe
from spool.home import Paths, signature
from spool.queue import Queue
from tests.support.damage import text
queue = Queue(Paths(Path(sys.argv[1])), wait_s=5.0)
for number in range(int(sys.argv[2]), int(sys.argv[3])):
    queue.append(text(number))
os.kill(os.getpid(), signal.SIGKILL)
"""


# -- the spools ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Spool:
    """A sound home: which events wait, and of which there was ever a trace."""

    home: Path
    pending: frozenset[str]
    known: frozenset[str]


class Spools:
    """Sound spools of several shapes, each made at its first use, in a folder of the caller's."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._made: dict[str, Spool] = {}
        self.makers: dict[str, Callable[[Path], None]] = {
            "closed": lambda home: (fill(home), None)[1],
            "large": _large,
            "log": _with_log,
            "log alone": lambda home: _killed(home, 0, 40),
        }

    def give(self, name: str) -> Spool:
        """Give one of them."""
        if name not in self._made:
            home = self._folder / name.replace(" ", "-")
            _first_run(home)
            self.makers[name](home)
            copy = self._folder / "look"
            shutil.copytree(home, copy)
            with closing(Queue(Paths(copy), wait_s=5.0)) as queue:
                pending = frozenset(_uuid(row.text) for row in queue.gather())
                dead = frozenset(_uuid(letter.text) for letter in queue.dead())
            shutil.rmtree(copy)
            everything = frozenset(str(UUID(int=number)) for number in range(3_000))
            self._made[name] = Spool(home, pending, pending | dead | everything)
        return self._made[name]


def _first_run(home: Path) -> None:
    """Make the identity beforehand, so that the first run is none of the events that a damage could cost."""
    telemetry = Telemetry("ktx", "1", KEY, home=home, flush="never")
    assert telemetry.capture("first")
    telemetry.close()
    shutil.rmtree(Paths(home).spool)


def _uuid(event: str) -> str:
    return str(json.loads(event)["uuid"])


def _killed(home: Path, start: int, end: int) -> None:
    done = run_python(KILLED, home, start, end)
    assert sys.platform == "win32" or done.returncode == -signal.SIGKILL, done.stderr


def _with_log(home: Path) -> None:
    with closing(Queue(Paths(home), wait_s=5.0)) as queue:
        queue.append_all(map(text, range(100)))
    _killed(home, 100, 150)


def _large(home: Path) -> None:
    with closing(Queue(Paths(home), wait_s=5.0)) as queue:
        for start in range(0, 1500, 500):
            queue.append_all(_padded(number) for number in range(start, start + 500))
        rows = list(queue.gather())
        queue.settle(rows[:300], [(row, "bad") for row in rows[300:320]])
        queue.settle(rows[700:800])


def _padded(number: int) -> str:
    return text(number).replace('"pad":"', '"pad":"' + "y" * (30_000 if number % 97 == 0 else 0))


# -- the damages --------------------------------------------------------------------------------------------

Damage = Callable[[random.Random, bytearray, bytes], None]


def flip(rnd: random.Random, data: bytearray, _other: bytes, first: int = 0, last: int | None = None) -> None:
    """Change up to 300 bytes anywhere."""
    for _ in range(rnd.choice([1, 2, 5, 20, 100, 300])):
        place = rnd.randrange(first, last or len(data)) % len(data)
        data[place] ^= rnd.choice([0xFF, 1 << rnd.randrange(8), rnd.randrange(1, 256)])


def flip_head(rnd: random.Random, data: bytearray, other: bytes) -> None:
    """Change bytes of the header only, one to all."""
    flip(rnd, data, other, 0, 100)


def flip_first_page(rnd: random.Random, data: bytearray, other: bytes) -> None:
    """Change bytes of the first page after the header: the schema."""
    flip(rnd, data, other, 100, PAGE)


def cut(rnd: random.Random, data: bytearray, _other: bytes) -> None:
    """Cut the file off."""
    del data[rnd.randrange(len(data)) if rnd.random() < 0.5 else PAGE * rnd.randrange(1 + len(data) // PAGE) :]


def zero_pages(rnd: random.Random, data: bytearray, _other: bytes) -> None:
    """Write zeros over some pages."""
    for _ in range(rnd.choice([1, 1, 2, 5])):
        _put(data, rnd.randrange(_pages(data)), bytes(PAGE))


def swap_pages(rnd: random.Random, data: bytearray, _other: bytes) -> None:
    """Let pages change places."""
    for _ in range(rnd.choice([1, 1, 2, 10])):
        one, two = rnd.randrange(_pages(data)), rnd.randrange(_pages(data))
        first, second = _page(data, one), _page(data, two)
        _put(data, one, second)
        _put(data, two, first)


def repeat_pages(rnd: random.Random, data: bytearray, _other: bytes) -> None:
    """Write pages over others."""
    for _ in range(rnd.choice([1, 1, 2, 10])):
        _put(data, rnd.randrange(_pages(data)), _page(data, rnd.randrange(_pages(data))))


def foreign_pages(rnd: random.Random, data: bytearray, other: bytes) -> None:
    """Write pages of another database over some."""
    for _ in range(rnd.choice([1, 1, 2, 10])):
        _put(data, rnd.randrange(_pages(data)), _page(other, rnd.randrange(_pages(other))))


def overwrite_start(rnd: random.Random, data: bytearray, _other: bytes) -> None:
    """Write a text over the beginning, as a program does that prints into a descriptor that it takes for its own."""
    line = b'Traceback (most recent call last):\n  File "scan.py", line 12\n'
    count = rnd.choice([1, 3, 60, 200])
    data[: len(line) * count] = (line * count)[: len(data)]


def tail(rnd: random.Random, data: bytearray, _other: bytes) -> None:
    """Add bytes at the end."""
    data += rnd.randbytes(rnd.choice([1, 100, PAGE, 5 * PAGE + 7]))


def garbage(rnd: random.Random, data: bytearray, _other: bytes) -> None:
    """Replace all of it."""
    data[:] = rnd.randbytes(rnd.choice([0, 1, 99, 100, PAGE, len(data)]))


def numbers(rnd: random.Random, data: bytearray, _other: bytes) -> None:
    """Replace numbers of four bytes, anywhere or in the header: by small ones, large ones, numbers of pages."""
    for _ in range(rnd.choice([1, 2, 10])):
        place = 4 * rnd.randrange(25) if rnd.random() < 0.5 else rnd.randrange(max(1, len(data) - 4))
        number = rnd.choice([0, 1, 2, rnd.randrange(1 + _pages(data)), 2**31 - 1, 2**32 - 1, rnd.randrange(2**32)])
        data[place : place + 4] = number.to_bytes(4, "big")


def _pages(data: bytes | bytearray) -> int:
    return max(1, len(data) // PAGE)


def _page(data: bytes | bytearray, number: int) -> bytes:
    return bytes(data[number * PAGE : (number + 1) * PAGE]).ljust(PAGE, b"\0")


def _put(data: bytearray, number: int, page: bytes) -> None:
    data[number * PAGE : (number + 1) * PAGE] = page


DAMAGES: dict[str, Damage] = {
    "flip": flip,
    "flip head": flip_head,
    "flip first page": flip_first_page,
    "cut": cut,
    "zero pages": zero_pages,
    "swap pages": swap_pages,
    "repeat pages": repeat_pages,
    "foreign pages": foreign_pages,
    "overwrite start": overwrite_start,
    "tail": tail,
    "garbage": garbage,
    "numbers": numbers,
}


def damaged(rnd: random.Random, queue: Path, other: bytes) -> tuple[str, dict[str, bytes]]:
    """Damage one file of the queue, or all, in one way or two; give what was done, and the files as they are then."""
    there = [name for name in (DATABASE, LOG, INDEX) if (queue / name).exists() and (queue / name).stat().st_size]
    chosen = there if rnd.random() < 0.15 else [rnd.choice([DATABASE, *there])]
    done, files = [], {}
    for name in chosen:
        data = bytearray((queue / name).read_bytes())
        for kind in rnd.sample(list(DAMAGES), rnd.choice([1, 1, 1, 2])):
            if data:
                DAMAGES[kind](rnd, data, other)
            done.append(f"{kind} of {name}")
        files[name] = bytes(data)
    return ", ".join(done), files


# Another process does it: one that closed a file of its own open database would drop the locks on it. The index that
# processes share keeps its length: it is in their memory, and SQLite would die of a page that is gone.
WRITE = """
import os, sys
name, new = sys.argv[1], open(sys.argv[2], "rb").read()
with open(name, "r+b") as file:
    size = os.path.getsize(name)
    file.write(new[:size].ljust(size) if name.endswith("-shm") else new)
    name.endswith("-shm") or file.truncate()
"""


def write_from_outside(queue: Path, files: Mapping[str, bytes]) -> None:
    """Write the damaged files under a process that has them open."""
    for name, data in files.items():
        (queue.parent / "new").write_bytes(data)
        subprocess.run([sys.executable, "-I", "-S", "-c", WRITE, queue / name, queue.parent / "new"], check=True)
    (queue.parent / "new").unlink()


# -- what must hold -----------------------------------------------------------------------------------------


@dataclass
class Found:
    """What came of one seed. `wrong` is what should not be; `slowest_s` and `busy_s` the longest capture."""

    seed: int
    what: str = ""
    wrong: list[str] = field(default_factory=list)
    readable: int = 0
    kept: int = 0
    slowest_s: float = 0.0
    busy_s: float = 0.0
    queued: int = 0
    reasons: set[str] = field(default_factory=set)
    quarantined: int = 0


def trial(spools: Spools, folder: Path, seed: int, server: LocalPostHog) -> Found:
    """Damage a copy of a spool, capture five times, run with nobody listening, look, then deliver.

    Of some seeds the host has the queue open when the damage is done; of some, host and flusher are other processes.
    """
    rnd = random.Random(seed)
    spool = spools.give(rnd.choice(list(spools.makers)))
    shutil.copytree(spool.home, folder)
    paths, found = Paths(folder), Found(seed)
    by_process, opened = seed % 25 == 0, rnd.random() < 0.25
    telemetry = Telemetry("ktx", "1", KEY, NOBODY, paths.home, flush="never")
    own = {str(telemetry.capture("before_damage").uuid)} if opened else set()
    other = Path(Paths(spools.give("large").home).database).read_bytes()
    what, files = damaged(rnd, paths.queue, other)
    found.what = f"{spool.home.name}{', open' if opened else ''}: {what}"
    write_from_outside(paths.queue, files)
    readable = spool.pending & readable_events(paths.queue)
    own |= set(_captures_by_process(paths, found) if by_process and not opened else _captures(telemetry, found))
    telemetry.close()
    if rnd.random() < 0.1:
        _empty(paths, found, rnd.choice(["purge", "wipe"]))
        return found
    first = _run_by_process if by_process else _run
    _expect(found, first(paths, NOBODY), {Result.UNREACHABLE})
    _look(paths, found)
    after_run = len(quarantined(paths))
    server.clear()
    _expect(found, _run(paths, server.url), {Result.DELIVERED})
    _expect(found, _run(paths, server.url), {Result.DELIVERED, Result.NOTHING})
    _expect(found, _run(paths, server.url), {Result.NOTHING})
    status = _look(paths, found)
    found.quarantined = len(quarantined(paths))
    if found.quarantined > 1:
        found.wrong.append(f"{after_run} and then {found.quarantined} queues in quarantine")
    events = server.events()
    arrived = {event["uuid"] for event in events}
    try:
        with closing(Queue(paths, wait_s=5.0)) as queue:
            arrived |= {_uuid(letter.text) for letter in queue.dead()}
    except Exception as error:  # noqa: BLE001 - whatever it is, it is what is looked for
        found.wrong.append(f"list --dead: {type(error).__name__}: {error}")
    found.readable, found.kept = len(readable), len(readable & arrived)
    strange = [event for event in events if event["uuid"] not in spool.known | own and event["event"] != "spool_loss"]
    if strange:
        found.wrong.append(f"made up: {strange[:2]}")
    if status["pending"]:
        found.wrong.append(f"{status['pending']} events wait for ever")
    # Where its log is damaged, SQLite drops the commits from there on, without a word: nothing tells of them. So it
    # does where the index of the log is damaged while a process has it open.
    dropped = LOG in files or (opened and INDEX in files)
    if status["known"] and not status["lost"] and not dropped:
        missing = (spool.pending | own) - arrived
        if missing:
            found.wrong.append(f"{len(missing)} events are gone, and no loss is counted")
        if found.kept < found.readable:
            found.wrong.append(f"{found.readable - found.kept} readable events are gone")
    return found


def readable_events(queue: Path) -> set[str]:
    """Give the uuids of the events whose rows stand whole in the files, wherever."""
    found = set()
    for name in (DATABASE, LOG):
        data = (queue / name).read_bytes() if (queue / name).exists() else b""
        for head, checksum, event, uuid, _number in _ROW.findall(data):
            if int(checksum, 16) == zlib.crc32(event, zlib.crc32(head)):
                found.add(uuid.decode())
    return found


def _captures(telemetry: Telemetry, found: Found) -> list[str]:
    uuids = []
    for number in range(5):
        began, busy = time.monotonic(), time.process_time()
        receipt = telemetry.capture("after_damage", {"number": number})
        found.slowest_s = max(found.slowest_s, time.monotonic() - began)
        found.busy_s = max(found.busy_s, time.process_time() - busy)
        if receipt:
            uuids.append(str(receipt.uuid))
            found.queued += receipt.state == "queued"
            found.reasons.add(receipt.reason or "")
        else:
            found.wrong.append(f"capture {number}: {receipt}")
    return uuids


HOST = """
import sys
from pathlib import Path
from spool import Telemetry
telemetry = Telemetry("ktx", "1", "phc_test", home=Path(sys.argv[1]), flush="never")
for number in range(5):
    receipt = telemetry.capture("after_damage", {"number": number})
    print(receipt.uuid if receipt else receipt)
telemetry.close()
"""


def _captures_by_process(paths: Paths, found: Found) -> list[str]:
    done = run_python(HOST, paths.home)
    uuids = done.stdout.splitlines()
    found.queued = len(uuids)
    if done.returncode or done.stderr or not all(re.fullmatch("[0-9a-f-]{36}", uuid) for uuid in uuids):
        found.wrong.append(f"the host: {done}")
    return uuids


def _run_by_process(paths: Paths, host: str) -> Result | str:
    done = flush(paths.home, "run", "--force", "--max-retries", 0, "--host", host, "--key", KEY)
    return Result.UNREACHABLE if done.returncode == 75 and "Traceback" not in done.stderr else f"as a process {done}"


def _run(paths: Paths, host: str) -> Result | str:
    options = Options(host=host, key=KEY, force=True, max_retries=0)
    try:
        report = run(Context(app="ktx", paths=paths, options=options, env={}))
    except Exception as error:  # noqa: BLE001 - whatever it is, it is what is looked for
        return f"{type(error).__name__}: {error}"
    return report.result if report.result is not Result.FAILED else f"failed: {report.reason}"


def _empty(paths: Paths, found: Found, how: str) -> None:
    """Purge the queue, or opt out, as the first to meet the damage after the host."""
    found.what += f", then {how}"
    try:
        if how == "wipe":
            wipe(paths, signature(paths.identity))
        else:
            with closing(open_queue(paths)) as queue:
                queue.purge()
                queue.purge_dead()
    except Exception as error:  # noqa: BLE001 - as above
        found.wrong.append(f"{how}: {type(error).__name__}: {error}")
    status = _look(paths, found)
    if status["pending"] or status["dead"]:
        aside = len(list(paths.aside.glob("*.json")))
        if status["dead"] or status["pending"] > aside:
            found.wrong.append(f"{how} left {status}")


def _expect(found: Found, result: Result | str, wanted: set[Result]) -> None:
    if result not in wanted:
        found.wrong.append(f"a run gave {result}")


def _look(paths: Paths, found: Found) -> dict[str, Any]:
    try:
        status = collect("ktx", paths, {}).as_json()
    except Exception as error:  # noqa: BLE001 - as above
        found.wrong.append(f"status: {type(error).__name__}: {error}")
        return {"pending": 0, "dead": 0, "lost": 0, "known": False}
    account: Any = status["accounting"]
    if account is None:
        found.wrong.append(f"status: {status['problem']}")
        return {"pending": 0, "dead": 0, "lost": 0, "known": False}
    if account["captured"] != account["delivered"] + account["pending"] + account["dead"] + account["lost"]:
        found.wrong.append(f"the account does not add up: {account}")
    return {**account, "known": True}


def _say(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def main() -> None:
    """Try seeds; end with 1 if any failed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("first", type=int)
    parser.add_argument("last", type=int)
    parser.add_argument("--keep", action="store_true")
    parser.add_argument("--quiet", action="store_true")
    arguments = parser.parse_args()
    for name in SILENT:
        os.environ.pop(name, None)
    failed, kept, readable, slowest, busy = 0, 0, 0, 0.0, 0.0
    kinds: Counter[str] = Counter()
    states: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as scratch, LocalPostHog() as server:
        spools = Spools(Path(scratch))
        for seed in range(arguments.first, arguments.last):
            if not arguments.quiet:
                _say(f"{seed} ")
            home = Path(scratch) / f"seed-{seed}"
            found = trial(spools, home, seed, server)
            kept, readable, slowest = kept + found.kept, readable + found.readable, max(slowest, found.slowest_s)
            busy = max(busy, found.busy_s)
            states["queued" if found.queued == 5 else "aside" if not found.queued else "both"] += 1
            states[f"{found.quarantined} in quarantine"] += 1
            kinds.update(f"aside: {reason}"[:100] for reason in found.reasons if reason)
            if found.wrong:
                failed += 1
                kinds.update(re.sub(r"[\d.]+", "#", wrong)[:100] for wrong in found.wrong)
                _say(f"\nseed {seed}: {found.what}: {'; '.join(found.wrong)}\n")
                if arguments.keep:
                    shutil.copytree(home, Path(tempfile.gettempdir()) / f"damage-{seed}", dirs_exist_ok=True)
            shutil.rmtree(home, ignore_errors=True)
    _say(f"\n{failed} of {arguments.last - arguments.first} failed; {kept} of {readable} readable events were kept;\n")
    _say(f"the slowest capture took {slowest:.3f} s, the busiest {busy:.3f} s; {dict(states)}\n")
    for kind, count in kinds.most_common():
        _say(f"{count:6} {kind}\n")
    sys.exit(failed > 0)


if __name__ == "__main__":
    main()
