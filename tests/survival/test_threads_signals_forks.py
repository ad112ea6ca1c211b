"""Nothing that a process does to itself cuts an append: threads, forks, signals, re-entry, its own end."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.local_posthog import LocalPostHog
from tests.support.processes import flush_json, run_python, status

HEAD = """
import gc, os, signal, sys, threading, time
from spool import Limits, Telemetry
t = Telemetry("ktx", "1", "phc_test", sys.argv[2], sys.argv[1], flush="never")
def put(name, **more):
    receipt = t.capture("scan_completed", {"name": name, **more})
    assert receipt, receipt
    os.write(1, f"{receipt.uuid} {receipt.state}\\n".encode())
    return receipt
"""


def play(home: Path, server: LocalPostHog, code: str) -> list[tuple[str, str]]:
    """Run a host, deliver, and check that every receipt arrived; gives the receipts as (uuid, state)."""
    done = run_python(HEAD + code, home, server.url)
    assert done.returncode == 0, done.stderr
    receipts = [(line.split()[0], line.split()[1]) for line in done.stdout.splitlines()]
    report = flush_json(home)
    assert (report["exit_code"], report["remaining"]) == (0, 0)
    arrived = [event["uuid"] for event in server.accepted]
    assert sorted(set(arrived)) == sorted(arrived)
    assert {uuid for uuid, _state in receipts} <= set(arrived)
    assert status(home)["accounting"]["delivered"] == len(arrived)
    return receipts


def test_threads_share_one_telemetry(home: Path, server: LocalPostHog) -> None:
    """Eight threads capture at once, then end; the main thread goes on."""
    receipts = play(
        home,
        server,
        """
def some(n): [put(f"{n}.{i}") for i in range(25)]
threads = [threading.Thread(target=some, args=(n,)) for n in range(8)]
[thread.start() for thread in threads]; put("main"); [thread.join() for thread in threads]; put("after")
""",
    )
    assert len(receipts) == 202


def test_a_fork_before_between_and_after_captures(home: Path, server: LocalPostHog) -> None:
    """Parent and children capture on; nobody shares a connection or a lock with anybody."""
    receipts = play(
        home,
        server,
        """
def child(name):
    pid = os.fork()
    if pid == 0:
        put(name); put(name); t.close(); os._exit(0)
    return pid
children = [child("before")]
put("first")
children.append(child("between"))
put("second"); t.close()
children.append(child("after close"))
put("third")
assert [os.waitpid(pid, 0)[1] for pid in children] == [0, 0, 0]
""",
    )
    assert len(receipts) == 9


def test_a_fork_in_a_thread_while_another_captures(home: Path, server: LocalPostHog) -> None:
    """The child finds the queue usable, although a thread that it doesn't have was in the middle of it."""
    receipts = play(
        home,
        server,
        """
stop = threading.Event()
def busy():
    while not stop.is_set(): put("busy")
put("first")
threads = [threading.Thread(target=busy) for _ in range(2)]
[thread.start() for thread in threads]
pids = []
def fork():
    for _ in range(10):
        pid = os.fork()
        if pid == 0:
            put("child"); os._exit(0)
        pids.append(pid); time.sleep(0.01)
forker = threading.Thread(target=fork); forker.start(); forker.join()
states = [os.waitpid(pid, 0)[1] for pid in pids]
stop.set(); [thread.join() for thread in threads]
assert states == [0] * 10, states
""",
    )
    assert len(receipts) > 12


def test_a_capture_in_a_signal_handler_does_not_wait_for_the_one_it_interrupted(
    home: Path, server: LocalPostHog
) -> None:
    """A storm of SIGUSR1, whose handler captures: each goes in, or aside at once."""
    receipts = play(
        home,
        server,
        """
signal.signal(signal.SIGUSR1, lambda *_: put("handler"))
stop = threading.Event()
def storm():
    while not stop.is_set():
        os.kill(os.getpid(), signal.SIGUSR1); time.sleep(0.004)
put("first")
thread = threading.Thread(target=storm); thread.start()
for number in range(300): put("main")
stop.set(); thread.join()
""",
    )
    assert len(receipts) > 300


@pytest.mark.parametrize("threads", [0, 1])
def test_an_alarm_that_raises_never_cuts_an_append(threads: int, home: Path, server: LocalPostHog) -> None:
    """Two hundred timers raise in the middle of captures: each receipt holds, the next capture works."""
    play(
        home,
        server,
        f"""
class Alarm(Exception): pass
def ring(*_): raise Alarm
signal.signal(signal.SIGALRM, ring)
stop = threading.Event()
others = [threading.Thread(target=stop.wait) for _ in range({threads})]
[other.start() for other in others]
put("first"); rung = 0
for number in range(200):
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.00002 * (1 + number % 40))
        t.capture("rung", {{"number": number}}); time.sleep(0.01)
    except Alarm:
        rung += 1
    signal.setitimer(signal.ITIMER_REAL, 0)
    put("after")
stop.set()
assert rung == 200, rung
""",
    )


