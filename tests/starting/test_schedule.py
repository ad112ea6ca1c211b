"""`ktx-flush schedule` by cron: it runs by itself, every other byte stays, and what is refused changes nothing."""

from __future__ import annotations

import json
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from flusher.schedule.timetable import entry_name
from spool import Telemetry
from spool.launch.program import read_words
from tests.support.crontabs import CRON, NEEDS_CRON, Crontabs, programs, said
from tests.support.local_posthog import LocalPostHog
from tests.support.processes import KEY, environment

pytestmark = pytest.mark.root

# A crontab as people have them: comments, environment, odd spaces, a line of another program's own.
FOREIGN = (
    b"# m h  dom mon dow   command\n"
    b'MAILTO=""\nPATH = /usr/bin:/bin\n\n\n'
    b"  0 5 * * 1\ttar -zcf /var/backups/home.tgz /home/  # weekly\n"
    b"@daily  echo 100\\% %input%\n"
    b"#Ansible: x\n*/5 * * * * true \n"
    b"# caf\xe9\n"
    b"# 5 * * * * /gone # ktx-flush schedule ktx-11111111\n"
    b"5 * * * * /py -P -m flusher --app ktx --home /other run --quiet # ktx-flush schedule ktx-22222222\n"
)
ODD_HOME = 'it\'s "100%" $HOME #1 größe'


@pytest.fixture
def crontabs(tmp_path: Path) -> Crontabs:
    """A crontab that only this test sees."""
    return Crontabs(tmp_path / "crontabs")


def mark(home: Path) -> bytes:
    """Give the end of our line."""
    return f"# ktx-flush schedule {entry_name('ktx', home)}\n".encode()


@NEEDS_CRON
@pytest.mark.parametrize(
    ("before", "put"),
    [(b"", Crontabs.write), (FOREIGN, Crontabs.write), (FOREIGN, Crontabs.plant)],
    ids=["no crontab", "a full one", "one that crontab did not write"],
)
def test_install_adds_one_line_and_remove_leaves_every_other_byte(
    before: bytes, put: Callable[[Crontabs, bytes], None], crontabs: Crontabs, home: Path
) -> None:
    """Twice installing changes nothing, another `--every` only our line; `remove` gives back what was there."""
    if before:
        put(crontabs, before)
    assert "scheduled: every 15m by cron" in said(crontabs.schedule(home, "install", "--method", "cron"))
    once = crontabs.text
    assert once.startswith(before)
    assert once.endswith(mark(home))
    assert once.count(b"\n") == before.count(b"\n") + 1
    inode = (crontabs.folder / "root").stat().st_ino
    assert "nothing was changed" in said(crontabs.schedule(home, "install", "--method", "cron"))
    assert (crontabs.folder / "root").stat().st_ino == inode
    assert "every 6h" in said(crontabs.schedule(home, "install", "--every", "6h", "--method", "cron"))
    assert "every 6h" in said(crontabs.schedule(home, "install"))
    assert crontabs.text.count(b"\n") == before.count(b"\n") + 1
    assert "by cron" in said(crontabs.schedule(home, "remove"))
    assert crontabs.text == before
    assert (crontabs.folder / "root").exists() == bool(before)
    assert said(crontabs.schedule(home, "remove")) == "nothing was scheduled\n"
    assert crontabs.text == before


@NEEDS_CRON
def test_each_home_has_its_own_line(crontabs: Crontabs, tmp_path: Path) -> None:
    """Installing or removing one leaves the other; their minutes are their installs'."""
    first, second = tmp_path / "first", tmp_path / "second"
    for home in (first, second):
        said(crontabs.schedule(home, "install", "--method", "cron"))
    assert crontabs.text.count(b"\n") == 2
    said(crontabs.schedule(first, "remove"))
    assert crontabs.text.endswith(mark(second))
    assert not first.exists()


@NEEDS_CRON
def test_show_says_what_is_there_and_when_it_runs_next(crontabs: Crontabs, home: Path) -> None:
    """Within the time that was asked for; as text, as JSON, and in `status`."""
    assert said(crontabs.schedule(home, "show")) == f"nothing is scheduled: ktx-flush --home {home} schedule install\n"
    assert json.loads(said(crontabs.schedule(home, "show", "--json"))) == {"installed": [], "problem": None}
    installed = json.loads(said(crontabs.schedule(home, "install", "--every", "30m", "--method", "cron", "--json")))
    assert installed["state"] == "installed"
    shown = json.loads(said(crontabs.schedule(home, "show", "--json")))
    (one,) = shown["installed"]
    assert (one["method"], one["every"], one["problem"]) == ("cron", "30m", None)
    program, _folders, arguments = read_words(one["command"])
    assert (program, arguments[-8:]) == (
        sys.executable, ["--app", "ktx", "--home", str(home), "run", "--quiet", "--spread", "45"]
    )  # fmt: skip
    ahead = datetime.fromisoformat(one["next_run"]) - datetime.now().astimezone()
    assert timedelta(seconds=-60) < ahead <= timedelta(minutes=30)
    text = said(crontabs.schedule(home, "show"))
    assert "every 30m, by cron (line 1 of crontab -l)" in text
    assert shlex.join(one["command"]) in text
    status = crontabs.run(sys.executable, "-m", "flusher", "--home", home, "status", "--json")
    assert json.loads(status.stdout)["schedule"] == shown
    assert "every 30m by cron" in crontabs.run(sys.executable, "-m", "flusher", "--home", home, "status").stdout


