"""A damaged queue moves to quarantine whole; what reads goes on, what does not is counted, nothing is made up."""

from __future__ import annotations

import os
import pickle
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from spool.queue import DATABASE, Queue
from tests.support.damage import Before, check, fill, go_on, quarantined, root_of, sql
from tests.support.local_posthog import LocalPostHog
from tests.support.processes import SILENT

Damage = Callable[[Path], None]


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> Before:
    """A sound home, filled once."""
    with pytest.MonkeyPatch.context() as patch:
        for name in SILENT:
            patch.delenv(name, raising=False)
        return fill(tmp_path_factory.mktemp("sound") / "home")


def overwrite(data: bytes, at: int = 0) -> Damage:
    """Give a damage: other bytes at a place; a negative one counts from the end."""

    def damage(folder: Path) -> None:
        with (folder / DATABASE).open("r+b") as file:
            file.seek(at, os.SEEK_SET if at >= 0 else os.SEEK_END)
            file.write(data)

    return damage


def replace(data: bytes) -> Damage:
    """Give a damage: another file in its place."""

    def damage(folder: Path) -> None:
        (folder / DATABASE).write_bytes(data)

    return damage


def truncate(size: float) -> Damage:
    """Give a damage: the file is cut to a share of its size, or to so many bytes."""

    def damage(folder: Path) -> None:
        database = folder / DATABASE
        os.truncate(database, int(size * database.stat().st_size) if size < 1 else int(size))

    return damage


def another_database(folder: Path) -> None:
    """Put a sound SQLite file of somebody else in its place."""
    (folder / DATABASE).unlink()
    connection = sqlite3.connect(folder / DATABASE)
    connection.execute("CREATE TABLE Cache (rowid INTEGER PRIMARY KEY, name)")
    connection.execute("INSERT INTO Cache (name) VALUES ('x')")
    connection.commit()
    connection.close()
    (folder / DATABASE).chmod(0o600)


# -- nothing reads ------------------------------------------------------------------------------------------

TOTAL: dict[str, Damage] = {
    "garbage": replace(b"garbage" * 9_999),
    "a text": replace(b"# keep me\n"),
    "0 bytes": truncate(0),
    "1 byte": truncate(1),
    "half a header": truncate(50),
    "a header": truncate(100),
    "no tables": sql("DROP TABLE Cache", "DROP TABLE Settings"),
    "no events": sql("DROP TABLE Cache"),
    "another database": another_database,
}


@pytest.mark.parametrize("damage", TOTAL.values(), ids=TOTAL)
def test_what_can_not_be_read_is_kept_in_quarantine_and_counted(
    damage: Damage, before: Before, home: Path, server: LocalPostHog
) -> None:
    """At least one loss is counted, and told; the file lies in quarantine as it was; the host goes on."""
    paths = before.copy(home)
    damage(paths.queue)
    bytes_before = (paths.queue / DATABASE).read_bytes()
    after = go_on(paths, server)
    check(after, before, paths)
    assert after.noticed
    assert (after.damaged, set(after.missing(before))) == (1, {*before.pending, *before.dead})
    (kept,) = quarantined(paths)
    assert (kept / DATABASE).read_bytes() == bytes_before
    assert str(after.receipt.uuid) in after.out


# -- everything reads ---------------------------------------------------------------------------------------

