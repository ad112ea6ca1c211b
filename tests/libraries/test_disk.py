"""What the store relies on in diskcache and SQLite, one test per behaviour: a new release shows here first."""

from __future__ import annotations

import os
import pickle
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import diskcache
import pytest

from spool.errors import QueueDamagedError
from spool.home.paths import Paths
from spool.queue.database import Database
from spool.queue.disk import DATABASE, SETTINGS, Value, read_whole
from spool.queue.recovery.wreckage import read_wreck
from spool.queue.rows import FORMAT, encode
from spool.queue.store import Store, make_store, open_store
from spool.queue.transaction import Stored, events_after
from tests.support.processes import run_python

ROW = "INSERT INTO Cache (key, raw, mode, filename, value) VALUES (?, ?, ?, ?, ?)"
# How diskcache marks a value of its own: inline, in a binary file, in a text file, pickled.
RAW, BINARY, TEXT, PICKLE = 1, 2, 3, 4


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An empty folder for a store."""
    (tmp_path / "store").mkdir()
    return tmp_path / "store"


@pytest.fixture
def store(folder: Path) -> Iterator[Store]:
    """A new store, closed at the end."""
    store = make_store(folder, durability="process")
    yield store
    store.close()


def pragma(store: Store, name: str) -> object:
    """Ask the connection that the store uses."""
    ((value,),) = store._sql(f"PRAGMA {name}").fetchall()  # noqa: SLF001 - no code of ours asks
    return value


def pages(store: Store, most: int) -> Iterator[Stored]:
    """Go through the pending events page by page, as the queue does."""
    after = 0
    while page := events_after(store, after, most):
        after = page[-1].number
        yield from page


def plant(folder: Path, *row: object) -> None:
    """Put a row into the file past diskcache, as somebody else could."""
    connection = sqlite3.connect(folder / DATABASE)
    with connection:
        connection.execute(ROW, row)
    connection.close()


def test_count_and_size_follow_every_row_inside_a_transaction(store: Store) -> None:
    """`count` counts all rows, `size` the characters below integer keys; both are read before the commit."""
    with store.transact():
        for number in range(1, 4):
            store.add(number, "x" * 10 * number)
        store.add("ledger", "y" * 500)
        assert store.totals() == (4, 60)
        store.set("ledger", "z" * 900)
        store.set(2, "x")
        assert store.totals() == (4, 41)
        store.delete(3)
        store.delete(3)
        assert store.totals() == (3, 11)
        store.set("sequence", 1)
        assert store.totals() == (4, 11)
    assert store.totals() == (4, 11)


def test_a_transaction_that_raises_leaves_rows_counts_and_counters_as_they_were(store: Store) -> None:
    """Added, changed, incremented and deleted rows come back, `count` and `size` too; the next one works."""
    store.add(1, "first")
    store.add("sequence", 1)

    def fail() -> None:
        with store.transact():
            store.add(2, "second")
            store.set(1, "changed")
            store.set("sequence", 2)
            store.delete(1)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert (store.page(0, 9, 99), store.named("")) == ([(1, "first")], [("sequence", 1)])
    assert store.totals() == (2, 5)
    with store.transact():
        assert store.add(2, "second") is True
    assert store.get(2) == "second"


def test_what_a_transaction_did_is_not_seen_outside_before_its_end(store: Store, folder: Path) -> None:
    """A second connection sees all of it or nothing."""
    other = sqlite3.connect(folder / DATABASE)
    count = "SELECT (SELECT count(*) FROM Cache), (SELECT value FROM Settings WHERE key = 'count')"
    with store.transact():
        store.add(1, "one")
        store.add(2, "two")
        assert other.execute(count).fetchall() == [(0, 0)]
    assert other.execute(count).fetchall() == [(2, 2)]
    other.close()


def test_add_refuses_a_key_that_is_there(store: Store) -> None:
    """It says so and leaves the value alone: a number never names two events."""
    assert store.add(7, "first") is True
    assert store.add(7, "second") is False
    assert store.get(7) == "first"
    assert store.totals()[0] == 1


def test_take_deletes_only_what_still_holds_the_value(store: Store) -> None:
    """Another value under the same key stays, and so does a number that only looks like the text."""
    store.add(1, "now")
    store.add("two", 5)
    assert [store.take(1, "before"), store.take("two", "5"), store.take(3, "now"), store.take(1, "now")] == [
        False
    ] * 3 + [True]
    assert (store.get(1), store.get("two")) == (None, 5)
    assert store.totals()[0] == 1


def test_get_gives_none_for_what_is_not_there_and_delete_says_so(store: Store) -> None:
    """No exception for a row that somebody else took meanwhile. An empty text is no absence."""
    assert store.get(1) is None
    assert store.delete(1) is False
    store.add(1, "")
    assert store.get(1) == ""
    assert store.delete(1) is True


def test_rows_are_read_by_the_size_of_their_numbers_and_then_by_name(store: Store) -> None:
    """Events in the order of their numbers, with their sizes, page by page; texts apart from them."""
    numbers = [*range(1, 250), 2**40, 2**53]
    for key in ["sequence", *reversed(numbers), "dead:0000000000000010", "dead:0000000000000009", "absorbed"]:
        store.add(key, "x")
    assert store.sizes(0, 1_000) == [(number, 1) for number in numbers]
    assert store.sizes(100, 2) == [(101, 1), (102, 1)]
    assert store.page(248, 2, 99) == [(249, "x"), (2**40, "x")]
    assert store.named("dead:") == [("dead:0000000000000009", "x"), ("dead:0000000000000010", "x")]


def test_the_events_are_read_on_while_rows_are_deleted_and_added(store: Store) -> None:
    """Rows behind it vanish, rows ahead of it vanish, rows are added at the end: none twice, none missed."""
    for number in range(1, 301):
        store.add(number, encode(0.0, "x"))
    seen = []
    for stored in pages(store, 50):
        seen.append(stored.number)
        store.delete(stored.number)
        if stored.number == 100:
            for number in range(250, 301):
                store.delete(number)
        if stored.number == 120:
            for number in range(301, 420):
                store.add(number, encode(0.0, "x"))
    assert [number for number in seen if number <= 249] == list(range(1, 250))
    assert [number for number in seen if number > 300] == list(range(301, 420))
    assert len(seen) == len(set(seen))
    assert store.totals() == (0, 0)


def test_a_page_of_large_events_is_bounded_in_bytes(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory stays flat whatever the events are: a page ends with the one that fills it."""
    monkeypatch.setattr("spool.queue.transaction.PAGE_CHARS", 1_000)
    for number in range(1, 12):
        store.add(number, encode(0.0, "x" * 300))
    store.add(12, encode(0.0, "x" * 3_000))
    lengths: list[int] = []
    original = store.page

    def noted(after: int, most: int, most_chars: int) -> list[tuple[int, Value]]:
        lengths.append(len(rows := original(after, most, most_chars)))
        return rows

    monkeypatch.setattr(store, "page", noted)
    assert [stored.number for stored in pages(store, 500)] == list(range(1, 13))
    assert lengths == [4, 4, 4, 0]


