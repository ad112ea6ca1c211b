"""Examples of queue operations that were found, and sizes that a random walk does not reach."""

from __future__ import annotations

import json
import os
import sqlite3
import sys
import tracemalloc
from collections.abc import Iterator
from uuid import UUID

import pytest

from flusher.absorb import absorb
from spool.beside import aside
from spool.beside.loss_notes import LossNotes, Note, notes, parse
from spool.home import Paths, private_folder
from spool.queue import CHUNK, Queue
from spool.queue.rows import encode
from spool.queue.transaction import DEAD_LIMIT
from spool.settings import Limits
from tests.support.queue_model import event


@pytest.fixture
def queue(paths: Paths) -> Iterator[Queue]:
    """A queue with the usual limits."""
    queue = Queue(paths, wait_s=5.0)
    yield queue
    queue.close()


def write_aside(paths: Paths, names: list[str]) -> dict[str, str]:
    """Write finished files, as a capture does; gives their texts."""
    private_folder(paths.spool)
    private_folder(paths.aside)
    texts = {}
    for place, name in enumerate(names):
        message = {"uuid": str(UUID(int=place)), "event": "e", "distinct_id": "d", "properties": {"name": name}}
        texts[name] = json.dumps({"timestamp": "2026-11-23T12:00:00.000000Z", **message})
        (paths.aside / name).write_text(texts[name])
    return texts


def test_a_rebuild_remembers_what_was_absorbed(paths: Paths, queue: Queue) -> None:
    """Absorbed, killed before the file was removed, then damage: the event is still in the queue once."""
    texts = write_aside(paths, ["1.json"])
    queue.absorb(texts)
    queue.rebuild("damage")
    absorb(paths, queue)
    assert (queue.account().captured, queue.account().pending) == (1, 1)


def test_a_flusher_killed_in_a_large_backlog_absorbs_each_file_once(paths: Paths, queue: Queue) -> None:
    """More files than one transaction takes, and older ones appear before the next flusher comes."""
    texts = write_aside(paths, [f"{number:04d}.json" for number in range(1, 2 * CHUNK + 2)])
    queue.absorb({name: texts[name] for name in sorted(texts)[:CHUNK]})
    write_aside(paths, ["0000.json"])
    absorb(paths, queue)
    assert (queue.account().captured, queue.account().pending) == (2 * CHUNK + 2, 2 * CHUNK + 2)
    assert aside.files(paths) == []


def test_a_flusher_killed_after_the_notes_counts_each_once(paths: Paths, queue: Queue) -> None:
    """The files of the next run do not make it forget the notes of the one before."""
    write_aside(paths, ["1.json"])
    note = "00000000000000000001-00.disk_full.3.lost.claimed"
    (paths.aside / note).write_bytes(b"")
    queue.absorb_losses({note: Note("disk_full", 3)})
    absorb(paths, queue)
    absorb(paths, queue)
    assert (queue.account().losses, queue.account().captured) == ({"disk_full": 3}, 4)
    assert list(paths.aside.iterdir()) == []


def test_dead_letters_are_kept_up_to_a_thousand_and_then_the_oldest_is_lost(queue: Queue) -> None:
    """Rejected in one step: the newest thousand stay, the others are counted, and the bytes too."""
    queue.append_all(event(number, 10) for number in range(DEAD_LIMIT + 3))
    rejected = list(queue.gather())
    assert queue.settle([], [(stored, "bad") for stored in rejected]) == DEAD_LIMIT + 3
    account = queue.account()
    assert (account.dead, account.losses, account.pending_bytes) == (DEAD_LIMIT, {"dead_overflow": 3}, 0)
    assert account.balanced
    assert [letter.number for letter in queue.dead()] == list(range(4, DEAD_LIMIT + 4))
    assert queue.retry_dead(queue.dead()) == DEAD_LIMIT
    assert [stored.text for stored in queue.gather()] == [stored.text for stored in rejected[3:]]


def test_an_old_answer_takes_nothing_that_was_put_back_since(paths: Paths) -> None:
    """Rejected by one flusher, retried by a person: what another flusher heard before that is out of date."""
    now = [1_000.0]
    queue = Queue(paths, wait_s=5.0, clock=lambda: now[0])
    queue.append(event(1, 10))
    batch = list(queue.gather())
    assert queue.settle([], [(batch[0], "bad")]) == 1
    now[0] += 1
    assert queue.retry_dead(queue.dead()) == 1
    assert queue.settle(batch) == 0
    assert queue.settle([], [(batch[0], "bad")]) == 0
    assert (queue.account().pending, queue.account().delivered, queue.account().dead) == (1, 0, 0)
    assert queue.settle(list(queue.gather())) == 1
    queue.close()


def test_a_caller_that_gives_no_event_harms_no_queue(paths: Paths, queue: Queue) -> None:
    """A mistake in this program is no damage: the queue stays where it is, and the error says what it was."""
    queue.append(event(1, 10))
    with pytest.raises(ValueError, match="ascii"):
        queue.append('{"properties":{"\N{LATIN SMALL LETTER E WITH ACUTE}":1}}')
    assert not paths.quarantine.exists()


