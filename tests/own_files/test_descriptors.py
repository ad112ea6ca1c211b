"""A host may close descriptors that it does not know, or lack the standard ones: its files stay its own, and ours ours.

What it opens afterwards gets the numbers that were the spool's.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from spool.home import Paths
from spool.queue import FileLock
from tests.support.local_posthog import LocalPostHog
from tests.support.processes import flush_json, run_python, start_python, status

if sys.platform == "win32":
    pytest.skip("SQLite's files have no descriptors there", allow_module_level=True)

import fcntl

# A host. `put` captures and notes the receipt. `take_numbers` opens files of the host's own, and locks them; `check`
# looks whether each is still open, and holds what the host has written: when it is called, and at the very end.
HEAD = """
import atexit, contextlib, daemon, fcntl, gc, os, signal, subprocess, sys, threading, time
from pathlib import Path
home, url, folder = Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
mine = {}
def check():
    for number, (name, file) in mine.items():
        assert os.path.samestat(os.fstat(number), file), name
        assert (folder / name).read_text() == "the host's\\n", name
def check_at_exit():
    try: check()
    except BaseException: os._exit(9)
atexit.register(check_at_exit)  # runs after what the spool does there
from spool import Limits, Telemetry
def another(wait_s=20.0):
    return Telemetry("ktx", "1", "phc_test", url, home, flush="never", limits=Limits(lock_wait_s=wait_s))
t = another()
def put(name, telemetry=None, **more):
    receipt = (telemetry or t).capture("scan_completed", {"name": name, **more})
    assert receipt, receipt
    with open(folder / "receipts", "a") as file: file.write(f"{receipt.uuid} {receipt.state}\\n")
def take_numbers(count=20):
    for _ in range(count):
        name = f"host-{len(os.listdir(folder))}"
        number = os.open(folder / name, os.O_RDWR | os.O_CREAT)
        os.write(number, b"the host's\\n"); fcntl.flock(number, fcntl.LOCK_EX)
        mine[number] = name, os.fstat(number)
def ours(*names):
    found = []
    for number in sorted(map(int, os.listdir("/proc/self/fd"))):
        try: path = os.readlink(f"/proc/self/fd/{number}")
        except OSError: continue
        if path.startswith(str(home)) and (not names or os.path.basename(path) in names): found.append(number)
    return found
def close_all(): os.closerange(3, 4096)
flusher = [sys.executable, "-m", "flusher", "--home", str(home)]
def held():
    from spool.home import Paths
    from spool.queue import FileLock
    return FileLock(Paths(home).queue_lock).held(20.0)
"""
needs_proc = pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="no list of descriptors with their files")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where the host writes its own files."""
    (tmp_path / "host").mkdir()
    return tmp_path / "host"


def play(home: Path, server: LocalPostHog, folder: Path, code: str, *, lost: bool = False) -> list[str]:
    """Run a host to its end, then deliver and account. Gives the states of the receipts."""
    done = run_python(HEAD + code, home, server.url, folder)
    assert (done.returncode, done.stderr.count("Traceback")) == (0, 0), done.stderr
    return account(home, server, folder, lost=lost)


def account(home: Path, server: LocalPostHog, folder: Path, *, lost: bool = False) -> list[str]:
    """Wait for the host's end: its files hold what it wrote, each receipt arrives once, and the account adds up."""
    for path in folder.glob("host-*"):
        with path.open() as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # the host holds it as long as it lives
            assert file.read() == "the host's\n", path
    receipts = [line.split() for line in (folder / "receipts").read_text().splitlines()]
    report = flush_json(home, "run", "--force")
    assert (report["exit_code"], report["remaining"]) == (0, 0), report
    arrived = [event["uuid"] for event in server.accepted]
    assert len(arrived) == len(set(arrived))
    assert {uuid for uuid, _state in receipts} <= set(arrived)
    numbers = status(home)["accounting"]
    assert numbers["delivered"] == len(arrived)
    assert lost or numbers["lost"] == 0
    assert not list((home / "spool").glob("quarantine/*"))
    return [state for _uuid, state in receipts]


# -- a host that closes descriptors -------------------------------------------------------------------------