@pytest.mark.parametrize("value", [b"bytes", None, 1.5, ["list"], True])
def test_a_value_that_would_be_pickled_or_put_in_a_file_is_refused(value: Any, store: Store) -> None:
    """Texts and integers go in, inline, and nothing else does."""
    with pytest.raises(TypeError):
        store.add(1, value)
    with pytest.raises(TypeError):
        store.add(value, "x")
    assert store.totals()[0] == 0


def test_a_large_text_stays_inline(store: Store, folder: Path) -> None:
    """A cache of diskcache writes 32 KiB and more to a side file without fsync: not here."""
    text = "\r\n" + "x" * 1_000_000
    store.add(1, text)
    assert store.get(1) == text
    assert {path.name.removeprefix(DATABASE) for path in folder.iterdir()} <= {"", "-wal", "-shm"}


class Burglar:
    """Its pickle creates a file when it is loaded."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, ...]:
        """Say what unpickling calls."""
        return (os.mkdir, (str(self.marker),))


def test_a_pickled_row_is_refused_and_never_loaded(store: Store, folder: Path, tmp_path: Path) -> None:
    """CVE-2025-69872: as value and as key, a planted pickle would run code on read. It does not."""
    marker = tmp_path / "burgled"
    burglary = pickle.dumps(Burglar(marker))
    plant(folder, 1, 1, PICKLE, None, burglary)
    plant(folder, burglary, 0, RAW, None, "x")
    with pytest.raises(QueueDamagedError):
        store.get(1)
    with pytest.raises(QueueDamagedError):
        store.page(0, 9, 99)
    assert not marker.exists()
    pickle.loads(burglary)  # noqa: S301 - our own: it proves that the trap would have shut
    assert marker.exists()


@pytest.mark.parametrize("mode", [RAW, BINARY, TEXT, PICKLE])
@pytest.mark.parametrize("place", ["absolute", "relative"])
def test_a_row_that_names_a_file_neither_reads_nor_deletes_it(
    mode: int, place: str, store: Store, folder: Path, tmp_path: Path
) -> None:
    """To get, set or delete such a row raises, the transaction rolls back, the file is untouched."""
    victim = tmp_path / "victim"
    name = str(victim) if place == "absolute" else "../victim"
    victim.write_bytes(pickle.dumps("secret"))
    plant(folder, 1, 1, mode, name, 5 if mode == RAW else None)
    with pytest.raises(QueueDamagedError):
        store.get(1)
    with pytest.raises(QueueDamagedError):
        store.page(0, 9, 99)
    with store.transact():
        store.set(1, "new")
    with store.transact():
        assert store.delete(1)
    assert pickle.loads(victim.read_bytes()) == "secret"  # noqa: S301 - written above


@pytest.mark.parametrize("raw", [0, 1, None])
def test_a_row_with_a_foreign_key_is_refused(raw: int | None, store: Store, folder: Path) -> None:
    """A fraction is no key of ours, nor is an integer that diskcache would unpickle."""
    plant(folder, 1.5 if raw else 1, raw, RAW, None, "x")
    with pytest.raises(QueueDamagedError):
        store.page(0, 9, 99)
    with pytest.raises(QueueDamagedError):
        store.sizes(0, 9)


@pytest.mark.parametrize("value", [b"blob", 1.5, None])
def test_a_row_with_a_foreign_value_is_refused(value: object, store: Store, folder: Path) -> None:
    """A blob, a fraction or nothing is no value of ours, though it is inline."""
    plant(folder, 1, 1, RAW, None, value)
    with pytest.raises(QueueDamagedError):
        store.get(1)


@pytest.mark.parametrize("name", ["$HOME", "~", "%USERPROFILE%", "${HOME}", "a b\n'\"", "ünï", "%00"])
def test_a_folder_is_taken_by_its_name(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache of diskcache expands `~` and variables: a folder may be called so, and gets its own queue."""
    monkeypatch.setenv("USERPROFILE", str(tmp_path / "elsewhere"))
    folder = tmp_path / name / name
    folder.mkdir(parents=True)
    store = make_store(folder, durability="process")
    store.add("format", FORMAT)
    store.close()
    open_store(folder, durability="process", timeout_s=1.0).close()
    assert (folder / DATABASE).stat().st_size > 0
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["user", name])
    assert list((tmp_path / "user").iterdir()) == []


