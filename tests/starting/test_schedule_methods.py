"""`ktx-flush schedule` chooses a method by what the machine has: one at a time, and a refusal leaves nothing behind.

`systemctl` and `launchctl` are stand-ins here that note their calls.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from flusher.schedule.method import stale
from flusher.schedule.timetable import entry_name
from spool.launch.program import read_words
from tests.support.crontabs import NEEDS_CRON, Crontabs, programs, said
from tests.support.processes import ROOT, flush_json


def schedule(home: Path, *arguments: str, env: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """Run `ktx-flush schedule` with this environment."""
    return subprocess.run(
        [sys.executable, "-m", "flusher", "--home", str(home), "schedule", *arguments],
        env=dict(env), capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


def test_a_machine_with_nothing_to_schedule_by_says_so(home: Path, tmp_path: Path) -> None:
    """No crontab, no systemd, no launchd: one line that names them, exit code 2; nothing to show or to remove."""
    env = programs(tmp_path / "bin")
    line = said(schedule(home, "install", env=env), 2)
    assert all(word in line for word in ("launchctl", "systemctl", "crontab"))
    assert "no crontab program" in said(schedule(home, "install", "--method", "cron", env=env), 2)
    assert "nothing is scheduled" in said(schedule(home, "show", env=env))
    assert said(schedule(home, "remove", env=env)) == "nothing was scheduled\n"
    assert flush_json(home, "status", env=env)["schedule"] == {"installed": [], "problem": None}
    assert not home.exists()


# A systemctl that notes its calls, and enables as systemctl does: by a link. $1 is --user.
_SYSTEMCTL = """#!/bin/sh
echo "$*" >> "$(/usr/bin/dirname "$0")/calls"
units="$XDG_CONFIG_HOME/systemd/user"
[ "$2" = "$REFUSE" ] && echo "Failed to do that: refused" >&2 && exit 1
case "$2" in
  enable) /bin/mkdir -p "$units/timers.target.wants" && /bin/ln -sf "$units/$3" "$units/timers.target.wants/$3" ;;
  show) echo NextElapseUSecRealtime=@1795449600 ;;
esac
exit 0
"""
# A launchctl that notes its calls.
_LAUNCHCTL = """#!/bin/sh
echo "$*" >> "$(/usr/bin/dirname "$0")/calls"
[ "$1" = "$REFUSE" ] && echo "Bootstrap failed: 5: Input/output error" >&2 && exit 5
exit 0
"""


def stand_in(folder: Path, name: str, script: str) -> dict[str, str]:
    """Give an environment that has one program, a stand-in that notes its calls in `calls`."""
    env = programs(folder)
    (folder / name).write_text(script)
    (folder / name).chmod(0o755)
    return env


def calls(folder: Path) -> list[str]:
    """Give the calls since the last time, each once."""
    noted = (folder / "calls").read_text().splitlines()
    (folder / "calls").unlink()
    return list(dict.fromkeys(noted))


def test_a_systemd_timer_is_written_started_and_taken_away(home: Path, tmp_path: Path) -> None:
    """Units first, then reload, enable, start; the other way round to remove it. Twice changes nothing."""
    folder = tmp_path / "bin"
    env = stand_in(folder, "systemctl", _SYSTEMCTL)
    text = said(schedule(home, "install", env=env))
    assert "every 15m by systemd" in text
    assert "loginctl enable-linger" in text
    name = f"ktx-flush-{entry_name('ktx', home)}"
    units = folder / "config" / "systemd" / "user"
    show = f"--user show {name}.timer --property=NextElapseUSecRealtime --timestamp=unix"
    begin = ["--user show-environment", "--user daemon-reload"]
    assert calls(folder) == [*begin, f"--user enable {name}.timer", f"--user restart {name}.timer", show]
    files = {path.name: path.read_bytes() for path in units.iterdir() if path.is_file()}
    assert set(files) == {f"{name}.timer", f"{name}.service"}
    assert b"Persistent=true" in files[f"{name}.timer"]
    assert b"RandomizedDelaySec=" in files[f"{name}.timer"]
    shown = json.loads(said(schedule(home, "show", "--json", env=env)))
    assert shown["installed"][0]["next_run"] == "2026-11-23T16:00:00+00:00"
    calls(folder)
    assert "nothing was changed" in said(schedule(home, "install", env=env))
    assert calls(folder) == [show, "--user show-environment"]
    said(schedule(home, "remove", env=env))
    assert calls(folder) == [show, f"--user disable --now {name}.timer", "--user daemon-reload"]
    assert [path for path in units.rglob("*") if not path.is_dir()] == []


@pytest.mark.parametrize("refused", ["daemon-reload", "enable", "restart"])
@pytest.mark.parametrize("before", [False, True], ids=["none before", "one before"])
def test_what_systemd_refuses_leaves_what_was_there(before: bool, refused: str, home: Path, tmp_path: Path) -> None:
    """Its own words, exit code 2; no unit is left behind, or the old ones."""
    folder = tmp_path / "bin"
    env = stand_in(folder, "systemctl", _SYSTEMCTL)
    if before:
        said(schedule(home, "install", env=env))
    units = folder / "config" / "systemd" / "user"
    files = {path: path.read_bytes() for path in units.glob("*.*") if path.is_file()}
    line = said(schedule(home, "install", "--every", "1h", env={**env, "REFUSE": refused}), 2)
    assert f"systemctl {refused} refuses: Failed to do that: refused; nothing was changed" in line
    assert {path: path.read_bytes() for path in units.glob("*.*") if path.is_file()} == files
    assert len(list(units.glob("timers.target.wants/*"))) == before


def test_a_launchd_agent_is_written_loaded_and_taken_away(home: Path, tmp_path: Path) -> None:
    """In this user's Library; what launchd refuses leaves no file."""
    if sys.platform == "win32":
        pytest.skip("launchd is macOS's, and its stand-in a shell script")
    folder = tmp_path / "bin"
    env = stand_in(folder, "launchctl", _LAUNCHCTL)
    agents = Path(os.environ["HOME"]) / "Library" / "LaunchAgents"
    assert "launchctl refuses: Bootstrap failed" in said(
        schedule(home, "install", env={**env, "REFUSE": "bootstrap"}), 2
    )
    assert list(agents.iterdir()) == []
    calls(folder)
    assert "every 15m by launchd" in said(schedule(home, "install", env=env))
    label = f"ktx-flush.{entry_name('ktx', home)}"
    (path,) = agents.iterdir()
    domain = f"gui/{os.getuid()}"
    assert calls(folder) == [f"bootout {domain}/{label}", f"bootstrap {domain} {path}"]
    assert "nothing was changed" in said(schedule(home, "install", env=env))
    said(schedule(home, "remove", env=env))
    assert calls(folder) == [f"bootout {domain}/{label}"]
    assert list(agents.iterdir()) == []


