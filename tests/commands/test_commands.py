"""Guarantee 4: every command that began yields exactly one `command` event, however it ends."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from flusher.report.status import Status, collect
from spool.home import Paths
from tests.support.forks import run_forked
from tests.support.local_posthog import LocalPostHog
from tests.support.processes import environment, flush_json, run_python, start_python
from tests.support.ways import ENDS, HEAD, HOSTS, KILLED, LOADED, expected, host_code

if sys.platform == "win32":
    pytest.skip("processes are killed and stopped here by POSIX signals", allow_module_level=True)


def state(home: Path) -> Status:
    """Give what `ktx-flush status` would say, after checking that its account adds up."""
    told = collect("ktx", Paths(home), {})
    assert told.problem is None
    assert told.account.balanced
    return told


def command_events(server: LocalPostHog) -> list[dict[str, Any]]:
    """Give the command events that arrived, every copy."""
    return [event for event in server.accepted if event["event"] == "command"]


@pytest.mark.parametrize("host", HOSTS)
def test_one_command_event_whatever_ends_the_command(host: str, home: Path, server: LocalPostHog) -> None:
    """Thirteen ways to end by six kinds of hosts; the process ends for its parent as it would without us."""
    if host == "mcp":
        pytest.importorskip("mcp", reason="the official MCP SDK is not installed")
    names = {f"way{number}": way for number, way in enumerate(ENDS)}
    cases = {way: host_code(host, ENDS[way].statement, name).removeprefix(HEAD) for name, way in names.items()}
    for way, done in run_forked(f"{HEAD}{LOADED.get(host, '')}t.capture('x')\n", cases, home, server.url).items():
        assert (way, done.code) == (way, expected(host, way).code), done.err
        assert all(host == "mcp" and json.loads(line)["jsonrpc"] for line in done.out.splitlines())
    assert flush_json(home)["exit_code"] == 0
    told = {}
    for event in command_events(server):
        properties = event["properties"]
        told[names[properties["commandPath"][1]]] = (
            properties["outcome"], properties.get("errorClass"), properties.get("spool_recovered"),
        )  # fmt: skip
        assert properties["commandPath"][0] == "ktx"
        assert properties["flagsPresent"] == {"json": True}
        assert properties["durationMs"] >= 0
        assert (properties["hasProject"], properties["projectGroupAttached"]) == (False, False)
    assert told == {way: (*expected(host, way)[2:], "killed" if way in KILLED else None) for way in ENDS}
    assert len(command_events(server)) == len(ENDS)
    assert "SECRET-NAME" not in json.dumps(server.accepted)
    assert state(home).open_spans == 0


def test_five_hundred_commands_killed_at_random_give_five_hundred_events(home: Path, server: LocalPostHog) -> None:
    """Killed before, in and after their work, by one process that forks; none missing, none twice."""
    code = (
        HEAD
        + """
import gc, spool.command.span, spool.exception.redaction, spool.beside.spans
rng = random.Random(5)
t.capture("loads the rest of what a command needs, once for all")
gc.freeze()
for number in range(500):
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        with t.command(["ktx", "work"], {"n": True}):
            os.write(write, b"x")
            for _ in range(100): time.sleep(0.0001)
        os._exit(0)
    os.close(write)
    os.read(read, 1); os.close(read)
    time.sleep(rng.uniform(0, 0.02))
    os.kill(pid, 9); os.waitpid(pid, 0)
"""
    )
    assert run_python(code, home, server.url, timeout_s=240).returncode == 0
    flush_json(home)
    events = command_events(server)
    assert len(events) == 500
    assert len({event["uuid"] for event in events}) == 500
    # How many came to their end first, the machine decides.
    assert {event["properties"]["outcome"] for event in events} - {"ok"} == {"aborted"}
    assert state(home).open_spans == 0


def test_a_process_killed_between_the_event_and_the_removal_of_its_span_counts_once(
    home: Path, server: LocalPostHog
) -> None:
    """The event is in the queue, the file is still there: the flusher removes it and adds nothing."""
    cut = "real = os.unlink\nos.unlink = lambda path: os._exit(9) if 'spans' in str(path) else real(path)\n"
    done = run_python(HEAD + cut + HOSTS["plain"].replace("END", "pass"), home, server.url)
    assert done.returncode == 9
    assert state(home).open_spans == 1
    report = flush_json(home)
    assert (report["recovered_spans"], report["remaining"]) == (0, 0)
    (event,) = command_events(server)
    assert event["properties"]["outcome"] == "ok"
    assert state(home).open_spans == 0


def test_an_event_aside_and_a_span_of_the_same_command_count_once(home: Path, server: LocalPostHog) -> None:
    """The queue was locked at the end, then the process was killed before it removed its span."""
    code = (
        HEAD
        + """
from spool.queue import FileLock
from spool.home.paths import Paths
from pathlib import Path
t.capture("first")
lock = FileLock(Paths(Path(sys.argv[1])).queue_lock)
with t.command(["ktx", "work"]):
    lock.acquire(1.0)
    os.unlink = lambda *_: os._exit(9)
