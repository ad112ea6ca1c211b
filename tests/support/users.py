"""Other users, and root without its privileges, for tests about owners and modes. Needs root and setpriv."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.processes import environment

__all__ = ["NEEDS_ROOT", "SOMEBODY", "as_user", "give", "public_folder", "run_ordinary", "start_ordinary"]

IS_ROOT = sys.platform != "win32" and os.geteuid() == 0
NEEDS_ROOT = pytest.mark.skipif(not IS_ROOT, reason="only root gives its rights away")
SOMEBODY = 12345
# Root then obeys modes as any owner does. A real other user may not even read Python's own library.
_ORDINARY = "-dac_override,-dac_read_search"
_WRAPPER = ["setpriv", f"--bounding-set={_ORDINARY}", f"--inh-caps={_ORDINARY}"] if IS_ROOT else []
if IS_ROOT and shutil.which("setpriv") is None:
    pytest.skip("needs setpriv (package util-linux)", allow_module_level=True)


def start_ordinary(code: str, *arguments: object) -> subprocess.Popen[str]:
    """Start a Python process that obeys modes; its streams are pipes."""
    command = [*_WRAPPER, sys.executable, "-c", code, *map(str, arguments)]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, env=environment(), stdin=pipe, stdout=pipe, stderr=pipe, text=True)


def run_ordinary(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run a Python process that obeys modes to its end."""
    with start_ordinary(code, *arguments) as process:
        out, err = process.communicate(timeout=120)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


# Everything is loaded before the rights are given up, since another user may read neither the checkout nor Python's own
# library: all modules, and what they load at first use, by doing once what is to be done, in a home of its own.
_FIRST = """
import contextlib, importlib, io, json, os, pkgutil, sys, tempfile
import spool, flusher, flusher.cli
for package in (spool, flusher):
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        if not module.name.startswith(("spool.command.click_app", "spool.testing", "flusher.__main__")):
            importlib.import_module(module.name)
def ktx_flush(*words):
    out, err, code = io.StringIO(), io.StringIO(), 0
    before, sys.argv = sys.argv, ["ktx-flush", *words]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            flusher.cli.main()
    except SystemExit as end:
        code = end.code or 0
    sys.argv = before
    return code, out.getvalue(), err.getvalue()
def capture(home):
    telemetry = spool.Telemetry("ktx", "1", "phc_test", "http://127.0.0.1:9", home, flush="never")
    with telemetry.command(["ktx", "scan"]):
        receipt = telemetry.capture("scan_completed")
    identity = telemetry.identity
    telemetry.close()
    return receipt.state, receipt.reason, identity.decided_by
COMMANDS = (
    ("status",), ("status", "--json"), ("list",), ("list", "--json"), ("retry",), ("purge", "--yes"), ("report",),
    ("audit",), ("doctor",), ("doctor", "--json"), ("run",), ("run", "--json"), ("export", os.devnull), ("enable",),
    ("import", os.devnull), ("show", "0f8fad5b-d9cb-469f-a165-70867728950e"), ("schedule", "show"), ("disable",),
    ("--app", "nobodyhas", "status"),
)
def once(commands):
    os.environ["KTX_TELEMETRY_ENDPOINT"] = "http://127.0.0.1:9"
    with tempfile.TemporaryDirectory() as scratch, contextlib.redirect_stderr(io.StringIO()):
        capture(f"{scratch}/home")
        for words in commands:
            ktx_flush("--home", f"{scratch}/home", *words)
    del os.environ["KTX_TELEMETRY_ENDPOINT"]
"""


def as_user(
    uid: int, code: str, *arguments: object, commands: str = "()", **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run code as a user whom the system doesn't know; `ktx_flush(*words)`, `capture(home)` and `COMMANDS` are there.

    `commands` are the command lines that it will use, as code. The environment has no more of home or app than
    `variables` say.
    """
    drop = f"once({commands})\nos.setgroups([]); os.setgid({uid}); os.setuid({uid})\n"
    kept = {name: value for name, value in environment().items() if name not in ("HOME", "KTX_HOME")}
    set_ = "".join(f"os.environ[{name!r}] = {value!r}\n" for name, value in variables.items())
    done = subprocess.run(
        [sys.executable, "-c", _FIRST + drop + set_ + code, *map(str, arguments)],
        env={**kept, "PYTHONDONTWRITEBYTECODE": "1"}, cwd="/", capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done


@contextmanager
def public_folder() -> Iterator[Path]:
    """Make a folder that every user can enter, for a block: pytest's own can't be entered."""
    folder = Path(tempfile.mkdtemp(prefix="ktx-spool-"))
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def give(folder: Path, uid: int) -> None:
    """Give a folder and all that is in it to a user."""
    if sys.platform == "win32":
        raise OSError("no owners by number here")
    for path in (folder, *folder.rglob("*")):
        os.lchown(path, uid, uid)
