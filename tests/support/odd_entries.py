"""Odd entries below a home: what may lie there and where, and what has to become of it and of the rest.

As a program it throws kinds at places, each time in a home of its own, and acts as a user. It prints the uuids that
were promised, ends with 1 if anything was wrong, and says what. Of all kinds at all places it takes the one of number
FIRST and each one STEP further: `python -m tests.support.odd_entries FOLDER URL USER FIRST STEP [KIND ...]`.
"""

from __future__ import annotations

import importlib
import json
import os
import pkgutil
import shutil
import signal
import socket
import stat
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import closing
from itertools import product
from pathlib import Path
from typing import NamedTuple
from uuid import UUID, uuid4

import flusher
import spool
from flusher.context import Context, Options, RunReport, open_queue
from flusher.events import waiting
from flusher.report.status import collect
from flusher.run import run
from spool import Telemetry
from spool.home import Paths
from tests.support.processes import KEY

if sys.platform == "win32":
    sys.exit("it needs pipes with names, devices and owners")

__all__ = ["KINDS", "PLACES", "capture", "furnish", "put", "seen"]

OTHER, NOBODY = 12345, 65534
OLD_S = 2 * 24 * 3600
LONGEST_S = 60
ID = "0f8fad5b-d9cb-469f-a165-70867728950e"
NO_UTF_8 = os.fsdecode(b"\xff\xfe")


# -- what may lie there -------------------------------------------------------------------------------------


def event(uuid: str, **changes: object) -> bytes:
    """Give a sound event, or one that isn't."""
    fields = {"uuid": uuid, "event": "command", "distinct_id": ID, "timestamp": "2026-11-23T12:00:00.000000Z"}
    return json.dumps({**fields, "properties": {"outcome": "ok", "durationMs": 0}, **changes}).encode()


# None of them is an event.
CONTENTS: dict[str, bytes] = {
    "nothing": b"",
    "half": event(ID)[:100],
    "3 MB": event(ID, properties={"a": "x" * 3_000_000}),
    "deep": b"[" * 200_000,
    "deep objects": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    "a list": b"[]",
    "a number": b"7",
    "null": b"null",
    "a large number": b"1" + b"0" * 400,
    "NaN": b"NaN",
    "properties a list": event(ID, properties=[]),
    "large numbers": json.dumps(
        dict.fromkeys(("next_attempt", "delay_s", "failures", "last_success", "format", "limits"), 10**400)
    ).encode(),
    "infinite": b'{"next_attempt": 1e999, "delay_s": Infinity, "failures": NaN, "limits": {"max_age_s": 1e999}}',
    "other types": b'{"next_attempt": [], "delay_s": "x", "failures": {}, "versions": 5, "limits": [], "catalogue": 7}',
    "no UTF-8": event(ID) + b"\xff",
    "UTF-16": event(ID).decode().encode("utf-16"),
    "zeros": bytes(8192),
}


def _socket(path: Path) -> None:
    folder = os.open(path.parent, os.O_RDONLY)
    with socket.socket(socket.AF_UNIX) as listener:  # its own path has 107 bytes at most
        listener.bind(f"/proc/self/fd/{folder}/s")
    os.rename(path.with_name("s"), path)
    os.close(folder)


def _folder(path: Path) -> None:
    path.mkdir()
    (path / "cache.db").write_bytes(b"precious")
    (path / "1.json").write_bytes(b"{}")


def _outside(path: Path) -> Path:
    outside = next(folder for folder in path.parents if folder.name == "home").with_name("precious")
    outside.mkdir(exist_ok=True)
    (outside / "file").write_bytes(b"precious")
    return outside


def _foreign(path: Path) -> None:
    path.write_bytes(b"{}")
    path.chmod(0o600)


def _shut(path: Path) -> None:
    path.write_bytes(b"{}")
    path.chmod(0)


ENTRIES: dict[str, Callable[[Path], object]] = {
    "a folder": Path.mkdir,
    "a full folder": _folder,
    "a shut folder": lambda path: path.mkdir(mode=0),
    "a foreign folder": _folder,
    "a link to nothing": lambda path: path.symlink_to(path.with_name("missing")),
    "a link to itself": lambda path: path.symlink_to(path.name),
    "a link to a file": lambda path: path.symlink_to(_outside(path) / "file"),
    "a link to a folder": lambda path: path.symlink_to(_outside(path)),
    "a link to a device": lambda path: path.symlink_to("/dev/zero"),
    "a pipe": os.mkfifo,
    "a socket": _socket,
    "a device": lambda path: os.mknod(path, stat.S_IFCHR | 0o600, os.makedev(1, 5)),
    "a second name": lambda path: path.hardlink_to(_outside(path) / "file"),
    "a foreign file": _foreign,
    "a shut file": _shut,
}
KINDS = [*ENTRIES, *CONTENTS]
FOLDERS = {"a folder", "a full folder", "a shut folder"}
OUR_FILES = {*CONTENTS, "a shut file"}
FILES = {*OUR_FILES, "a second name", "a foreign file"}
FOREIGN = {"a foreign folder", "a foreign file"}


