"""Every install is counted once, on whatever surface it first runs."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from datetime import datetime
from pathlib import Path
from uuid import UUID

import pytest

from spool import Telemetry
from spool.consent import FileState, read_stored
from tests.support.local_posthog import LocalPostHog
from tests.support.processes import KEY, environment, flush_json, run_python, start_python, status

FIRST = """
import sys
from spool import Telemetry
t = Telemetry("ktx", "1", "phc_test", sys.argv[2], sys.argv[1], flush="never")
receipt = t.capture("scan_completed")
assert receipt, receipt
print(t.identity.install_id)
"""
# What ktx's own reader takes (its schema is strict): these keys and types, and no other.
REQUIRED = {"installId": str, "enabled": bool, "createdAt": str}
OPTIONAL = {"noticeShownAt": str, "noticeShownVersion": int}


def strict_ktx_reader(path: Path) -> dict[str, object]:
    """Read telemetry.json as ktx does; an AssertionError where it would mint a new identity."""
    fields: dict[str, object] = json.loads(path.read_text())
    assert set(REQUIRED) <= set(fields) <= set(REQUIRED) | set(OPTIONAL)
    for name, kind in {**REQUIRED, **OPTIONAL}.items():
        assert type(fields.get(name, kind())) is kind
    assert UUID(str(fields["installId"])).version in range(1, 9)
    return fields


def test_thirty_two_first_runs_at_once_give_one_id_one_notice_and_one_event(home: Path, server: LocalPostHog) -> None:
    """All capture under the same id; the analyst sees one install."""
    runs = [start_python(FIRST, home, server.url) for _ in range(32)]
    outputs = [run.communicate(timeout=120) for run in runs]
    assert [run.returncode for run in runs] == [0] * 32
    assert len({out for out, _err in outputs}) == 1
    assert sum("anonymous usage data" in err for _out, err in outputs) == 1
    assert flush_json(home)["exit_code"] == 0
    events = [event["event"] for event in server.accepted]
    assert (events.count("install_first_run"), events.count("scan_completed")) == (1, 32)
    assert len({event["distinct_id"] for event in server.accepted}) == 1
    assert sorted(path.name for path in home.iterdir()) == ["spool", "telemetry.json"]


def test_a_headless_first_run_is_counted(home: Path, server: LocalPostHog) -> None:
    """No terminal anywhere: the id is minted, the notice is one plain line on stderr, stdout is untouched."""
    done = run_python(FIRST.replace("print", "str"), home, server.url)
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert "\033" not in done.stderr
    fields = strict_ktx_reader(home / "telemetry.json")
    assert fields["enabled"] is True
    assert datetime.fromisoformat(str(fields["createdAt"])).tzinfo is not None
    assert (home / "telemetry.json").stat().st_mode & 0o777 == 0o600
    again = run_python(FIRST, home, server.url)
    assert (again.stdout.strip(), again.stderr) == (fields["installId"], "")


@pytest.mark.parametrize(("variable", "dim"), [({}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False)])
def test_on_a_terminal_the_notice_is_dim_unless_colour_is_unwanted(
    variable: dict[str, str], dim: bool, home: Path, server: LocalPostHog
) -> None:
    """A real pseudo-terminal on stderr."""
    if sys.platform == "win32":
        pytest.skip("no pseudo-terminals here")
    ours, theirs = pty.openpty()
    env = {name: value for name, value in environment(TERM="xterm").items() if name != "NO_COLOR"} | variable
    subprocess.run([sys.executable, "-c", FIRST, home, server.url], env=env, stderr=theirs, stdout=subprocess.DEVNULL,
                   check=True)  # fmt: skip
    os.close(theirs)
    said = os.read(ours, 4096).decode()
    os.close(ours)
    assert "anonymous usage data" in said
    assert ("\033[2m" in said) is dim


def test_an_identity_of_ktx_is_taken_as_it_is(home: Path, server: LocalPostHog) -> None:
    """A file that ktx's Node side wrote: same id, no second install_first_run, not a byte changed."""
    home.mkdir()
    written = (
        '{\n  "installId": "0b9f8c1e-5a3f-4a63-9c1c-0a1d2e3f4a5b",\n  "enabled": true,\n'
        '  "noticeShownAt": "2026-01-02T03:04:05.678Z",\n  "noticeShownVersion": 1,\n'
        '  "createdAt": "2026-01-02T03:04:05.678Z"\n}\n'
    )
    (home / "telemetry.json").write_text(written)
    done = run_python(FIRST, home, server.url)
    assert (done.stdout.strip(), done.stderr) == ("0b9f8c1e-5a3f-4a63-9c1c-0a1d2e3f4a5b", "")
    flush_json(home)
    assert [event["event"] for event in server.accepted] == ["scan_completed"]
    assert (home / "telemetry.json").read_text() == written


# The first run stops at one of its steps, as by kill -9, and is not run again.
CUT = """
import os, sys
step = sys.argv[3]
real = {"link": os.link, "rename": os.rename, "unlink": os.unlink}
def cut(*arguments, **options):
    if sys.argv[4] == "after":
        real[step](*arguments, **options)
    os._exit(9)
setattr(os, step, cut)
"""


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("step", ["link", "rename"])
def test_a_first_run_that_is_killed_anywhere_is_counted_once(
    step: str, when: str, home: Path, server: LocalPostHog
) -> None:
    """Before the id is published nothing happened; after it, the flusher completes what was begun."""
    cut = run_python(CUT + FIRST, home, server.url, step, when)
    assert cut.returncode == 9
    published = (home / "telemetry.json").exists()
    assert published is not (step == "link" and when == "before")
    assert run_python(FIRST, home, server.url).returncode == 0
    flush_json(home)
    events = [event["event"] for event in server.accepted]
    assert sorted(events) == ["install_first_run", "scan_completed"]
    assert {event["distinct_id"] for event in server.accepted} == {read_stored(home / "telemetry.json").install_id}
    assert status(home)["accounting"]["captured"] == 2


def test_the_project_id_names_neither_the_install_nor_the_folder(home: Path, tmp_path: Path) -> None:
    """sha256 of `{install_id}:{resolved dir}`: the same through a link, another for another folder."""
    from hashlib import sha256  # noqa: PLC0415 - the expected value is made here

    project = tmp_path / "project"
    project.mkdir()
    (tmp_path / "link").symlink_to(project)
    telemetry = Telemetry("ktx", "1", KEY, home=home, flush="never")
    identifier = telemetry.project_id(project)
    assert identifier == sha256(f"{telemetry.identity.install_id}:{project}".encode()).hexdigest()
    assert telemetry.project_id(tmp_path / "link" / "." / "..") != identifier
    assert telemetry.project_id(str(tmp_path / "link")) == identifier
    assert read_stored(home / "telemetry.json").file is FileState.ENABLED
