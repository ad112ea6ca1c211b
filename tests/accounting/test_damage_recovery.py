"""Damage at random places, at bad moments, under running processes: found out, survived, counted."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from spool.home import Paths
from spool.queue import DATABASE, Queue
from tests.support.damage import REFUSED, Before, check, fill, go_on, quarantined, sql, text
from tests.support.local_posthog import LocalPostHog
from tests.support.processes import SILENT, flush, run_python, status

if sys.platform == "win32":
    pytest.skip("processes are killed and stopped here by POSIX signals", allow_module_level=True)

FLIPS = 40
# Opening finds it, and everything can be salvaged.
HARMLESS = sql("INSERT INTO Settings VALUES ('eviction_policy_2', 'none')")


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> Before:
    """A sound home, filled once."""
    with pytest.MonkeyPatch.context() as patch:
        for name in SILENT:
            patch.delenv(name, raising=False)
        return fill(tmp_path_factory.mktemp("sound") / "home")


# -- anywhere -----------------------------------------------------------------------------------------------


def flipped(data: bytes, rng: random.Random, kind: str) -> tuple[int, bytes]:
    """Give a place and what stands there now."""
    place = rng.randrange(100 if kind == "header" else len(data))
    size = {"block": rng.choice([16, 512, 4_096])}.get(kind, 1)
    old = data[place : place + size]
    return place, bytes([old[0] ^ 1 << rng.randrange(8)]) if kind == "bit" else rng.randbytes(len(old))


@pytest.mark.parametrize("kind", ["bit", "byte", "block", "header"])
def test_wherever_bytes_change_nothing_is_made_up_or_lost_in_silence(
    kind: str, before: Before, tmp_path: Path, server: LocalPostHog
) -> None:
    """Forty random places each; the seed is fixed, and a failure names the place."""
    rng = random.Random(f"ktx-spool {kind}")
    data = (Paths(before.home).queue / DATABASE).read_bytes()
    for number in range(FLIPS):
        place, new = flipped(data, rng, kind)
        paths = before.copy(tmp_path / str(number))
        (paths.queue / DATABASE).write_bytes(data[:place] + new + data[place + len(new) :])
        try:
            check(go_on(paths, server), before, paths)
        except Exception as error:
            error.add_note(f"{len(new)} bytes at {place}: {new[:16]!r} for {data[place : place + 16]!r}")
            raise
        shutil.rmtree(paths.home)


def test_a_dead_letter_that_can_not_be_found_is_missed(before: Before, home: Path, server: LocalPostHog) -> None:
    """The account knows how many there are: one fewer is damage, and is salvaged or counted."""
    paths = before.copy(home)
    sql("UPDATE Cache SET key = 'dear:0000000000000050' WHERE key = 'dead:0000000000000050'")(paths.queue)
    check(go_on(paths, server), before, paths)


def test_a_row_that_can_not_be_deleted_holds_up_no_command(before: Before, home: Path) -> None:
    """To diskcache a row whose time is up is not there: damage, and no reason to count one event for ever."""
    paths = before.copy(home)
    sql("UPDATE Cache SET expire_time = 5 WHERE key = 100")(paths.queue)
    assert flush(home, "purge", "--yes", timeout_s=8).returncode == 0
    assert sum(status(home)["losses"].values()) == REFUSED + before.account.pending


# -- killed while rebuilding --------------------------------------------------------------------------------

# Appends one event to a damaged queue, and is killed before the n-th file operation below the home.
KILLED_REBUILDER = """
import os, signal, sys
from pathlib import Path
from spool.home.paths import Paths
from spool.queue import Queue
home, text, left = sys.argv[1], sys.argv[2], int(sys.argv[3])
def kill(name, arguments):
    global left
    if any(home in os.fsdecode(part) for part in arguments if isinstance(part, (str, bytes, Path))):
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(kill)
queue = Queue(Paths(Path(home)), wait_s=5.0)
queue.append(text)
queue.close()
"""


def killed_at(paths: Paths, operation: int) -> bool:
    """Kill a rebuild before one of its file operations; False if it came to its end before."""
    done = run_python(KILLED_REBUILDER, paths.home, text(999), operation)
    assert done.stderr == ""
    assert done.returncode in (0, -signal.SIGKILL)
    return done.returncode != 0


def test_a_rebuild_that_is_killed_anywhere_loses_nothing_and_doubles_nothing(before: Before, tmp_path: Path) -> None:
    """Killed before each of its file operations, and the next one too, at random: then somebody comes through."""
    rng = random.Random(20261123)
    operation = 0
    while True:
        operation += 1
        paths = before.copy(tmp_path / str(operation))
        HARMLESS(paths.queue)
        if not killed_at(paths, operation):
            break
        killed_at(paths, rng.randint(1, 40))
        queue = Queue(paths, wait_s=5.0)
        queue.append(text(1_000))
        events = [json.loads(stored.text)["uuid"] for stored in queue.gather()]
        unsure = events.count(json.loads(text(999))["uuid"])
        assert len(set(events)) == len(events) - max(unsure - 1, 0)
        assert set(before.pending) < set(events)
        account = queue.account()
        assert account.balanced
        assert account.captured == before.account.captured + 1 + unsure
        assert account.losses == before.account.losses
        assert len(queue.dead()) == len(before.dead)
        assert sum((kept / DATABASE).exists() for kept in quarantined(paths)) >= 1
        queue.close()
        shutil.rmtree(paths.home)
    assert operation > 15


# -- while somebody is at work ------------------------------------------------------------------------------


@pytest.fixture
def queues(before: Before, home: Path) -> Iterator[tuple[Queue, Queue]]:
    """Two processes' ways to one filled queue."""
    paths = before.copy(home)
    pair = Queue(paths, wait_s=5.0), Queue(paths, wait_s=5.0)
    yield pair
    for queue in pair:
        queue.close()