SETTING = "INSERT OR REPLACE INTO Settings VALUES ('{}', '{}')"
ROW = "INSERT INTO Cache (key, raw, mode, filename, value) VALUES ({}, {}, {}, {}, {})"
VALUE = "UPDATE Cache SET value = {} WHERE key = '{}'"
KEY = "UPDATE Cache SET key = {} WHERE key = {}"
BY_HAND: dict[str, Damage] = {
    "eviction switched on": sql(SETTING.format("eviction_policy", "least-recently-used")),
    "a size limit": sql(SETTING.format("size_limit", "1")),
    "a foreign pragma": sql(SETTING.format("sqlite_writable_schema", "1")),
    "synchronous off": sql(SETTING.format("sqlite_synchronous", "0")),
    "a setting gone": sql("DELETE FROM Settings WHERE key = 'cull_limit'"),
    "settings gone": sql("DROP TABLE Settings"),
    "a trigger more": sql("CREATE TRIGGER t AFTER INSERT ON Cache BEGIN DELETE FROM Cache; END"),
    "a view": sql("CREATE VIEW v AS SELECT * FROM Cache"),
    "a trigger gone": sql("DROP TRIGGER Settings_count_insert"),
    "an index gone": sql("DROP INDEX Cache_key_raw"),
    "keys that are not unique": sql("DROP INDEX Cache_key_raw", "CREATE INDEX Cache_key_raw ON Cache(key, raw)"),
    "no count of rows": sql("DELETE FROM Settings WHERE key = 'count'"),
    "no count of bytes": sql("DELETE FROM Settings WHERE key = 'size'"),
    "names that are numbers": sql(VALUE.format("'[1, 2]'", "absorbed")),
    "a name of another folder": sql(VALUE.format("'[\"../x\"]'", "absorbed")),
    "a newer format": sql(VALUE.format(2, "format")),
    "no format": sql("DELETE FROM Cache WHERE key = 'format'"),
    "a pickled value": sql(ROW.format(900, 1, 4, "NULL", "x'80049530'")),
    "a pickled key": sql(ROW.format("x'80049530'", 0, 1, "NULL", "'x'")),
    "a file's row": sql(ROW.format(1, 1, 2, "'/etc/passwd'", "NULL")),
    "a key of no kind": sql(ROW.format(1.5, 1, 1, "NULL", "'x'")),
    "a number below zero": sql(KEY.format(-100, 100)),
    "a number beyond all others": sql(KEY.format(2**62, 100), "DELETE FROM Cache WHERE key = 'sequence'"),
    "no key": sql(ROW.format("NULL", 1, 1, "NULL", "'x'")),
    "a key from nowhere": sql(ROW.format("'zzz'", 1, 1, "NULL", "'x'")),
    "no sequence": sql("DELETE FROM Cache WHERE key = 'sequence'"),
    "a sequence of text": sql(VALUE.format("'many'", "sequence")),
    "the sequence set back": sql(VALUE.format(150, "sequence")),
    "no memory of aside files": sql("DELETE FROM Cache WHERE key = 'absorbed'"),
    "another memory of them": sql(VALUE.format("'[[['", "absorbed")),
    "a sequence at its end": sql(VALUE.format(2**63 - 1, "sequence")),
    "the count gone wrong": sql("UPDATE Settings SET value = value + 7 WHERE key = 'count'"),
}
# Not even damage: a number is only where an event stands; the size and the time of a row are nobody's business.
MOVED: dict[str, Damage] = {
    "a size of no kind": sql("UPDATE Cache SET size = 'x' WHERE key = 100"),
    "rows that ran out": sql("UPDATE Cache SET expire_time = 5 WHERE key > 60"),
    "another event's number": sql(KEY.format(9000, 100)),
    "numbers exchanged": sql(KEY.format(9000, 100), KEY.format(100, 101), KEY.format(101, 9000)),
}


@pytest.mark.parametrize("damage", [*BY_HAND.values(), *MOVED.values()], ids=[*BY_HAND, *MOVED])
def test_what_was_changed_by_hand_loses_no_event(
    damage: Damage, before: Before, home: Path, server: LocalPostHog
) -> None:
    """Settings, tables, planted rows: not obeyed, and every event, dead letter and counter is salvaged."""
    paths = before.copy(home)
    damage(paths.queue)
    after = go_on(paths, server)
    check(after, before, paths)
    assert after.missing(before) == set()
    assert after.dead == before.dead
    assert after.account.losses == before.account.losses
    assert after.account.captured == before.account.captured + 1
    assert after.account.delivered == before.account.delivered + before.account.pending + 1
    assert len(quarantined(paths)) == 1 or damage in MOVED.values()


