"""A flusher starts by itself when one is due, and only then; it has nothing of the host's."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from spool.home import Paths
from spool.launch.start import child_environment, is_due, waits
from spool.settings import GUARD
from tests.support.local_posthog import LocalPostHog, hang, slow
from tests.support.mounts import NEEDS_ROOT
from tests.support.processes import environment, run_python, status

HOST = """
import os, sys
from spool import Telemetry
t = Telemetry("ktx", "1", "phc_test", sys.argv[2], sys.argv[1], catalogue=None, flush="auto")
assert t.capture("scan_completed")
"""


def wait_for(server: LocalPostHog, count: int, timeout_s: float = 20.0) -> None:
    """Wait until so many events have arrived."""
    deadline = time.monotonic() + timeout_s
    while len(server.accepted) < count:
        assert time.monotonic() < deadline, f"{len(server.accepted)} events arrived"
        time.sleep(0.05)


def processes(home: Path) -> list[Path]:
    """The flushers of this home that run now, as folders in /proc; the shell that starts one counts as well."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            words = entry.read_bytes().split(b"\0")
            if {b"--home", os.fsencode(home), b"run"} <= set(words):
                found.append(entry.parent)
    return found


def flushers(home: Path) -> list[str]:
    """Command lines of flushers of this home that run now."""
    found = []
    for process in processes(home):
        with suppress(OSError):
            found.append((process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace"))
    return found


def settled(home: Path, timeout_s: float = 20.0) -> None:
    """Wait until no flusher of this home runs."""
    deadline = time.monotonic() + timeout_s
    while flushers(home):
        assert time.monotonic() < deadline, flushers(home)
        time.sleep(0.05)


def test_the_end_of_a_host_starts_a_flusher_that_delivers(home: Path, server: LocalPostHog) -> None:
    """Nobody ran ktx-flush; the events are there, and no process is left."""
    assert run_python(HOST, home, server.url).returncode == 0
    wait_for(server, 2)
    settled(home)
    assert status(home)["accounting"]["delivered"] == 2


def test_the_next_start_delivers_what_a_killed_host_left(home: Path, server: LocalPostHog) -> None:
    """The first was killed before its end; the second captures, and both arrive."""
    run_python(HOST + "os._exit(0)", home, server.url)
    assert server.accepted == []
    run_python(HOST, home, server.url)
    wait_for(server, 3)
    settled(home)


def test_many_quick_commands_start_at_most_two_flushers(home: Path, server: LocalPostHog) -> None:
    """Thirty in a row within the interval: the server sees one or two requests."""
    for _ in range(30):
        run_python(HOST, home, server.url)
    settled(home)
    assert 1 <= len(server.requests) <= 2


# Commands one after the other, each a process of its own that loads nothing anew.
COMMANDS = """
import os, sys
import spool.capture, spool.queue.recovery
from spool import Telemetry
for _ in range(int(sys.argv[3])):
    if os.fork() == 0:
        t = Telemetry("ktx", "1", "phc_test", sys.argv[2], sys.argv[1], flush="auto")
        assert t.capture("scan_completed")
        sys.exit(0)
    _pid, code = os.wait()
    assert code == 0
"""


def test_offline_commands_leave_no_process_behind(home: Path) -> None:
    """Nobody listens: sixty commands, after a moment no flusher runs, everything is kept."""
    done = run_python(COMMANDS, home, "http://127.0.0.1:9", 60)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    settled(home, 30)
    assert status(home)["pending"] == 61
    runs = [json.loads(line) for line in (home / "spool" / "flush.log").read_text().splitlines()]
    assert {run["started_by"] for run in runs} == {"host"}
    assert {run["result"] for run in runs} <= {"destination not reached", "backing off"}


def test_a_flusher_does_not_hold_the_working_folder_or_the_terminal(
    home: Path, server: LocalPostHog, tmp_path: Path
) -> None:
    """Own session, streams on /dev/null, another working folder, low priority; seen in /proc while it runs."""
    if sys.platform == "win32":
        pytest.skip("no sessions of processes here")
    server.always(hang(8))
    folder = tmp_path / "work"
    folder.mkdir()
    subprocess.run([sys.executable, "-c", HOST, home, server.url], cwd=folder, env=environment(), check=True)
    deadline = time.monotonic() + 10
    while not server.requests and time.monotonic() < deadline:
        time.sleep(0.05)
    (child,) = processes(home)
    assert os.readlink(child / "cwd") == str(home / "spool")
    assert {os.readlink(child / "fd" / str(number)) for number in (0, 1, 2)} == {"/dev/null"}
    fields = (child / "stat").read_text().rsplit(")", 1)[1].split()
    assert int(fields[3]) != os.getsid(0)
    assert not Path(f"/proc/{fields[3]}").exists(), "the session has a leader, which could get a terminal"
    assert int(fields[16]) == max(10, min(19, os.nice(0) + 10)), "ten steps back from where the host stands"
    names = {pair.split("=")[0] for pair in (child / "environ").read_text().split("\0") if pair}
    assert GUARD in names
    server.behave()
    os.kill(int(child.name), 15)
    settled(home)


def test_a_flusher_is_no_child_of_the_host_and_holds_none_of_its_pipes(home: Path, server: LocalPostHog) -> None:
    """A host that waits for any child sees none; whoever reads from a pipe that it inherited gets to its end."""
    server.always(hang(8))
    run_python(HOST + "os._exit(0)", home, server.url)
    read, write = os.pipe()
    code = HOST + "try: os.wait()\nexcept ChildProcessError: print('no child')"
    host = subprocess.run(
        [sys.executable, "-c", code, home, server.url],
        env=environment(), pass_fds=[write], capture_output=True, text=True, check=True,
    )  # fmt: skip
    os.close(write)
    assert host.stdout == "no child\n"
    assert os.read(read, 1) == b""
    os.close(read)
    (line,) = flushers(home)
    assert "--detached" in line
    server.behave()
    settled(home)


@pytest.mark.root
@NEEDS_ROOT
def test_a_flusher_starts_where_there_is_no_shell(home: Path, server: LocalPostHog, tmp_path: Path) -> None:
    """In a container without a /bin/sh to run it is a child of the host, and delivers."""
    nothing = tmp_path / "sh"
    nothing.touch()
    shell = Path("/bin/sh").resolve()
    command = [sys.executable, "-c", HOST, str(home), server.url]
    mounting = ["unshare", "--mount", "sh", "-c", f'mount --bind {nothing} {shell} && exec "$@"', "sh"]
    done = subprocess.run([*mounting, *command], env=environment(), capture_output=True, text=True, check=False)
    if "unshare" in done.stderr or "mount" in done.stderr:
        pytest.skip(f"mounting isn't allowed here: {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr
    wait_for(server, 2)
    settled(home)


def test_a_hostile_working_folder_and_environment_change_nothing(
    home: Path, server: LocalPostHog, tmp_path: Path
) -> None:
    """Planted modules and variables are not taken up by the flusher that a host starts."""
    folder = tmp_path / "work"
    folder.mkdir()
    for name in ("flusher.py", "posthog.py", "sitecustomize.py", "typer.py"):
        (folder / name).write_text(f"open({str(tmp_path / 'taken')!r}, 'w')")
    code = HOST + "os.environ['PYTHONSTARTUP'] = os.environ['PYTHONPATH'] = os.getcwd(); os.chdir(sys.argv[3])"
    run_python(code, home, server.url, folder, env=environment(POSTHOG_CAPTURE_MODE="v1"))
    wait_for(server, 2)
    settled(home)
    assert not (tmp_path / "taken").exists()


def test_flush_waits_no_longer_than_it_was_told(home: Path, server: LocalPostHog) -> None:
    """True when drained in time; False, in time, when the server says nothing."""
    code = HOST.replace('"auto"', '"never"') + (
        "import time; began = time.monotonic(); done = t.flush(float(sys.argv[3]))\n"
        "print(done, time.monotonic() - began)"
    )
    done, _took = run_python(code, home, server.url, 30).stdout.split()
    assert done == "True"
    server.always(hang(30))
    done, took = run_python(code, home, server.url, 1.5).stdout.split()
    assert done == "False"
    assert float(took) < 6
    server.behave()


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="children are listed in /proc")
def test_a_flush_that_times_out_leaves_no_pipe_and_no_zombie(home: Path, server: LocalPostHog) -> None:
    """Its child goes on and delivers, without a ResourceWarning, and is reaped at the next flush."""
    code = HOST.replace('"auto"', '"never"') + (
        "import gc, time\n"
        "from pathlib import Path\n"
        "children = Path(f'/proc/self/task/{os.getpid()}/children')\n"
        "before = len(os.listdir('/proc/self/fd'))\n"
        "assert not t.flush(0.05)\n"
        "gc.collect()\n"
        "print(len(os.listdir('/proc/self/fd')) - before)\n"
        "child, end = Path('/proc', children.read_text().strip(), 'status'), time.monotonic() + 60\n"
        "while 'State:\\tZ' not in child.read_text() and time.monotonic() < end: time.sleep(0.05)\n"
        "print(t.flush(60), children.read_text().split())\n"
        "t.flush(0.01)\n"
    )
    server.always(slow(0.2))
    done = run_python(code, home, server.url, env=environment(PYTHONWARNINGS="error"), timeout_s=150)
    assert done.stdout == "0\nTrue []\n", done.stderr
    assert "Warning" not in done.stderr
    settled(home)
    runs = [json.loads(line) for line in Paths(home).flush_log.read_text().splitlines()]
    assert [run["result"] for run in runs[:2]] == ["delivered", "nothing to do"]


@pytest.mark.parametrize("variable", ["KTX_TELEMETRY_DISABLED", GUARD])
def test_nothing_is_started_when_off_or_inside_a_flusher(variable: str, home: Path, server: LocalPostHog) -> None:
    """No recursion, no process of one who said no."""
    run_python(HOST.replace("assert ", ""), home, server.url, env=environment(**{variable: "1"}))
    time.sleep(1.0)
    assert server.requests == []
    assert flushers(home) == []


def test_when_an_attempt_is_due(home: Path) -> None:
    """A table: no state, a wait, a wait after a jump of the clock, a recent success, a recent launch."""
    paths = Paths(home)
    paths.spool.mkdir(parents=True)
    assert is_due(paths, 1000.0, 300.0)
    for fields, now, due in (
        ({"next_attempt": 1100.0, "delay_s": 200.0}, 1000.0, False),
        ({"next_attempt": 1100.0, "delay_s": 200.0}, 1100.0, True),
        ({"next_attempt": 1100.0, "delay_s": 50.0}, 1000.0, True),
        ({"last_success": 900.0}, 1000.0, False),
        ({"last_success": 600.0}, 1000.0, True),
        ({"last_success": 5000.0}, 1000.0, True),
        ({"next_attempt": "soon"}, 1000.0, True),
    ):
        paths.flush_state.write_text(json.dumps(fields))
        assert is_due(paths, now, 300.0) is due, fields
    for content in ("", "{", "[]", "[" * 100_000):
        paths.flush_state.write_text(content)
        assert is_due(paths, 1000.0, 300.0)
    launched = paths.spool / "launched"
    launched.touch()
    os.utime(launched, (990.0, 990.0))
    assert not is_due(paths, 1000.0, 300.0)
    assert is_due(paths, 1030.0, 300.0)
    assert is_due(paths, 900.0, 300.0)


def test_whether_something_waits_is_told_without_the_queue(home: Path) -> None:
    """By the times of files alone."""
    paths = Paths(home)
    assert not waits(paths)
    paths.queue.mkdir(parents=True)
    (paths.queue / "cache.db").touch()
    assert waits(paths)
    os.utime(paths.queue / "cache.db", (1000.0, 1000.0))
    paths.flush_state.touch()
    assert not waits(paths)


def test_a_flusher_gets_nothing_of_the_environment_that_could_redirect_it() -> None:
    """PYTHON*, POSTHOG_*, LD_* stay outside; consent, proxies and the destination go along."""
    env = {"PYTHONPATH": "x", "LD_PRELOAD": "x", "POSTHOG_HOST": "x", "KTX_TELEMETRY_KEY": "k", "CI": "0", "HOME": "/h"}
    assert set(child_environment("ktx", env)) == {"KTX_TELEMETRY_KEY", "CI", "HOME", GUARD}
    bundle = child_environment(
        "ktx", {"REQUESTS_CA_BUNDLE": "ca.pem", "SSL_CERT_FILE": "/ca.pem", "CURL_CA_BUNDLE": ""}
    )
    assert {bundle["REQUESTS_CA_BUNDLE"], bundle["SSL_CERT_FILE"], bundle["CURL_CA_BUNDLE"]} == {
        os.path.abspath("ca.pem"), "/ca.pem", ""
    }  # fmt: skip
