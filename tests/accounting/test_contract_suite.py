"""One suite that every store passes: what a true receipt was given for is delivered, once, as it was captured."""

from __future__ import annotations

import json
import os
import signal
import stat
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from flusher.context import Context, Options, Result
from flusher.report.status import collect
from flusher.run import run
from spool import Limits, Receipt, Telemetry
from spool.beside import aside
from spool.home import Paths, private_folder
from spool.queue import FileLock
from spool.settings import Durability
from tests.support.local_posthog import LocalPostHog
from tests.support.processes import KEY, acknowledged, flush_json, run_python

# To be forced aside, a capture must not wait long for a lock that is never free.
LIMITS = Limits(lock_wait_s=0.01)


class Store:
    """A way into the spool: `queue` as always, `aside` while somebody else sits on queue.lock."""

    def __init__(self, name: str, durability: Durability, home: Path, server: LocalPostHog) -> None:
        self.state = {"queue": "queued", "aside": "aside"}[name]
        self.durability: Durability = durability
        self.home, self.server = home, server
        self.blocked = ExitStack()
        if name == "aside":
            private_folder(home / "spool")
            self.blocked.enter_context(FileLock(Paths(home).queue_lock).held(1.0))

    def telemetry(self) -> Telemetry:
        """Give what a host holds."""
        return Telemetry(
            "ktx", "1", KEY, self.server.url, self.home, limits=LIMITS, durability=self.durability, flush="never"
        )

    def promised(self, receipt: Receipt) -> str:
        """Give the uuid of a true receipt that came from this store."""
        assert (receipt.state, bool(receipt), receipt.reason is None) == (self.state, True, self.state == "queued")
        return str(receipt.uuid)

    def delivered(self, expected: int) -> list[dict[str, Any]]:
        """Let the real flusher come, and then another; give what PostHog got, in order, each copy of it."""
        self.blocked.close()
        report = flush_json(self.home)
        assert (report["exit_code"], report["stderr"]) == (0, "")
        assert (report["delivered"], report["remaining"]) == (expected + 1, 0)
        second = run(Context(app="ktx", paths=Paths(self.home), options=Options(force=True), env={}))
        assert (second.result, second.requests) == (Result.NOTHING, 0)
        assert aside.files(Paths(self.home)) == []
        account = collect("ktx", Paths(self.home), {}).account
        assert account.as_json() == {
            "captured": expected + 1,
            "delivered": expected + 1,
            "pending": 0,
            "dead": 0,
            "lost": 0,
        }
        return [event for event in self.server.accepted if event["event"] != "install_first_run"]


@pytest.fixture(params=["queue", "aside"])
def name(request: pytest.FixtureRequest) -> str:
    """Every store."""
    return str(request.param)


@pytest.fixture(params=["process", "power"])
def durability(request: pytest.FixtureRequest) -> Durability:
    """Every durability."""
    return "power" if request.param == "power" else "process"


@pytest.fixture
def store(name: str, durability: Durability, home: Path, server: LocalPostHog) -> Iterator[Store]:
    """Give each store at each durability."""
    store = Store(name, durability, home, server)
    yield store
    store.blocked.close()


def test_what_was_captured_is_delivered_once_and_in_order(store: Store) -> None:
    """Fifty events: no copy, none missing, in the order of their timestamps, numbered without a gap."""
    telemetry = store.telemetry()
    promised = [store.promised(telemetry.capture("scan_completed", {"number": number})) for number in range(50)]
    telemetry.close()
    events = store.delivered(50)
    assert [event["uuid"] for event in events] == promised
    assert [event["properties"]["number"] for event in events] == list(range(50))
    moments = [event["timestamp"] for event in events]
    assert moments == sorted(moments)
    numbers = [event["properties"]["spool_sequence"] for event in events]
    assert numbers == sorted(numbers)
    assert set(numbers) < set(range(1, 52))