def test_the_settings_after_opening_are_ours(store: Store, folder: Path) -> None:
    """No eviction, no culling, no side files, WAL, no memory map, a small cache: stored and in force."""
    store.add("format", FORMAT)
    store.close()
    for durability in ("power", "process"):
        reopened = open_store(folder, durability=durability, timeout_s=1.0)
        stored = dict(reopened._sql("SELECT key, value FROM Settings").fetchall())  # noqa: SLF001 - as above
        assert {name: stored[name] for name in SETTINGS} == SETTINGS
        in_force = {name: pragma(reopened, name) for name in ("journal_mode", "mmap_size", "cache_size")}
        assert in_force == {"journal_mode": "wal", "mmap_size": 0, "cache_size": 1000}
        assert pragma(reopened, "auto_vacuum") == 1
        assert pragma(reopened, "synchronous") == (2 if durability == "power" else 1)
        reopened.close()


def test_nothing_is_evicted_or_culled(store: Store) -> None:
    """Past diskcache's own limits (10 rows culled at each write, 1 GiB) every row stays."""
    with store.transact():
        for number in range(2_000):
            store.add(number, "x" * 100)
    store.add("last", 0)
    assert store.totals()[0] == 2_001


def test_any_diskcache_reads_what_lies_there(store: Store, folder: Path) -> None:
    """Its own `Cache`, with its own settings, gives every row back under its key."""
    with store.transact():
        store.add(1, "first")
        store.add("sequence", 7)
    store.close()
    with diskcache.Cache(str(folder)) as cache:
        assert [(key, cache[key]) for key in cache] == [(1, "first"), ("sequence", 7)]
        assert len(cache) == 2


def test_power_holds_in_every_thread_and_after_every_reconnect(paths: Paths) -> None:
    """Each connection starts at NORMAL: under `power` all of them work at FULL."""
    database = Database(paths, "power")
    levels: list[object] = []

    def look() -> None:
        levels.append(database.read(lambda store: pragma(store, "synchronous"), 5.0))

    for target in (look, lambda: _in_thread(look), look, lambda: _in_thread(look), database.discard, look):
        target()
    database.close(5.0)
    _in_thread(look)
    look()
    database.close(5.0)
    assert levels == [2] * 7


def _in_thread(target: Any) -> None:
    thread = threading.Thread(target=target)
    thread.start()
    thread.join()


LOCKED = """
import fcntl, os, sys
descriptor = os.open(sys.argv[1], os.O_RDWR)
try:
    fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, 510, 0x40000002)  # SQLite's shared lock: who is connected
    print("nobody")
except OSError:
    print("somebody")
"""


@pytest.mark.skipif(os.name != "posix", reason="elsewhere locks belong to a descriptor")
def test_nothing_here_drops_the_locks_of_another_connection(paths: Paths) -> None:
    """A process that closes any descriptor of a file loses its locks on it: then the log is cut under the other one."""
    first, second = Database(paths), Database(paths)
    first.read(Store.totals, 5.0)
    for look in (
        lambda: second.read(Store.totals, 5.0),
        lambda: read_whole(paths.queue),
        lambda: read_wreck(paths.queue, paths.spool / "scratch", bytes),
        lambda: second.close(5.0),
    ):
        look()
        assert run_python(LOCKED, paths.database).stdout == "somebody\n"
    first.close(5.0)
    assert run_python(LOCKED, paths.database).stdout == "nobody\n"
