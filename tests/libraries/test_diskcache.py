"""What the queue relies on in diskcache and SQLite, one test per behaviour: a new release shows here first."""

from __future__ import annotations

import ast
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
from spool.home import Paths
from spool.queue import Queue, Row
from spool.queue.cache import PRIVATE_NAMES, SETTINGS, Cache, check_readable, new_cache, open_cache
from spool.queue.connection import DATABASE
from spool.queue.recovery.damaged import read_damaged
from spool.queue.rows import FORMAT, encode
from spool.queue.transaction import Transaction
from tests.support.processes import ROOT, run_python

ROW = "INSERT INTO Cache (key, raw, mode, filename, value) VALUES (?, ?, ?, ?, ?)"
# How diskcache marks a value of its own: inline, in a binary file, in a text file, pickled.
RAW, BINARY, TEXT, PICKLE = 1, 2, 3, 4


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An empty folder for a cache."""
    (tmp_path / "store").mkdir()
    return tmp_path / "store"


@pytest.fixture
def cache(folder: Path) -> Iterator[Cache]:
    """A new cache, closed at the end."""
    cache = new_cache(folder, "process")
    yield cache
    cache.disconnect()


def pragma(cache: Cache, name: str) -> object:
    """Ask the connection that the cache uses."""
    ((value,),) = cache._con.execute(f"PRAGMA {name}").fetchall()  # noqa: SLF001 - no code of ours asks
    return value


def pages(cache: Cache, most: int) -> Iterator[Row]:
    """Go through the pending events page by page, as the queue does."""
    after = 0
    while page := Transaction(cache).rows_after(after, most):
        after = page[-1].number
        yield from page


def plant(folder: Path, *row: object) -> None:
    """Put a row into the file past diskcache, as somebody else could."""
    connection = sqlite3.connect(folder / DATABASE)
    with connection:
        connection.execute(ROW, row)
    connection.close()


def test_count_and_size_follow_every_row_inside_a_transaction(cache: Cache) -> None:
    """`count` counts all rows, `size` the characters below integer keys; both are read before the commit."""
    with cache.transact():
        for number in range(1, 4):
            cache.add(number, "x" * 10 * number)
        cache.add("ledger", "y" * 500)
        assert cache.totals() == (4, 60)
        cache.set("ledger", "z" * 900)
        cache.set(2, "x")
        assert cache.totals() == (4, 41)
        cache.delete(3)
        cache.delete(3)
        assert cache.totals() == (3, 11)
        cache.set("sequence", 1)
        assert cache.totals() == (4, 11)
    assert cache.totals() == (4, 11)


def test_a_transaction_that_raises_leaves_rows_counts_and_counters_as_they_were(cache: Cache) -> None:
    """Added, changed, incremented and deleted rows come back, `count` and `size` too; the next one works."""
    cache.add(1, "first")
    cache.add("sequence", 1)

    def fail() -> None:
        with cache.transact():
            cache.add(2, "second")
            cache.set(1, "changed")
            cache.set("sequence", 2)
            cache.delete(1)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert (cache.page(0, 9, 99), list(cache.iterkeys())) == ([(1, "first")], [1, "sequence"])
    assert cache.totals() == (2, 5)
    with cache.transact():
        assert cache.add(2, "second") is True
    assert cache.get(2) == "second"


def test_what_a_transaction_did_is_not_seen_outside_before_its_end(cache: Cache, folder: Path) -> None:
    """A second connection sees all of it or nothing."""
    other = sqlite3.connect(folder / DATABASE)
    count = "SELECT (SELECT count(*) FROM Cache), (SELECT value FROM Settings WHERE key = 'count')"
    with cache.transact():
        cache.add(1, "one")
        cache.add(2, "two")
        assert other.execute(count).fetchall() == [(0, 0)]
    assert other.execute(count).fetchall() == [(2, 2)]
    other.close()


def test_add_refuses_a_key_that_is_there(cache: Cache) -> None:
    """It says so and leaves the value alone: a number never names two events."""
    assert cache.add(7, "first") is True
    assert cache.add(7, "second") is False
    assert cache.get(7) == "first"
    assert cache.totals()[0] == 1


def test_take_deletes_only_what_still_holds_the_value(cache: Cache) -> None:
    """Another value under the same key stays, and so does a number that only looks like the text."""
    cache.add(1, "now")
    cache.add("two", 5)
    assert [cache.take([row]) for row in ((1, "before"), ("two", "5"), (3, "now"), (1, "now"))] == [0, 0, 0, 1]
    assert (cache.get(1), cache.get("two")) == (None, 5)
    assert cache.totals()[0] == 1


def test_get_gives_none_for_what_is_not_there_and_delete_says_so(cache: Cache) -> None:
    """No exception for a row that somebody else took meanwhile. An empty text is no absence."""
    assert cache.get(1) is None
    assert cache.delete(1) is False
    cache.add(1, "")
    assert cache.get(1) == ""
    assert cache.delete(1) is True


def test_rows_are_read_by_the_size_of_their_numbers_and_then_by_name(cache: Cache) -> None:
    """Events in the order of their numbers, with their sizes, page by page; texts apart from them."""
    numbers = [*range(1, 250), 2**40, 2**53]
    for key in ["sequence", *reversed(numbers), "dead:0000000000000010", "dead:0000000000000009", "absorbed"]:
        cache.add(key, "x")
    texts = ["absorbed", "dead:0000000000000009", "dead:0000000000000010", "sequence"]
    assert list(cache.iterkeys()) == [*numbers, *texts]
    assert list(cache.iterkeys(reverse=True)) == [*numbers, *texts][::-1]
    assert cache.page(248, 2, 99) == [(249, "x"), (2**40, "x")]


def test_the_events_are_read_on_while_rows_are_deleted_and_added(cache: Cache) -> None:
    """Rows behind it vanish, rows ahead of it vanish, rows are added at the end: none twice, none missed."""
    for number in range(1, 301):
        cache.add(number, encode(0.0, "x"))
    seen = []
    for stored in pages(cache, 50):
        seen.append(stored.number)
        cache.delete(stored.number)
        if stored.number == 100:
            for number in range(250, 301):
                cache.delete(number)
        if stored.number == 120:
            for number in range(301, 420):
                cache.add(number, encode(0.0, "x"))
    assert [number for number in seen if number <= 249] == list(range(1, 250))
    assert [number for number in seen if number > 300] == list(range(301, 420))
    assert len(seen) == len(set(seen))
    assert cache.totals() == (0, 0)


def test_a_page_of_large_events_is_bounded_in_bytes(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory stays flat whatever the events are: a page ends with the one that fills it."""
    monkeypatch.setattr("spool.queue.transaction.PAGE_CHARS", 1_000)
    for number in range(1, 12):
        cache.add(number, encode(0.0, "x" * 300))
    cache.add(12, encode(0.0, "x" * 3_000))
    lengths: list[int] = []
    original = cache.page

    def noted(after: int, most: int, most_chars: int) -> list[tuple[int, int | str]]:
        lengths.append(len(rows := original(after, most, most_chars)))
        return rows

    monkeypatch.setattr(cache, "page", noted)
    assert [stored.number for stored in pages(cache, 500)] == list(range(1, 13))
    assert lengths == [4, 4, 4, 0]


