"""What comes in the middle of our own steps (a handler that raises, a full stack, another fork) leaves nothing shut."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.support.processes import run_python, status

if sys.platform == "win32":
    pytest.skip("forks, timers and signals as POSIX has them", allow_module_level=True)

HEAD = """
import gc, os, random, signal, sys, threading, time
from spool import Limits, Telemetry
t = Telemetry("ktx", "1", "phc_test", "http://127.0.0.1:9", sys.argv[1], flush="never")
assert t.capture("warm").state == "queued"
def in_a_thread(do):
    found = []
    thread = threading.Thread(target=lambda: found.append(do())); thread.start(); thread.join()
    return found[0]
"""
# Seconds of what can't be steered to its moment.
STORM_S = 3


def play(home: Path, code: str) -> str:
    """Run a host to its end; its account adds up afterwards. Gives what it printed."""
    done = run_python(HEAD + code, home)
    assert done.returncode == 0, done.stderr
    status(home)
    return done.stdout


def test_time_limits_that_raise_never_cost_a_signal_its_handler(home: Path) -> None:
    """Thousands of alarms at random moments, in a host with a second thread: Ctrl-C still has Python's own handler."""
    code = f"""
threading.Thread(target=time.sleep, args=(600,), daemon=True).start()
class Limit(Exception): pass
def limit(*_): raise Limit
signal.signal(signal.SIGALRM, limit)
rounds, end = 0, time.monotonic() + {STORM_S}
while time.monotonic() < end:
    rounds += 1
    try:
        try:
            signal.setitimer(signal.ITIMER_REAL, random.uniform(1e-6, 5e-4)); t.capture("x"); time.sleep(.0005)
        finally: signal.setitimer(signal.ITIMER_REAL, 0)
    except Limit: pass
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler, rounds
print(rounds)
"""
    assert int(play(home, code)) > 500


def test_whatever_a_handler_raises_comes_out(home: Path) -> None:
    """Also what the machine could raise itself: RecursionError, MemoryError, OSError."""
    code = f"""
class Ticks: raised = caught = 0
def tick(*_):
    Ticks.raised += 1
    raise kind
signal.signal(signal.SIGALRM, tick)
end = time.monotonic() + {STORM_S}
while time.monotonic() < end:
    for kind in (RecursionError("x"), MemoryError("x"), OSError("x")):
        try:
            try:
                signal.setitimer(signal.ITIMER_REAL, random.uniform(1e-6, 5e-4)); t.capture("x"); time.sleep(.0005)
            finally: signal.setitimer(signal.ITIMER_REAL, 0)
        except (RecursionError, MemoryError, OSError): Ticks.caught += 1
print(Ticks.raised - Ticks.caught, Ticks.raised > 100)
"""
    assert play(home, code) == "0 True\n"


@pytest.mark.parametrize("threads", [1, 2])
def test_a_full_stack_leaves_the_signals_and_the_queue_as_they_were(threads: int, home: Path) -> None:
    """A capture at every depth down to the end of the stack; then this thread, another one and a handler go on."""
    code = f"""
def noted(*_): pass
for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2): signal.signal(number, noted)
if {threads} > 1: threading.Thread(target=time.sleep, args=(600,), daemon=True).start()
before = {{number: signal.getsignal(number) for number in signal.Signals}}
mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())
def at(depth):
    if depth: return at(depth - 1)
    t.capture("deep")
for depth in range(sys.getrecursionlimit() - 120, sys.getrecursionlimit()):
    try: at(depth)
    except RecursionError: pass
    assert {{number: signal.getsignal(number) for number in signal.Signals}} == before, depth
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == mask, depth
    assert t.capture("here").state == "queued", depth
assert in_a_thread(lambda: t.capture("there")).state == "queued"
print("as before")
"""
    assert play(home, code) == "as before\n"