@NEEDS_CRON
def test_a_real_cron_daemon_delivers_from_an_odd_place(
    crontabs: Crontabs, tmp_path: Path, server: LocalPostHog
) -> None:
    """A spooled event arrives within a minute, by an interpreter and a home with all that sh and cron care about."""
    home, place = tmp_path / ODD_HOME, tmp_path / 'py\'s %d "x" $PATH #'
    python = place / "bin" / "python"
    python.parent.mkdir(parents=True)
    shutil.copy(Path(sys.prefix) / "pyvenv.cfg", place)
    (place / "lib").symlink_to(Path(sys.prefix) / "lib")
    python.symlink_to(sys.executable)
    telemetry = Telemetry("ktx", "1", KEY, server.url, home, flush="never")
    receipt = telemetry.capture("scan_completed")
    telemetry.close()
    crontabs.write(FOREIGN)
    said(crontabs.schedule(home, "install", "--every", "1m", "--method", "cron", python=str(python)))
    assert json.loads(said(crontabs.schedule(home, "show", "--json")))["installed"][0]["command"][0] == str(python)
    daemon = subprocess.Popen(
        crontabs.command(CRON, "-f"), env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    try:
        deadline = time.monotonic() + 150
        while not server.events() and time.monotonic() < deadline and daemon.poll() is None:
            time.sleep(0.2)
        assert receipt.uuid in {event["uuid"] for event in server.events()}
    finally:
        said(crontabs.schedule(home, "remove"))
        daemon.send_signal(signal.SIGTERM)
        daemon.communicate(timeout=10)
    assert crontabs.text == FOREIGN


# Arguments, and what the one line must say.
WRONG = {
    "never": (("install", "--every", "0"), "15m or 6h"),
    "no minutes": (("install", "--every", "0m"), "cron can't express it"),
    "no unit": (("install", "--every", "7x"), "15m or 6h"),
    "not by cron": (("install", "--every", "7m"), "cron can't express it"),
    "another method": (("install", "--method", "at"), "cron, systemd or launchd"),
    "no macOS": (("install", "--method", "launchd"), "no launchd"),
    "no systemd": (("install", "--method", "systemd"), "no systemd"),
    "no command": ((), "Missing command"),
    "nonsense": (("start",), "start"),
}


@NEEDS_CRON
@pytest.mark.parametrize("wrong", WRONG)
def test_wrong_arguments_get_one_line_and_change_nothing(wrong: str, crontabs: Crontabs, home: Path) -> None:
    """Exit code 2, the crontab as it was."""
    crontabs.write(FOREIGN)
    arguments, words = WRONG[wrong]
    assert words in said(crontabs.schedule(home, *arguments, env=programs(home.parent / "bin", "crontab")), 2)
    assert crontabs.text == FOREIGN


@NEEDS_CRON
def test_a_crontab_that_can_not_be_written_is_named(crontabs: Crontabs, home: Path) -> None:
    """On a read-only disk: crontab's own words, exit code 2, and nothing changed."""
    crontabs.write(FOREIGN)
    line = said(crontabs.schedule(home, "install", "--method", "cron", mode="ro"), 2)
    assert "crontab refuses" in line
    assert "Read-only file system" in line
    assert crontabs.text == FOREIGN
    said(crontabs.schedule(home, "install", "--method", "cron"))
    assert "Read-only file system" in said(crontabs.schedule(home, "remove", mode="ro"), 2)


@NEEDS_CRON
def test_a_line_that_cron_does_not_take_is_refused_whole(crontabs: Crontabs, tmp_path: Path) -> None:
    """A home so long that cron would give up: it is told how long, and nothing is changed."""
    crontabs.write(FOREIGN)
    home = tmp_path.joinpath(*(["x" * 250] * 4))
    assert "too long for cron" in said(crontabs.schedule(home, "install", "--method", "cron"), 2)
    assert crontabs.text == FOREIGN


@NEEDS_CRON
def test_two_lines_of_ours_are_named_and_removed_together(crontabs: Crontabs, home: Path) -> None:
    """Somebody copied it: `show` and `install` say so with exit code 2, `remove` takes both."""
    said(crontabs.schedule(home, "install", "--method", "cron"))
    crontabs.write(crontabs.text * 2)
    twice = crontabs.text
    for command in ("show", "install"):
        assert "scheduled 2 times" in crontabs.schedule(home, command).stderr
        assert crontabs.schedule(home, command).returncode == 2
    assert crontabs.text == twice
    said(crontabs.schedule(home, "remove"))
    assert crontabs.text == b""


@NEEDS_CRON
def test_an_opt_out_is_obeyed(crontabs: Crontabs, home: Path) -> None:
    """A variable of this shell: nothing is scheduled. By telemetry.json: it is, and it will send nothing."""
    done = crontabs.schedule(home, "install", "--method", "cron", env=environment(DO_NOT_TRACK="1"))
    assert "nothing was scheduled" in said(done)
    assert crontabs.text == b""
    crontabs.run(sys.executable, "-m", "flusher", "--home", home, "disable")
    assert "nothing is sent until it is on" in said(crontabs.schedule(home, "install", "--method", "cron"))
    assert crontabs.text.endswith(mark(home))