@pytest.mark.parametrize("value", [b"bytes", None, 1.5, ["list"], True])
def test_a_value_that_would_be_pickled_or_put_in_a_file_is_refused(value: Any, cache: Cache) -> None:
    """Texts and integers go in, inline, and nothing else does."""
    with pytest.raises(TypeError):
        cache.add(1, value)
    with pytest.raises(TypeError):
        cache.add(value, "x")
    assert cache.totals()[0] == 0


def test_a_large_text_stays_inline(cache: Cache, folder: Path) -> None:
    """A cache of diskcache writes 32 KiB and more to a side file without fsync: not here."""
    text = "\r\n" + "x" * 1_000_000
    cache.add(1, text)
    assert cache.get(1) == text
    assert {path.name.removeprefix(DATABASE) for path in folder.iterdir()} <= {"", "-wal", "-shm"}


class Burglar:
    """Its pickle creates a file when it is loaded."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, ...]:
        """Say what unpickling calls."""
        return (os.mkdir, (str(self.marker),))


def test_a_pickled_row_is_refused_and_never_loaded(cache: Cache, folder: Path, tmp_path: Path) -> None:
    """CVE-2025-69872: as value and as key, a planted pickle would run code on read. It does not."""
    marker = tmp_path / "burgled"
    burglary = pickle.dumps(Burglar(marker))
    plant(folder, 1, 1, PICKLE, None, burglary)
    plant(folder, burglary, 0, RAW, None, "x")
    with pytest.raises(QueueDamagedError):
        cache.get(1)
    with pytest.raises(QueueDamagedError):
        cache.page(0, 9, 99)
    assert not marker.exists()
    pickle.loads(burglary)  # noqa: S301 - our own: it proves that the trap would have shut
    assert marker.exists()


@pytest.mark.parametrize("mode", [RAW, BINARY, TEXT, PICKLE])
@pytest.mark.parametrize("place", ["absolute", "relative"])
def test_a_row_that_names_a_file_neither_reads_nor_deletes_it(
    mode: int, place: str, cache: Cache, folder: Path, tmp_path: Path
) -> None:
    """To get, set or delete such a row raises, the transaction rolls back, the file is untouched."""
    victim = tmp_path / "victim"
    name = str(victim) if place == "absolute" else "../victim"
    victim.write_bytes(pickle.dumps("secret"))
    plant(folder, 1, 1, mode, name, 5 if mode == RAW else None)
    with pytest.raises(QueueDamagedError):
        cache.get(1)
    with pytest.raises(QueueDamagedError):
        cache.page(0, 9, 99)
    with cache.transact():
        cache.set(1, "new")
    with cache.transact():
        assert cache.delete(1)
    assert pickle.loads(victim.read_bytes()) == "secret"  # noqa: S301 - written above


@pytest.mark.parametrize("raw", [0, 1, None])
def test_a_row_with_a_foreign_key_is_refused(raw: int | None, cache: Cache, folder: Path) -> None:
    """A fraction is no key of ours, nor is an integer that diskcache would unpickle."""
    plant(folder, 1.5 if raw else 1, raw, RAW, None, "x")
    with pytest.raises(QueueDamagedError):
        cache.page(0, 9, 99)
    with pytest.raises(QueueDamagedError):
        list(cache.iterkeys())


@pytest.mark.parametrize("value", [b"blob", 1.5, None])
def test_a_row_with_a_foreign_value_is_refused(value: object, cache: Cache, folder: Path) -> None:
    """A blob, a fraction or nothing is no value of ours, though it is inline."""
    plant(folder, 1, 1, RAW, None, value)
    with pytest.raises(QueueDamagedError):
        cache.get(1)


@pytest.mark.parametrize("name", ["$HOME", "~", "%USERPROFILE%", "${HOME}", "a b\n'\"", "ünï", "%00"])
def test_a_folder_is_taken_by_its_name(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache of diskcache expands `~` and variables: a folder may be called so, and gets its own queue."""
    monkeypatch.setenv("USERPROFILE", str(tmp_path / "elsewhere"))
    folder = tmp_path / name / name
    folder.mkdir(parents=True)
    cache = new_cache(folder, "process")
    cache.add("format", FORMAT)
    cache.disconnect()
    open_cache(folder, "process", 1.0).disconnect()
    assert (folder / DATABASE).stat().st_size > 0
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["user", name])
    assert list((tmp_path / "user").iterdir()) == []


