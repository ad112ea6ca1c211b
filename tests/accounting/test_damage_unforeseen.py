"""Whatever damage makes of SQLite, the spool goes on; and a mistake, or a weak machine, moves no sound queue."""

from __future__ import annotations

import errno
import os
import sqlite3
import struct
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import diskcache
import pytest

from flusher.context import open_queue
from spool.beside.wipe import wipe
from spool.errors import (
    ConsentChangedError,
    DiskFullError,
    LockBusyError,
    QueueDamagedError,
    SpoolError,
    UnavailableError,
)
from spool.home import Paths
from spool.queue import DATABASE, Queue
from spool.queue.cache import as_spool_error, reading
from tests.support.damage import Before, check, fill, go_on, quarantined, root_of, sql, text
from tests.support.local_posthog import LocalPostHog
from tests.support.processes import SILENT, flush, flush_json, run_python, status

Damage = Callable[[Path], None]
PAGE = 4_096


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> Before:
    """A sound home, filled once."""
    with pytest.MonkeyPatch.context() as patch:
        for name in SILENT:
            patch.delenv(name, raising=False)
        return fill(tmp_path_factory.mktemp("sound") / "home")


# -- the rule -----------------------------------------------------------------------------------------------


def said(kind: type[sqlite3.Error], code: int, message: str = "x") -> sqlite3.Error:
    """Give an error as sqlite3 raises it."""
    error = kind(message)
    error.sqlite_errorcode = code
    return error


REFUSAL, DAMAGE, ITSELF = UnavailableError, QueueDamagedError, None
DQS = 'no such column: "count"'
RULE: list[tuple[BaseException, type[SpoolError] | None]] = [
    # What SQLite says of the machine or the caller.
    (said(sqlite3.OperationalError, sqlite3.SQLITE_BUSY), REFUSAL),
    (said(sqlite3.OperationalError, sqlite3.SQLITE_BUSY_RECOVERY), REFUSAL),
    (said(sqlite3.OperationalError, sqlite3.SQLITE_LOCKED), REFUSAL),
    (said(sqlite3.OperationalError, sqlite3.SQLITE_READONLY), REFUSAL),
    (said(sqlite3.OperationalError, sqlite3.SQLITE_IOERR_READ), REFUSAL),
    (said(sqlite3.OperationalError, sqlite3.SQLITE_IOERR_WRITE), REFUSAL),
    (said(sqlite3.OperationalError, sqlite3.SQLITE_CANTOPEN), REFUSAL),
    (said(sqlite3.OperationalError, sqlite3.SQLITE_PROTOCOL), REFUSAL),
    (said(sqlite3.InterfaceError, sqlite3.SQLITE_MISUSE), REFUSAL),
    (said(sqlite3.OperationalError, sqlite3.SQLITE_ERROR, DQS), REFUSAL),
    (sqlite3.ProgrammingError("Cannot operate on a closed database."), REFUSAL),
    (said(sqlite3.OperationalError, sqlite3.SQLITE_FULL), DiskFullError),
    (said(sqlite3.OperationalError, sqlite3.SQLITE_IOERR_SHMSIZE), DiskFullError),
    # Whatever else it says.
    (said(sqlite3.DatabaseError, sqlite3.SQLITE_CORRUPT), DAMAGE),
    (said(sqlite3.DatabaseError, sqlite3.SQLITE_CORRUPT_INDEX), DAMAGE),
    (said(sqlite3.DatabaseError, sqlite3.SQLITE_NOTADB), DAMAGE),
    (said(sqlite3.OperationalError, sqlite3.SQLITE_IOERR_SHORT_READ), DAMAGE),
    (said(sqlite3.IntegrityError, sqlite3.SQLITE_CONSTRAINT_UNIQUE), DAMAGE),
    (said(sqlite3.IntegrityError, sqlite3.SQLITE_MISMATCH), DAMAGE),
    (said(sqlite3.OperationalError, sqlite3.SQLITE_ERROR, "no such table: Cache"), DAMAGE),
    (said(sqlite3.OperationalError, sqlite3.SQLITE_INTERRUPT), DAMAGE),
    (said(sqlite3.OperationalError, sqlite3.SQLITE_SCHEMA), DAMAGE),
    (said(sqlite3.InternalError, sqlite3.SQLITE_INTERNAL), DAMAGE),
    (said(sqlite3.DataError, sqlite3.SQLITE_TOOBIG), DAMAGE),
    (sqlite3.OperationalError("Could not decode to UTF-8 column 'value'"), DAMAGE),
    # What others say.
    (diskcache.Timeout("x"), REFUSAL),
    (OSError(errno.EIO, "x"), REFUSAL),
    (PermissionError(errno.EACCES, "x"), REFUSAL),
    (MemoryError(), REFUSAL),
    (RecursionError(), REFUSAL),
    (LockBusyError("x"), ITSELF),
    (ConsentChangedError("x"), ITSELF),
    (KeyboardInterrupt(), ITSELF),
]
# What nobody foresaw: damage where a queue was only read, else perhaps a mistake of ours.
UNFORESEEN = [
    UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"),
    ValueError("not enough values to unpack"),
    TypeError("x"),
    OverflowError("x"),
    SystemError("x"),
    KeyError("x"),
    sqlite3.Warning("x"),
]


