"""A signal ends a command as it would without us, and the command tells of it; what survives one goes on."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.support.forks import run_forked
from tests.support.local_posthog import LocalPostHog
from tests.support.processes import environment, flush_json, run_python, start_python
from tests.support.ways import HEAD, host_code


def told(server: LocalPostHog) -> list[tuple[str, str, str | None]]:
    """Give name, outcome and recovery of each command that arrived, in the order of their ends."""
    events = [event["properties"] for event in server.accepted if event["event"] == "command"]
    return [(fields["commandPath"][-1], fields["outcome"], fields.get("spool_recovered")) for fields in events]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_ends_it_at_once(number: signal.Signals, home: Path, server: LocalPostHog) -> None:
    """The first one runs a `finally` that takes its time, if it is Ctrl-C; the second one does not wait for it."""
    end = "try: print('in', flush=True); time.sleep(20)\n    finally: print('tidying', flush=True); time.sleep(20)"
    with start_python(host_code("plain", end), home, server.url) as host:
        assert host.stdout is not None
        host.stdout.readline()
        host.send_signal(signal.SIGINT)
        assert host.stdout.readline() == "tidying\n"
        host.send_signal(number)
        host.communicate(timeout=10)
    assert host.returncode == -number
    flush_json(home)
    assert told(server) == [("work", "aborted", None)]


# What a host does with signals: its code, its exit code, what it prints, and the outcome of its command.
HANDLED: dict[str, tuple[str, str, tuple[int, str, str]]] = {
    "survives": (
        "signal.signal(signal.SIGTERM, lambda *_: print('term'))",
        "for _ in range(3): os.kill(os.getpid(), signal.SIGTERM)",
        (0, "term\nterm\nterm\n", "ok"),
    ),
    "catches Ctrl-C": (
        "",
        "for _ in range(3):\n        try: kill(signal.SIGINT)\n        except KeyboardInterrupt: print('again')",
        (0, "again\nagain\nagain\n", "ok"),
    ),
    "tidies up": ("", "try: kill(signal.SIGINT)\n    finally: print('tidied')", (-2, "tidied\n", "aborted")),
    "leaves well": (
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))",
        "kill(signal.SIGTERM)",
        (0, "", "aborted"),
    ),
    "raises": (
        "def handler(*_): raise LookupError\nsignal.signal(signal.SIGTERM, handler)",
        "kill(signal.SIGTERM)",
        (1, "", "aborted"),
    ),
    "catches what it raises": (
        "def handler(*_): raise LookupError\nsignal.signal(signal.SIGHUP, handler)",
        "try: kill(signal.SIGHUP)\n    except LookupError: pass",
        (0, "", "ok"),
    ),
    "leaves later": (
        "came = []\nsignal.signal(signal.SIGTERM, lambda number, _: came.append(number))",
        "os.kill(os.getpid(), signal.SIGTERM); sys.exit(128 + came[0])",
        (143, "", "aborted"),
    ),
    "fails later": (
        "signal.signal(signal.SIGTERM, lambda *_: None)",
        "os.kill(os.getpid(), signal.SIGTERM); sys.exit(3)",
        (3, "", "error"),
    ),
    "dies of Ctrl-C": ("signal.signal(signal.SIGINT, signal.SIG_DFL)", "kill(signal.SIGINT)", (-2, "", "aborted")),
    "ignores": ("signal.signal(signal.SIGHUP, signal.SIG_IGN)", "os.kill(os.getpid(), signal.SIGHUP)", (0, "", "ok")),
    "handles later": (
        "",
        "signal.signal(signal.SIGINT, lambda *_: print('later')); os.kill(os.getpid(), signal.SIGINT)",
        (0, "later\n", "ok"),
    ),
}


def test_what_the_host_does_with_a_signal_is_done_and_its_end_decides(home: Path, server: LocalPostHog) -> None:
    """Handlers set before and after, that return, raise and leave; a Ctrl-C that is caught; each as without us."""
    cases: dict[str, str] = {}
    for name, (before, statement, _end) in HANDLED.items():
        code = before + host_code("plain", statement, name).removeprefix(HEAD)
        cases |= {name: code, f"{name}, off": "os.environ['DO_NOT_TRACK'] = '1'\n" + code}
    ended = run_forked(HEAD + "t.capture('x')\n", cases, home, server.url)
    for name, (_before, _statement, (exit_code, said, _outcome)) in HANDLED.items():
        for case in (name, f"{name}, off"):
            assert (case, ended[case].code, ended[case].out) == (case, exit_code, said), ended[case].err
    flush_json(home)
    assert told(server) == [(name, outcome, None) for name, (_before, _do, (_c, _s, outcome)) in HANDLED.items()]


ASYNC = """
async def work():
    try:
        print("in", flush=True)
        await asyncio.sleep(20)
    except BaseException as error:
        print("task:", type(error).__name__, flush=True)
        raise
    finally:
        await asyncio.sleep(0.01)
        print("tidied", flush=True)