def test_the_settings_after_opening_are_ours(cache: Cache, folder: Path) -> None:
    """No eviction, no culling, no side files, WAL, no memory map, a small cache: stored and in force."""
    cache.add("format", FORMAT)
    cache.disconnect()
    for durability in ("power", "process"):
        reopened = open_cache(folder, durability, 1.0)
        stored = dict(reopened._con.execute("SELECT key, value FROM Settings").fetchall())  # noqa: SLF001 - as above
        assert {name: stored[name] for name in SETTINGS} == SETTINGS
        in_force = {name: pragma(reopened, name) for name in ("journal_mode", "mmap_size", "cache_size")}
        assert in_force == {"journal_mode": "wal", "mmap_size": 0, "cache_size": 1000}
        assert pragma(reopened, "auto_vacuum") == 1
        assert pragma(reopened, "synchronous") == (2 if durability == "power" else 1)
        reopened.disconnect()


def test_nothing_is_evicted_or_culled(cache: Cache) -> None:
    """Past diskcache's own limits (10 rows culled at each write, 1 GiB) every row stays."""
    with cache.transact():
        for number in range(2_000):
            cache.add(number, "x" * 100)
    cache.add("last", 0)
    assert cache.totals()[0] == 2_001


def test_any_diskcache_reads_what_lies_there(cache: Cache, folder: Path) -> None:
    """Its own `Cache`, with its own settings, gives every row back under its key."""
    with cache.transact():
        cache.add(1, "first")
        cache.add("sequence", 7)
    cache.disconnect()
    with diskcache.Cache(str(folder)) as another:
        assert [(key, another[key]) for key in another] == [(1, "first"), ("sequence", 7)]
        assert len(another) == 2