"""
    )
    assert run_python(code, home, server.url).returncode == 9
    told = state(home)
    assert (told.open_spans, told.aside) == (1, 2)
    assert flush_json(home)["exit_code"] == 0
    (event,) = command_events(server)
    assert event["properties"]["outcome"] == "ok"


# The flusher stops at the n-th removal of a file, as by kill -9.
CUT_FLUSHER = """
import os, sys
left = [int(sys.argv.pop())]
real = os.unlink
def cut(path, *a, **k):
    if "spans" in str(path):
        left[0] -= 1
        if left[0] <= 0: os._exit(9)
    real(path, *a, **k)
os.unlink = cut
from flusher.cli import main
main()
"""


def test_recovering_flushers_that_are_killed_count_each_command_once(home: Path, server: LocalPostHog) -> None:
    """Five dead spans; flushers die at the first, the second ... removal; two more recover at once."""
    waiting = host_code("plain", "print('in', flush=True); time.sleep(60)")
    hosts = [start_python(waiting, home, server.url) for _ in range(5)]
    for host in hosts:
        assert host.stdout is not None
        host.stdout.readline()
    for host in hosts:
        host.kill()
        host.communicate()
    for nth in (1, 2):
        with start_python(CUT_FLUSHER, "--home", home, "run", nth, env=environment()) as flusher:
            flusher.communicate(timeout=60)
        assert flusher.returncode == 9
    both = [start_python("from flusher.cli import main; main()", "--home", home, "run") for _ in range(2)]
    for process in both:
        process.communicate(timeout=60)
    flush_json(home)
    events = command_events(server)
    assert len({event["uuid"] for event in events}) == len(events) == 5
    assert {event["properties"]["spool_recovered"] for event in events} == {"killed"}


def test_the_next_start_of_any_host_recovers_too(home: Path, server: LocalPostHog) -> None:
    """No flusher ran in between: the event of the killed command is in the queue after the next capture."""
    run_python(host_code("plain", "kill(signal.SIGKILL)"), home, server.url)
    assert state(home).open_spans == 1
    run_python(HEAD + "assert t.capture('next')", home, server.url)
    assert state(home).open_spans == 0
    assert flush_json(home)["recovered_spans"] == 0
    assert len(command_events(server)) == 1


def test_a_living_command_is_left_alone_also_when_it_is_stopped(home: Path, server: LocalPostHog) -> None:
    """The lock tells, and no number of a process: a stopped command is not dead."""
    with start_python(host_code("plain", "print('in', flush=True); time.sleep(30)"), home, server.url) as host:
        assert host.stdout is not None
        host.stdout.readline()
        host.send_signal(signal.SIGSTOP)
        assert flush_json(home)["recovered_spans"] == 0
        assert state(home).open_spans == 1
        host.send_signal(signal.SIGCONT)
        host.send_signal(signal.SIGTERM)
        host.communicate(timeout=20)
    assert host.returncode == -signal.SIGTERM
    flush_json(home)
    (event,) = command_events(server)
    assert "spool_recovered" not in event["properties"]


def test_a_child_that_was_forked_does_not_keep_a_killed_parent_alive(home: Path, server: LocalPostHog) -> None:
    """The child closes the descriptor that it inherited: the parent's span is dead with the parent."""
    code = HEAD + (
        "with t.command(['ktx', 'work']):\n"
        "    pid = os.fork()\n"
        "    if pid == 0: time.sleep(8); os._exit(0)\n"
        "    os.write(1, b'forked\\n'); kill(signal.SIGKILL)"
    )
    with start_python(code, home, server.url, start_new_session=True) as host:
        assert host.stdout is not None
        host.stdout.readline()
        host.wait(timeout=20)
        time.sleep(0.2)
        assert flush_json(home)["recovered_spans"] == 1
        os.killpg(host.pid, signal.SIGKILL)


def test_annotations_name_the_outcome_and_a_thrown_error_wins(home: Path, server: LocalPostHog) -> None:
    """A wizard that the person left is aborted; an error after an annotation is an error."""
    code = HEAD + (
        "with t.command(['ktx', 'setup']) as span: span.annotate(outcome='aborted', error_class='WizardLeft')\n"
        "try:\n"
        "    with t.command(['ktx', 'run']) as span: span.annotate(outcome='aborted'); raise ValueError('x')\n"
        "except ValueError: pass\n"
        "with t.command(['ktx', 'odd']) as span: span.annotate(outcome='great')\n"
    )
    assert run_python(code, home, server.url).returncode == 0
    flush_json(home)
    told = [(e["properties"]["outcome"], e["properties"].get("errorClass")) for e in command_events(server)]
    assert told == [("aborted", "WizardLeft"), ("error", "ValueError"), ("ok", None)]


def test_the_duration_of_a_killed_command_ends_with_its_last_sign_of_life(home: Path, server: LocalPostHog) -> None:
    """A capture 0.4 s after the beginning, the kill 0.6 s later: some 400 ms are known."""
    end = "time.sleep(0.4); t.capture('sign'); time.sleep(0.6); kill(signal.SIGKILL)"
    run_python(host_code("plain", end), home, server.url)
    flush_json(home)
    (event,) = command_events(server)
    assert 350 <= event["properties"]["durationMs"] <= 900


def test_off_leaves_no_span(home: Path, server: LocalPostHog) -> None:
    """Telemetry is off: a command leaves no file, alive or killed."""
    run_python(host_code("plain", "kill(signal.SIGKILL)"), home, server.url, env=environment(DO_NOT_TRACK="1"))
    assert not home.exists()
