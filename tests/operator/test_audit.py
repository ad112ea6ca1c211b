"""`ktx-flush audit`: an event that an earlier version captured and the present one doesn't is named."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from flusher.report.audit import Silent, audit, told
from spool import Telemetry
from spool.beside.sightings import ENOUGH, Ran, Sighting, Version, add, note, read
from spool.catalogue import Catalogue, Event
from spool.consent import decide_for_all
from spool.home import Paths
from tests.support.processes import ROOT, environment, flush, flush_json, run_python, start_python

sys.path.insert(0, str(ROOT / "scripts" / "ktx"))
from sample_shop import make_shop

DAY = "2026-11-23"

# -- the verdict ----------------------------------------------------------------------------------------------


def version(name: str, commands: dict[str, tuple[int, dict[str, int]]], catalogue: str = "") -> Version:
    """Write a version in short: `{"ktx scan ok": (3, {"scan": 3})}` are three runs that ended ok and had a scan."""
    found = Version(name, DAY, DAY, catalogue.split(), {})
    for path, (runs, events) in commands.items():
        command, _, outcome = path.rpartition(" ")
        found.commands.setdefault(command, {})[outcome] = Ran(runs, events)
    return found


OLD = version("1", {"x ok": (4, {"command": 4, "always": 4, "rare": 1}), "x error": (2, {"command": 2, "failed": 2})})

# The versions, oldest first, and the events that are silent in the last one.
VERDICTS: dict[str, tuple[list[Version], list[str]]] = {
    "nothing captured yet": ([], []),
    "one version": ([OLD], []),
    "as before": ([OLD, version("2", {"x ok": (1, {"command": 1, "always": 1})})], []),
    "gone in the first run": ([OLD, version("2", {"x ok": (1, {"command": 1})})], ["always"]),
    "a rare one needs as many runs": ([OLD, version("2", {"x ok": (3, {"command": 3, "always": 3})})], []),
    "and then it is due": ([OLD, version("2", {"x ok": (4, {"command": 4, "always": 4})})], ["rare"]),
    "its command did not run": ([OLD, version("2", {"y ok": (9, {"command": 9})})], []),
    "its command only failed": ([OLD, version("2", {"x error": (1, {"command": 1})})], []),
    "it failed often, and always said so": ([OLD, version("2", {"x error": (3, {"command": 3})})], ["failed"]),
    "interrupted runs say little": (
        [version("1", {"x aborted": (1, {"a": 1})}), version("2", {"x aborted": (2, {"command": 2})})],
        [],
    ),
    "many of them say more": (
        [version("1", {"x aborted": (1, {"a": 1})}), version("2", {"x aborted": (3, {"command": 3})})],
        ["a"],
    ),
    "two versions ago": (
        [OLD, version("2", {"y ok": (1, {"b": 1})}), version("3", {"x ok": (1, {"command": 1})})],
        ["always"],
    ),
    "new events are no matter": ([OLD, version("2", {"x ok": (1, {"command": 1, "always": 1, "new": 1})})], []),
    "without commands": ([version("1", {" ": (1, {"a": 1, "b": 1})}), version("2", {" ": (1, {"b": 1})})], ["a"]),
    "the commands themselves": ([OLD, version("2", {" ": (2, {"always": 2})})], ["command"]),
    "errors come and go": (
        [version("1", {"x ok": (1, {"$exception": 1, "spool_loss": 1})}), version("2", {"x ok": (9, {"command": 9})})],
        [],
    ),
    "taken out of the catalogue": ([OLD, version("2", {"x ok": (1, {"command": 1})}, "rare new")], []),
    "still in the catalogue": ([OLD, version("2", {"x ok": (1, {"command": 1})}, "always new")], ["always"]),
}


@pytest.mark.parametrize("case", VERDICTS)
def test_the_verdict_on_a_ledger(case: str) -> None:
    """Like is compared with like: the same command, ended alike, in as many runs as it takes to expect the event."""
    versions, silent = VERDICTS[case]
    assert [one.event for one in audit(versions).silent] == silent


def test_a_finding_says_where_the_event_was_and_where_it_is_missed() -> None:
    """In numbers, for a program, and in a line for a person."""
    new = version("2", {"x ok": (1, {"command": 1}), "y ok": (1, {"always": 1})}, "always other")
    found = audit([OLD, new])
    assert found.silent == [Silent("always", "x", "ok", "1", 4, 4, 1, ["y"])]
    assert (found.never_seen, found.retired, found.catalogue) == (["other"], [], True)
    assert told(found) == [
        f"2, since {DAY}, compared with 1",
        "silent: always: 1 had it in 4 of 4 runs of `x` that ended ok, 2 in none of 1 run; it still comes from `y`",
        "never captured here: other",
    ]
    retired = audit([OLD, version("2", {"x ok": (1, {"command": 1})}, "other")])
    assert [one.event for one in retired.retired] == ["always"]
    assert told(retired)[1].startswith("not in the catalogue any more: always")
    assert told(retired)[-1] == "no event went silent"
    assert told(audit([]))[0].startswith("nothing was captured here yet")


# -- the ledger -----------------------------------------------------------------------------------------------


def sighting(events: str, command: str = "x", name: str = "1", outcome: str = "ok") -> Sighting:
    """Write a sighting in short."""
    return Sighting(name, ("a", "b"), command, outcome, frozenset(events.split()))


def test_a_host_that_does_what_it_always_did_changes_nothing() -> None:
    """After enough runs, until the next day, a new event, another version or another catalogue."""
    versions: list[Version] = []
    changes = [add(versions, sighting("a b"), DAY) for _ in range(ENOUGH + 3)]
    assert changes == [True] * ENOUGH + [False] * 3
    assert versions[0].commands == {"x": {"ok": Ran(ENOUGH, {"a": ENOUGH, "b": ENOUGH})}}
    assert add(versions, sighting("a"), "2026-11-24") is True
    assert add(versions, sighting("a c"), "2026-11-24") is True
    assert add(versions, sighting("a c"), "2026-11-24") is False
    assert add(versions, sighting("a", name="2"), "2026-11-24") is True
    assert add(versions, sighting("a"), "2026-11-24") is True
    assert [one.version for one in versions] == ["2", "1"]  # the one that ran last is the present one
    assert add(versions, sighting("a")._replace(catalogue=("a",)), "2026-11-24") is True
    assert (versions[1].first, versions[1].last, versions[1].catalogue) == (DAY, "2026-11-24", ["a"])


def test_a_ledger_stays_small_whatever_a_host_does(paths: Paths) -> None:
    """Made-up versions, commands and events by the hundred: old versions go, of the rest the first ones stay."""
    versions: list[Version] = []
    for number in range(30):
        add(versions, sighting("a", name=str(number)), DAY)
    assert [one.version for one in versions] == [str(number) for number in range(22, 30)]
    for number in range(100):
        add(versions, sighting("a", command=f"x {number}", name="29"), DAY)
    assert len(versions[-1].commands) == 64
    assert add(versions, sighting("a", command="one more", name="29"), DAY) is False
    for number in range(30):
        names = " ".join(f"{'long' * 40}{number}-{index}" for index in range(50))
        note("ktx", paths, sighting(names, command=f"x {number}"), DAY)
    assert paths.emitted.stat().st_size < 256 * 1024
    note("ktx", paths, sighting("a", name="2"), DAY)
    assert read(paths)[-1].version == "2"
    note("ktx", paths, sighting("a", name="2" * 1000), DAY)
    note("ktx", paths, sighting("b" * 1000, name="2"), DAY)
    assert read(paths)[-1].commands == {"x": {"ok": Ran(2, {"a": 1})}}


def whole() -> bytes:
    """Give the bytes of a sound ledger."""
    commands = {"x": {"ok": {"runs": 1, "events": {"a": 1}}}}
    fields = {"version": "0", "first": DAY, "last": DAY, "catalogue": [], "commands": commands}
    return json.dumps({"format": 1, "versions": [fields]}).encode()


HOSTILE = {
    "empty": b"",
    "cut off": whole()[:-20],
    "no JSON": b"\0\xff" * 50,
    "nested deeply": b"[" * 100_000,
    "a list": b"[]",
    "another format": whole().replace(b'"format": 1', b'"format": 2'),
    "counts below zero": whole().replace(b'"runs": 1', b'"runs": -1'),
    "counts that are none": whole().replace(b'"a": 1', b'"a": true'),
    "a version that is no text": whole().replace(b'"version": "0"', b'"version": 0'),
    "commands that are a list": whole().replace(b'"commands": {', b'"commands": [], "more": {'),
    "endless": b" " * 300_000 + whole(),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_ledger_that_is_none_is_as_good_as_absent(case: str, paths: Paths) -> None:
    """It is neither believed nor in the way: the next run writes it anew."""
    paths.spool.mkdir(parents=True, mode=0o700)
    paths.emitted.write_bytes(HOSTILE[case])
    assert read(paths) == []
    note("ktx", paths, sighting("a"), DAY)
    assert [one.version for one in read(paths)] == ["1"]
    paths.emitted.write_bytes(whole())
    assert [one.version for one in read(paths)] == ["0"]


@pytest.mark.parametrize("kind", ["folder", "link", "fifo"])
def test_what_stands_in_the_ledgers_place_is_left_alone(kind: str, home: Path, paths: Paths, tmp_path: Path) -> None:
    """A capture is on disk all the same, nothing hangs, and nothing is written through a link."""
    target = tmp_path / "target"
    target.write_bytes(whole())
    paths.spool.mkdir(parents=True, mode=0o700)
    if kind == "folder":
        paths.emitted.mkdir()
    elif kind == "fifo":
        if sys.platform == "win32":
            pytest.skip("no pipes with names here")
        os.mkfifo(paths.emitted)
    else:
        paths.emitted.symlink_to(target)
    assert read(paths) == []
    done = run_python(HOST, home, timeout_s=20)
    assert (done.returncode, done.stdout) == (0, "queued\n"), done.stderr
    assert target.read_bytes() == whole()
    assert [path.name for path in paths.spool.iterdir() if path.name.startswith(".emitted")] == []


# -- what a host leaves ---------------------------------------------------------------------------------------

HOST = """
import sys
from spool import Telemetry
t = Telemetry("ktx", "1", home=sys.argv[1], flush="never")
print(t.capture("outside").state)
with t.command(["ktx", "work"]):
    t.capture("inside"); t.capture("inside")