def test_an_exception_at_any_line_of_the_transaction_leaves_the_queue_usable(home: Path, server: LocalPostHog) -> None:
    """A KeyboardInterrupt is raised at every line that a capture runs below the queue; the next one works."""
    receipts = play(
        home,
        server,
        """
put("first")
class Stop(BaseException): pass
def run(at):
    seen = 0
    def trace(frame, event, _arg):
        nonlocal seen
        name = frame.f_code.co_filename
        if not name.endswith(("/queue/queue.py", "/queue/transaction.py", "/queue/cache.py", "/diskcache/core.py")):
            return None
        if frame.f_code.co_name == "_turn":  # it holds signals back: the next test raises in there by a real one
            return None
        if event == "line":
            seen += 1
            if seen == at: raise Stop
        return trace
    sys.settrace(trace)
    try:
        t.capture("cut", {"at": at})
    except Stop:
        return True
    finally:
        sys.settrace(None)
    return False
at = 1
while run(at):
    assert put("after").state == "queued", at
    at += 1
assert at > 35, at
os.write(2, f"{at}".encode())
""",
    )
    assert {state for _uuid, state in receipts} == {"queued"}
    assert len(receipts) > 35  # each line is one capture that was cut, and one that was not


def test_a_destructor_that_captures_does_no_harm(home: Path, server: LocalPostHog) -> None:
    """Garbage collection may run anywhere, also inside an append."""
    receipts = play(
        home,
        server,
        """
class Loud:
    def __init__(self): self.me = self
    def __del__(self): put("destructor")
gc.set_threshold(1)
for number in range(50):
    Loud(); put("main")
gc.set_threshold(700)
""",
    )
    assert len(receipts) >= 100


@pytest.mark.parametrize("end", ["sys.exit(3)", "raise SystemExit(3)", "os._exit(3)", "os.close(0); sys.exit(3)"])
def test_the_end_of_the_interpreter_keeps_what_was_acknowledged(end: str, home: Path, server: LocalPostHog) -> None:
    """With and without exit handlers, and with a capture in one of them."""
    done = run_python(HEAD + f"import atexit; atexit.register(put, 'at exit'); put('last')\n{end}", home, server.url)
    assert done.returncode == 3
    promised = {line.split()[0] for line in done.stdout.splitlines()}
    assert len(promised) == (1 if "_exit" in end else 2)
    flush_json(home)
    assert promised <= {event["uuid"] for event in server.events()}


def test_a_process_stopped_inside_its_append_delays_nobody_beyond_the_limit(home: Path, server: LocalPostHog) -> None:
    """SIGSTOP at any point of an append: others go aside in time, also when they open the queue."""
    play(
        home,
        server,
        """
put("first"); t.close()
slowest = 0.0
for number in range(8):
    pid = os.fork()
    if pid == 0:
        for n in range(100000): t.capture("stopped", {"n": n})
        os._exit(0)
    time.sleep(0.05 + 0.0007 * number)
    os.kill(pid, signal.SIGSTOP); os.waitpid(pid, os.WUNTRACED)
    began = time.monotonic()
    put("while stopped", number=number)
    slowest = max(slowest, time.monotonic() - began)
    t.close()
    os.kill(pid, signal.SIGKILL); os.waitpid(pid, 0)
assert slowest < 2.0, slowest
""",
    )


def test_a_handler_that_raises_leaves_the_queue_to_the_others(home: Path, server: LocalPostHog) -> None:
    """SIGUSR1, which no append holds back, raises in the middle of many: the turn and the mask come back each time."""
    receipts = play(
        home,
        server,
        """
class Stop(BaseException): pass
def stop(*_): raise Stop
signal.signal(signal.SIGUSR1, stop)
put("first")
def cut(at):
    # At a function's first step: where Python looks for signals, and where no `try` has begun.
    seen = 0
    def trace(frame, event, _arg):
        nonlocal seen
        if event == "call" and frame.f_code.co_filename.endswith(("interrupts.py", "lock.py", "queue.py")):
            seen += 1
            if seen == at: sys.settrace(None); signal.raise_signal(signal.SIGUSR1)
    sys.settrace(trace)
    try: t.capture("cut", {"at": at})
    except Stop: return True
    finally: sys.settrace(None)
    return seen >= at
at = 1
while cut(at):
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == set(), at
    assert put("after").state == "queued", at
    at += 1
assert at > 10, at
""",
    )
    assert {state for _uuid, state in receipts} == {"queued"}


