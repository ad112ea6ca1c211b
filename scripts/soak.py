"""Trouble at random, for as long as asked, then the account: run through `scripts/soak`.

Exit code 1 if an acknowledged event is neither delivered (one uuid, one timestamp), nor a dead letter, nor
counted as lost by a named cause, if a host came to harm, or if the account does not add up.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from scripts.soak_books import MISCHIEF, Books, Server  # noqa: E402 - found through the line above
from spool.home import Paths  # noqa: E402 - see above
from tests.support.processes import environment, flush  # noqa: E402 - see above

if sys.platform == "win32":
    sys.exit("the soak kills, stops and interrupts with POSIX signals")

# One line per capture, in one write each, so that a kill cuts none: state, uuid, seconds, when it was over. The file is
# opened for each: a host of some habits closes what it has open, and opens files of its own.
# An event whose uuid begins with `dead` is one that the server rejects.
WRITER = """
import fcntl, os, random, sys, time, uuid
from pathlib import Path
said, habit, home, url, count, durability, size, wait_s, seed = sys.argv[1:]
if habit == "has no streams":
    os.closerange(0, 3)
from spool import Limits, Telemetry
rng = random.Random(seed)
def say(line):
    number = os.open(said, os.O_WRONLY | os.O_APPEND)
    os.write(number, line.encode())
    os.close(number)
mine = []
def take_numbers():
    for _ in range(12):
        mine.append(os.open(f"{said}-{len(os.listdir(os.path.dirname(said)))}.host", os.O_RDWR | os.O_CREAT))
        os.write(mine[-1], b"the host's")
def close_all():
    mine.clear()
    os.closerange(3, 256)
    take_numbers()
def become_a_daemon():
    if habit == "is a daemon":
        import daemon
        daemon.DaemonContext(detach_process=False, stderr=sys.stderr).open()
        take_numbers()
    elif habit == "forks":
        ready, up = os.pipe()
        if os.fork():
            os.close(up)
            os._exit(len(os.read(ready, 1)) != 1)
        os.setsid()
        if os.fork():
            os._exit(0)
        fcntl.flock(os.dup(2), fcntl.LOCK_EX)  # as long as it lives, the soak waits
        os.write(up, b"!")
        close_all()
limits = Limits(lock_wait_s=float(wait_s))
telemetry = Telemetry("ktx", "1.2.3", "phc_soak", url, Path(home), None, limits, durability, "never")
for number in range(int(count)):
    name = str(uuid.uuid4())
    if rng.random() < 0.003:
        name = "dead" + name[4:]
    text = "x" * int(rng.expovariate(1 / float(size)))
    started = time.perf_counter()
    receipt = telemetry.capture("scan_completed", {"text": text}, uuid=name)
    seconds = time.perf_counter() - started
    say(f"{receipt.state} {name} {seconds:.4f} {time.monotonic():.3f}\\n")
    if rng.random() < 0.2:
        time.sleep(rng.expovariate(50))
    if habit == "closes all" and rng.random() < 0.1:
        close_all()
    if number == 3:
        become_a_daemon()
assert all(os.pread(number, 99, 0) == b"the host's" for number in mine)
"""
SAID = object()  # stands for the file into which a writer says it
HABITS = ("plain", "plain", "plain", "closes all", "has no streams", "is a daemon", "forks")
HOLDER = """
import sys, time
from pathlib import Path
from spool.queue import FileLock
lock = FileLock(Path(sys.argv[1]))
with lock.held(2.0):
    time.sleep(float(sys.argv[2]))
