"""The lock is filelock's: a program that takes it by that library keeps the spool out, and the other way round."""

from __future__ import annotations

import subprocess
from pathlib import Path

import filelock
import pytest

from spool.errors import LockBusyError
from spool.queue import FileLock
from tests.support.processes import run_python, start_python

HOLDER = """
import sys
from filelock import FileLock
with FileLock(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
"""
TRIES = """
import sys
from filelock import FileLock, Timeout
try:
    with FileLock(sys.argv[1], timeout=0):
        print("got it")
except Timeout:
    print("kept out")
"""


def test_a_lock_that_filelock_holds_is_held(tmp_path: Path) -> None:
    """Another process has it by filelock: busy. That process is killed: it can be had at once."""
    lock = FileLock(tmp_path / "lock")
    process = start_python(HOLDER, lock.path, stdin=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    with pytest.raises(LockBusyError):
        lock.acquire(0.05)
    process.kill()
    process.communicate()
    lock.acquire(0.0)
    lock.close()


def test_filelock_is_kept_out_by_a_lock_that_we_hold(tmp_path: Path) -> None:
    """In another process and in this one; once it is released, filelock has it."""
    lock = FileLock(tmp_path / "lock")
    with lock.held(0.0):
        assert run_python(TRIES, lock.path).stdout == "kept out\n"
        with pytest.raises(filelock.Timeout):
            filelock.FileLock(lock.path, timeout=0).acquire()
    assert run_python(TRIES, lock.path).stdout == "got it\n"
    lock.close()
