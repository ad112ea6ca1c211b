"""What spool/disk.py relies on in diskcache, one test per behaviour: a new release shows here first."""

from __future__ import annotations

import os
import pickle
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from spool.database import Database
from spool.disk import DATABASE, SETTINGS, open_store, translated
from spool.errors import QueueDamagedError
from spool.paths import Paths
from spool.record import FORMAT

ROW = "INSERT INTO Cache (key, raw, mode, filename, value) VALUES (?, ?, ?, ?, ?)"
# How diskcache marks a value of its own: inline, in a binary file, in a text file, pickled.
RAW, BINARY, TEXT, PICKLE = 1, 2, 3, 4


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An empty folder for a store."""
    (tmp_path / "store").mkdir()
    return tmp_path / "store"


@pytest.fixture
def store(folder: Path) -> Iterator[Any]:
    """A new store, closed at the end."""
    store = open_store(folder, create=True, durability="process", timeout_s=1.0)
    yield store
    store.close()


def pragma(store: Any, name: str) -> object:
    """Ask the connection that the store uses in this thread."""
    ((value,),) = store._sql(f"PRAGMA {name}").fetchall()  # noqa: SLF001 - it has no public way to ask
    return value


def plant(folder: Path, *row: object) -> None:
    """Put a row into the file past diskcache, as somebody else could."""
    connection = sqlite3.connect(folder / DATABASE)
    with connection:
        connection.execute(ROW, row)
    connection.close()


def test_count_and_size_follow_every_row_inside_a_transaction(store: Any) -> None:
    """`count` counts all rows, `size` the characters below integer keys; both are read before the commit."""
    with store.transact():
        for number in range(1, 4):
            store.add(number, "x" * 10 * number)
        store.add("ledger", "y" * 500)
        assert (store.reset("count"), store.reset("size")) == (4, 60)
        store.set("ledger", "z" * 900)
        store.set(2, "x")
        assert (store.reset("count"), store.reset("size")) == (4, 41)
        store.delete(3)
        store.delete(3)
        assert (store.reset("count"), store.reset("size")) == (3, 11)
        store.incr("sequence")
        store.incr("sequence")
        assert (store.reset("count"), store.reset("size")) == (4, 11)
    assert (store.reset("count"), store.reset("size")) == (4, 11)


def test_a_transaction_that_raises_leaves_rows_counts_and_counters_as_they_were(store: Any) -> None:
    """Added, changed, incremented and deleted rows come back, `count` and `size` too; the next one works."""
    store.add(1, "first")
    store.add("sequence", 1)

    def fail() -> None:
        with store.transact():
            store.add(2, "second")
            store.set(1, "changed")
            store.incr("sequence")
            store.delete(1)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert [(key, store.get(key)) for key in store.iterkeys()] == [(1, "first"), ("sequence", 1)]
    assert (store.reset("count"), store.reset("size")) == (2, 5)
    with store.transact():
        assert store.add(2, "second") is True
    assert store.get(2) == "second"


def test_what_a_transaction_did_is_not_seen_outside_before_its_end(store: Any, folder: Path) -> None:
    """A second connection sees all of it or nothing."""
    other = sqlite3.connect(folder / DATABASE)
    count = "SELECT (SELECT count(*) FROM Cache), (SELECT value FROM Settings WHERE key = 'count')"
    with store.transact():
        store.add(1, "one")
        store.add(2, "two")
        assert other.execute(count).fetchall() == [(0, 0)]
    assert other.execute(count).fetchall() == [(2, 2)]
    other.close()


def test_add_refuses_a_key_that_is_there(store: Any) -> None:
    """It says so and leaves the value alone: a number never names two events."""
    assert store.add(7, "first") is True
    assert store.add(7, "second") is False
    assert store.get(7) == "first"
    assert store.reset("count") == 1


def test_incr_counts_on_and_makes_no_text_a_number(store: Any) -> None:
    """From nothing to 1, then on; far beyond 2**53; a text raises and stays."""
    assert [store.incr("sequence") for _ in range(3)] == [1, 2, 3]
    store.set("sequence", 2**53)
    assert store.incr("sequence") == 2**53 + 1
    store.set("sequence", "text")
    with pytest.raises(QueueDamagedError), translated():
        store.incr("sequence")
    assert store.get("sequence") == "text"


def test_get_gives_none_for_what_is_not_there_and_delete_says_so(store: Any) -> None:
    """No exception for a row that somebody else took meanwhile. An empty text is no absence."""
    assert store.get(1) is None
    assert store.delete(1) is False
    store.add(1, "")
    assert store.get(1) == ""
    assert store.delete(1) is True


def test_iterkeys_gives_integers_by_size_and_then_texts(store: Any) -> None:
    """Events first, in the order of their numbers, beyond the page of 100 rows that diskcache reads."""
    numbers = [*range(1, 250), 2**40, 2**53]
    for key in ["sequence", *reversed(numbers), "dead:0000000000000010", "dead:0000000000000009", "absorbed"]:
        store.add(key, "x")
    texts = ["absorbed", "dead:0000000000000009", "dead:0000000000000010", "sequence"]
    assert list(store.iterkeys()) == numbers + texts
    assert list(store.iterkeys(reverse=True)) == (numbers + texts)[::-1]


def test_iterkeys_goes_on_while_rows_are_deleted_and_added(store: Any) -> None:
    """Rows behind it vanish, rows ahead of it vanish, rows are added at the end: none twice, none missed."""
    for number in range(1, 301):
        store.add(number, "x")
    seen = []
    for key in store.iterkeys():
        seen.append(key)
        store.delete(key)
        if key == 100:
            for number in range(250, 301):
                store.delete(number)
        if key == 120:
            for number in range(301, 420):
                store.add(number, "x")
    assert [key for key in seen if key <= 249] == list(range(1, 250))
    assert [key for key in seen if key > 300] == list(range(301, 420))
    assert len(seen) == len(set(seen))
    assert store.reset("count") == 0


@pytest.mark.parametrize("value", [b"bytes", None, 1.5, ["list"], True])
def test_a_value_that_would_be_pickled_or_put_in_a_file_is_refused(value: object, store: Any) -> None:
    """Texts and integers go in, inline, and nothing else does."""
    with pytest.raises(TypeError):
        store.add(1, value)
    with pytest.raises(TypeError):
        store.add(value, "x")
    assert store.reset("count") == 0


def test_a_large_text_stays_inline(store: Any, folder: Path) -> None:
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


def test_a_pickled_row_is_refused_and_never_loaded(store: Any, folder: Path, tmp_path: Path) -> None:
    """CVE-2025-69872: as value and as key, a planted pickle would run code on read. It does not."""
    marker = tmp_path / "burgled"
    burglary = pickle.dumps(Burglar(marker))
    plant(folder, 1, 1, PICKLE, None, burglary)
    plant(folder, burglary, 0, RAW, None, "x")
    with pytest.raises(QueueDamagedError):
        store.get(1)
    with pytest.raises(QueueDamagedError):
        list(store.iterkeys(reverse=True))
    assert not marker.exists()
    pickle.loads(burglary)  # noqa: S301 - our own: it proves that the trap would have shut
    assert marker.exists()


@pytest.mark.parametrize("mode", [RAW, BINARY, TEXT, PICKLE])
@pytest.mark.parametrize("place", ["absolute", "relative"])
def test_a_row_that_names_a_file_neither_reads_nor_deletes_it(
    mode: int, place: str, store: Any, folder: Path, tmp_path: Path
) -> None:
    """To get, set or delete such a row raises, the transaction rolls back, the file is untouched."""
    victim = tmp_path / "victim"
    name = str(victim) if place == "absolute" else "../victim"
    victim.write_bytes(pickle.dumps("secret"))
    plant(folder, 1, 1, mode, name, 5 if mode == RAW else None)
    store.add(2, "x")

    def attempt(operation: str, *arguments: object) -> None:
        with store.transact():
            store.add(3, "y")
            getattr(store, operation)(*arguments)

    for operation in (("get", 1), ("set", 1, "new"), ("delete", 1)):
        with pytest.raises(QueueDamagedError):
            attempt(*operation)
    assert pickle.loads(victim.read_bytes()) == "secret"  # noqa: S301 - written above
    assert list(store.iterkeys()) == [1, 2]


@pytest.mark.parametrize("key", [b"blob", 1.5])
@pytest.mark.parametrize("raw", [0, 1, None])
def test_a_row_with_a_foreign_key_is_refused(key: object, raw: int | None, store: Any, folder: Path) -> None:
    """A blob or a fraction is no key of ours, whatever `raw` says of it."""
    plant(folder, key, raw, RAW, None, "x")
    with pytest.raises(QueueDamagedError):
        list(store.iterkeys())


@pytest.mark.parametrize("value", [b"blob", 1.5, None])
def test_a_row_with_a_foreign_value_is_refused(value: object, store: Any, folder: Path) -> None:
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
    for create in (True, False):
        store = open_store(folder, create=create, durability="process", timeout_s=1.0)
        store.add("format", FORMAT)
        store.close()
    assert (folder / DATABASE).stat().st_size > 0
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["user", name])
    assert list((tmp_path / "user").iterdir()) == []


def test_the_settings_after_opening_are_ours(store: Any, folder: Path) -> None:
    """No eviction, no culling, no side files, WAL, no memory map, a small cache: stored and in force."""
    store.add("format", FORMAT)
    store.close()
    for durability in ("power", "process"):
        reopened = open_store(folder, create=False, durability=durability, timeout_s=1.0)
        stored = {name: reopened.reset(name) for name in SETTINGS}
        assert stored == SETTINGS
        in_force = {name: pragma(reopened, name) for name in ("journal_mode", "mmap_size", "cache_size")}
        assert in_force == {"journal_mode": "wal", "mmap_size": 0, "cache_size": 1000}
        assert pragma(reopened, "auto_vacuum") == 1
        assert pragma(reopened, "synchronous") == (2 if durability == "power" else 1)
        reopened.close()


def test_nothing_is_evicted_or_culled(store: Any) -> None:
    """Past diskcache's own limits (10 rows culled at each write, 1 GiB) every row stays."""
    with store.transact():
        for number in range(2_000):
            store.add(number, "x" * 100)
    store.add("last", 0)
    assert store.reset("count") == 2_001


def test_power_holds_in_every_thread_and_after_every_reconnect(paths: Paths) -> None:
    """Each connection starts at what the file says (NORMAL): under `power` all of them work at FULL."""
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