# A crontab that this user may not use, in the words of Debian's.
_CRONTAB = """#!/bin/sh
echo "You (me) are not allowed to use this program (crontab)" >&2
exit 1
"""


def test_a_crontab_that_refuses_this_user_is_named_and_no_matter_to_a_timer(home: Path, tmp_path: Path) -> None:
    """Its own words and exit code 2 for who wants cron; with systemd the schedule is what it is."""
    env = stand_in(tmp_path / "bin", "crontab", _CRONTAB)
    for command in ("install", "show", "remove"):
        done = schedule(home, command, env=env)
        assert (done.returncode, done.stderr.count("\n")) == (2, 1)
        assert "crontab -l refuses: You (me) are not allowed" in done.stderr
    (tmp_path / "bin" / "systemctl").write_text(_SYSTEMCTL)
    (tmp_path / "bin" / "systemctl").chmod(0o755)
    said(schedule(home, "install", env=env))
    assert json.loads(said(schedule(home, "show", "--json", env=env)))["problem"] is None
    assert "by systemd" in said(schedule(home, "remove", env=env))


@NEEDS_CRON
@pytest.mark.root
def test_two_methods_at_once_are_named_and_removed_together(home: Path, tmp_path: Path) -> None:
    """A second method is refused; where there are two already, `show` and `install` say so, `remove` takes both."""
    crontabs = Crontabs(tmp_path / "crontabs")
    env = stand_in(tmp_path / "bin", "systemctl", _SYSTEMCTL)
    (tmp_path / "bin" / "crontab").symlink_to(str(shutil.which("crontab")))

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return crontabs.schedule(home, *arguments, env=env)

    said(run("install", "--method", "cron"))
    before = crontabs.text
    assert "scheduled by cron already" in said(run("install", "--method", "systemd"), 2)
    assert crontabs.text == before
    assert not (tmp_path / "bin" / "config").exists()
    crontabs.write(b"")
    said(run("install"))  # systemd, for it answers
    crontabs.write(before)
    for command in ("show", "install"):
        assert "scheduled 2 times" in run(command).stderr
        assert run(command).returncode == 2
    assert "by systemd and cron" in said(run("remove"))
    assert crontabs.text == b""
    assert "nothing is scheduled" in said(run("show"))


def test_a_python_that_finds_the_flusher_by_a_variable_alone_is_scheduled_with_its_folders(
    home: Path, tmp_path: Path
) -> None:
    """Cron has no PYTHONPATH: the command line names the folders; when one is gone, that is told."""
    env = stand_in(tmp_path / "bin", "systemctl", _SYSTEMCTL)
    packages = next(path for path in sys.path if path.endswith("site-packages"))
    layer = tmp_path / "layer"
    layer.symlink_to(packages)
    python = Path(sys.executable).resolve()
    env = {**env, "PYTHONPATH": f"{ROOT}:{layer}"}
    tool = [str(python), "-m", "flusher", "--home", str(home), "schedule", "install", "--json"]
    done = subprocess.run(tool, env=env, capture_output=True, text=True, check=False)
    (one,) = json.loads(said(done, 0))["installed"]
    assert str(layer) in read_words(one["command"]).folders
    bare = subprocess.run([*one["command"], "--json"], env={}, cwd="/", capture_output=True, text=True, check=False)
    assert (bare.returncode, json.loads(bare.stdout)["result"]) == (0, "nothing to do"), bare.stderr
    assert stale(one["command"], home_too=False) is None
    layer.unlink()
    assert stale(one["command"], home_too=False) == f"its modules in {layer} are gone"