# -- where --------------------------------------------------------------------------------------------------


class Place(NamedTuple):
    """A place below the spool, what it is for, and whether what lies there is older than a day."""

    path: str
    role: str
    old: bool = False


_STATES = (
    "flush.json",
    "launched",
    "launch.err",
    "emitted.json",
    "flush.log",
    "losses.log",
    "wiped",
    "reserve",
    "report.html",
)
PLACES = [
    *(Place(f"{folder}/{UUID(int=7, version=4)}.json", "event") for folder in ("aside", "spans")),
    *(Place(f"{folder}/{'x' * 250}.json", "event") for folder in ("aside", "spans")),
    *(Place(f"{folder}/{NO_UTF_8}.json", "event") for folder in ("aside", "spans")),
    *(Place(f"{folder}/!x\n.json", "event") for folder in ("aside", "spans")),
    *(Place(f"{folder}/.git", "draft", old=True) for folder in ("aside", "spans")),
    *(Place(f"{folder}/.new", "fresh") for folder in ("aside", "spans")),
    *(Place(f"{folder}/{NO_UTF_8}{'x' * 200}", "other", old=True) for folder in ("aside", "spans")),
    Place("aside/00000000000000000001-0000000a.invalid.1.lost", "note"),
    Place("aside/00000000000000000001-0000000a.invalid.1.lost.claimed", "note"),
    Place(f"aside/{'0' * 200}.invalid.1.lost", "other", old=True),
    Place(f"aside/.first-run-{ID}.json", "fresh"),
    *(Place(f"queue/{name}", "database") for name in ("cache.db", "cache.db-wal", "cache.db-shm", "cache.db-journal")),
    *(Place(f"queue/{name}", "stranger") for name in ("x", NO_UTF_8, "x" * 255, "cache.db-old")),
    *(Place(name, "state") for name in (*_STATES, "queue.lock", "flush.lock")),
    Place("destination.json", "destination"),
    *(Place(name, "folder") for name in ("aside", "spans", "quarantine", "queue")),
    Place("queue.new", "fresh"),
    *(Place(f"quarantine/{name}", "fresh") for name in (".reading", "x.reason")),
    *(Place(name, "fresh") for name in (".flush.json.1.0a", "queue.wiped-0a", "doctor-0a", NO_UTF_8)),
]


def wanted(kind: str, place: Place, user: int) -> str:
    """Say what has to become of it: in "quarantine", "gone", or "left"; "any" where it is in nobody's way."""
    inside = place.role in ("event", "note", "draft", "other", "stranger")
    if kind == "a foreign folder" and user != 0 and inside:
        return "left"  # nobody but its owner and root can move it out of the folder that it is in
    match place.role:
        case "event" | "stranger":
            return "quarantine"
        case "note":
            return "gone" if kind in FILES else "quarantine"
        case "draft":
            return "gone" if kind in FILES else "quarantine"
        case "other":
            return "quarantine"
        case "database":
            return "any" if kind in OUR_FILES else "quarantine"
        case "state" | "destination":
            return "any" if kind in OUR_FILES else "quarantine"
        case "folder":
            return "any" if kind in FOLDERS else "quarantine"
    return "any"


def counted(kind: str, place: Place) -> dict[str, int]:
    """Say what is counted as lost: a file where events are kept, or a note by its name."""
    folder = place.path.partition("/")[0]
    if place.role == "event" and folder == "aside":
        return {"too_large" if kind == "3 MB" else "invalid": 1}
    if place.role == "event":
        return {"damaged": 1} if kind in FILES else {}
    return {"invalid": 1} if place.role == "note" and kind in FILES else {}


# -- a home, and what is thrown at it -------------------------------------------------------------------------


def capture(home: Path, url: str) -> str:
    """Capture one event as a host would that starts now and ends; gives its uuid."""
    telemetry = Telemetry("ktx", "1", KEY, url, home=home, flush="never")
    receipt = telemetry.capture("captured")
    telemetry.close()
    assert receipt, receipt
    assert receipt.uuid is not None
    return receipt.uuid


def furnish(home: Path, url: str) -> dict[str, str]:
    """Make a home with an event in the queue, one aside, a dead command and a note of two losses. Gives their uuids."""
    paths = Paths(home)
    promised = {"queue": capture(home, url), "aside": str(uuid4()), "spans": str(uuid4())}
    for folder in (paths.aside, paths.spans):
        folder.mkdir(mode=0o700, exist_ok=True)
    for path in (paths.aside / f"{time.time_ns():020d}-{promised['aside']}.json", paths.span(promised["spans"])):
        path.write_bytes(event(path.stem[-36:]))
        path.chmod(0o600)
    (paths.aside / f"{time.time_ns():020d}-0000000b.disk_full.2.lost").write_bytes(b"")
    return promised