CLOSES = {
    "a range": "close_all()",
    "python-daemon without a fork": "daemon.DaemonContext(detach_process=False).open()",
    "each of the spool's": "[os.close(number) for number in ours()]",
    "the lock": "[os.close(number) for number in ours('queue.lock')]",
    "the database": "[os.close(number) for number in ours('cache.db')]",
    "the log": "[os.close(number) for number in ours('cache.db-wal')]",
    "the index of the log": "[os.close(number) for number in ours('cache.db-shm')]",
    "nothing, but its own files take their numbers": """
    take_numbers(9)
    for number, file in zip(ours(), list(mine)): os.dup2(file, number); mine[number] = mine[file]
""",
}


@needs_proc
@pytest.mark.parametrize("what", CLOSES)
def test_a_host_that_closes_descriptors_keeps_its_files_and_loses_no_event(
    what: str, home: Path, server: LocalPostHog, folder: Path
) -> None:
    """Whichever it closes, and once more: with two Telemetry objects, a thread, and another process in between."""
    states = play(
        home,
        server,
        folder,
        f"""
second = another()
for _ in range(2):
    put("before"); put("before", second)
    {CLOSES[what]}
    take_numbers()
    put("after")
    subprocess.run([*flusher, "status"], stdout=-3, check=True)  # opens the queue, and closes it
    put("after", second); put("after")
    thread = threading.Thread(target=put, args=("in a thread",)); thread.start(); thread.join()
    check()
t.close(); second.close()
check()
""",
    )
    assert states == ["queued"] * 12


@pytest.mark.parametrize(
    "end",
    [
        "t.close()",
        "t.flush(20)",
        "del t; gc.collect()",
        "sys.exit(0)",
        "os.fork() or os._exit(0); os.wait()",
        "put('more')",
    ],
)
def test_nothing_that_ends_a_telemetry_closes_the_hosts_descriptors(
    end: str, home: Path, server: LocalPostHog, folder: Path
) -> None:
    """Neither `close`, nor the garbage collector, a fork, or the end of the interpreter, beside an open command."""
    play(
        home,
        server,
        folder,
        f"""
put("before")
span = t.command(["ktx", "open"]); span.__enter__()
close_all()
take_numbers()
late = open(folder / "host-late", "w"); late.write("the host's\\n")  # written by the end of the interpreter
{end}
""",
    )


@needs_proc
def test_a_lock_of_the_hosts_on_a_number_that_was_ours_is_not_given_back(
    home: Path, server: LocalPostHog, folder: Path
) -> None:
    """Another process can't take it after captures, `close` and a fork."""
    play(
        home,
        server,
        folder,
        """
put("before")
close_all()
take_numbers()
put("after"); t.close()
if not os.fork():
    put("in a child"); t.close(); os._exit(0)
os.wait()
for name, _file in mine.values():
    with open(folder / name) as file:
        try: fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError: continue
        raise SystemExit(f"{name} was let go")
""",
    )


def test_a_queue_too_large_to_be_copied_goes_on_beside(home: Path, server: LocalPostHog, folder: Path) -> None:
    """A host does not wait for the copy of a large backlog: events go aside, and arrive."""
    states = play(
        home,
        server,
        folder,
        """
for _ in range(12): put("before", text="x" * 800_000)
close_all()
take_numbers()
for _ in range(3): put("after")
""",
    )
    assert states == ["queued"] * 12 + ["aside"] * 3


# -- daemons, and commands under way --------------------------------------------------------------------------


def commands(server: LocalPostHog) -> list[tuple[str, str, str | None]]:
    """Give name, outcome and recovery of each command that arrived."""
    fields = [event["properties"] for event in server.accepted if event["event"] == "command"]
    return [(one["commandPath"][-1], one["outcome"], one.get("spool_recovered")) for one in fields]


