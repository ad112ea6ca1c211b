"""The suite passes however it is started: by nohup, by nice, in the background, without stdin, with signals blocked."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.support.processes import ROOT, environment, run_python

# What the tests of signals rely on; the programs that they start must find the same.
LOOK = """
import signal
names = ["SIGHUP", "SIGINT", "SIGQUIT", "SIGTERM", "SIGALRM", "SIGCHLD", "SIGUSR1", "SIGPIPE"]
print(*(getattr(signal.getsignal(getattr(signal, name)), "name", "Python's") for name in names))
print(signal.pthread_sigmask(signal.SIG_BLOCK, ()))
"""
HEARD = "SIG_DFL Python's SIG_DFL SIG_DFL SIG_DFL SIG_DFL SIG_DFL SIG_IGN\nset()\n"

# How somebody may start it; "$@" is the command.
STARTS = {
    "nohup and nice in the background": 'nohup nice -n 15 "$@" & wait $!',
    "stdin closed": '"$@" <&-',
    "signals ignored": 'trap "" HUP INT QUIT TERM ALRM CHLD USR1; "$@"',
    "signals blocked": (
        f"exec {sys.executable} -c 'import os, signal, sys; "
        'signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals()); os.execv(sys.argv[1], sys.argv[1:])\' "$@"'
    ),
}
# One for each thing that is inherited: how signals are taken, what a mask holds back, and how nice a process is.
TESTS = (
    "tests/project/test_any_start.py::test_a_program_that_a_test_starts_takes_signals_as_under_a_plain_shell",
    "tests/commands/test_command_signals.py::test_what_the_host_does_with_a_signal_is_done_and_its_end_decides",
    "tests/starting/test_launch.py::test_a_flusher_does_not_hold_the_working_folder_or_the_terminal",
)


def test_a_program_that_a_test_starts_takes_signals_as_under_a_plain_shell() -> None:
    """Whatever the suite itself was started with: nothing is ignored but by Python, and nothing is blocked."""
    assert run_python(LOOK).stdout == HEARD


@pytest.mark.skipif(os.name != "posix", reason="nohup, nice and signals as POSIX has them")
@pytest.mark.parametrize("start", STARTS)
def test_the_tests_pass_however_they_are_started(start: str) -> None:
    """A small run of the suite, with a worker of xdist as `scripts/test` has them."""
    run = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-n", "1", *TESTS]
    done = subprocess.run(
        ["bash", "-c", STARTS[start], "bash", *run],
        cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    assert f"{len(TESTS)} passed" in done.stdout