"""
ASYNC_HOSTS = {
    "asyncio": "with t.signals(), t.command(['ktx', 'work']): asyncio.run(work())",
    "within": (
        "async def main():\n    with t.command(['ktx', 'work']): await work()\nwith t.signals(): asyncio.run(main())"
    ),
    "typer": "import typer\napp = typer.Typer()\n@app.command()\ndef run(): asyncio.run(work())\nt.main(app, [])",
}


@pytest.mark.parametrize("host", ASYNC_HOSTS)
def test_ctrl_c_cancels_the_task_of_asyncio_as_without_us(host: str, home: Path, server: LocalPostHog) -> None:
    """The task is cancelled, not torn down by a KeyboardInterrupt; its `finally` may await; one aborted command."""
    ends = []
    for off in ("1", "0"):
        env = environment(DO_NOT_TRACK=off)
        with start_python(HEAD + ASYNC + ASYNC_HOSTS[host], home, server.url, env=env) as process:
            assert process.stdout is not None
            process.stdout.readline()
            process.send_signal(signal.SIGINT)
            out, _err = process.communicate(timeout=20)
        ends.append((process.returncode, out))
    assert ends[0] == ends[1] == (130 if host == "typer" else -2, "task: CancelledError\ntidied\n")
    flush_json(home)
    assert [outcome for _name, outcome, _killed in told(server)] == ["aborted"]


def test_a_signal_that_came_during_an_append_is_delivered_once(home: Path, server: LocalPostHog) -> None:
    """A host on asyncio, which hears of signals by a descriptor, with a second thread: each is counted once."""
    code = HEAD + (
        "import threading\n"
        "seen, sent, done = [], [], threading.Event()\n"
        "def send():\n"
        "    for number in range(100):\n"
        "        sent.append(number); os.kill(os.getpid(), signal.SIGHUP)\n"
        "        while len(seen) < len(sent): time.sleep(0.0005)\n"
        "    done.set()\n"
        "async def main():\n"
        "    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, lambda: seen.append(1))\n"
        "    threading.Thread(target=send).start()\n"
        "    while not done.is_set(): t.capture('x'); await asyncio.sleep(0)\n"
        "    await asyncio.sleep(0.1)\n"
        "    print(len(sent), len(seen))\n"
        "with t.signals(): asyncio.run(main())"
    )
    assert run_python(code, home, server.url).stdout == "100 100\n"


def test_nothing_is_installed_for_programmatic_callers(home: Path, server: LocalPostHog) -> None:
    """`command` and `capture` touch no handler; `signals` in a thread touches none either, and puts all back."""
    code = HEAD + (
        "import threading\n"
        "names = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]\n"
        "before = [signal.getsignal(n) for n in names]\n"
        "with t.command(['ktx', 'work']):\n"
        "    t.capture('x'); assert [signal.getsignal(n) for n in names] == before\n"
        "def work():\n"
        "    with t.signals(): assert [signal.getsignal(n) for n in names] == before; print('ok')\n"
        "thread = threading.Thread(target=work); thread.start(); thread.join()\n"
        "with t.signals(): assert signal.getsignal(signal.SIGINT) is signal.default_int_handler\n"
        "assert [signal.getsignal(n) for n in names] == before\n"
    )
    assert run_python(code, home, server.url).stdout == "ok\n"


# How a process goes on without coming back: what it does, what it prints, and the commands that it tells of.
GONE: dict[str, tuple[str, str, list[tuple[str, str, str | None]]]] = {
    "exec": (
        """
with t.command(["ktx", "run"]) as span:
    span.finish(); os.execv(sys.executable, [sys.executable, "-c", "print(1)"])
""",
        "1\n",
        [("run", "ok", None)],
    ),
    "exec without a word": (
        """
with t.command(["ktx", "run"]): os.execv(sys.executable, [sys.executable, "-c", "print(1)"])
""",
        "1\n",
        [("run", "aborted", "killed")],
    ),
    "exit in the middle": (
        """
with t.command(["ktx", "run"]): t.span.finish("error"); os._exit(3)
""",
        "",
        [("run", "error", None)],
    ),
    "daemon": (
        """
with t.command(["ktx", "start"]) as span:
    span.finish()
    if os.fork(): os._exit(0)
    os.setsid()
    if os.fork(): os._exit(0)
    with t.command(["ktx", "daemon"]): time.sleep(0.3)
    os.write(1, b"over\\n")
""",
        "over\n",
        [("start", "ok", None), ("daemon", "ok", None)],
    ),
    "child of a command": (
        """
with t.command(["ktx", "parent"]):
    pid = os.fork()
    if pid == 0:
        with t.command(["ktx", "child"]): pass
        sys.exit(0)
    os.waitpid(pid, 0)
""",
        "",
        [("child", "ok", None), ("parent", "ok", None)],
    ),
}


def test_a_command_that_finishes_before_it_leaves_for_good_is_no_killed_one(home: Path, server: LocalPostHog) -> None:
    """Another program in its place, a daemon that forks twice, os._exit: told at `finish`, and once."""
    for code, said, _commands in GONE.values():
        with start_python(HEAD + code, home, server.url) as host:
            out, err = host.communicate(timeout=20)  # ends when the last of its processes has
        assert out == said, err
    flush_json(home)
    assert told(server) == [command for _code, _said, commands in GONE.values() for command in commands]