FORKING = {
    "python-daemon": "daemon.DaemonContext(umask=0, signal_map={})",
    "two forks": "two_forks()",
}
DAEMONS = FORKING | {
    "python-daemon without a fork": "daemon.DaemonContext(umask=0, signal_map={}, detach_process=False)",
}
ENDS = {
    "returns": ("pass", ("daemon", "ok", None)),
    "is terminated": ("os.kill(os.getpid(), signal.SIGTERM)", ("daemon", "aborted", None)),
    "is killed": ("os.kill(os.getpid(), signal.SIGKILL)", ("daemon", "aborted", "killed")),
}


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("how", DAEMONS)
def test_a_daemon_in_the_middle_of_a_command_keeps_its_files_and_makes_one_event(
    how: str, end: str, home: Path, server: LocalPostHog, folder: Path
) -> None:
    """With signals handled, and captures before and after. After a fork the command has ended with the parent."""
    code, outcome = ENDS[end]
    started = run_python(
        f"""{HEAD}
@contextlib.contextmanager
def two_forks():
    if os.fork(): os._exit(0)
    os.setsid()
    if os.fork(): os._exit(0)
    os.closerange(0, 4096)
    for number in (0, 1, 2): os.open(os.devnull, os.O_RDWR)
    yield
put("before")
with t.signals(), t.command(["ktx", "daemon"]):
    put("in the command")
    with {DAEMONS[how]}:
        take_numbers()
        put("daemon"); put("daemon", another())
        thread = threading.Thread(target=put, args=("in a thread",)); thread.start(); thread.join()
        check()
        (folder / "through").touch()
        {code}
""",
        home,
        server.url,
        folder,
    )
    assert started.stderr.count("Traceback") == 0, started.stderr
    deadline = time.monotonic() + 30
    while not (folder / "through").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert account(home, server, folder) == ["queued"] * 5
    assert commands(server) == [("daemon", "aborted", "killed") if how in FORKING else outcome]


WORK = {
    "ends": ("pass", ("ok", None)),
    "captures, and a flusher comes": ("put('again'); subprocess.run(flusher, stdout=-3, check=True)", ("ok", None)),
    "is taken for dead": ("subprocess.run(flusher, stdout=-3, check=True)", ("aborted", "killed")),
    "is taken for dead, and other commands end": ("taken_for_dead()", ("aborted", "killed")),
    "is taken for dead, and named anew": ("taken_for_dead(); t.span.describe(['ktx', 'x'], {})", ("aborted", "killed")),
    "is killed": ("os.kill(os.getpid(), signal.SIGKILL)", ("aborted", "killed")),
}
OTHER = """
import sys
from spool import Telemetry
telemetry = Telemetry("ktx", "1", "phc_test", *sys.argv[1:], flush="never")
for _ in range(2):
    with telemetry.command(["ktx", "other"]): pass
"""


@pytest.mark.parametrize("what", WORK)
def test_a_command_whose_lock_the_host_has_closed_makes_one_event(
    what: str, home: Path, server: LocalPostHog, folder: Path
) -> None:
    """A flusher may take it for dead: then its own end makes no second event. After a capture it is locked again."""
    code, outcome = WORK[what]
    done = run_python(
        f"""{HEAD}
def taken_for_dead():
    subprocess.run(flusher, stdout=-3, check=True)
    subprocess.run([sys.executable, "-c", {OTHER!r}, url, str(home)], check=True)
put("before")
with t.command(["ktx", "work"]):
    close_all()
    take_numbers()
    {code}
check()
""",
        home,
        server.url,
        folder,
    )
    assert (done.returncode, done.stderr.count("Traceback")) == (-9 if what == "is killed" else 0, 0), done.stderr
    account(home, server, folder)
    assert [one[1:] for one in commands(server) if one[0] != "other"] == [outcome]


# -- a host without standard streams ------------------------------------------------------------------------

WITHOUT = {"stdin": "<&-", "stdout": ">&-", "stderr": "2>&-", "all of them": "<&- >&- 2>&-"}