@pytest.mark.parametrize(("came", "kind"), RULE, ids=[f"{type(came).__name__}-{came}" for came, _kind in RULE])
def test_what_comes_at_the_queue_is_damage_a_refusal_or_itself(
    came: BaseException, kind: type[SpoolError] | None
) -> None:
    """One rule for all of it, also where the queue is only read."""
    assert type(as_spool_error(came)) is (kind or type(came))
    with pytest.raises(kind or type(came)), reading():
        raise came


@pytest.mark.parametrize("came", UNFORESEEN, ids=[type(came).__name__ for came in UNFORESEEN])
def test_what_nobody_foresaw_is_damage_where_a_queue_was_only_read(came: Exception) -> None:
    """Anywhere else it is itself: a look at the queue decides."""
    assert as_spool_error(came) is came
    with pytest.raises(QueueDamagedError, match=type(came).__name__), reading():
        raise came


# -- damage that SQLite tells of in its own way -----------------------------------------------------------------


def in_the_file(old: bytes, new: bytes) -> Damage:
    """Give a damage: other bytes in place of these, wherever they stand."""

    def damage(folder: Path) -> None:
        data = (folder / DATABASE).read_bytes()
        assert old in data
        assert len(old) == len(new)
        (folder / DATABASE).write_bytes(data.replace(old, new))

    return damage