def test_a_fork_on_a_full_stack_leaves_the_queue_open(home: Path) -> None:
    """At every depth near the end of the stack; other threads capture as before."""
    code = """
sys.unraisablehook = lambda _: None
def at(depth):
    if depth: return at(depth - 1)
    if os.fork() == 0: os._exit(0)
    os.wait()
for depth in range(sys.getrecursionlimit() - 60, sys.getrecursionlimit(), 2):
    try: at(depth)
    except RecursionError: pass
    receipt = in_a_thread(lambda: t.capture("there"))
    assert receipt.state == "queued", (depth, receipt)
print("open")
"""
    assert play(home, code) == "open\n"


def test_threads_that_fork_at_once_leave_the_queue_open(home: Path) -> None:
    """Four of them, switched as often as can be, while two others capture."""
    code = f"""
others = [t, Telemetry("ktx", "1", "phc_test", "http://127.0.0.1:9", sys.argv[1] + "2", flush="never")]
sys.setswitchinterval(1e-5)
end, failed = time.monotonic() + {STORM_S}, []
sys.unraisablehook = lambda unraisable: failed.append(repr(unraisable.exc_value))
def forks():
    while time.monotonic() < end:
        try: child = os.fork()
        except RuntimeError: continue  # filelock refuses it while another thread forks (Python 3.12 and later)
        if child == 0: os._exit(0)
        os.waitpid(child, 0)
def captures():
    while time.monotonic() < end:
        for one in others: one.capture("x")
        time.sleep(0.001)
threads = [threading.Thread(target=do) for do in (forks, forks, forks, forks, captures, captures)]
for thread in threads: thread.start()
for thread in threads: thread.join()
print([one.capture("y").state for one in others], failed)
"""
    assert play(home, code) == "['queued', 'queued'] []\n"


def test_a_destructor_that_loses_an_event_while_another_loss_is_noted_is_counted_too(home: Path) -> None:
    """Nothing can be noted at first; the collector runs at every step; a second thread loses events meanwhile."""
    code = """
class Caught:
    def __init__(self): self.ring = self
    def __del__(self): t.capture("")  # no event has no name: a loss
gc.set_threshold(1)
def lose():
    for _ in range(300):
        Caught(); t.capture("")
threads = [threading.Thread(target=lose) for _ in range(3)]
for thread in threads: thread.start()
for thread in threads: thread.join()
gc.collect(); t.close()
"""
    assert play(home, code) == ""
    assert status(home)["losses"] == {"invalid": 1800}


def test_a_thread_that_imported_threading_first_is_no_reason_to_raise(home: Path) -> None:
    """Python then takes it for the main one, where signals can't be set: as in many an embedded interpreter."""
    code = """
import _thread, sys, time
done = []
def first():
    import threading, spool
    t = spool.Telemetry("ktx", "1", "phc_test", "http://127.0.0.1:9", sys.argv[1], flush="never")
    threading.Thread(target=time.sleep, args=(1,)).start()
    assert t.capture("x").state == "queued"
    assert t.identity.enabled
    with t.signals(), t.command(["ktx", "scan"]): pass
    t.close()
    done.append("well")
_thread.start_new_thread(first, ())
end = time.monotonic() + 30
while not done and time.monotonic() < end: time.sleep(0.05)
print(*done)
"""
    done = run_python(code, home)
    assert (done.stdout, "Traceback" in done.stderr) == ("well\n", False), done.stderr


@pytest.mark.parametrize("number", ["SIGTERM", "SIGINT"])
def test_a_handler_that_serves_once_ends_the_command_as_aborted(number: str, home: Path) -> None:
    """It has put the default back by the time at which it raises."""
    code = f"""
class Stop(Exception): pass
def once(number, _frame):
    signal.signal(number, signal.SIG_DFL)
    raise Stop
signal.signal(signal.{number}, once)
try:
    with t.command(["ktx", "scan"]):
        os.kill(os.getpid(), signal.{number})
        time.sleep(10)
except Stop: pass
from spool.home import Paths
import json
from flusher.context import open_queue
from pathlib import Path
queue = open_queue(Paths(Path(sys.argv[1])))
print([json.loads(row.text)["properties"].get("outcome") for row in queue.gather()][-1])
queue.close()
"""
    assert play(home, code) == "aborted\n"
