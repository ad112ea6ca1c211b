"""Guarantee 4: every command that began yields exactly one `command` event, however it ends."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from tests.support.local_posthog import LocalPostHog
from tests.support.processes import environment, flush, flush_json, run_python, start_python, status

# How a command ends: a statement, the exit code of the process, and outcome and class in the event.
ENDS: dict[str, tuple[str, int, str, str | None]] = {
    "return": ("pass", 0, "ok", None),
    "exception": ("raise LookupError('no such thing')", 1, "error", "LookupError"),
    "sys.exit(0)": ("sys.exit(0)", 0, "ok", None),
    "sys.exit(7)": ("sys.exit(7)", 7, "error", None),
    "sys.exit(text)": ("sys.exit('words')", 1, "error", None),
    "Ctrl-C": ("kill(signal.SIGINT)", 130, "aborted", None),
    "SIGTERM": ("kill(signal.SIGTERM)", -15, "aborted", None),
    "SIGHUP": ("kill(signal.SIGHUP)", -1, "aborted", None),
    "kill -9": ("kill(signal.SIGKILL)", -9, "aborted", None),
    "os._exit": ("os._exit(3)", 3, "aborted", None),
    "crash": ("os.abort()", -6, "aborted", None),
    "segfault": ("import faulthandler; faulthandler._sigsegv()", -11, "aborted", None),
    "out of memory": ("raise MemoryError", 1, "error", "MemoryError"),
}
KILLED = {"kill -9", "os._exit", "crash", "segfault"}

HEAD = """
import asyncio, os, random, resource, signal, sys, time
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
from spool import Telemetry
t = Telemetry("ktx", "1", "phc_test", sys.argv[2], sys.argv[1], flush="never")
def kill(number):
    os.kill(os.getpid(), number); time.sleep(20)
"""
HOSTS = {
    "plain": """
with t.signals(), t.command(["ktx", "work"], {"json": True}):
    END
""",
    "async": """
async def work():
    with t.command(["ktx", "work"], {"json": True}):
        await asyncio.sleep(0)
        END
with t.signals():
    asyncio.run(work())
""",
    "typer": """
import typer
from typing import Annotated
app = typer.Typer(pretty_exceptions_enable=False)
@app.command()
def work(name: str, machine: Annotated[bool, typer.Option("--json")] = False):
    END
@app.command()
def other(): pass
t.main(app, ["work", "SECRET-NAME", "--json"])
""",
    "click": """
import click
@click.group()
def app(): pass
@app.command()
@click.argument("name")
@click.option("--json", "machine", is_flag=True)
def work(name, machine):
    END
t.main(app, ["work", "SECRET-NAME", "--json"])
""",
}


def host_code(host: str, end: str) -> str:
    """Put an ending into a host, at its indentation."""
    return HEAD + HOSTS[host].replace("END", end)


def command_events(server: LocalPostHog) -> list[dict[str, Any]]:
    """Give the command events that arrived, every copy."""
    return [event for event in server.accepted if event["event"] == "command"]


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("end", ENDS)
def test_one_command_event_whatever_ends_the_command(end: str, host: str, home: Path, server: LocalPostHog) -> None:
    """Thirteen ways to end by four kinds of hosts; the process ends for its parent as it would without us."""
    statement, code, outcome, error_class = ENDS[end]
    done = run_python(host_code(host, statement), home, server.url)
    if end == "Ctrl-C" and host in ("plain", "async"):
        code = -2
    if end == "Ctrl-C" and host == "click":
        code = 1
    assert done.returncode == code, done.stderr
    assert done.stdout == ""
    report = flush_json(home)
    assert (report["exit_code"], report["recovered_spans"]) == (0, int(end in KILLED))
    (event,) = command_events(server)
    properties = event["properties"]
    assert properties["commandPath"] == ["ktx", "work"]
    assert properties["outcome"] == outcome
    assert properties.get("errorClass") == error_class
    assert properties["flagsPresent"] == {"json": True}
    assert properties["durationMs"] >= 0
    assert (properties["hasProject"], properties["projectGroupAttached"]) == (False, False)
    assert properties.get("spool_recovered") == ("killed" if end in KILLED else None)
    assert "SECRET-NAME" not in json.dumps(server.accepted)
    assert status(home)["open_spans"] == 0


def test_five_hundred_commands_killed_at_random_give_five_hundred_events(home: Path, server: LocalPostHog) -> None:
    """Killed before, in and after their work, in batches of one process that forks; none missing, none twice."""
    code = (
        HEAD
        + """
rng = random.Random(5)
began = 0
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
    outcomes = {event["properties"]["outcome"] for event in events}
    assert outcomes == {"ok", "aborted"}
    assert status(home)["open_spans"] == 0