t.capture("afterwards")
"""


def test_a_run_is_noted_by_command_and_by_how_it_ended(home: Path, paths: Paths) -> None:
    """Each event once a run, with its command; what is captured before and after it without one."""
    run_python(HOST, home)
    failing = HOST.replace('t.capture("inside"); t.capture("inside")', "raise ValueError")
    assert "ValueError" in run_python(failing, home).stderr
    (found,) = read(paths)
    assert found.commands == {
        "": {"": Ran(2, {"afterwards": 1, "outside": 2})},
        "ktx work": {"ok": Ran(1, {"command": 1, "inside": 1}), "error": Ran(1, {"command": 1})},
    }
    assert (found.version, found.catalogue) == ("1", [])
    assert paths.emitted.stat().st_mode & 0o777 == 0o600


class A(Event):
    """An event of a host."""


class B(Event):
    """Another one."""


def test_a_steady_host_writes_no_ledger(home: Path, paths: Paths) -> None:
    """After enough runs the file is the very same one, run after run; until it does something new."""
    telemetry = Telemetry("ktx", "1", home=home, flush="never", catalogue=Catalogue(A, B))

    def run(event: str) -> int:
        with telemetry.command(["x"]):
            assert telemetry.capture(event)
        return paths.emitted.stat().st_ino

    files = {run("a") for _ in range(ENOUGH)}
    assert len(files) > 1
    steady = {run("a") for _ in range(5)}
    assert len(steady) == 1
    assert run("b") not in steady
    assert read(paths)[0].commands["x"]["ok"] == Ran(ENOUGH, {"a": ENOUGH, "b": 1, "command": ENOUGH})
    telemetry.close()


def test_ten_hosts_at_once_leave_a_sound_ledger(home: Path, paths: Paths) -> None:
    """Of sightings at once some are lost, and later runs make up for it: what is there reads."""
    code = HOST.replace('"inside"', "'inside' + sys.argv[2]")
    hosts = [start_python(code, home, number % 5) for number in range(10)]
    assert {host.communicate(timeout=60)[0] for host in hosts} <= {"queued\n", "aside\n"}
    assert [host.returncode for host in hosts] == [0] * 10
    run_python(code, home, "last")
    (found,) = read(paths)
    work = found.commands["ktx work"]["ok"]
    assert {"command", "insidelast"} <= set(work.events) <= {"command", "insidelast", *(f"inside{n}" for n in range(5))}
    assert 2 <= work.events["command"] == work.runs <= 11


def test_consent_holds_for_the_ledger_too(home: Path, paths: Paths) -> None:
    """Off: nothing is written. Switched off later: it is deleted, drafts with it, and does not come back."""
    assert run_python(HOST, home, env=environment(DO_NOT_TRACK="1")).stdout == "disabled\n"
    assert not home.exists()
    telemetry = Telemetry("ktx", "1", home=home, flush="never")
    assert telemetry.capture("a")
    run_python(HOST, home)
    draft = paths.spool / ".emitted.json.1.abcd"
    draft.write_bytes(whole())
    assert paths.emitted.exists()
    assert flush(home, "disable").returncode == 0
    assert not paths.emitted.exists()
    assert not draft.exists()
    telemetry.close()  # it captured something before the no
    assert not paths.emitted.exists()
    assert run_python(HOST, home).stdout == "disabled\n"
    assert not paths.emitted.exists()


def test_an_opt_out_between_the_writing_and_its_end_is_seen(paths: Paths) -> None:
    """The question is asked again after the file is there: then it goes."""
    decide_for_all(paths, enabled=True)
    there: list[bool] = []

    def opt_out_when_the_file_is_there(event: str, arguments: tuple[object, ...]) -> None:
        if event == "os.rename" and str(arguments[1]) == str(paths.emitted) and not there:
            there.append(True)
            paths.identity.write_bytes(paths.identity.read_bytes().replace(b"true", b"false"))

    sys.addaudithook(opt_out_when_the_file_is_there)
    note("ktx", paths, sighting("a"), DAY)
    assert there == [True]
    assert not paths.emitted.exists()


# -- the command ----------------------------------------------------------------------------------------------


def test_where_there_is_no_ledger_there_is_nothing_to_compare(home: Path, paths: Paths) -> None:
    """On a machine without a spool, and where the file is damaged: exit code 0, one line, no file written."""
    done = flush(home, "audit")
    assert (done.returncode, done.stderr, done.stdout.count("\n")) == (0, "", 1)
    assert "nothing was captured here yet" in done.stdout
    assert not home.exists()
    paths.spool.mkdir(parents=True, mode=0o700)
    paths.emitted.write_bytes(HOSTILE["cut off"])
    report = flush_json(home, "audit")
    assert (report["exit_code"], report["present"], report["stderr"]) == (0, None, "")
    assert list(paths.spool.iterdir()) == [paths.emitted]


def example_host(folder: Path, number: str, *, without: str = "") -> list[str]:
    """Make a release of the example host, with one event's emit taken out; give its command line."""
    shutil.copytree(ROOT / "scripts" / "ktx", folder, ignore=shutil.ignore_patterns("__pycache__", "test_*"))
    about = folder / "ktx_telemetry.py"
    about.write_text(about.read_text().replace('VERSION = "0.12.0"', f'VERSION = "{number}"'))
    if without:
        program = folder / "ktx_app.py"
        emit = f'telemetry().capture(\n            "{without}"'
        assert emit in program.read_text()
        program.write_text(program.read_text().replace(emit, emit.replace("telemetry().capture", "(lambda *_: None)")))
    return [sys.executable, str(folder)]