def put(kind: str, path: Path, *, old: bool = False) -> os.stat_result:
    """Put an entry at a place, instead of what is there. Gives what it is, to know it again."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if kind in CONTENTS:
        path.write_bytes(CONTENTS[kind])
        path.chmod(0o600)
    else:
        ENTRIES[kind](path)
    if old:
        os.utime(path, (time.time() - OLD_S,) * 2, follow_symlinks=False)
    return os.lstat(path)


def seen(folder: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """Go through all that is in a folder, without following anything."""
    for parent, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = Path(parent, name)
            yield path, os.lstat(path)


def is_same(one: os.stat_result, other: os.stat_result) -> bool:
    """Tell whether two are the same entry; the number of one that is gone may be given to a new one."""
    return os.path.samestat(one, other) and one.st_mtime_ns == other.st_mtime_ns


def flush(home: Path, url: str) -> RunReport:
    """Do one run with host and key given, whatever was stored before."""
    return run(Context("ktx", Paths(home), Options(host=url, key=KEY, force=True), env={}))


def go_through(home: Path, url: str, kind: str, place: Place, put_there: os.stat_result) -> set[str]:
    """Let hosts and flushers come, and check what has become of the entry and of everything else.

    Gives the uuids that were promised meanwhile.
    """
    paths, user = Paths(home), os.geteuid()
    promised = {capture(home, url)}
    first = flush(home, url)
    assert (first.result.exit_code, first.remaining) == (0, 0), first
    kept = {path for path, _status in seen(paths.quarantine)}
    second = flush(home, url)
    want = wanted(kind, place, user)
    assert (second.result.exit_code, bool(second.set_aside)) == (0, want == "left"), second
    assert kept == {path for path, _status in seen(paths.quarantine)}
    promised.add(capture(home, url))
    assert flush(home, url).remaining == 0
    with closing(open_queue(paths)) as queue:
        assert list(waiting(paths, queue)) == []
    status = collect("ktx", paths, {})
    assert status.problem is None
    assert status.account.balanced
    if place.role not in ("database", "folder"):
        assert status.account.losses == {"disk_full": 2} | counted(kind, place)
    told = status.as_json()
    assert json.loads(json.dumps(told)) == told
    now = [path.relative_to(paths.spool).parts[0] for path, one in seen(paths.spool) if is_same(one, put_there)]
    if want == "quarantine":
        assert [part.partition("-")[0] for part in now] == ["quarantine"], now
        assert any(path.name.endswith(".reason") for path in kept)
    elif want != "any":
        assert bool(now) == (want == "left"), now
    return promised


def throw(folder: Path, url: str, user: int, kind: str, place: Place) -> str | None:
    """Throw an entry at one place of a new home, and go through it as a user. Gives what was wrong."""
    home = folder / "home"
    promised = furnish(home, url)
    path = home / "spool" / place.path
    put_there = put(kind, path, old=place.old)
    before = dict(promised)
    for part in ("queue", "aside", "spans"):
        if place.path in (part, "queue/cache.db" if part == "queue" else part):
            del before[part]  # what was there is gone by our own doing
    for one, status in [(folder, folder.stat()), *seen(folder)]:
        inside = kind in FOREIGN and (one == path or path in one.parents)
        if not os.path.samestat(status, put_there) or kind in FOREIGN:
            os.lchown(one, *((OTHER, OTHER) if inside else (user, user)))
    if kind not in ("a second name", *FOREIGN):
        os.lchown(path, user, user)
    child = os.fork()
    if child == 0:
        signal.alarm(LONGEST_S)
        os.environ["HOME"] = str(folder)
        try:
            if user:
                os.setgroups([])
                os.setgid(user)
                os.setuid(user)
            also = go_through(home, url, kind, place, put_there)
            (folder / "promised").write_text("\n".join([*before.values(), *also]))
        except BaseException:  # noqa: BLE001 - whatever it is, the parent tells it
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    ended = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return None if ended == 0 else f"{kind} at {place.path!r}: ended with {ended}"


def main() -> int:
    """Throw all that is asked for, and say what was wrong."""
    folder, url, user, first, step, *kinds = sys.argv[1:]
    for package in (spool, flusher):  # another user may not be able to read the checkout
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if not module.name.startswith(("spool.command.click_app", "spool.testing", "flusher.__main__")):
                importlib.import_module(module.name)
    wrong = []
    thrown = list(product(kinds or KINDS, PLACES))
    for number, (kind, place) in list(enumerate(thrown))[int(first) :: int(step)]:
        own = Path(folder, f"{number}")
        own.mkdir(mode=0o755)
        found = throw(own, url, int(user), kind, place)
        if found is not None:
            wrong.append(found)
        else:
            promised = (own / "promised").read_text()
            sys.stdout.write(f"{promised}\n")
            shutil.rmtree(own)
    sys.stderr.write("\n".join(wrong))
    return len(wrong) > 0


if __name__ == "__main__":
    sys.exit(main())