def test_a_process_killed_between_the_event_and_the_removal_of_its_span_counts_once(
    home: Path, server: LocalPostHog
) -> None:
    """The event is in the queue, the file is still there: the flusher removes it and adds nothing."""
    cut = "real = os.unlink\nos.unlink = lambda path: os._exit(9) if 'spans' in str(path) else real(path)\n"
    done = run_python(HEAD + cut + HOSTS["plain"].replace("END", "pass"), home, server.url)
    assert done.returncode == 9
    assert status(home)["open_spans"] == 1
    report = flush_json(home)
    assert (report["recovered_spans"], report["remaining"]) == (0, 0)
    (event,) = command_events(server)
    assert event["properties"]["outcome"] == "ok"
    assert status(home)["open_spans"] == 0


def test_an_event_aside_and_a_span_of_the_same_command_count_once(home: Path, server: LocalPostHog) -> None:
    """The queue was locked at the end, then the process was killed before it removed its span."""
    code = (
        HEAD
        + """
from spool.lock import FileLock
from spool.paths import Paths
from pathlib import Path
t.capture("first")
lock = FileLock(Paths(Path(sys.argv[1])).queue_lock)
with t.command(["ktx", "work"]):
    lock.acquire(1.0)
    os.unlink = lambda *_: os._exit(9)
"""
    )
    assert run_python(code, home, server.url).returncode == 9
    told = status(home)
    assert (told["open_spans"], told["aside"]) == (1, 2)
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
    assert status(home)["open_spans"] == 1
    run_python(HEAD + "assert t.capture('next')", home, server.url)
    assert status(home)["open_spans"] == 0
    assert flush_json(home)["recovered_spans"] == 0
    assert len(command_events(server)) == 1


def test_a_living_command_is_left_alone_also_when_it_is_stopped(home: Path, server: LocalPostHog) -> None:
    """The lock tells, and no number of a process: a stopped command is not dead."""
    with start_python(host_code("plain", "print('in', flush=True); time.sleep(30)"), home, server.url) as host:
        assert host.stdout is not None
        host.stdout.readline()
        host.send_signal(signal.SIGSTOP)
        assert flush_json(home)["recovered_spans"] == 0
        assert status(home)["open_spans"] == 1
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


def test_a_second_signal_ends_it_at_once(home: Path, server: LocalPostHog) -> None:
    """The first Ctrl-C runs a `finally` that takes its time; the second one does not wait for it."""
    end = "try: print('in', flush=True); time.sleep(20)\n    finally: print('tidying', flush=True); time.sleep(20)"
    with start_python(host_code("plain", end), home, server.url) as host:
        assert host.stdout is not None
        host.stdout.readline()
        host.send_signal(signal.SIGINT)
        assert host.stdout.readline() == "tidying\n"
        host.send_signal(signal.SIGINT)
        host.communicate(timeout=10)
    assert host.returncode == -signal.SIGINT
    flush_json(home)
    (event,) = command_events(server)
    assert (event["properties"]["outcome"], "spool_recovered" in event["properties"]) == ("aborted", False)


def test_the_hosts_own_handlers_stay_and_are_called(home: Path, server: LocalPostHog) -> None:
    """One set before is called; one set later is not ours to touch; an ignored signal stays ignored."""
    code = HEAD + (
        "said = []\n"
        "signal.signal(signal.SIGTERM, lambda *_: said.append('before'))\n"
        "signal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
        "with t.signals(), t.command(['ktx', 'work']):\n"
        "    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN\n"
        "    signal.signal(signal.SIGINT, lambda *_: said.append('later'))\n"
        "    os.kill(os.getpid(), signal.SIGINT); os.kill(os.getpid(), signal.SIGTERM)\n"
        "print(said)"
    )
    done = run_python(code, home, server.url)
    assert (done.returncode, done.stdout) == (0, "['later', 'before']\n")
    flush_json(home)
    (event,) = command_events(server)
    assert event["properties"]["outcome"] == "aborted"


def test_nothing_is_installed_for_programmatic_callers(home: Path, server: LocalPostHog) -> None:
    """`command` and `capture` touch no handler; `signals` in a thread touches none either."""
    code = HEAD + (
        "import threading\n"
        "names = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]\n"
        "before = [signal.getsignal(n) for n in names]\n"
        "with t.command(['ktx', 'work']):\n"
        "    t.capture('x'); assert [signal.getsignal(n) for n in names] == before\n"
        "def work():\n"
        "    with t.signals(): assert [signal.getsignal(n) for n in names] == before; print('ok')\n"
        "thread = threading.Thread(target=work); thread.start(); thread.join()\n"
        "with t.signals(): pass\n"
        "assert [signal.getsignal(n) for n in names] == before\n"
    )
    assert run_python(code, home, server.url).stdout == "ok\n"


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