def put_page(folder: Path, number: int, page: bytes) -> None:
    """Write a page, also behind the last one, which the header is told."""
    data = bytearray((folder / DATABASE).read_bytes())
    data[(number - 1) * PAGE : number * PAGE] = page
    data[28:32] = struct.pack(">I", len(data) // PAGE)
    (folder / DATABASE).write_bytes(data)


def no_entries(index: str) -> Damage:
    """Give a damage: an index that holds nothing, as of a table without rows."""

    def damage(folder: Path) -> None:
        number, _page = root_of(folder, index)
        put_page(folder, number, struct.pack(">BHHHB", 0x0A, 0, 0, PAGE, 0).ljust(PAGE, b"\0"))

    return damage


def last_keys_exchanged(folder: Path) -> None:
    """Exchange the last two numbers in the index of keys: behind the higher one the lower one comes again."""
    with closing(sqlite3.connect(folder / DATABASE)) as connection:
        highest = connection.execute("SELECT max(key) FROM Cache WHERE key < ''").fetchone()[0]
    data = bytearray((folder / DATABASE).read_bytes())
    # A record of two bytes for the key and two for the row: the size of its header, the types of the columns, the key.
    records = [b"\x04\x02\x09\x02" + struct.pack(">H", number) for number in (highest - 1, highest)]
    places = [data.index(record) for record in records]
    for place, record in zip(places, reversed(records), strict=True):
        data[place : place + len(record)] = record
    (folder / DATABASE).write_bytes(data)


def interior(child: int) -> bytes:
    """Give an inner page of a table whose 400 children are all one page."""
    page, content = bytearray(PAGE), PAGE
    for number in range(400):
        cell = struct.pack(">IBB", child, 0x80 | (number >> 7), number & 0x7F)
        content -= len(cell)
        page[content : content + len(cell)] = cell
        struct.pack_into(">H", page, 12 + 2 * number, content)
    struct.pack_into(">BHHHBI", page, 0, 5, 0, 400, content, 0, child)
    return bytes(page)


def without_an_end(table: str) -> Damage:
    """Give a damage: a table whose tree leads to its first rows 64 million times."""

    def damage(folder: Path) -> None:
        root, page = root_of(folder, table)
        end = (folder / DATABASE).stat().st_size // PAGE
        put_page(folder, end + 1, page)
        for level in (2, 3):
            put_page(folder, end + level, interior(end + level - 1))
        put_page(folder, root, interior(end + 3))

    return damage


COUNT = "UPDATE Settings SET value = {} WHERE key = '{}'"
UNFORESEEN_DAMAGE: dict[str, Damage] = {
    "a name that is no text": in_the_file(b"Cache_expire_timeCache", b"Cache_\xff\xfepire_timeCache"),
    "a trigger that is no text": in_the_file(
        b"UPDATE Settings SET value = value + 1", b"UPDATE Set\xff\xfengs SET value = value + 1"
    ),
    "a trigger that counts by threes": in_the_file(b"SET value = value + 1", b"SET value = value + 3"),
    "a setting that its index doesn't know": no_entries("sqlite_autoindex_Settings_1"),
    "no number in the index": no_entries("Cache_key_raw"),
    "numbers exchanged in the index": last_keys_exchanged,
    "settings without an end": without_an_end("Settings"),
    "a count beyond the limit": sql(COUNT.format(60_000, "count")),
    "a size beyond the limit": sql(COUNT.format(2**40, "size")),
}


@pytest.mark.parametrize("damage", UNFORESEEN_DAMAGE.values(), ids=UNFORESEEN_DAMAGE)
def test_damage_that_nobody_foresaw_costs_no_event(
    damage: Damage, before: Before, home: Path, server: LocalPostHog
) -> None:
    """The host goes on, everything is delivered, the account stands, and one queue lies in quarantine."""
    paths = before.copy(home)
    damage(paths.queue)
    after = go_on(paths, server)
    check(after, before, paths)
    assert after.missing(before) == set()
    assert after.account.losses == before.account.losses
    assert len(quarantined(paths)) == 1


def test_rows_of_one_id_are_no_circle(home: Path) -> None:
    """A salvage that goes back from row to row comes to the same one again, and ends there."""
    paths = Paths(home)
    with closing(Queue(paths, wait_s=5.0)) as queue:
        queue.count_lost("invalid")
    number, page = root_of(paths.queue, "Cache")
    leaf = bytearray(page)
    places = struct.unpack_from(">5H", leaf, 8)
    sizes = [2 if leaf[place] > 0x7F else 1 for place in places]  # of the number before the row's id
    assert [leaf[place + size] for place, size in zip(places, sizes, strict=True)] == [1, 2, 3, 4, 5]
    for place, size, row in zip(places, sizes, IN_CIRCLES, strict=True):
        leaf[place + size] = row
    put_page(paths.queue, number, bytes(leaf))
    done = run_python(REBUILD, home, timeout_s=60)
    assert (done.returncode, done.stderr) == (0, "")
    with closing(Queue(paths, wait_s=5.0)) as queue:
        queue.append(text(1))
        assert queue.account().balanced
    assert len(quarantined(paths)) == 1


def test_a_file_that_claims_to_be_terabytes_stops_nobody(before: Before, home: Path, server: LocalPostHog) -> None:
    """It is neither read to its end nor copied in full; a host goes aside, and the flusher mends it."""
    paths = before.copy(home)
    with (paths.queue / DATABASE).open("r+b") as file:
        file.write(bytes(100))
        try:
            file.truncate(2**42)
        except OSError:
            pytest.skip("this file system has no such files")
    after = go_on(paths, server)
    check(after, before, paths)
    assert after.receipt.state == "aside"
    assert after.missing(before) == set()


IN_CIRCLES = (1, 2, 2, 5, 3)
REBUILD = """
import sys
from pathlib import Path
from spool.home import Paths
from spool.queue import Queue
Queue(Paths(Path(sys.argv[1])), wait_s=5.0).rebuild("test")
"""
WITH_A_LOG = """
import os, signal, sys
from pathlib import Path
from spool.home import Paths
from spool.queue import Queue
queue = Queue(Paths(Path(sys.argv[1])), wait_s=5.0)
for text in sys.argv[2:]:
    queue.append(text)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="the writer is killed by a POSIX signal")
@pytest.mark.parametrize("size", [0, 1, 99, None])
def test_a_log_without_its_database_gives_its_events(size: int | None, home: Path) -> None:
    """A file that was cut off or deleted is no reason for SQLite to delete the log beside it."""
    paths = Paths(home)
    run_python(WITH_A_LOG, home, *map(text, range(20)))
    os.unlink(paths.database) if size is None else os.truncate(paths.database, size)
    with closing(Queue(paths, wait_s=5.0)) as queue:
        queue.append(text(1_000))
        account = queue.account()
        assert account.balanced
        assert account.pending >= 20
        assert len(quarantined(paths)) == 1


# -- no damage ----------------------------------------------------------------------------------------------


@pytest.fixture
def sound(before: Before, home: Path) -> Iterator[Queue]:
    """A sound queue with a loss to report."""
    queue = Queue(before.copy(home), wait_s=5.0)
    queue.count_lost("invalid")
    yield queue
    queue.close()


MISTAKES: list[Exception] = [
    TypeError("our mistake"),
    UnicodeEncodeError("ascii", "ä", 0, 1, "our mistake"),
    QueueDamagedError("our mistake"),
    sqlite3.Warning("our mistake"),
    MemoryError(),
]


@pytest.mark.parametrize("mistake", MISTAKES, ids=[type(mistake).__name__ for mistake in MISTAKES])
def test_a_mistake_in_an_operation_moves_no_sound_queue(
    mistake: Exception, sound: Queue, before: Before, home: Path
) -> None:
    """A look at the queue finds no damage: what was raised is raised, each time, and nothing moves."""

    def build(_losses: dict[str, int]) -> str:
        raise mistake

    for _ in range(3):
        with pytest.raises((type(mistake), UnavailableError)):
            sound.report_losses(build)
    assert quarantined(Paths(home)) == []
    assert sound.account().pending == before.account.pending


def test_a_host_at_the_end_of_its_stack_moves_no_sound_queue(sound: Queue, before: Before, home: Path) -> None:
    """With whatever room is left: the append works, or it is refused."""

    def descend(levels: int) -> int:
        return descend(levels - 1) if levels else sound.append(text(1_000))

    appended, tries = 0, 200
    for levels in range(sys.getrecursionlimit() - tries, sys.getrecursionlimit()):
        try:
            appended += descend(levels) > 0
        except (RecursionError, SpoolError):
            sound.close()  # whatever was left open
    assert 0 < appended < tries
    assert quarantined(Paths(home)) == []
    account = sound.account()
    # One that was refused when it was on disk already is captured once more, aside: it arrives twice, equal.
    assert appended <= account.pending - before.account.pending < tries
    assert account.losses == {"invalid": 4}
    assert account.balanced


BROKEN_SQLITE = """
import sqlite3, sys
from pathlib import Path
class Broken(sqlite3.Connection):
    def execute(self, statement, *parameters):
        if "'format'" in statement:
            raise sqlite3.DatabaseError("file is not a database")
        return super().execute(statement, *parameters)
sqlite3.Connection = Broken
from spool import Telemetry
telemetry = Telemetry("ktx", "1", "phc_test", home=Path(sys.argv[1]), flush="never")
print(*(telemetry.capture("x").state for _ in range(3)))
telemetry.close()
"""


def test_a_machine_on_which_a_new_queue_is_no_better_moves_nothing(before: Before, home: Path) -> None:
    """An SQLite that can't read what it wrote: each process goes aside, and the queue is left to a better one."""
    paths = before.copy(home)
    for _ in range(2):
        done = run_python(BROKEN_SQLITE, home)
        assert (done.stdout.split(), done.stderr) == (["aside"] * 3, "")
    assert quarantined(paths) == []
    assert not paths.queue_staged.exists()
    assert status(home)["accounting"]["pending"] == before.account.pending + 6


# -- what is large is the flusher's -------------------------------------------------------------------------


@pytest.fixture
def large(home: Path) -> Paths:
    """A queue of 6,000 events, of which 1,000 were delivered; its first page is lost."""
    with closing(open_queue(Paths(home))) as queue:
        for start in range(0, 6_000, 500):
            queue.append_all(map(text, range(start, start + 500)))
        source = queue.gather()
        queue.settle([next(source) for _ in range(1_000)])
    with (Paths(home).queue / DATABASE).open("r+b") as file:
        file.write(bytes(PAGE))
    assert os.path.getsize(Paths(home).database) > 1024 * 1024
    return Paths(home)


FIVE = """
import json, sys, time
from pathlib import Path
from spool import Telemetry
telemetry = Telemetry("ktx", "1", "phc_test", home=Path(sys.argv[1]), flush="never")
for _ in range(5):
    began = time.monotonic()
    receipt = telemetry.capture("after")
    print(json.dumps([receipt.state, receipt.uuid, time.monotonic() - began]))
telemetry.close()
"""


def test_a_host_waits_for_no_large_queue_to_be_mended(large: Paths, server: LocalPostHog) -> None:
    """Its events go aside; the next run salvages all of the queue and numbers them after the last number given."""
    done = run_python(FIVE, large.home)
    receipts = [line.split(", ") for line in done.stdout.splitlines()]
    assert [receipt[0] for receipt in receipts] == ['["aside"'] * 5, done
    assert quarantined(large) == []
    report = flush_json(large.home, "run", "--host", server.url, "--key", "phc_x")
    assert (report["exit_code"], report["delivered"]) == (0, 5_000 + 6)  # and the first run
    numbers = [event["properties"]["spool_sequence"] for event in server.events()]
    assert sorted(numbers) == list(range(1_001, 6_007))
    account = status(large.home)["accounting"]
    assert account == {"captured": 6_006, "delivered": 6_006, "pending": 0, "dead": 0, "lost": 0}
    assert len(quarantined(large)) == 1


@pytest.mark.parametrize("damage", [bytes(PAGE), bytes(100)], ids=["a page", "a header"])
def test_an_opt_out_deletes_a_damaged_queue_however_large(damage: bytes, large: Paths) -> None:
    """Within a second or so, by a host or by hand: none of its events is read for it, and all are counted."""
    with (large.queue / DATABASE).open("r+b") as file:
        file.write(damage)
    began = time.monotonic()
    assert wipe(large, None, 0.25).events == 5_000
    assert time.monotonic() - began < 10
    assert not large.quarantine.exists()
    with closing(Queue(large, wait_s=5.0)) as queue:
        account = queue.account()
    assert (account.captured, account.delivered, account.pending) == (6_000, 1_000, 0)
    assert account.losses == {"opted_out": 5_000}


# -- every command ------------------------------------------------------------------------------------------

KEPT = "ktx-flush: "
COMMANDS: dict[str, tuple[list[str], int]] = {
    "status": (["status", "--json"], 0),
    "list": (["list"], 0),
    "list --dead": (["list", "--dead"], 0),
    "show": (["show", "UUID"], 0),
    "retry": (["retry"], 0),
    "purge": (["purge", "--yes"], 0),
    "purge --dead": (["purge", "--dead", "--yes"], 0),
    "export": (["export", "FILE"], 0),
    "import": (["import", "EMPTY"], 0),
    "report": (["report", "--output", "FILE"], 0),
    "audit": (["audit"], 0),
    "doctor": (["doctor"], 2),
    "enable": (["enable"], 0),
    "disable": (["disable"], 0),
    "run": (["run", "--force", "--max-retries", "0", "--host", "http://127.0.0.1:9", "--key", "phc_x"], 75),
    "run --dry-run": (["run", "--dry-run"], 0),
}


@pytest.mark.parametrize(("command", "code"), COMMANDS.values(), ids=COMMANDS)
def test_every_command_goes_on_over_a_damaged_queue(
    command: list[str], code: int, before: Before, home: Path, tmp_path: Path
) -> None:
    """As the first to meet it, with the exit code that it has without damage, and without a traceback."""
    paths = before.copy(home)
    UNFORESEEN_DAMAGE["a name that is no text"](paths.queue)
    (tmp_path / "empty").touch()
    words = {"UUID": next(iter(before.pending)), "FILE": str(tmp_path / "file"), "EMPTY": str(tmp_path / "empty")}
    done = flush(home, *(words.get(word, word) for word in command))
    assert done.returncode == code, done
    assert "Traceback" not in done.stderr
    account = status(home)["accounting"]
    assert account["captured"] >= before.account.captured
    assert account["lost"] <= before.account.lost or command[0] in ("purge", "disable")