@pytest.mark.parametrize("threads", [0, 1])
def test_a_storm_of_handlers_that_raise_keeps_the_queue_from_nobody(
    threads: int, home: Path, server: LocalPostHog
) -> None:
    """Another process sends SIGWINCH as fast as it can: what is cut is taken again, lock and mask come back."""
    receipts = play(
        home,
        server,
        f"""
import subprocess
class Resized(Exception): pass
armed = False
def resized(*_):
    global armed
    if armed: armed = False; raise Resized
put("first")
signal.signal(signal.SIGWINCH, resized)
stop = threading.Event()
others = [threading.Thread(target=stop.wait) for _ in range({threads})]
[other.start() for other in others]
send = "import os, signal, sys, time\\nwhile True: os.kill(int(sys.argv[1]), signal.SIGWINCH); time.sleep(0.0003)"
storm = subprocess.Popen([sys.executable, "-c", send, str(os.getpid())], stdout=-3, stderr=-3)
end, hits = time.monotonic() + 1.5, 0
def work():
    global armed
    armed = True
    while time.monotonic() < end: t.capture("in the storm")
    armed = False
while time.monotonic() < end:
    try: work()
    except Resized: hits += 1
storm.kill(); storm.wait()
signal.signal(signal.SIGWINCH, signal.SIG_IGN)
stop.set()
assert hits > 20, hits
assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == set()
assert put("after").state == "queued"
""",
    )
    assert [state for _uuid, state in receipts] == ["queued", "queued"]


def test_no_descriptor_is_left_by_what_a_host_closes_or_forgets(home: Path, server: LocalPostHog) -> None:
    """While another process holds the lock, beside living commands, and where many threads capture first."""
    play(
        home,
        server,
        """
import subprocess
from pathlib import Path
from spool.queue import FileLock
from spool.home import Paths
put("first"); t.close(); gc.collect()
def opened(): return sorted(os.listdir("/proc/self/fd"))
limits = Limits(lock_wait_s=0.0)
def another(): return Telemetry("ktx", "1", "phc_test", sys.argv[2], sys.argv[1], flush="never", limits=limits)
code = '''
import sys; from spool import Telemetry
Telemetry("ktx", "1", home=sys.argv[1], flush="never").command(["x"]).__enter__(); print("up", flush=True)
sys.stdin.read()
'''
command, pipe = [sys.executable, "-c", code, sys.argv[1]], subprocess.PIPE
living = [subprocess.Popen(command, stdin=pipe, stdout=pipe) for _ in range(2)]
[one.stdout.readline() for one in living]
before = opened()
for _ in range(10):  # each meets the living commands at its first capture
    one = another(); one.capture("beside"); one.close()
assert opened() == before, (before, opened())
for _ in range(5):
    one = another(); one.capture("open")
    with FileLock(Paths(Path(sys.argv[1])).queue_lock).held(1.0): one.close()
    one.close()
    del one
gc.collect()
assert opened() == before, (before, opened())
for _ in range(5):
    one = another()
    threads = [threading.Thread(target=one.capture, args=("many first",)) for _ in range(8)]
    [thread.start() for thread in threads]; [thread.join() for thread in threads]
    one.close(); del one
gc.collect()
assert opened() == before, (before, opened())
[one.communicate() for one in living]
""",
    )


@pytest.mark.parametrize("when", ["warm", "in an exit handler"])
def test_a_destructor_at_the_very_end_of_the_interpreter_captures(when: str, home: Path, server: LocalPostHog) -> None:
    """Nothing can be imported any more then: what a capture needs was kept."""
    code = """
class Late:
    def __init__(self): self.me, self.put, self.write = self, put, os.write
    def __del__(self):
        try: self.put("late")
        except BaseException as error: self.write(2, repr(error).encode())
put("first")
sys.modules["held to the end"] = Late()
"""
    if when != "warm":
        code += "import atexit; atexit.register(put, 'at exit')\n"
    assert len(play(home, server, code)) == (2 if when == "warm" else 3)


def test_a_child_forked_by_a_thread_during_a_capture_hears_its_signals(home: Path, server: LocalPostHog) -> None:
    """The handlers that the main thread has exchanged for its append are the host's own again in the child."""
    play(
        home,
        server,
        """
signal.signal(signal.SIGTERM, lambda *_: os._exit(7))
put("first")
ends = []
def fork():
    for _ in range(10):
        pid = os.fork()
        if pid == 0:
            os.kill(os.getpid(), signal.SIGTERM); time.sleep(0.01); os._exit(0)
        ends.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
forker = threading.Thread(target=fork); forker.start()
while forker.is_alive(): put("busy", columns=["x" * 50] * 3000)
assert ends == [7] * 10, ends
""",
    )


def test_a_report_in_a_signal_handler_while_the_first_capture_loads_is_kept(home: Path, server: LocalPostHog) -> None:
    """The modules are half made then: the signal waits until they are whole."""
    play(
        home,
        server,
        """
receipts = []
def report(*_): receipts.append(t.capture_exception(ValueError("x")))
signal.signal(signal.SIGUSR1, report)
class Early:
    def find_spec(self, name, path=None, target=None):
        if name == "spool.event.build": signal.raise_signal(signal.SIGUSR1)
sys.meta_path.insert(0, Early())
put("first")
assert [receipt.state for receipt in receipts] == ["queued"], receipts
""",
    )
    assert status(home)["losses"] == {}