@needs_proc
@pytest.mark.parametrize("without", WITHOUT)
def test_a_host_without_standard_streams_writes_into_no_file_of_ours(
    without: str, home: Path, server: LocalPostHog, folder: Path
) -> None:
    """Threads print all the time. What is closed stays closed, and what the host opens then gets the number."""
    code = f"""{HEAD}
closed = [number for number in (0, 1, 2) if not os.path.exists(f"/proc/self/fd/{{number}}")]
put("first")
receipts, printed, stop = [], [], threading.Event()
def say():
    while not stop.wait(0.00002):
        for number in closed:
            try: printed.append(os.write(number, b"THE HOST PRINTS"))
            except OSError: pass
thread = threading.Thread(target=say); thread.start()
for number in range(8):
    one = another(wait_s=0.0)
    with one.command(["ktx", "work"]):
        receipts.append(one.capture("queued"))
        with held(): receipts.append(one.capture("aside"))
    if number % 2: close_all()
    one.close()
stop.set(); thread.join()
assert printed == [], printed
one = another(); span = one.command(["ktx", "work"]); span.__enter__(); put("last", one)
assert len(ours()) == 5 and min(ours()) > 2, ours()
assert [number for number in (0, 1, 2) if not os.path.exists(f"/proc/self/fd/{{number}}")] == closed
assert os.open(os.devnull, os.O_RDONLY) == closed[0]
(folder / "more").write_text("".join(f"{{receipt.uuid}} {{receipt.state}}\\n" for receipt in receipts))
"""
    shell = f'exec "$@" {WITHOUT[without]}'
    words = ["/bin/sh", "-c", shell, "sh", sys.executable, "-c", code, home, server.url, folder]
    done = subprocess.run(list(map(str, words)), capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    for path in home.rglob("*"):
        assert path.is_dir() or b"THE HOST" not in path.read_bytes(), path
    with (folder / "receipts").open("a") as receipts:
        receipts.write((folder / "more").read_text())
    assert set(account(home, server, folder)) == {"queued", "aside"}


# -- what others get, and who closes --------------------------------------------------------------------------


@needs_proc
def test_no_program_that_a_host_starts_inherits_a_descriptor(home: Path, server: LocalPostHog, folder: Path) -> None:
    """Not with `close_fds=False`, in an open command, and not by exec."""
    look = "import os; print(*[os.readlink(f'/proc/self/fd/{n}') for n in os.listdir('/proc/self/fd') if n != '3'])"
    play(
        home,
        server,
        folder,
        f"""
put("before")
with t.command(["ktx", "work"]):
    assert len(ours()) == 5, ours()
    found = subprocess.run([sys.executable, "-c", {look!r}], close_fds=False, capture_output=True, text=True).stdout
    assert found and str(home) not in found, found
""",
    )


def test_a_telemetry_that_is_forgotten_while_the_queue_is_held_is_closed_under_the_lock(
    home: Path, server: LocalPostHog, folder: Path
) -> None:
    """Not by the garbage collector, which has no lock; but before the process opens the queue again."""
    play(
        home,
        server,
        folder,
        """
put("first"); before = ours()
for _ in range(3):
    with held():
        t = None; gc.collect()
        assert (home / "spool/queue/cache.db-wal").exists()
    t = another(); put("next")
    assert len(ours()) == len(before), ours()
""",
    )


def test_a_process_that_ends_while_the_queue_is_held_leaves_the_log_as_it_is(
    home: Path, server: LocalPostHog, folder: Path
) -> None:
    """The interpreter would fold it in at its end, without the lock."""
    code = "t = another(0.1); put('first'); print('up', flush=True); sys.stdin.read()"
    with start_python(HEAD + code, home, server.url, folder, stdin=subprocess.PIPE) as host:
        assert host.stdout is not None
        assert host.stdout.readline() == "up\n"
        with FileLock(Paths(home).queue_lock).held(5.0):
            host.communicate("", timeout=30)
            assert (home / "spool/queue/cache.db-wal").stat().st_size > 0
    assert host.returncode == 0
    assert account(home, server, folder) == ["queued"]


def test_a_child_that_was_forked_while_the_queue_was_held_captures_into_it(
    home: Path, server: LocalPostHog, folder: Path
) -> None:
    """It has a copy of its parent's connection, which it neither uses nor closes: also at its own end."""
    states = play(
        home,
        server,
        folder,
        """
put("first")
pids = []
with held():
    for _ in range(2):
        pids.append(os.fork())
        if pids[-1] == 0: break
if 0 in pids:
    put("child"); put("child", another()); sys.exit(0)
put("parent")
assert [os.waitpid(pid, 0)[1] for pid in pids] == [0, 0]
put("parent")
""",
    )
    assert states == ["queued"] * 7


# -- a host that has no descriptor left ---------------------------------------------------------------------


def test_what_was_salvaged_is_kept_where_no_descriptor_is_left_to_look_at_it(
    home: Path, server: LocalPostHog, folder: Path
) -> None:
    """A rebuild was cut before its last step; the next process has one descriptor more at each capture."""
    states = play(
        home,
        server,
        folder,
        """
import resource
t = another(wait_s=0.1)
put("salvaged"); put("salvaged"); t.close()
os.rename(home / "spool/queue", home / "spool/queue.new")
soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
lowest = os.open(os.devnull, os.O_RDONLY); os.close(lowest)
for more in range(12):
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest + more, hard))
    receipt = t.capture("few")
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    if receipt: Path(folder / "receipts").open("a").write(f"{receipt.uuid} {receipt.state}\\n")
""",
        lost=True,
    )
    assert states[:2] == ["queued"] * 2
    assert {"aside", "queued"} <= set(states[2:])