"""
DISK, WELL_DISK = "8m", "256m"
# For how long a disk that the backlog has filled is larger.
ROOM_S = 5.0
# What the server takes in one request, when it is well and when it is narrow: then large batches get 413.
WIDE_BYTES, NARROW_BYTES = 20 * 2**20, 40_000
TICK_S = 0.1
WRITERS, FLUSHERS = 4, 2
# How likely each thing is at one tick; for a flusher that starts, --force and an early death.
CHANCES = {
    "writer": 0.5,
    "flusher": 0.3,
    "force": 0.8,
    "death": 0.5,
    "holder": 0.08,
    "signal": 0.25,
    "server fault": 0.1,
    "full disk": 0.01,
    "clock": 0.15,
}
# By which a flusher may be off. Two runs are never further apart than the first is from now, so nothing expires.
CLOCKS = ["+400d", "-400d", "@1970-01-02 00:00:00"]
FAKETIME = next(iter(sorted(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))), None)


@dataclass
class Actor:
    """A process of the soak: what it is, what it writes, and what was done to it."""

    kind: str
    process: subprocess.Popen[bytes]
    said: Path
    dies_at: float | None = None
    wakes_at: float | None = None
    stopped: bool = False
    killed: bool = False

    @property
    def ended(self) -> bool:
        """Whether it is over, and the daemon as well that it may have left."""
        if self.process.poll() is None:
            return False
        with self.said.with_suffix(".err").open() as err:
            try:
                fcntl.flock(err, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
        return True

    def send(self, number: signal.Signals) -> None:
        """Send it a signal; it may be gone."""
        with suppress(ProcessLookupError):
            self.process.send_signal(number)


class Soak:
    """One soak: the home, the server, the processes, and what happens next."""

    def __init__(self, folder: Path, home: Path, books: Books, seed: int) -> None:
        self.folder, self.home, self.books = folder, home, books
        self.small_disk = home.parent != folder
        self.rng = random.Random(seed)
        self.server = Server(books=books).start()
        self.actors: list[Actor] = []
        self.until: dict[str, float] = {}
        self.count = 0

    def start(self, kind: str, *command: object) -> None:
        """Start a process; what it says goes into a file."""
        self.count += 1
        self.books.done[f"{kind}s"] += 1
        said = self.folder / f"{kind}-{self.count}" / "said"
        said.parent.mkdir()
        with said.open("wb") as out, said.with_suffix(".err").open("wb") as err:
            words = [sys.executable, *map(str, [said if word is SAID else word for word in command])]
            process = subprocess.Popen(words, env=self.environment(kind), stdout=out, stderr=err)
        # Half of the flushers are killed, most of them early: that is where they absorb and settle.
        doomed = kind == "flusher" and self.happens("death")
        dies_at = time.monotonic() + self.rng.uniform(0.1, 1.2) if doomed else None
        self.actors.append(Actor(kind, process, said, dies_at))

    def environment(self, kind: str) -> dict[str, str]:
        """Give the environment of a process; some flushers have another clock."""
        if kind != "flusher" or FAKETIME is None or not self.happens("clock"):
            return environment()
        self.books.done["wrong clocks"] += 1
        return environment(LD_PRELOAD=str(FAKETIME), FAKETIME=self.rng.choice(CLOCKS))

    def tick(self) -> None:
        """Let one thing happen, perhaps."""
        self.rest()
        self.reap()
        rng, kinds = self.rng, Counter(actor.kind for actor in self.actors)
        if kinds["writer"] < WRITERS and self.happens("writer"):
            self.start_writer()
        if kinds["flusher"] < FLUSHERS and self.happens("flusher"):
            options = ["--force"] if self.happens("force") else []
            limits = ["--max-retries", rng.choice([0, 0, 1, 3]), "--batch-size", rng.choice([1, 20, 100, 500])]
            self.start("flusher", "-m", "flusher", "--home", self.home, "run", "--max-seconds", 8, *limits, *options)
        if kinds["holder"] < 1 and self.happens("holder"):
            self.start("holder", "-c", HOLDER, Paths(self.home).queue_lock, rng.uniform(0.2, 1.5))
        if self.actors and self.happens("signal"):
            self.hit(rng.choice(self.actors))
        if "server" not in self.until and self.happens("server fault"):
            self.misbehave()
        if self.small_disk and "disk" not in self.until and self.happens("full disk"):
            self.fill()

    def happens(self, what: str) -> bool:
        """Throw the dice."""
        return self.rng.random() < CHANCES[what]

    def start_writer(self) -> None:
        """Start a writer of random habits."""
        count, size = int(self.rng.expovariate(1 / 60)) + 1, self.rng.choice([50, 500, 2_000])
        durability = self.rng.choice(["process", "process", "power"])
        wait_s = self.rng.choice([0.25, 0.25, 0.0])  # without patience, many an event goes aside
        habit = self.rng.choice(HABITS)
        self.books.done[f"writers: {habit}"] += 1
        choices = (count, durability, size, wait_s, self.count)
        self.start("writer", "-c", WRITER, SAID, habit, self.home, self.server.url, *choices)

    def hit(self, actor: Actor) -> None:
        """Kill, interrupt or stop a process."""
        if actor.stopped and actor.wakes_at is not None:
            return
        number = self.rng.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGINT, signal.SIGSTOP, signal.SIGSTOP])
        self.books.done[number.name] += 1
        if number is signal.SIGSTOP:
            actor.stopped, actor.wakes_at = True, time.monotonic() + self.rng.uniform(0.05, 2.0)
            self.books.faults.append((time.monotonic(), actor.wakes_at, f"a {actor.kind} stopped"))
        else:
            actor.killed = True
        actor.send(number)

    def misbehave(self) -> None:
        """Let the server be down, narrow, or answer something else for a while."""
        self.until["server"] = time.monotonic() + self.rng.uniform(0.1, 2.0)
        choice = self.rng.randrange(len(MISCHIEF) + 2)
        if choice == len(MISCHIEF):
            self.server.stop()
        elif choice > len(MISCHIEF):
            self.server.max_body_bytes = NARROW_BYTES
        else:
            self.server.always(MISCHIEF[choice])
        self.books.done["server faults"] += 1

    def fill(self) -> None:
        """Take what is left of the disk for a while."""
        self.until["disk"] = time.monotonic() + self.rng.uniform(0.2, 2.0)
        self.books.faults.append((time.monotonic(), self.until["disk"], "a full disk"))
        self.books.done["full disks"] += 1
        with suppress(OSError), (self.home.parent / "ballast").open("ab", buffering=0) as file:
            while True:
                file.write(bytes(4096))

    def make_room(self) -> None:
        """Do what a person does where the backlog alone fills the disk: even a delivery needs some space."""
        if self.small_disk and "disk" not in self.until and "room" not in self.until:
            self.books.done["rooms made"] += 1
            self.until["room"] = time.monotonic() + ROOM_S
            self.resize(WELL_DISK)

    def resize(self, size: str) -> None:
        """Change the size of the small disk; it can't get smaller than what is on it."""
        if self.small_disk:
            command = ["mount", "-o", f"remount,size={size}", str(self.home.parent)]
            subprocess.run(command, check=False, stderr=subprocess.DEVNULL)

    def rest(self) -> None:
        """End what has lasted long enough."""
        now = time.monotonic()
        for actor in self.actors:
            if actor.dies_at is not None and actor.dies_at < now:
                self.books.done["SIGKILL"] += not actor.killed
                actor.killed = True
                actor.send(signal.SIGKILL)
            if actor.wakes_at is not None and actor.wakes_at < now:
                actor.wakes_at = None
                actor.send(signal.SIGCONT)
        if self.until.get("room", now) < now:
            del self.until["room"]
            self.resize(DISK)
        if self.until.get("disk", now) < now:
            self.heal("disk")
        if self.until.get("server", now) < now:
            self.heal("server")
        self.books.forget_faults(now)

    def heal(self, what: str) -> None:
        """Make the disk or the server well."""
        self.until.pop(what, None)
        if what == "disk":
            (self.home.parent / "ballast").unlink(missing_ok=True)
        else:
            self.server.behave()
            self.server.max_body_bytes = WIDE_BYTES
            self.server.start()

    def reap(self) -> None:
        """Enter what the processes said that have ended."""
        for actor in [actor for actor in self.actors if actor.ended]:
            self.actors.remove(actor)
            said, err = actor.said.read_text(), actor.said.with_suffix(".err")
            if actor.kind == "writer":
                for number, line in enumerate(said.splitlines()):
                    self.books.capture(line, first=number == 0, timed=not actor.stopped)
            fine = {"writer": {0}, "flusher": {0, 1, 3, 75}, "holder": {0, 1}}[actor.kind]
            trouble = err.read_text()
            harmed = "internal error" in trouble or (actor.kind == "writer" and "Traceback" in trouble)
            if not actor.killed and (actor.process.returncode not in fine or harmed):
                self.books.wrong.append(f"a {actor.kind} ended with {actor.process.returncode}: {trouble[-500:]}")
            if actor.kind == "flusher":
                self.books.done[f"flusher exits {actor.process.returncode}"] += 1
                if "disk is full" in trouble:
                    self.make_room()
            for file in actor.said.parent.glob("*.host"):
                self.books.done["files of hosts"] += 1
                if file.read_bytes() != b"the host's" and not (actor.killed and file.stat().st_size == 0):
                    self.books.wrong.append("a file of a host holds what is not the host's")
            shutil.rmtree(actor.said.parent)

    def finish(self) -> None:
        """Heal everything, let everybody end, and drain."""
        for what in ("disk", "server"):
            self.heal(what)
        self.resize(WELL_DISK)
        deadline = time.monotonic() + 60
        while self.actors:
            for actor in self.actors:
                if actor.kind != "writer" or time.monotonic() > deadline:
                    actor.killed = True
                    actor.send(signal.SIGKILL)
                actor.send(signal.SIGCONT)
            time.sleep(TICK_S)
            self.reap()
        for _ in range(20):
            done = flush(self.home, "run", "--force", timeout_s=600)
            if done.returncode in (0, 3):
                return
        self.books.wrong.append(f"the drain does not end: {done.stderr}")


@contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    """Give a folder on a file system that fills up, or the folder itself where that can't be mounted."""
    point = folder / "disk"
    point.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={DISK},mode=0700", "tmpfs", str(point)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True, check=False).returncode:
        print("no full disks: only root can mount a small one")
        yield folder
        return
    try:
        yield point
    finally:
        subprocess.run(["umount", "--lazy", str(point)], check=False)


def main() -> int:
    """Soak, and say what came of it."""
    parser = argparse.ArgumentParser(prog="scripts/soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=1.0, help="how long there is trouble (default: 1)")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6), help="of the random choices")
    options = parser.parse_args()
    print(f"seed {options.seed}, {options.minutes:g} minutes", flush=True)
    books = Books()
    with tempfile.TemporaryDirectory(prefix="ktx-spool-soak-") as name, small_disk(Path(name)) as disk:
        soak = Soak(Path(name), disk / "home", books, options.seed)
        end = time.monotonic() + 60 * options.minutes
        try:
            while time.monotonic() < end:
                soak.tick()
                time.sleep(TICK_S)
        finally:
            soak.finish()
            soak.server.stop()
        books.close(disk / "home")
    print(f"memory of this program: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB at most")
    for line, count in Counter(books.wrong).most_common(20):
        print(f"WRONG, {count} times: {line}")
    print("every event is accounted for" if not books.wrong else f"failed; seed {options.seed}")
    return 1 if books.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