def test_a_pickle_in_the_queue_is_never_loaded(before: Before, home: Path, server: LocalPostHog) -> None:
    """Neither at capture nor by the flusher nor while salvaging: it would run code."""
    paths = before.copy(home)
    marker = home / "burgled"

    class Burglar:
        def __reduce__(self) -> tuple[object, ...]:
            return (os.mkdir, (str(marker),))

    burglary = pickle.dumps(Burglar()).hex()
    sql(ROW.format(900, 1, 4, "NULL", f"x'{burglary}'"), ROW.format(f"x'{burglary}'", 0, 1, "NULL", "'x'"))(paths.queue)
    check(go_on(paths, server), before, paths)
    assert not marker.exists()
    assert len(quarantined(paths)) == 1


# -- a part reads -------------------------------------------------------------------------------------------


def scratch(*numbers: int, dead: bool = False, utf8: bool = True) -> Damage:
    """Give a damage: one character in the text of each of these events, in the file itself."""

    def damage(folder: Path) -> None:
        data = bytearray((folder / DATABASE).read_bytes())
        for number in numbers:
            place = data.index(f'"spool_sequence":{number}}}}}'.encode().replace(b'"', b'\\"' if dead else b'"'))
            data[place + 3] = ord("#") if utf8 else 0xFF
        (folder / DATABASE).write_bytes(data)

    return damage


PARTS = [
    pytest.param(scratch(100), {100}, id="one event"),
    pytest.param(scratch(100, 101, 150, 203), {100, 101, 150, 203}, id="several events"),
    pytest.param(scratch(50, dead=True), {50}, id="a dead letter"),
    pytest.param(scratch(50, 52, dead=True), {50, 52}, id="dead letters"),
    pytest.param(scratch(100, utf8=False), {100}, id="no text any more"),
    pytest.param(scratch(100, 150, utf8=False), {100, 150}, id="two that are no texts"),
    pytest.param(sql("DELETE FROM Cache WHERE key = 100"), {100}, id="an event gone"),
    pytest.param(sql("DELETE FROM Cache WHERE key LIKE 'dead:%50'"), {50}, id="a dead letter gone"),
]


@pytest.mark.parametrize(("damage", "numbers"), PARTS)
def test_one_damaged_row_costs_itself_and_nothing_else(
    damage: Damage, numbers: set[int], before: Before, home: Path, server: LocalPostHog
) -> None:
    """Everything else is delivered, the counters stand, and exactly so many are counted and told."""
    paths = before.copy(home)
    damage(paths.queue)
    after = go_on(paths, server)
    check(after, before, paths)
    assert after.missing(before) == {before.numbers[number] for number in numbers}
    assert after.account.losses == {**before.account.losses, "damaged": len(numbers)}


PRINTED = b'Traceback (most recent call last):\n  File "scan.py", line 12, in <module>\n'
FIRST_PAGE: dict[str, Damage] = {
    "a read version": overwrite(b"\x03", 19),
    "an encoding": overwrite(b"\x07", 59),
    "a header of zeros": overwrite(bytes(100)),
    "two pages of zeros": overwrite(bytes(8_192)),
    "what a program printed into it": overwrite(PRINTED * 50),
}


@pytest.mark.parametrize("damage", FIRST_PAGE.values(), ids=FIRST_PAGE)
def test_a_first_page_that_is_lost_costs_no_event(
    damage: Damage, before: Before, home: Path, server: LocalPostHog
) -> None:
    """It is alike in every queue: that of a new one is read in its place."""
    paths = before.copy(home)
    damage(paths.queue)
    after = go_on(paths, server)
    check(after, before, paths)
    assert after.missing(before) == set()
    assert after.account.losses == before.account.losses


