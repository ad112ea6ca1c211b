"""Durability `power`: what was acknowledged survives that the machine loses its power.

An ext4 image is mounted, written to, and its block device copied without sync; the copy is mounted (which
replays its journal) and read. A disk that acknowledges a flush and forgets the data is not modelled.
"""

from __future__ import annotations

import json
import random
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from flusher.absorb import absorb
from spool.home import Paths
from spool.queue import FileLock, Queue
from tests.support.local_posthog import LocalPostHog, accept_then_hang
from tests.support.mounts import NEEDS_EXT4, commit_journal, cut_power, make_image, mounted_image
from tests.support.processes import run_python, start_python, status
from tests.support.stoppable import Writer, go_on, stop, wait_until, writing

if sys.platform == "win32":
    pytest.skip("processes are killed and stopped here by POSIX signals", allow_module_level=True)

pytestmark = [pytest.mark.root, NEEDS_EXT4]

CUTS = 12

# What a copied home holds: reads it as the flusher does, then captures once more as the host does.
READER = """
import json, sys
from pathlib import Path
from flusher.absorb import absorb
from spool import Telemetry
from spool.launch.destination import resolve
from spool.errors import ConfigurationError
from spool.home.paths import Paths
from spool.queue import Queue
paths = Paths(Path(sys.argv[1]))
try:
    destination = resolve("ktx", paths, {}).host and "reads"
except ConfigurationError as error:
    destination = str(error)
queue = Queue(paths, wait_s=5.0)
absorb(paths, queue)
uuids = [json.loads(stored.text)["uuid"] for stored in queue.gather()]
telemetry = Telemetry("ktx", "1", "phc_test", "http://127.0.0.1:9", paths.home, flush="never")
receipt = telemetry.capture("scan_completed")
reasons = [path.read_text() for path in paths.quarantine.glob("*.reason")]
print(json.dumps({"uuids": uuids, "balanced": queue.account().balanced, "next": receipt.reason or receipt.state,
                  "quarantined": reasons, "destination": destination}))
"""
FLUSHER = "from flusher.cli import main; main()"
WELL = {"balanced": True, "quarantined": [], "next": "queued", "destination": "reads"}


@contextmanager
def held_lock(home: Path) -> Iterator[None]:
    """Sit on the queue's lock for a block, so that every event goes aside."""
    lock = FileLock(Paths(home).queue_lock)
    lock.path.parent.mkdir(0o700, parents=True)
    try:
        with lock.held(1.0):
            yield
    finally:
        lock.close()


@contextmanager
def writing_on(image: Path, point: Path, durability: str, state: str, **options: Any) -> Iterator[Writer]:
    """Have a writer on a mounted image for a block; every event is queued, or every one goes aside."""
    with ExitStack() as stack:
        home = stack.enter_context(mounted_image(image, point)) / "home"
        if state == "aside":
            stack.enter_context(held_lock(home))
        writer = stack.enter_context(writing(home, durability, **options))
        yield writer
        assert set(writer.promised.values()) == {state}


def waiting_in(home: Path) -> set[str]:
    """Give the uuids that the flusher would find in a home."""
    queue = Queue(Paths(home), wait_s=5.0)
    try:
        absorb(Paths(home), queue)
        assert queue.account().balanced
        return {json.loads(stored.text)["uuid"] for stored in queue.gather()}
    finally:
        queue.close()


def after_the_cut(copy: Path, point: Path) -> dict[str, Any]:
    """Mount a copy and say what its home holds, and what the next capture there gets."""
    with mounted_image(copy, point):
        done = run_python(READER, point / "home")
        assert done.returncode == 0, done.stderr
        report: dict[str, Any] = json.loads(done.stdout)
    assert report["balanced"]
    return report


@pytest.mark.parametrize("state", ["queued", "aside"])
def test_a_power_cut_loses_no_acknowledged_event(state: str, tmp_path: Path) -> None:
    """A dozen cuts at random moments of a writer's work; what was acknowledged before each is there."""
    rng = random.Random(3)
    image = make_image(tmp_path / "image")
    cuts: list[tuple[Path, set[str]]] = []
    with writing_on(image, tmp_path / "disk", "power", state) as writer:
        writer.wait_for(1)
        for number in range(CUTS):
            time.sleep(rng.uniform(0.0, 0.05))
            writer.stop()
            cuts.append((cut_power(image, tmp_path / f"copy{number}"), set(writer.promised)))
            writer.go_on()
    assert len(cuts[-1][1]) > CUTS
    for copy, promised in cuts:
        with mounted_image(copy, tmp_path / "later") as disk:
            assert promised - waiting_in(disk / "home") == set()
        copy.unlink()


@pytest.mark.parametrize("features", [(), ("^has_journal",)], ids=["journal", "no journal"])
@pytest.mark.parametrize("state", ["queued", "aside"])
def test_the_first_event_of_a_fresh_home_survives_a_power_cut(
    state: str, features: tuple[str, ...], tmp_path: Path
) -> None:
    """The power goes right after the first receipts, when every folder and file is new."""
    for count in (1, 2, 3):
        image = make_image(tmp_path / "image", *features)
        with writing_on(image, tmp_path / "disk", "power", state, count=count) as writer:
            writer.wait_for(count)
            writer.stop()
            copy = cut_power(image, tmp_path / "copy")
        found = after_the_cut(copy, tmp_path / "later")
        assert set(writer.promised) - set(found["uuids"]) == set()