def test_what_was_frozen_arrives_as_it_was(store: Store) -> None:
    """The host's own uuid, timestamp, person and groups, and a property of every kind that JSON knows."""
    moment = datetime(2026, 11, 23, 23, 59, 59, 999_999, tzinfo=UTC) - timedelta(days=1)
    properties = {
        "text": "x",
        "whole": 2**53,
        "part": 0.1,
        "yes": True,
        "none": None,
        "list": [1, [2]],
        "map": {"a": {}},
    }
    uuid = uuid4()
    telemetry = store.telemetry()
    store.promised(
        telemetry.capture(
            "scan_completed", properties, distinct_id="somebody", groups={"project": "p"}, timestamp=moment, uuid=uuid
        )
    )
    telemetry.close()
    (event,) = store.delivered(1)
    assert (event["uuid"], event["distinct_id"]) == (str(uuid), "somebody")
    assert event["timestamp"] == "2026-11-22T23:59:59.999999Z"
    assert {name: event["properties"][name] for name in properties} == properties
    assert event["properties"]["$groups"] == {"project": "p"}


TEXTS = {
    "unicode": "ünïcödé 家 🏠 \N{COMBINING ACUTE ACCENT} \N{RIGHT-TO-LEFT OVERRIDE}",
    "line ends": "a\r\nb\rc\nd\N{LINE SEPARATOR}e\x85f",
    "control": "".join(map(chr, range(32))) + "\x7f",
    "JSON": '"},"properties":{}}\\',
    "like ours": '"spool_sequence":1}}',
    "blanks": "  \t  ",
    "50 kB": "x\r\n" * 17_000,
    "800 kB": "0123456789" * 80_000,
}


def test_texts_of_any_kind_arrive_to_the_letter(store: Store) -> None:
    """Also in names of properties; a lone surrogate, which no JSON can hold, arrives as U+FFFD."""
    telemetry = store.telemetry()
    for text in TEXTS.values():
        store.promised(telemetry.capture("scan_completed", {"text": text, text[:100]: 1}))
    store.promised(telemetry.capture("scan_completed", {"text": "a\ud800b", "\udfff": 1}))
    telemetry.close()
    *events, last = store.delivered(len(TEXTS) + 1)
    assert [event["properties"]["text"] for event in events] == list(TEXTS.values())
    assert all(text[:100] in event["properties"] for text, event in zip(TEXTS.values(), events, strict=True))
    assert (last["properties"]["text"], last["properties"]["\N{REPLACEMENT CHARACTER}"]) == (
        "a\N{REPLACEMENT CHARACTER}b",
        1,
    )


def test_nobody_else_can_read_what_waits(store: Store) -> None:
    """Folders 0700 and files 0600, also under a umask that forbids nothing, before and after the flusher."""
    before = os.umask(0)
    try:
        telemetry = store.telemetry()
        for number in range(20):
            store.promised(telemetry.capture("scan_completed", {"number": number}))
        open_modes = modes(store.home)
        telemetry.close()
        store.delivered(20)
    finally:
        os.umask(before)
    for found in (open_modes, modes(store.home)):
        assert set(found.values()) <= {"0o40700", "0o100600"}
    assert "spool/aside" in open_modes or store.state == "queued"


def modes(home: Path) -> dict[str, str]:
    """Give kind and mode of everything below a home."""
    return {str(path.relative_to(home)): oct(path.lstat().st_mode) for path in home.rglob("*")}


KILLED = """
import os, signal, sys
from spool import Limits, Telemetry
home, url, durability, how = sys.argv[1:]
telemetry = Telemetry("ktx", "1", "phc_test", url, home, limits=Limits(lock_wait_s=0.01), durability=durability,
    flush="never")
for number in range(3):
    receipt = telemetry.capture("last_words", {"number": number})
    os.write(1, f"{receipt.uuid} {receipt.state}\\n".encode())
exec(how)
"""