def test_power_holds_in_every_thread_and_after_every_reconnect(paths: Paths) -> None:
    """A connection starts at NORMAL: under `power` each one works at FULL, in whichever thread."""
    queue = Queue(paths, durability="power", wait_s=5.0)
    levels: list[object] = []

    def look() -> None:
        levels.append(queue._do(lambda transaction: pragma(transaction._cache, "synchronous")))  # noqa: SLF001 - no code of ours asks

    for target in (look, lambda: _in_thread(look), look, lambda: _in_thread(look), queue.close, look):
        target()
    queue.close()
    _in_thread(look)
    look()
    queue.close()
    assert levels == [2] * 7


def _in_thread(target: Any) -> None:
    thread = threading.Thread(target=target)
    thread.start()
    thread.join()


def test_one_connection_serves_all_threads(paths: Paths) -> None:
    """`Cache._con` is where diskcache takes its connection from: it opens none of its own, in no thread."""
    queue = Queue(paths, wait_s=5.0)
    seen: list[object] = []

    def append() -> None:
        queue.append('{"properties":{"a":1}}')
        seen.append(queue._cache and queue._cache._con)  # noqa: SLF001 - which one it is

    append()
    for _ in range(3):
        _in_thread(append)
    assert len({id(connection) for connection in seen}) == 1
    assert seen[0] is not None
    if Path("/proc/self/fd").exists():
        opened = [os.path.realpath(f"/proc/self/fd/{number}") for number in os.listdir("/proc/self/fd")]
        assert opened.count(os.path.realpath(paths.database)) == 1
    queue.close()


def test_what_is_relied_on_beside_documented_methods_stands_in_one_list(folder: Path) -> None:
    """Every name in the list is there in this diskcache, and `_con` is the only private one that our code names."""
    cache = new_cache(folder, "process")
    tables = {}
    for table in ("Cache", "Settings"):
        tables[table] = {row[1] for row in cache._con.execute(f"PRAGMA table_info({table})")}  # noqa: SLF001 - as above
    cache.disconnect()
    assert isinstance(diskcache.Cache._con, property)  # noqa: SLF001 - it is what the list says
    assert {"key", "raw", "mode", "filename", "value"} <= tables["Cache"]
    assert tables["Settings"] == {"key", "value"}
    assert diskcache.core.MODE_RAW == RAW
    tree = ast.parse((ROOT / "spool" / "queue" / "cache.py").read_text())
    named = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute) and node.attr.startswith("_")}
    listed = {name.partition(".")[2] for name in PRIVATE_NAMES if name.startswith("Cache.")}
    assert named - {"_connection", "__context__", "__init__", "__name__"} == listed


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
    first, second = Queue(paths, wait_s=5.0), Queue(paths, wait_s=5.0)
    first.append('{"properties":{"a":1}}')
    for look in (
        second.account,
        lambda: check_readable(paths.queue),
        lambda: read_damaged(paths.queue, paths.spool / "scratch"),
        second.close,
    ):
        look()
        assert run_python(LOCKED, paths.database).stdout == "somebody\n"
    first.close()
    assert run_python(LOCKED, paths.database).stdout == "nobody\n"
