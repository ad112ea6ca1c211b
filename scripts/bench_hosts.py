"""What a host pays: one command, in a small CLI and in real ones; import, opt-out, Ctrl-C while offline, launch."""

from __future__ import annotations

import os
import signal
import sqlite3
import statistics
import subprocess
import time
from contextlib import closing
from functools import partial

from filelock import FileLock

from scripts.bench_measure import PEERS, PYTHON, Bound, Row, Setting, Spent, clean, in_turns, medians, middle
from spool.home import Paths, write_atomic

__all__ = ["command", "importing", "interrupt", "launch", "off", "programs"]

# A port of this machine where nobody listens: what a client sees that is offline, at once and without an answer.
NOWHERE = "http://127.0.0.1:9"


# A cheap command of each real program, offline.
PROGRAMS = {
    "sqlite-utils": ("tables", "{folder}/x.db"),
    "flask": ("--app", "{folder}/app.py", "routes"),
    "httpie": ("--ignore-stdin", "--offline", "POST", "example.org", "a=b"),
}


def command(setting: Setting) -> list[Row]:
    """CPU that one captured command adds to a Typer CLI; the queue exists, no flush is due."""
    home, floor = setting.home("command"), setting.new_folder("floor")
    setting.flush(home)
    setting.peer("cli_floor", BENCH_HOME=str(floor))
    taken = in_turns(
        setting.rounds,
        {
            "plain": lambda: setting.peer("cli_plain"),
            "spool": lambda: setting.peer("cli_spool", BENCH_HOME=str(home)),
            "floor": lambda: setting.peer("cli_floor", BENCH_HOME=str(floor)),
            "posthog-python": lambda: setting.peer("cli_posthog"),
        },
    )
    return _added("a captured command", taken, {"floor": 2.0, "posthog-python": 0.35})


def programs(setting: Setting) -> list[Row]:
    """CPU that the same adds to three real programs, embedded as their authors would."""
    folder = setting.new_folder("programs")
    (folder / "app.py").write_text("from flask import Flask\napp = Flask(__name__)\n")
    # httpie would look for a newer version of itself.
    (folder / "config.json").write_text('{"disable_update_warnings": true}')
    with closing(sqlite3.connect(folder / "x.db")) as database:
        database.execute("CREATE TABLE x (y)")
    rows = []
    for name, arguments in PROGRAMS.items():
        home = setting.home("program")
        setting.flush(home)
        words = [word.format(folder=folder) for word in arguments]
        env = {"BENCH_HOME": str(home), "HTTPIE_CONFIG_DIR": str(folder)}
        ways = ("plain", "spool", "posthog-python")
        taken = in_turns(
            setting.rounds, {way: partial(setting.peer, "program", name, way, *words, **env) for way in ways}
        )
        rows += _added(f"the same in {name}", taken, {"posthog-python": 0.25})
    return rows


def _added(figure: str, taken: dict[str, list[Spent]], targets: dict[str, float]) -> list[Row]:
    """Give what spool adds to the plain program against what each peer adds, in CPU."""
    added = medians(taken, "plain")
    wall, cpu = added["spool"]
    base = 1000 * statistics.median(one.cpu_s for one in taken["plain"])
    return [
        Row(f"{figure}, CPU added", "ms", 1000 * cpu, name, 1000 * added[name][1], Bound("ratio", "<=", number),
            f"wall {1000 * wall:.0f} against {1000 * added[name][0]:.0f} ms; the program itself {base:.0f} ms")
        for name, number in targets.items()
    ]  # fmt: skip


def importing(setting: Setting) -> list[Row]:
    """What `from spool import Telemetry` adds to a process that has Typer."""
    seen = [setting.look("import") for _ in range(setting.rounds)]
    cpu_ms, least = middle("cpu_s", seen)
    return [Row("import spool, CPU added", "ms", cpu_ms, note=f"{least}; {seen[0]['modules']} modules")]


def off(setting: Setting) -> list[Row]:
    """What a command costs where the person said no: by a variable, and by `telemetry.json`."""
    refused = setting.home("off")
    consent = Paths(refused).identity
    write_atomic(consent, consent.read_bytes().replace(b'"enabled": true', b'"enabled": false'), durable=False)
    setting.look("off", refused)  # the first one deletes what waits
    seen = in_turns(
        setting.rounds,
        {
            "variable": lambda: setting.look("off", refused, BENCH_TELEMETRY_DISABLED="1"),
            "file": lambda: setting.look("off", refused),
        },
    )
    return [
        Row(f"an opted-out command ({name}), CPU", "ms", cpu_ms,
            target=Bound("value", "<=", 3), note=f"after the import; {least}")
        for name, taken in seen.items()
        for cpu_ms, least in [middle("cpu_s", taken)]
    ]  # fmt: skip


def interrupt(setting: Setting) -> list[Row]:
    """From Ctrl-C to the end of the process, with nobody at the other end."""
    home = setting.home("interrupt")
    env = {"BENCH_HOST": NOWHERE, "BENCH_HOME": str(home), "BENCH_TELEMETRY_ENDPOINT": NOWHERE}
    taken = in_turns(
        3 if setting.quick else 7,
        {name: lambda name=name: _interrupted(name, env) for name in ("cli_plain", "cli_spool", "cli_posthog")},  # type: ignore[misc]
    )
    plain, ours, its = (1000 * statistics.median(taken[name]) for name in taken)
    note = f"the CLI without telemetry {plain:.0f} ms"
    return [Row("from Ctrl-C to exit, offline", "ms", ours, "posthog-python", its, Bound("ratio", "<=", 0.05), note)]


def _interrupted(name: str, env: dict[str, str]) -> float:
    """Let a CLI get into its work and interrupt it a second later, as a person does; give the seconds to its end."""
    with subprocess.Popen(
        [str(PYTHON), str(PEERS / f"{name}.py"), "--wait", "60"],
        env=clean(**env), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    ) as process:  # fmt: skip
        assert process.stdout is not None  # noqa: S101 - it was asked for
        process.stdout.readline()
        time.sleep(1.0)
        started = time.perf_counter()
        process.send_signal(signal.SIGINT)
        process.wait()
        return time.perf_counter() - started


def launch(setting: Setting) -> list[Row]:
    """What a host pays to start a flusher that is due; the flusher before has ended."""
    home = setting.home("launch")
    setting.flush(home)
    seen = []
    for _ in range(setting.rounds):
        seen.append(setting.look("launch", home))
        _wait_for_flusher(Paths(home))
    (wall, least), (cpu, _) = middle("wall_s", seen), middle("cpu_s", seen)
    note = f"{least}; CPU {cpu:.1f} ms"
    return [Row("starting a flusher, wall", "ms", wall, target=Bound("value", "<=", 5), note=note)]


def _wait_for_flusher(paths: Paths, patience_s: float = 20.0) -> None:
    """Wait until the flusher that was started has written what came of it."""
    started, before = time.monotonic(), os.stat(paths.spool / "launched").st_mtime_ns
    while time.monotonic() - started < patience_s:
        if paths.flush_log.exists() and os.stat(paths.flush_log).st_mtime_ns > before:
            break
        time.sleep(0.02)
    with FileLock(paths.flush_lock, timeout=patience_s):
        pass
