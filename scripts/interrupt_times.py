"""Measure from Ctrl-C (and SIGTERM) to the exit of a command: without telemetry, with it, and with it offline.

    .venv/bin/python scripts/interrupt_times.py [ROUNDS]

Each round plays all three one after the other, so that a busy machine is busy for all of them; what is told is the
median of the differences within a round, in wall and in processor time from the signal to the end. The flusher is
started anew at each end, and killed once the command is over. Exit code 1 over 50 ms of wall time.
"""

from __future__ import annotations

import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tests.support.local_posthog import LocalPostHog  # noqa: E402 - found through the line above
from tests.support.processes import environment  # noqa: E402 - with it

if sys.platform == "win32":
    sys.exit("the times are read from /proc")

HOSTS = {
    "plain": "with t.signals(), t.command(['ktx', 'work']):\n    print('in', flush=True); time.sleep(60)",
    "typer": """
import typer
app = typer.Typer()
@app.command()
def work(): print("in", flush=True); time.sleep(60)
t.main(app, [])
""",
}
HEAD = (
    "import sys, time\nfrom spool import Telemetry\nt = Telemetry('ktx', '1', 'phc_test', sys.argv[2], sys.argv[1])\n"
)
NOBODY = "http://127.0.0.1:9"
WAYS = ("off", "online", "offline")
LIMIT_MS = 50.0


class Took(NamedTuple):
    """From the signal to the end, in milliseconds."""

    wall_ms: float
    cpu_ms: float


def end(host: str, url: str, number: signal.Signals, *, off: bool) -> Took:
    """Start a host in a home that was used before, send it the signal in its command, and wait for its end."""
    # What a supervisor sets for its tests would make every start compile this package anew.
    env = environment(DO_NOT_TRACK=str(int(off)), PYTHONDONTWRITEBYTECODE="")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as home:
        command = [sys.executable, "-c", HEAD + HOSTS[host], home, url]
        if not off:
            subprocess.run(
                [*command[:2], HEAD + "t.capture('x')", *command[3:]], env=env, check=True, capture_output=True
            )
            Path(home, "spool", "launched").unlink(missing_ok=True)  # so that one is due again
        with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
            next(iter(process.stdout or ()))
            time.sleep(0.05)
            before_s, began_s = _cpu_s(process.pid), time.perf_counter()
            os.kill(process.pid, number)
            _pid, status, usage = os.wait4(process.pid, 0)
            wall_s = time.perf_counter() - began_s
            process.returncode = os.waitstatus_to_exitcode(status)
        _end_flusher(home)
    return Took(wall_s * 1000, (usage.ru_utime + usage.ru_stime - before_s) * 1000)


def _end_flusher(home: str) -> None:
    """Kill the flusher that was started: it would take a processor from the next one that is measured."""
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if f"--home\0{home}\0" in (process / "cmdline").read_text():
                os.kill(int(process.name), signal.SIGKILL)


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main(rounds: int) -> int:
    """Play the rounds and print a line for each host and signal."""
    worst = 0.0
    with LocalPostHog() as server:
        urls = {"off": NOBODY, "online": server.url, "offline": NOBODY}
        for host in HOSTS:
            for number in (signal.SIGINT, signal.SIGTERM):
                took = [{way: end(host, urls[way], number, off=way == "off") for way in WAYS} for _ in range(rounds)]
                line = (
                    f"{host:6} {number.name:8} without {statistics.median(one['off'].wall_ms for one in took):6.1f} ms"
                )
                for way in WAYS[1:]:
                    wall = statistics.median(one[way].wall_ms - one["off"].wall_ms for one in took)
                    cpu = statistics.median(one[way].cpu_ms - one["off"].cpu_ms for one in took)
                    line += f"   {way} {wall:+6.1f} ms (cpu {cpu:+5.1f})"
                    worst = max(worst, wall)
                print(line)
    print(f"{rounds} rounds, load {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors")
    return 0 if worst <= LIMIT_MS else 1


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 15))