def test_a_staged_blackout_is_named(home: Path, tmp_path: Path) -> None:
    """The example host's 0.13.0 forgot to tell of a scan: after one ingest the audit says so; 0.13.1 mends it."""
    make_shop(tmp_path / "shop.db")
    env = environment(KTX_HOME=str(home), KTX_SPOOL_FLUSHER="1")

    def ingest(*command: str) -> None:
        subprocess.run([*command, "ingest", tmp_path / "shop.db"], env=env, check=True, capture_output=True, timeout=60)

    ingest(*example_host(tmp_path / "old", "0.12.0"))
    assert flush_json(home, "audit")["silent"] == []
    ingest(*example_host(tmp_path / "new", "0.13.0", without="scan_completed"))
    report = flush_json(home, "audit")
    assert (report["exit_code"], report["present"], report["earlier"]) == (0, "0.13.0", ["0.12.0"])
    assert report["silent"] == [
        {
            "event": "scan_completed",
            "command": "ktx ingest",
            "outcome": "ok",
            "version": "0.12.0",
            "seen": 1,
            "of_runs": 1,
            "runs_now": 1,
            "still_under": [],
        }
    ]
    assert (report["retired"], report["catalogue"]) == ([], True)
    assert report["never_seen"] == ["mcp_request_completed", "daemon_started", "daemon_stopped"]
    done = flush(home, "audit")
    assert "silent: scan_completed: 0.12.0 had it in 1 of 1 run of `ktx ingest` that ended ok" in done.stdout
    ingest(*example_host(tmp_path / "mended", "0.13.1"))
    assert flush_json(home, "audit")["silent"] == []
