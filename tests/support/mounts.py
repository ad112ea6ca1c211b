"""File systems of their own for tests: small ones that fill up, and an ext4 whose power is cut."""

from __future__ import annotations

import filecmp
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

IS_ROOT = sys.platform != "win32" and os.geteuid() == 0
NEEDS_ROOT = pytest.mark.skipif(not IS_ROOT, reason="needs root: a file system is mounted")
NEEDS_EXT4 = pytest.mark.skipif(
    not IS_ROOT or shutil.which("mkfs.ext4") is None, reason="needs root and mkfs.ext4 (package e2fsprogs)"
)
# What mount says in a container whose root may not mount, or has no loop devices.
_REFUSALS = ("permission denied", "not permitted", "loop device", "unknown filesystem")
IMAGE_BYTES = 32 * 1024 * 1024


@contextmanager
def mounted(point: Path, *arguments: object) -> Iterator[Path]:
    """Mount something at `point` for a block; skips the test where the machine doesn't let root mount."""
    point.mkdir(exist_ok=True)
    done = run("mount", *arguments, point)
    if done.returncode and any(sign in done.stderr for sign in _REFUSALS):
        pytest.skip(f"mounting isn't allowed here: {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr
    try:
        yield point
    finally:
        if run("umount", point).returncode:
            run("umount", "--lazy", point)  # a test failed while something of it is still open there


@contextmanager
def tmpfs(point: Path, size: str = "8m") -> Iterator[Path]:
    """Mount a file system in memory that holds no more than `size`."""
    with mounted(point, "-t", "tmpfs", "-o", f"size={size},mode=0700", "tmpfs"):
        yield point


def remount(point: Path, options: str) -> None:
    """Change a mounted file system: its size, or whether it may be written."""
    done = run("mount", "-o", f"remount,{options}", point)
    assert done.returncode == 0, done.stderr


def run(*command: object) -> subprocess.CompletedProcess[str]:
    """Run a program of the system."""
    return subprocess.run([*map(str, command)], capture_output=True, text=True, check=False)


def make_image(path: Path, *features: str) -> Path:
    """Make an ext4 file system in a file; nothing of it is left to be written later by the kernel.

    With the feature `^has_journal`, one file's fsync says nothing about the names of other files. It is a new file each
    time: what was mounted from one of this name before may still be, in the mount namespace of another test.
    """
    path.unlink(missing_ok=True)
    with path.open("wb") as file:
        file.truncate(IMAGE_BYTES)
    options = ["-q", "-F", "-b", 4096, "-E", "lazy_itable_init=0,lazy_journal_init=0"]
    done = run("mkfs.ext4", *options, *(("-O", ",".join(features)) if features else ()), path)
    assert done.returncode == 0, done.stderr
    return path


@contextmanager
def mounted_image(image: Path, point: Path) -> Iterator[Path]:
    """Mount an image, after what a boot would do for it: mounting replays a journal, a check mends the rest.

    The kernel would write the journal every 5 s by itself; here it does at fsync only.
    """
    options = "loop"
    if _has_journal(image):
        options += ",commit=3000"
    else:
        checked = run("e2fsck", "-f", "-y", image)
        assert checked.returncode in (0, 1), checked.stdout  # 1: mended
    with mounted(point, "-t", "ext4", "-o", options, image):
        yield point


def _has_journal(image: Path) -> bool:
    with image.open("rb") as file:
        file.seek(1024 + 0x5C)  # s_feature_compat of the superblock
        return bool(file.read(1)[0] & 0x4)


def cut_power(image: Path, copy: Path) -> Path:
    """Copy what the block device of a mounted image holds now, as a machine finds it after a power cut.

    What programs wrote and nobody synced is in the memory of the mounted file system and not in the image.
    Whoever writes must be stopped; a commit that it began may still be under way, so that the copy counts
    once the image keeps still.
    """
    deadline = time.monotonic() + 20
    while True:
        copy.unlink(missing_ok=True)  # a new file, as in `make_image`
        subprocess.run(["cp", "--sparse=always", image, copy], check=True)
        if filecmp.cmp(image, copy, shallow=False):
            return copy
        assert time.monotonic() < deadline, "the image never keeps still"


def commit_journal(point: Path) -> None:
    """Make all names of a mounted ext4 survive a power cut, as its timer does every 5 s.

    Fresh contents of other files stay in memory: the kernel would write them 30 s later.
    """
    descriptor = os.open(point / "unrelated", os.O_CREAT | os.O_WRONLY, 0o600)
    try:
        os.write(descriptor, b"x")
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