@pytest.mark.parametrize("features", [(), ("^has_journal",)], ids=["journal", "no journal"])
def test_the_event_that_found_the_queue_damaged_survives_a_power_cut(features: tuple[str, ...], tmp_path: Path) -> None:
    """Salvaged events and the new one are in the rebuilt queue, though its folder is new."""
    image = make_image(tmp_path / "image", *features)
    with mounted_image(image, tmp_path / "disk") as disk:
        home = disk / "home"
        with writing(home, "power", count=5) as before:
            before.wait_for(5)
        assert status(home)["pending"] == 6
        with sqlite3.connect(Paths(home).queue / "cache.db") as database:
            database.execute("UPDATE Settings SET value = 'foreign' WHERE key = 'eviction_policy'")
        database.close()
        subprocess.run(["sync", "--file-system", disk], check=True)
        with writing(home, "power", count=1) as after:
            after.wait_for(1)
            after.stop()
            copy = cut_power(image, tmp_path / "copy")
        assert Paths(home).quarantine.exists()
    found = after_the_cut(copy, tmp_path / "later")
    assert {*before.promised, *after.promised} - set(found["uuids"]) == set()


@pytest.mark.parametrize("durability", ["power", "process"])
@pytest.mark.parametrize("count", [0, 3])
def test_a_power_cut_leaves_a_home_that_works(count: int, durability: str, tmp_path: Path) -> None:
    """Cuts within the first capture and after the third: nothing is half written.

    The next command is the same install, its capture is queued, the destination reads, nothing is damaged.
    """
    rng = random.Random(5)
    for _ in range(3):
        image = make_image(tmp_path / "image")
        with mounted_image(image, tmp_path / "disk") as disk, writing(disk / "home", durability) as writer:
            wait_until((disk / "home").exists)
            writer.wait_for(count)
            time.sleep(rng.uniform(0.0, 0.02))
            writer.stop()
            commit_journal(disk)
            copy = cut_power(image, tmp_path / "copy")
        found = after_the_cut(copy, tmp_path / "later")
        found.pop("uuids")
        assert found == WELL


@pytest.mark.parametrize("state", ["queued", "aside"])
def test_with_durability_process_the_same_cut_loses_events_(state: str, tmp_path: Path) -> None:
    """The counter-proof: this cut does lose what was not synced. The queue is whole all the same."""
    image = make_image(tmp_path / "image")
    with writing_on(image, tmp_path / "disk", "process", state) as writer:
        writer.wait_for(20)
        writer.stop()
        copy = cut_power(image, tmp_path / "copy")
    found = after_the_cut(copy, tmp_path / "later")
    assert set(writer.promised) - set(found["uuids"]) != set()


def test_a_power_cut_while_the_flusher_works_loses_nothing(tmp_path: Path, server: LocalPostHog) -> None:
    """The flusher has absorbed aside files and waits for an answer: what was promised is still there."""
    image = make_image(tmp_path / "image")
    server.always(accept_then_hang(30))
    with mounted_image(image, tmp_path / "disk") as disk:
        home = disk / "home"
        with held_lock(home), writing(home, "power", url=server.url, count=30) as writer:
            writer.wait_for(30)
        subprocess.run(["sync", "--file-system", disk], check=True)
        with start_python(FLUSHER, "--home", home, "run") as flusher:
            wait_until(lambda: server.requests)
            stop(flusher)
            commit_journal(disk)
            copy = cut_power(image, tmp_path / "copy")
            flusher.kill()
            flusher.communicate()
    found = after_the_cut(copy, tmp_path / "later")
    assert set(writer.promised) - set(found["uuids"]) == set()


def test_a_power_cut_after_the_delivery_sends_again_at_most(tmp_path: Path, server: LocalPostHog) -> None:
    """Cut at random moments of a drain: each event is on the server or in the copy, and the account holds."""
    rng = random.Random(11)
    image = make_image(tmp_path / "image")
    with mounted_image(image, tmp_path / "disk") as disk:
        home = disk / "home"
        with writing(home, "power", url=server.url, count=300) as writer:
            writer.wait_for(300)
        with start_python(FLUSHER, "--home", home, "run", "--batch-size", "2") as flusher:
            wait_until(lambda: server.requests)
            copies = []
            for number in range(4):
                time.sleep(rng.uniform(0.0, 0.05))
                stop(flusher)
                copy = cut_power(image, tmp_path / f"copy{number}")
                copies.append((copy, {event["uuid"] for event in server.accepted}))
                go_on(flusher)
            flusher.communicate()
        assert len(copies[0][1]) < 300
        assert status(home)["pending"] == 0
    for copy, arrived in copies:
        found = after_the_cut(copy, tmp_path / "later")
        assert set(writer.promised) - arrived - set(found["uuids"]) == set()