@pytest.mark.parametrize("how", ["os.kill(os.getpid(), signal.SIGKILL)", "os._exit(0)"])
def test_a_receipt_outlives_the_process(how: str, store: Store) -> None:
    """Killed, or left without a word, right after it: the events arrive."""
    if sys.platform == "win32":
        pytest.skip("no SIGKILL here")
    done = run_python(KILLED, store.home, store.server.url, store.durability, how)
    assert done.returncode in (0, -signal.SIGKILL)
    assert {line.split()[1] for line in done.stdout.splitlines()} == {store.state}
    assert [event["uuid"] for event in store.delivered(3)] == acknowledged(done.stdout)


def test_threads_may_share_a_host(store: Store) -> None:
    """Four threads, twenty events each: all arrive, once, and each thread's in its order."""
    telemetry = store.telemetry()
    receipts: list[Receipt] = []

    def work(thread: int) -> None:
        for number in range(20):
            receipts.append(telemetry.capture("scan_completed", {"thread": thread, "number": number}))  # noqa: PERF401 - one at a time is the point

    threads = [threading.Thread(target=work, args=(thread,)) for thread in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    telemetry.close()
    assert all(receipts)
    events = store.delivered(80)
    assert sorted(event["uuid"] for event in events) == sorted(str(receipt.uuid) for receipt in receipts)
    for thread in range(4):
        own = [event for event in events if event["properties"]["thread"] == thread]
        own.sort(key=lambda event: (event["timestamp"], event["properties"]["number"]))
        assert [event["properties"]["number"] for event in own] == list(range(20))


def test_one_process_keeps_its_order_across_both_stores(name: str, home: Path, server: LocalPostHog) -> None:
    """The lock comes and goes: timestamps tell the order, whatever way an event took."""
    store = Store("queue", "process", home, server)
    telemetry, promised = store.telemetry(), []
    lock = FileLock(Paths(home).queue_lock)
    for number in range(20):
        with ExitStack() as stack:
            if (number % 2 == 0) == (name == "aside") and number:
                stack.enter_context(lock.held(1.0))
            promised.append(telemetry.capture("scan_completed", {"number": number}))
    telemetry.close()
    assert {receipt.state for receipt in promised} == {"queued", "aside"}
    events = sorted(store.delivered(20), key=lambda event: str(event["timestamp"]))
    assert [event["uuid"] for event in events] == [receipt.uuid for receipt in promised]


def test_a_program_in_another_language_may_use_the_side_door(home: Path, server: LocalPostHog) -> None:
    """A file with an event, renamed into place, is all it takes; what the spool adds is there at the end."""
    store = Store("queue", "process", home, server)
    telemetry = store.telemetry()
    store.promised(telemetry.capture("scan_completed"))
    telemetry.close()
    message = {"uuid": str(uuid4()), "event": "from node", "distinct_id": "d", "timestamp": "2026-11-23T12:00:00Z"}
    put_foreign(home, "anything.json", {**message, "properties": {}})
    events = store.delivered(2)
    (event,) = [event for event in events if event["event"] == "from node"]
    assert {name: event[name] for name in message} == message
    assert event["properties"]["spool_sequence"] > 1


def put_foreign(home: Path, name: str, message: dict[str, Any]) -> None:
    """Write an event as a Node program would."""
    private_folder(home / "spool")
    private_folder(home / "spool/aside")
    draft = home / "spool/aside" / f".{name}"
    draft.write_text(json.dumps(message, ensure_ascii=False), encoding="utf-8")
    draft.rename(draft.with_name(name))
    assert stat.S_ISREG(os.stat(home / "spool/aside" / name).st_mode)


def test_a_name_that_is_used_again_is_another_event(home: Path, server: LocalPostHog) -> None:
    """The contract asks a foreign writer for a whole file that ends in .json, and for no name of its own."""
    Store("queue", "process", home, server).telemetry().capture("scan_completed")
    messages = [
        {"uuid": str(uuid4()), "event": "e", "distinct_id": "d", "timestamp": "2026-11-23T12:00:00Z", "properties": {}}
        for _ in range(2)
    ]
    for message in messages:
        put_foreign(home, "event.json", message)
        assert flush_json(home)["exit_code"] == 0
    assert {message["uuid"] for message in messages} <= {event["uuid"] for event in server.events()}