@pytest.mark.parametrize("limits", [Limits(max_events=10), Limits(max_bytes=1_000)])
def test_limits_that_became_narrower_hold_after_some_appends(limits: Limits, paths: Paths, queue: Queue) -> None:
    """A host that lowers its limits on a backlog waits for none of it at once; each loss is counted."""
    queue.append_all(event(number, 10) for number in range(450))
    narrow = Queue(paths, limits, wait_s=5.0)
    pending = [450]
    while pending[-1] > 10:
        narrow.append(event(1_000 + len(pending), 10))
        pending.append(narrow.account().pending)
        assert pending[-1] < pending[-2]
        assert narrow.account().balanced
    assert len(pending) <= 10
    assert [stored.number for stored in narrow.gather()][-1] == narrow.account().captured
    narrow.close()


# -- aside --------------------------------------------------------------------------------------------------


def test_an_aside_file_larger_than_any_event_is_lost_as_too_large(paths: Paths, queue: Queue) -> None:
    """As it stands there, or as ASCII: it goes to quarantine, is counted by that cause, and holds up nobody."""
    write_aside(paths, ["1.json", "2.json", "3.json"])
    message = json.loads((paths.aside / "1.json").read_text())
    for name, pad in (("1.json", "x" * 1_000_000), ("2.json", "\N{LATIN SMALL LETTER E WITH ACUTE}" * 400_000)):
        message["properties"] = {"pad": pad}
        (paths.aside / name).write_text(json.dumps(message, ensure_ascii=False))
    assert absorb(paths, queue).events == 1
    account = queue.account()
    assert (account.captured, account.pending, account.losses) == (3, 1, {"too_large": 2})
    kept = sorted(path.name[7:] for path in paths.quarantine.iterdir())
    assert kept == ["1.json", "1.reason", "2.json", "2.reason"]
    assert absorb(paths, queue).events == 0
    assert queue.account() == account


def test_files_aside_are_absorbed_in_chunks_of_bytes(paths: Paths, queue: Queue) -> None:
    """Forty large files are several transactions: no writer waits, and no memory grows, for all of them at once."""
    texts = write_aside(paths, [f"{number}.json" for number in range(40)])
    for name, text in texts.items():
        message = json.loads(text)
        message["properties"]["pad"] = "x" * 900_000
        (paths.aside / name).write_text(json.dumps(message))
    tracemalloc.start()
    assert absorb(paths, queue).events == 40
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 30 * 1024 * 1024
    assert aside.files(paths) == []


def test_a_file_aside_that_is_dropped_becomes_its_own_note(paths: Paths) -> None:
    """One step: killed before it, the event is there; killed after it, the loss is."""
    write_aside(paths, ["1.json", "2.json"])
    losses = LossNotes(paths)
    losses.replace(paths.aside / "1.json")
    losses.replace(paths.aside / "gone.json")
    assert [path.name for path in aside.files(paths)] == ["2.json"]
    assert [parse(path.name) for path in notes(paths)] == [Note("over_count", 1)]
    queue = Queue(paths, wait_s=5.0)
    assert absorb(paths, queue).events == 1
    assert (queue.account().captured, queue.account().losses) == (2, {"over_count": 1})
    queue.close()


def test_an_event_that_is_dropped_while_it_is_absorbed_is_not_lost(paths: Paths) -> None:
    """The flusher has committed it, and was killed or is slow; a host with too many files drops the oldest."""
    write_aside(paths, ["1.json", "a name of another program.json"])
    queue = Queue(paths, wait_s=5.0)
    queue.absorb({path.name: path.read_text() for path in aside.files(paths)})
    for path in aside.files(paths):
        LossNotes(paths).replace(path)
    assert len(notes(paths)) == 2
    assert absorb(paths, queue).events == 0
    assert (queue.account().captured, queue.account().losses, notes(paths)) == (2, {}, [])
    queue.close()


def test_a_loss_that_could_not_be_noted_is_noted_by_its_own_process_alone(paths: Paths) -> None:
    """A child that is forked meanwhile doesn't count the parent's loss once more."""
    if sys.platform == "win32":
        pytest.skip("there is no fork on Windows")
    losses = LossNotes(paths)
    paths.home.mkdir(parents=True, exist_ok=True)
    paths.spool.write_text("in the way")
    losses.add("disk_full")
    assert losses.unnoted == ["disk_full"]
    paths.spool.unlink()
    child = os.fork()
    if child == 0:
        losses.retry()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert notes(paths) == []
    losses.retry()
    assert [parse(path.name) for path in notes(paths)] == [Note("disk_full", 1)]


# -- rows that nobody of us wrote ---------------------------------------------------------------------------


@pytest.mark.parametrize("letter", ["{}", "[]", "[" * 100_000, '{"reason":1,"died_at":"x","stored_at":2,"event":3}'])
def test_a_dead_letter_with_a_right_checksum_that_is_none_stops_nobody(letter: str, paths: Paths, queue: Queue) -> None:
    """It is found, counted as damaged, and gone: `list`, `retry` and `purge` work on the others."""
    queue.append_all(event(number, 10) for number in range(2))
    queue.settle([], [(stored, "bad") for stored in queue.gather()])
    queue.close()
    connection = sqlite3.connect(paths.database)
    with connection:
        key = "dead:0000000000000001"
        connection.execute("UPDATE Cache SET value = ? WHERE key = ?", (encode(0.0, letter), key))
    connection.close()
    assert [found.number for found in queue.dead()] == [2]
    account = queue.account()
    assert (account.dead, account.losses, account.captured) == (1, {"damaged": 1}, 2)
