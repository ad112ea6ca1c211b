"""A crontab of a test's own: the real `crontab` and `cron` of the system, over a folder that only the test sees.

Each command runs in a mount namespace in which that folder lies over the system's own. So tests can run side by
side, and the crontab of whoever runs them is never touched.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from tests.support.mounts import IS_ROOT
from tests.support.processes import environment

__all__ = ["CRON", "NEEDS_CRON", "Crontabs", "programs", "said"]

CRON = shutil.which("cron", path="/usr/sbin:/usr/bin:/sbin:/bin")
_PLACE = Path("/var/spool/cron/crontabs")
NEEDS_CRON = pytest.mark.skipif(
    not IS_ROOT or shutil.which("crontab") is None or CRON is None or not _PLACE.is_dir(),
    reason="needs root and Debian's cron (package cron)",
)
# /run: a cron daemon's lock file. /etc/cron.d and /etc/crontab: the system's own jobs are no matter of a test.
_ENTER = (
    'set -e; mount --bind "$1" /var/spool/cron/crontabs; mount -t tmpfs tmpfs /run; mount -t tmpfs tmpfs /etc/cron.d;'
    'mount --bind /dev/null /etc/crontab; if [ "$2" = ro ]; then mount -o remount,ro,bind /var/spool/cron/crontabs; fi;'
    'shift 2; exec "$@"'
)


class Crontabs:
    """The folder that holds root's crontab, and commands that see it. Skips where no namespace can be made."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        shutil.chown(folder, "root", "crontab")
        folder.chmod(0o1730)
        done = self.run("true")
        if done.returncode:
            pytest.skip(f"no mount namespace can be made here: {done.stderr.strip()}")

    def command(self, *words: object, mode: str = "rw") -> list[str]:
        """Give a command line that runs `words` where this crontab is the system's."""
        enter = ["unshare", "--mount", "--propagation", "private", "sh", "-c", _ENTER, "sh", str(self.folder), mode]
        return [*enter, *map(str, words)]

    def run(
        self, *words: object, env: Mapping[str, str] | None = None, mode: str = "rw"
    ) -> subprocess.CompletedProcess[str]:
        """Run a program there to its end, with that environment: its PATH may be another than ours."""
        variables = [f"{name}={value}" for name, value in (env or environment()).items()]
        words = (shutil.which("env"), "-i", *variables, *words)
        return subprocess.run(self.command(*words, mode=mode), capture_output=True, text=True, timeout=60, check=False)

    def schedule(
        self,
        home: Path,
        *arguments: str,
        env: Mapping[str, str] | None = None,
        python: str = sys.executable,
        mode: str = "rw",
    ) -> subprocess.CompletedProcess[str]:
        """Run `ktx-flush schedule` there."""
        words: Sequence[object] = (python, "-m", "flusher", "--home", home, "schedule", *arguments)
        return self.run(*words, env=env, mode=mode)

    @property
    def text(self) -> bytes:
        """The crontab, byte for byte, without the head of three lines that cron puts there; empty if there is none."""
        path = self.folder / "root"
        lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
        return b"".join(lines[3:] if lines and lines[0].startswith(b"# DO NOT EDIT") else lines)

    def write(self, text: bytes) -> None:
        """Make `text` root's crontab as a person does, by `crontab`; of an empty one, none."""
        words = ("crontab", "-") if text else ("crontab", "-r")
        done = subprocess.run(self.command(*words), input=text, capture_output=True, check=False, timeout=60)
        assert done.returncode == 0, done.stderr

    def plant(self, text: bytes) -> None:
        """Make `text` root's crontab as other programs do, past `crontab`."""
        path = self.folder / "root"
        path.write_bytes(text)
        shutil.chown(path, "root", "crontab")
        path.chmod(0o600)


def programs(folder: Path, *names: str) -> dict[str, str]:
    """Give an environment whose PATH has no other programs than these, and a systemd folder of its own."""
    folder.mkdir(exist_ok=True)
    for name in names:
        (folder / name).symlink_to(str(shutil.which(name)))
    return environment(PATH=str(folder), XDG_CONFIG_HOME=str(folder / "config"))


def said(done: subprocess.CompletedProcess[str], code: int = 0) -> str:
    """Give what a command said, after its exit code and its one line at most on stderr."""
    assert done.returncode == code, done
    assert done.stderr.count("\n") == bool(code), done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr if code else done.stdout