def test_an_inner_page_that_is_lost_costs_no_event(before: Before, home: Path, server: LocalPostHog) -> None:
    """The root of the table, over all others: each page is read by itself."""
    paths = before.copy(home)
    root, _data = root_of(paths.queue, "Cache")
    overwrite(bytes(4_096), (root - 1) * 4_096)(paths.queue)
    after = go_on(paths, server)
    check(after, before, paths)
    assert after.missing(before) == set()
    assert after.account.losses == before.account.losses


READABLE = [
    pytest.param(truncate(0.9), 26, id="a tenth cut off"),
    pytest.param(truncate(0.99999), 1, id="one byte cut off"),
    pytest.param(overwrite(b"\x03", 18), 0, id="a write version"),
    pytest.param(overwrite(b"\x20", 16), 163, id="a page size"),
]


@pytest.mark.parametrize(("damage", "most"), READABLE)
def test_a_file_that_sqlite_refuses_is_read_as_far_as_its_pages_go(
    damage: Damage, most: int, before: Before, home: Path, server: LocalPostHog
) -> None:
    """With its end cut off, or with a header that only says how it was written, the pages still read."""
    paths = before.copy(home)
    damage(paths.queue)
    after = go_on(paths, server)
    check(after, before, paths)
    assert len(after.missing(before)) <= most


@pytest.mark.parametrize("size", [4_096, 8_192, 8_193, 0.2, 0.5, 0.8])
def test_a_file_that_is_cut_off_anywhere_stops_nobody(
    size: float, before: Before, home: Path, server: LocalPostHog
) -> None:
    """The capture is queued, the file is kept, and whatever does not read is counted as far as it is known."""
    paths = before.copy(home)
    truncate(size)(paths.queue)
    after = go_on(paths, server)
    check(after, before, paths)
    assert after.noticed


# -- the account and the numbers ----------------------------------------------------------------------------


def test_a_sequence_below_zero_numbers_nothing(before: Before, home: Path, server: LocalPostHog) -> None:
    """An event with such a number could not be told from a planted row: the capture notices."""
    paths = before.copy(home)
    sql(VALUE.format(-5, "sequence"))(paths.queue)
    after = go_on(paths, server)
    check(after, before, paths)
    assert after.damaged == 0


def test_a_sequence_that_was_set_back_gives_no_number_twice(before: Before, home: Path, server: LocalPostHog) -> None:
    """Also when nothing waits any more that would show it: a number on the server names one event for ever."""
    paths = before.copy(home)
    queue = Queue(paths, wait_s=5.0)
    queue.settle(list(queue.gather()))
    queue.close()
    sql(VALUE.format(150, "sequence"))(paths.queue)
    go_on(paths, server)
    after = go_on(paths, server)
    assert after.account.balanced
    assert after.out[str(after.receipt.uuid)]["properties"]["spool_sequence"] > max(before.numbers)


def test_a_sequence_that_jumped_ahead_counts_no_losses_that_never_were(
    before: Before, home: Path, server: LocalPostHog
) -> None:
    """All rows are there, as `count` among the settings can tell: the number is what is wrong."""
    paths = before.copy(home)
    sql(VALUE.format(23_900, "sequence"))(paths.queue)
    after = go_on(paths, server)
    check(after, before, paths)
    assert after.damaged == 0


LEDGERS = ["NULL", "''", "'{}'", "'[]'", "17", "json_set(value, '$.lost', 3)", "json_set(value, '$.delivered', -1)"]


@pytest.mark.parametrize("ledger", LEDGERS)
def test_an_account_that_does_not_read_costs_no_event(
    ledger: str, before: Before, home: Path, server: LocalPostHog
) -> None:
    """Every event and dead letter goes on; what had become of the others can't be told: counted as damaged."""
    paths = before.copy(home)
    sql(VALUE.format(ledger, "ledger"))(paths.queue)
    after = go_on(paths, server)
    check(after, before, paths)
    assert after.missing(before) == set()
    assert after.damaged == before.account.delivered
