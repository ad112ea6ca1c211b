"""The queue against a plain model: whatever is done in whatever order, the account adds up exactly."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, precondition, rule

from spool.beside.loss_notes import Note
from spool.errors import ConsentChangedError
from spool.home import Paths
from spool.queue import REFUSED, DeadLetter, Queue, Row
from spool.queue.account import Account
from spool.queue.recovery import damage_in
from spool.settings import Limits
from tests.support.processes import run_python
from tests.support.queue_model import Model, event

CAUSES = st.sampled_from(["invalid", "too_large", "opted_out"])
# Appends what it is given, then is killed inside a transaction that has already appended one more.
KILLED_WRITER = """
import json, os, signal, sys
from pathlib import Path
from spool.home.paths import Paths
from spool.queue.queue import REFUSED, Queue
from spool.settings import Limits
home, limits, now, texts = sys.argv[1:]
queue = Queue(Paths(Path(home)), Limits(**json.loads(limits)), wait_s=5.0, clock=lambda: float(now))
for text in json.loads(texts):
    queue.append(text)
queue.count_lost("invalid")
queue.report_losses(lambda losses: os.kill(os.getpid(), signal.SIGKILL))
"""


class QueueMachine(RuleBasedStateMachine):
    """Two processes at one queue, as two Queue objects: what one gathered the other may have taken."""

    batches: Bundle[list[Row]] = Bundle("batches")
    letters: Bundle[list[DeadLetter]] = Bundle("letters")
    who = st.integers(0, 1)

    def __init__(self) -> None:
        super().__init__()
        self.home = Path(tempfile.mkdtemp(prefix="queue-model-"))
        self.now = 1_700_000_000.0
        self.events = 0
        self.kills = 0
        self.files: dict[str, str] = {}
        self.notes: dict[str, Note] = {}
        self.absorbed: set[str] = set()
        self.texts: dict[int, str] = {}

    @initialize(max_events=st.integers(1, 12), max_bytes=st.integers(300, 4_000))
    def begin(self, max_events: int, max_bytes: int) -> None:
        """Choose small limits and open twice."""
        self.limits = Limits(max_events=max_events, max_bytes=max_bytes, max_age_s=100)
        self.model = Model(self.limits)
        self.queues = [self.fresh(), self.fresh()]

    def fresh(self) -> Queue:
        """Give a queue as a new process would open it."""
        return Queue(Paths(self.home), self.limits, wait_s=5.0, clock=lambda: self.now)

    def new_events(self, sizes: list[int]) -> list[str]:
        """Give events that never were before."""
        self.events += len(sizes)
        return [event(self.events - place, size) for place, size in enumerate(sizes)]

    @rule(who=who, size=st.integers(0, 500))
    def append(self, who: int, size: int) -> None:
        """One capture: it gets the next number."""
        (text,) = self.new_events([size])
        self.model.append(text, self.now)
        assert self.queues[who].append(text) == self.model.sequence
        self.model.keep_within()

    @rule(who=who)
    def forbidden(self, who: int) -> None:
        """Somebody changed the consent meanwhile: nothing is written, no number is used up."""
        with pytest.raises(ConsentChangedError):
            self.queues[who].append(event(0, 0), consent=(1, 2, 3, 4))

    @rule(who=who, sizes=st.lists(st.integers(0, 300), max_size=15))
    def append_all(self, who: int, sizes: list[int]) -> None:
        """Several events in one transaction; the limits hold at its end."""
        texts = self.new_events(sizes)
        for text in texts:
            self.model.append(text, self.now)
        assert self.queues[who].append_all(texts) == len(texts)
        self.model.keep_within()

    @rule(target=batches, who=who, most=st.integers(1, 6))
    def gather(self, who: int, most: int) -> list[Row]:
        """A flusher reads a batch; it may settle it at any time, or never."""
        found = [stored for stored, _ in zip(self.queues[who].gather(), range(most), strict=False)]
        assert [stored.number for stored in found] == sorted(self.model.pending)[:most]
        return found

    @rule(who=who, batch=batches, rejected=st.integers(0, 3), reason=st.sampled_from(["bad", 'x "é" \n']))
    def settle(self, who: int, batch: list[Row], rejected: int, reason: str) -> None:
        """What somebody else took meanwhile counts for nothing; the rest leaves as it was answered."""
        taken, refused = batch[rejected:], batch[:rejected]
        settled = 0
        for stored in filter(self.model.holds, batch):
            del self.model.pending[stored.number]
            settled += 1
            if stored in taken:
                self.model.delivered += 1
            else:
                self.model.dead[stored.number] = DeadLetter(
                    stored.number, stored.text, stored.stored_at, reason, self.now
                )
        assert self.queues[who].settle(taken, [(stored, reason) for stored in refused]) == settled

    @rule(who=who)
    def expire(self, who: int) -> None:
        """What is too old goes, wherever it stands: a clock that was set back puts old events behind young ones."""
        before = self.now - self.limits.max_age_s
        old = [number for number, (stored_at, *_) in self.model.pending.items() if stored_at < before]
        for number in old:
            self.model.drop(number, "expired")
        assert self.queues[who].expire(lambda row: row.stored_at < before) == len(old)

    @rule(seconds=st.sampled_from([-50, 1, 50, 100]))
    def advance(self, seconds: int) -> None:
        """The clock goes on, or is set back."""
        self.now += seconds

    @rule(who=who)
    def purge(self, who: int) -> None:
        """Everything that waits is lost, by wish."""
        waiting = sorted(self.model.pending)
        for number in waiting:
            self.model.drop(number, "purged")
        assert self.queues[who].purge() == len(waiting)

    @rule(target=letters, who=who)
    def read_dead(self, who: int) -> list[DeadLetter]:
        """A person looks at the dead letters, to retry them at some time."""
        return self.queues[who].dead()

    @rule(who=who, chosen=letters, skip=st.integers(0, 2))
    def retry_dead(self, who: int, chosen: list[DeadLetter], skip: int) -> None:
        """They wait again under their old numbers; those that are gone don't come back."""
        there = [letter for letter in chosen[skip:] if letter.number in self.model.dead]
        for letter in there:
            del self.model.dead[letter.number]
            self.model.pending[letter.number] = (self.now, letter.text)
        assert self.queues[who].retry_dead(chosen[skip:]) == len(there)

    @rule(who=who)
    def purge_dead(self, who: int) -> None:
        """All dead letters go, counted."""
        self.model.lose("purged", len(self.model.dead))
        assert self.queues[who].purge_dead() == len(self.model.dead)
        self.model.dead.clear()

    @rule(who=who)
    def wipe(self, who: int) -> None:
        """A person opts out: everything goes, beside the queue as well; the counters stay."""
        gone = len(self.model.pending) + len(self.model.dead)
        self.model.lose("opted_out", gone)
        self.model.pending.clear()
        self.model.dead.clear()
        self.files.clear()
        self.notes.clear()
        self.absorbed.clear()
        assert self.queues[who].wipe() == gone

    @rule(who=who, cause=CAUSES, count=st.integers(1, 3))
    def count_lost(self, who: int, cause: str, count: int) -> None:
        """Events that never entered count as captured and as lost."""
        self.model.refuse(cause, count)
        self.queues[who].count_lost(cause, count)

    @rule(who=who)
    def report_losses(self, who: int) -> None:
        """The event gets exactly the losses since the last one, and there is none without losses."""
        told: list[dict[str, int]] = []
        (text,) = self.new_events([10])

        def build(losses: dict[str, int]) -> str:
            told.append(losses)
            return text

        expected = {cause: count for cause, count in self.model.unreported.items() if count}
        assert self.queues[who].report_losses(build) == bool(expected)
        assert told == ([expected] if expected else [])
        if expected:
            self.model.append(text, self.now)
            self.model.unreported.clear()

    @rule(name=st.integers(0, 99), size=st.integers(0, 300))
    def put_aside(self, name: int, size: int) -> None:
        """A file appears beside the queue, before or after others by its name."""
        if f"{name:02d}.json" not in {*self.files, *self.absorbed}:
            (self.files[f"{name:02d}.json"],) = self.new_events([size])

    @rule(name=st.integers(0, 99), cause=CAUSES, count=st.integers(1, 3))
    def note_loss(self, name: int, cause: str, count: int) -> None:
        """A note of losses appears beside the queue."""
        if f"{name:02d}.lost" not in self.absorbed:
            self.notes.setdefault(f"{name:02d}.lost", Note(cause, count))

    @rule(who=who, killed=st.sampled_from(["after files", "after notes", "never", "never"]), again=st.booleans())
    def absorb(self, who: int, killed: str, *, again: bool) -> None:
        """A flusher takes files and notes in; killed before it removed them, the next one does that first.

        One that comes `again` with the same files instead finds that they are in the queue.
        """
        if self.notes or not again:
            for name in self.queues[who].absorbed_names():
                self.files.pop(name.removeprefix(REFUSED), None)
                self.notes.pop(name, None)
            self._forget(who)
        if self.files:
            self._absorb_files(who, [name for name in self.files if name not in self.absorbed])
            if killed == "after files":
                return
            self.files.clear()
        if self.notes:
            for note in self.notes.values():
                self.model.refuse(note.cause, note.losses)
            self.queues[who].absorb_losses(self.notes)
            self.absorbed |= set(self.notes)
            if killed == "after notes":
                return
            self.notes.clear()
        self._forget(who)

    def _forget(self, who: int) -> None:
        self.queues[who].forget_absorbed()
        self.absorbed.clear()

    def _absorb_files(self, who: int, new: list[str]) -> None:
        refused = {name: "invalid" for name in self.files if name.endswith("7.json")}
        rejected = {name: (text, "not allowed") for name, text in self.files.items() if name.endswith("8.json")}
        rest = self.files.keys() - refused.keys() - rejected.keys()
        events = {name: self.files[name] for name in sorted(rest)}
        for name, text in events.items():
            if name in new:
                self.model.append(text, self.now)
        for name, (text, reason) in rejected.items():
            if name in new:
                self.model.append_dead(text, reason, self.now)
        if refused.keys() & set(new):
            self.model.refuse("invalid", len(refused.keys() & set(new)))
        assert self.queues[who].absorb(events, refused, rejected) == len(events.keys() & set(new))
        self.absorbed |= set(self.files)
        self.model.keep_within()

    @rule(who=who)
    def close(self, who: int) -> None:
        """A process ends well, and its like starts: its connection closes under the lock."""
        self.queues[who].close()

    @rule(who=who)
    def crash(self, who: int) -> None:
        """A process vanishes without a word, and its like starts."""
        self.queues[who]._disconnect()  # noqa: SLF001 - as the end of a process does, without the lock
        self.queues[who] = self.fresh()

    @rule(who=who)
    def rebuild(self, who: int) -> None:
        """The queue moves to quarantine although it is sound: all of it is salvaged."""
        if self.model.account() != Account():
            self.queues[who].rebuild("test")

    @rule(who=who)
    def torn(self, who: int) -> None:
        """An exception in the middle of a transaction: nothing of it happened."""
        self.queues[who].count_lost("too_large")
        self.model.refuse("too_large", 1)

        def build(_losses: dict[str, int]) -> str:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            self.queues[who].report_losses(build)

    @precondition(lambda self: self.kills < 1)
    @rule(sizes=st.lists(st.integers(0, 300), max_size=3))
    def killed_process(self, sizes: list[int]) -> None:
        """A real process is killed inside a transaction: what it was told is there, the rest is not."""
        self.kills += 1
        texts = self.new_events(sizes)
        limits = json.dumps({"max_events": self.limits.max_events, "max_bytes": self.limits.max_bytes})
        done = run_python(KILLED_WRITER, self.home, limits, self.now, json.dumps(texts))
        assert (done.returncode, done.stderr) == (-9, "")
        for text in texts:
            self.model.append(text, self.now)
            self.model.keep_within()
        self.model.refuse("invalid", 1)

    @invariant()
    def the_account_is_the_models(self) -> None:
        """Every number, by cause, and the sum; read by both."""
        for queue in getattr(self, "queues", []):
            account = queue.account()
            assert account == self.model.account()
            assert account.balanced

    @invariant()
    def the_rows_are_the_models(self) -> None:
        """Pending by number, with their texts; dead letters; and a number never names two events."""
        for queue in getattr(self, "queues", [])[:1]:
            waiting = {stored.number: (stored.stored_at, stored.text) for stored in queue.gather()}
            assert list(waiting.items()) == sorted(self.model.pending.items())
            assert queue.dead() == [self.model.dead[number] for number in sorted(self.model.dead)]
            for number, (_at, text) in waiting.items():
                assert self.texts.setdefault(number, text) == text

    def teardown(self) -> None:
        """A sound queue stands the look that a damaged one doesn't stand. Leave nothing behind."""
        for queue in getattr(self, "queues", []):
            queue.close()
        if Paths(self.home).queue.exists():
            assert damage_in(Paths(self.home).queue, 1.0) is None
        shutil.rmtree(self.home)


# Time differs by machine: no deadline. Nothing is written into the checkout: no example database.
QueueMachine.TestCase.settings = settings(
    max_examples=50,
    stateful_step_count=40,
    deadline=None,
    database=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
TestTheQueueIsItsModel = QueueMachine.TestCase