def test_a_host_with_an_open_queue_goes_on_in_the_rebuilt_one(
    queues: tuple[Queue, Queue], before: Before, home: Path
) -> None:
    """Somebody else finds the damage; the host's next event does not go into quarantine."""
    host, other = queues
    numbers = [host.append(text(1_000))]
    HARMLESS(Paths(home).queue)
    numbers += [other.append(text(1_001)), host.append(text(1_002))]
    assert len(quarantined(Paths(home))) == 1
    assert host.account() == other.account()
    assert host.account().pending == before.account.pending + 3
    assert [stored.number for stored in host.gather()][-3:] == numbers


def test_what_a_flusher_gathered_before_a_rebuild_it_settles_after_it(
    queues: tuple[Queue, Queue], before: Before, home: Path
) -> None:
    """It reads on in the old file, or in the new one; each event comes once, and all are taken out."""
    flusher, host = queues
    source = flusher.gather()
    batch = [next(source) for _ in range(10)]
    HARMLESS(Paths(home).queue)
    host.append(text(1_000))
    assert len(quarantined(Paths(home))) == 1
    assert flusher.settle(batch) == 10
    batch = list(source)
    flusher.settle([*batch, *flusher.gather()])
    account = flusher.account()
    assert (account.pending, account.losses) == (0, before.account.losses)
    assert account.delivered == before.account.delivered + before.account.pending + 1


# -- the log ------------------------------------------------------------------------------------------------

KILLED_WRITER = """
import os, signal, sys
from pathlib import Path
from spool.home.paths import Paths
from spool.queue import Queue
queue = Queue(Paths(Path(sys.argv[1])), wait_s=5.0)
for text in sys.argv[2:]:
    queue.append(text)
os.kill(os.getpid(), signal.SIGKILL)
"""


def killed_writer(home: Path) -> Path:
    """Leave a queue as a killed process leaves it: twenty events in the log. Gives the log."""
    assert run_python(KILLED_WRITER, home, *map(text, range(20))).returncode == -signal.SIGKILL
    return Paths(home).queue / f"{DATABASE}-wal"


def test_the_shared_memory_of_a_killed_process_is_not_needed(home: Path) -> None:
    """Without the index file, or with garbage in it, the log gives every event."""
    for garbage in (None, b"garbage" * 5_000, b""):
        index = killed_writer(home).with_name(f"{DATABASE}-shm")
        index.unlink() if garbage is None else index.write_bytes(garbage)
        queue = Queue(Paths(home), wait_s=5.0)
        assert (queue.account().pending, queue.account().captured, queue.account().losses) == (20, 20, {})
        queue.close()
        shutil.rmtree(home)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.6, 0.99])
@pytest.mark.parametrize("how", ["cut off", "garbage", "gone"])
def test_a_damaged_log_costs_what_came_after_the_damage_and_invents_nothing(how: str, share: float, home: Path) -> None:
    """SQLite takes a log up to its first wrong page. Nothing tells how much there was: not even we."""
    log = killed_writer(home)
    data = log.read_bytes()
    rest = b"" if how == "cut off" else os.urandom(len(data) - int(share * len(data)))
    log.unlink() if how == "gone" else log.write_bytes(data[: int(share * len(data))] + rest)
    queue = Queue(Paths(home), wait_s=5.0)
    queue.append(text(1_000))
    account, found = queue.account(), [json.loads(stored.text) for stored in queue.gather()]
    queue.close()
    assert account.balanced
    assert (account.captured, account.pending) == (len(found), len(found))
    expected = [json.loads(text(number)) for number in [*range(len(found) - 1), 1_000]]
    for number, event in enumerate(expected):
        event["properties"]["spool_sequence"] = number + 1
    assert found == expected


def test_a_log_deleted_under_a_running_host_makes_no_receipt_a_lie(queues: tuple[Queue, Queue], home: Path) -> None:
    """SQLite goes on in the deleted file, and folds it in when it closes: before anybody else opens."""
    host, other = queues
    host.append(text(1_000))
    (Paths(home).queue / f"{DATABASE}-wal").unlink()
    promised = host.append(text(1_001))
    other.append(text(1_002))
    assert promised in [stored.number for stored in other.gather()]
    assert other.account().losses.get("damaged", 0) == 0