MISTAKES = {
    "unknown outcome": ("with t.command(['k']) as s: s.annotate(outcome='great')", "outcome"),
    "span within a span": ("with t.command(['k']), t.command(['l']): pass", "under way"),
    "no path": ("with t.command([]): pass", "path"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_raises_in_strict_mode_and_never_costs_a_command(
    mistake: str, home: Path, server: LocalPostHog
) -> None:
    """In production the command goes on and is counted once."""
    code, word = MISTAKES[mistake]
    strict = run_python(HEAD + code, home, server.url, env=environment(KTX_TELEMETRY_STRICT="1"))
    assert strict.returncode == 1
    assert word in strict.stderr.splitlines()[-1]
    assert 'File "<string>"' in strict.stderr
    loose = run_python(HEAD + code + "\nprint('went on')", home, server.url)
    assert (loose.returncode, loose.stdout) == (0, "went on\n")


def test_a_span_left_open_is_closed_at_exit(home: Path, server: LocalPostHog) -> None:
    """Somebody forgot the `with`: the end of the process tells that the command never ended."""
    run_python(HEAD + "t.command(['ktx', 'work']).__enter__()", home, server.url)
    assert flush_json(home)["recovered_spans"] == 0
    (event,) = command_events(server)
    assert event["properties"]["outcome"] == "aborted"


@pytest.mark.parametrize("app", ["object()", "lambda: None", "__import__('argparse').ArgumentParser()"])
def test_an_app_that_is_neither_typer_nor_click_is_refused_with_words(app: str, home: Path) -> None:
    """The author sees at the first run what to use instead."""
    done = run_python(HEAD + f"t.main({app})", home, "http://127.0.0.1:1")
    assert done.returncode == 1
    assert "Typer or Click" in done.stderr.splitlines()[-1]


NESTED = """
import typer
from typing import Annotated
app, mcp = typer.Typer(), typer.Typer()
app.add_typer(mcp, name="mcp")
@app.callback()
def root(config: str = "", verbose: bool = False): pass
@mcp.command()
def stdio(number: Annotated[int, typer.Option("-n", "--number")] = 0, quick: Annotated[bool, typer.Option("-q")] = False
):
    pass
@app.command()
def fail(how: str):
    if how == "exit": raise typer.Exit(4)
    if how == "clean": raise typer.Exit()
    if how == "abort": raise typer.Abort()
    raise RuntimeError(how)
"""
LINES: dict[str, tuple[int, list[tuple[list[str], dict[str, bool], str, str | None]]]] = {
    "mcp stdio": (0, [(["ktx", "mcp", "stdio"], {}, "ok", None)]),
    "--config mcp mcp stdio -qn 5": (
        0, [(["ktx", "mcp", "stdio"], {"config": True, "number": True, "q": True}, "ok", None)]),
    "fail exit": (4, [(["ktx", "fail"], {}, "error", None)]),
    "fail clean": (0, [(["ktx", "fail"], {}, "ok", None)]),
    "fail abort": (1, [(["ktx", "fail"], {}, "aborted", None)]),
    "mcp stdio --number SECRET": (2, [(["ktx", "mcp", "stdio"], {"number": True}, "error", "BadParameter")]),
    "mcp stdio --SECRET": (2, [(["ktx", "mcp", "stdio"], {}, "error", "NoSuchOption")]),
    "SECRET": (2, [(["ktx"], {}, "error", "UsageError")]),
    "--help": (0, []),
    "mcp stdio --help": (0, []),
}  # fmt: skip


@pytest.mark.parametrize("line", LINES)
def test_the_path_the_flags_and_the_exit_code_of_a_command_line(line: str, home: Path, server: LocalPostHog) -> None:
    """Nested groups, attached values, usage errors; nothing that was typed, and nothing for --help."""
    code, expected = LINES[line]
    done = run_python(HEAD + NESTED + f"t.main(app, {line.split()!r})", home, server.url)
    assert done.returncode == code, done.stderr
    flush(home)
    told = [
        (p["commandPath"], p["flagsPresent"], p["outcome"], p.get("errorClass"))
        for p in (event["properties"] for event in command_events(server))
    ]
    assert told == expected
    assert "SECRET" not in json.dumps(server.accepted)


def test_shell_completion_is_no_command(home: Path, server: LocalPostHog) -> None:
    """The shell asks at every press of a key: nothing is captured, no home appears."""
    env = environment(_KTX_COMPLETE="complete_bash", COMP_WORDS="ktx mc", COMP_CWORD="1")
    run_python(HEAD + NESTED + "t.main(app, [])", home, server.url, env=env)
    assert not home.exists()


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
