"""Doctor finds what is wrong with home, files, SQLite, locks, queue, schedule and the last runs, and mends nothing."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from flusher.delivery import state
from flusher.doctor import checks
from flusher.doctor.checks import FileFacts
from flusher.schedule.cron import daemon_runs
from flusher.schedule.method import Installed
from flusher.schedule.timetable import entry_name
from spool.home import Paths
from spool.queue import Queue
from tests.support import damage
from tests.support.crontabs import NEEDS_CRON, Crontabs
from tests.support.examination import examined, findings, sound, tree
from tests.support.local_posthog import LocalPostHog
from tests.support.look import put_aside
from tests.support.mounts import NEEDS_ROOT, remount, tmpfs
from tests.support.processes import ROOT, SILENT, environment, flush_json, start_python
from tests.support.strace import needs_strace
from tests.support.strict_sqlite import strict_environment

if sys.platform == "win32":
    pytest.skip("files have owners and modes here as POSIX knows them", allow_module_level=True)

NOBODY = 65534
DAY_S = 24 * 3600.0

# -- home and files -------------------------------------------------------------------------------------------


def chmod(mode: int, *parts: str) -> Callable[[Path], object]:
    """Give a fault: another mode."""
    return lambda home: home.joinpath(*parts).chmod(mode)


# Fault, the finding's name, its state, words of the mend.
MODES: dict[str, tuple[Callable[[Path], object], str, str, str]] = {
    "home that can't be written": (chmod(0o500), "home", "fail", "chmod u+rwx"),
    "home that others write to": (chmod(0o777), "home", "warn", "chmod go-w"),
    "spool that others enter": (chmod(0o755, "spool"), "files", "warn", "chmod -R go-rwx"),
    "queue that others read": (chmod(0o644, "spool", "queue", "cache.db"), "files", "warn", "chmod -R go-rwx"),
    "queue that can't be written": (chmod(0o400, "spool", "queue", "cache.db"), "files", "fail", "chmod -R u+rwX"),
    "folder that can't be entered": (chmod(0o600, "spool", "aside"), "files", "fail", "chmod -R u+rwX"),
    "lock that others read": (chmod(0o666, "spool", "queue.lock"), "files", "warn", "chmod -R go-rwx"),
}


@pytest.mark.parametrize("name", MODES)
def test_permissions_are_named_and_left_as_they_are(name: str, home: Path, server: LocalPostHog) -> None:
    """Whom it keeps out, or lets in, and the chmod that mends it."""
    fault, finding, state_, words = MODES[name]
    sound(home, server)
    fault(home)
    before = tree(home)
    code, found = examined(home)
    assert (code, found[finding]["state"]) == (2 if state_ == "fail" else 0, state_)
    assert words in found[finding]["mend"]
    assert tree(home) == before


@pytest.mark.root
@NEEDS_ROOT
def test_files_of_another_user_are_named(home: Path, server: LocalPostHog) -> None:
    """What sudo leaves behind, seen by its owner."""
    sound(home, server)
    os.chown(home / "spool" / "queue" / "cache.db", NOBODY, NOBODY)
    code, found = examined(home)
    assert (code, found["files"]["state"]) == (2, "fail")
    assert "belongs to another user" in found["files"]["what"]
    assert "chown" in found["files"]["mend"]


@pytest.mark.root
@NEEDS_ROOT
def test_a_home_of_another_user_is_named(home: Path, server: LocalPostHog) -> None:
    """Root in somebody's home: telemetry is off there, and no request is made."""
    sound(home, server)
    os.chown(home, NOBODY, NOBODY)
    code, found = examined(home, "--send")
    assert (code, found["telemetry"]["state"], found["home"]["state"]) == (2, "fail", "fail")
    assert "without sudo" in found["telemetry"]["mend"]
    assert "chown" in found["home"]["mend"]
    assert server.requests == []


@pytest.mark.parametrize("twice", [False, True], ids=["symbolic link", "hard link"])
def test_a_link_among_the_files_is_named_and_not_followed(
    twice: bool, home: Path, tmp_path: Path, server: LocalPostHog
) -> None:
    """The queue is not looked at through it."""
    sound(home, server)
    database = home / "spool" / "queue" / "cache.db"
    if twice:
        os.link(database, tmp_path / "second name")
    else:
        database.rename(tmp_path / "elsewhere")
        database.symlink_to(tmp_path / "elsewhere")
    code, found = examined(home)
    assert (code, found["files"]["state"], found["queue"]["state"]) == (2, "fail", "warn")
    assert "not looked at" in found["queue"]["what"]
    assert "move it away" in found["files"]["mend"]


def test_a_file_in_place_of_the_home_is_named(home: Path, server: LocalPostHog) -> None:
    """There is no home to be had."""
    home.write_text("")
    env = environment(KTX_TELEMETRY_ENDPOINT=server.url, KTX_TELEMETRY_KEY="phc_test")
    code, found = examined(home, env=env)
    assert (code, found["home"]["state"], found["telemetry"]["state"]) == (2, "fail", "fail")
    assert "move it away, or set KTX_HOME" in found["home"]["mend"]


@pytest.mark.root
@NEEDS_ROOT
def test_a_read_only_disk_is_named(home: Path, tmp_path: Path, server: LocalPostHog) -> None:
    """Nothing can be tried there."""
    sound(home, server)
    with tmpfs(tmp_path / "disk") as disk:
        shutil.copytree(home, disk / "home")
        remount(disk, "ro")
        code, found = examined(disk / "home")
    assert (code, found["home"]["state"], found["canary"]["state"]) == (2, "fail", "fail")
    assert "mount it so that it can be written" in found["home"]["mend"]


@pytest.mark.root
@NEEDS_ROOT
def test_a_full_disk_is_named(tmp_path: Path, server: LocalPostHog) -> None:
    """No event can be queued: the canary shows it."""
    with tmpfs(tmp_path / "disk", "2m") as disk:
        sound(disk / "home", server)
        with (disk / "filler").open("wb", buffering=0) as file, suppress(OSError):
            while file.write(bytes(4096)):
                pass
        code, found = examined(disk / "home")
    assert (code, found["canary"]["state"]) == (2, "fail")
    assert "free space" in found["canary"]["mend"]


@pytest.mark.root
@NEEDS_ROOT
def test_a_home_on_a_network_is_named(home: Path, tmp_path: Path, server: LocalPostHog) -> None:
    """By the table of mounts (here one laid over the system's); it works, slower."""
    sound(home, server)
    (tmp_path / "table").write_text("1 0 0:1 / / rw - nfs4 nas:/home rw\n")
    over = ["unshare", "-m", "sh", "-c", 'mount --bind "$0" /proc/$$/mountinfo && exec "$@"', tmp_path / "table"]
    code, found = examined(home, wrapper=over)
    assert (code, found["file system"]["state"]) == (0, "warn")
    assert "nfs4" in found["file system"]["what"]
    assert "set KTX_HOME to a folder on a disk of this machine" in found["file system"]["mend"]


# -- SQLite, locks, queue -------------------------------------------------------------------------------------


def test_a_sqlite_that_can_not_hold_a_queue_is_named(home: Path, tmp_path: Path, server: LocalPostHog) -> None:
    """One that refuses double-quoted strings, as some systems build it."""
    sound(home, server)
    code, found = examined(home, env=strict_environment(tmp_path))
    assert (code, found["sqlite"]["state"], "canary" in found) == (2, "fail", False)
    assert "double-quoted strings" in found["sqlite"]["what"]
    assert "another Python" in found["sqlite"]["mend"]


@pytest.mark.parametrize(("version", "ok"), [("3.7.17", False), ("3.8.0", True), ("3.40.1", True), ("3.51.3", True)])
def test_an_old_sqlite_is_named(version: str, ok: bool) -> None:
    """Older than the partial indexes that diskcache makes."""
    found = checks.sqlite(version, takes_double_quotes=True)
    assert (found.state == "ok") == ok
    assert ok or "another Python" in str(found.mend)


@pytest.mark.root
@needs_strace
def test_a_disk_without_locks_is_named(home: Path, server: LocalPostHog) -> None:
    """Where flock is not to be had nothing can be delivered."""
    sound(home, server)
    strace = ["strace", "-f", "-o", os.devnull, "-e", "trace=flock", "-e", "inject=flock:error=ENOSYS"]
    code, found = examined(home, wrapper=strace)
    assert (code, found["locks"]["state"]) == (2, "fail")
    assert "no file locks here" in found["locks"]["what"]
    assert "local disk" in found["locks"]["mend"]


def test_a_process_that_sits_on_the_lock_is_named(home: Path, server: LocalPostHog) -> None:
    """Stopped in its append: who it is can be found out."""
    sound(home, server)
    code_ = (
        "import fcntl, sys, time; file = open(sys.argv[1]); fcntl.flock(file, 2); print(1, flush=True); time.sleep(60)"
    )
    with start_python(code_, Paths(home).queue_lock) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        holder.send_signal(signal.SIGSTOP)
        code, found = examined(home)
        holder.kill()
    assert (code, found["locks"]["state"], found["canary"]["state"]) == (2, "fail", "ok")
    assert "fuser -v" in found["locks"]["mend"]


def garbage(folder: Path) -> None:
    """Write over the middle of the file."""
    with (folder / "cache.db").open("r+b") as file:
        file.seek(8192)
        file.write(b"\xa5" * 4096)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "garbage": garbage,
    "no database": lambda folder: (folder / "cache.db").write_bytes(b"precious"),
    "empty": lambda folder: (folder / "cache.db").write_bytes(b""),
    "gone": lambda folder: (folder / "cache.db").unlink(),
    "foreign row": damage.sql("UPDATE Cache SET mode = 4, value = x'80' WHERE rowid = 100"),
    "wrong checksum": damage.sql("UPDATE Cache SET value = replace(value, 'scan', 'scam') WHERE rowid = 100"),
    "settings": damage.sql("UPDATE Settings SET value = 'least-recently-used' WHERE key = 'eviction_policy'"),
    "account": damage.sql("DELETE FROM Cache WHERE rowid = 100"),
}


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with 141 pending events, some of them to be damaged."""
    home = tmp_path_factory.mktemp("full") / "home"
    with pytest.MonkeyPatch.context() as patch:  # made before the fixture that silences each test
        for name in SILENT:
            patch.delenv(name, raising=False)
        damage.fill(home)
    return home


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_queue_is_named_and_left_to_the_flusher(
    name: str, full: Path, home: Path, server: LocalPostHog
) -> None:
    """Doctor reads a copy; the queue itself stays as it is, byte for byte, until a run takes it to quarantine."""
    shutil.copytree(full, home)
    DAMAGES[name](home / "spool" / "queue")
    before = tree(home)
    env = environment(KTX_TELEMETRY_ENDPOINT=server.url)
    code, found = examined(home, env=env)
    assert (code, found["queue"]["state"]) == (2, "fail")
    assert "quarantine" in found["queue"]["mend"]
    assert tree(home) == before
    assert flush_json(home, env=env)["remaining"] == 0
    code, found = examined(home, env=env)
    assert (code, found["queue"]["state"], found["quarantine"]["state"]) == (0, "ok", "warn")
    assert ".reason" in found["quarantine"]["mend"]


def test_a_queue_whose_events_are_in_the_log_is_read_whole(home: Path, server: LocalPostHog) -> None:
    """A host that runs keeps its connection open: what it has committed is counted."""
    code_ = (
        "import sys, time; from spool import Telemetry;"
        "telemetry = Telemetry('ktx', '1', 'phc_test', sys.argv[2], sys.argv[1], flush='never');"
        "[telemetry.capture('scan') for _ in range(30)]; print(1, flush=True); time.sleep(60)"
    )
    with start_python(code_, home, server.url) as host:
        assert host.stdout is not None
        host.stdout.readline()
        assert (home / "spool" / "queue" / "cache.db-wal").stat().st_size > 0
        code, found = examined(home)
        host.kill()
    assert (code, found["queue"]["what"]) == (0, "every row reads: 30 pending, 0 dead letters")


# -- schedule and runs ----------------------------------------------------------------------------------------


@pytest.mark.root
@NEEDS_CRON
def test_a_stale_schedule_is_named(home: Path, tmp_path: Path, server: LocalPostHog) -> None:
    """Its interpreter was removed; beside it one of a home that was removed."""
    sound(home, server)
    crontabs = Crontabs(tmp_path / "crontabs")
    gone = tmp_path / "venv" / "bin" / "python"
    mine = (
        f"5 * * * * {gone} -P -m flusher --app ktx --home {home} run # ktx-flush schedule {entry_name('ktx', home)}\n"
    )
    other = f"5 * * * * {sys.executable} -P -m flusher --home {tmp_path}/old run # ktx-flush schedule ktx-11111111\n"
    crontabs.write((mine + other).encode())
    code, found = findings(home, wrapper=crontabs.command())
    stale = [one for one in found if one["name"] == "schedule" and "stale" in one["what"]]
    assert (code, [one["state"] for one in stale]) == (2, ["fail", "warn"])
    assert f"program {gone} is gone" in stale[0]["what"]
    assert "schedule install" in stale[0]["mend"]
    assert f"home {tmp_path}/old is gone" in stale[1]["what"]
    assert "line 2 of crontab -l" in stale[1]["mend"]
    crontabs.write((mine + mine).encode())
    code, found = findings(home, wrapper=crontabs.command())
    twice = next(one for one in found if "times at once" in one["what"])
    assert (code, twice["state"]) == (2, "fail")
    assert "schedule remove" in twice["mend"]


@pytest.mark.root
@NEEDS_CRON
def test_a_good_schedule_is_no_fault(home: Path, tmp_path: Path, server: LocalPostHog) -> None:
    """It is said how often it runs."""
    sound(home, server)
    crontabs = Crontabs(tmp_path / "crontabs")
    assert crontabs.schedule(home, "install", "--method", "cron", "--every", "6h").returncode == 0
    code, found = findings(home, wrapper=crontabs.command())
    assert code == 0
    assert "every 6h by cron" in [one["what"] for one in found if one["name"] == "schedule"]


@pytest.mark.parametrize(
    ("names", "runs"), [(["init", "cron"], True), (["crond"], True), (["init"], False), ([], None)]
)
def test_a_cron_daemon_is_looked_for_among_the_processes(names: list[str], runs: bool | None, tmp_path: Path) -> None:
    """None can't be told from a machine that lists no processes; where none runs, a line in a crontab is named."""
    (tmp_path / "self").mkdir()
    for number, name in enumerate(names):
        (tmp_path / str(number)).mkdir()
        (tmp_path / str(number) / "comm").write_text(f"{name}\n")
    assert daemon_runs(tmp_path) is runs
    assert daemon_runs(tmp_path / "missing") is None


def test_a_schedule_without_a_daemon_is_named() -> None:
    """The crontab is right, and nobody reads it."""
    one = Installed("ktx-1", "cron", "line 1", (sys.executable,), None)
    found = checks.schedule([(one, None)], "ktx-1", "ktx-flush", daemon=False)
    assert [finding.state for finding in found] == ["ok", "warn"]
    assert "start the cron daemon" in str(found[1].mend)
    assert len(checks.schedule([(one, None)], "ktx-1", "ktx-flush", daemon=None)) == 1


@pytest.mark.parametrize("beside", [False, True], ids=["queued", "aside"])
def test_a_flusher_that_had_no_success_for_a_day_is_named(beside: bool, home: Path, server: LocalPostHog) -> None:
    """While events wait: since when, what the last run met, and what to run. Exit code 75."""
    sound(home, server)
    flush_json(home)
    paths, now = Paths(home), time.time()
    assert examined(home)[1]["flusher"]["state"] == "ok"
    if beside:
        put_aside(home, "0f8fad5b-d9cb-469f-a165-70867728950e")
        (file,) = paths.aside.glob("*.json")
        os.utime(file, (now - 2 * DAY_S,) * 2)
    else:
        queue = Queue(paths, wait_s=5.0, clock=lambda: now - 2 * DAY_S)
        queue.append(damage.text(1))
        queue.close()
    assert examined(home)[1]["flusher"]["state"] == "ok"
    last = state.FlushState(now - 60, now - 3 * DAY_S, "destination refused", "PostHog refuses the key (401)", 3)
    state.store(paths, last)
    code, found = examined(home)
    assert (code, found["flusher"]["state"]) == (75, "fail")
    assert all(words in found["flusher"]["what"] for words in ("72.0 h ago", "refuses the key (401)", "2.0 days"))
    assert "run --force" in found["flusher"]["mend"]
    assert json.loads(paths.flush_state.read_text())["failures"] == 3


# -- the judgements themselves --------------------------------------------------------------------------------


def test_the_worst_of_many_files_is_named_first() -> None:
    """One finding for all of them, with their number."""
    private = FileFacts("/s", "folder", 0o700)
    public = [FileFacts(f"/s/{number}", "file", 0o644) for number in range(5)]
    assert checks.files([private], "/s").state == "ok"
    found = checks.files([private, *public], "/s")
    assert (found.state, found.what) == ("warn", "open to other users: /s/0 and 4 more")
    shut = FileFacts("/s/a b", "file", 0o200)
    assert checks.files([*public, shut], "/s").state == "fail"
    foreign = FileFacts("/s/x", "file", 0o600, mine=False)
    assert "chown" in str(checks.files([*public, shut, foreign], "/s").mend)
    link = FileFacts("/s/a b", "other", 0o777)
    assert "mv '/s/a b'" in str(checks.files([*public, shut, foreign, link], "/s").mend)


def test_doctor_loads_no_delivery_code_while_telemetry_is_off(home: Path, server: LocalPostHog) -> None:
    """Off means off: what could make a request isn't even imported."""
    sound(home, server)
    code = (
        "import sys; from pathlib import Path; from flusher.doctor.examine import examine;"
        "from spool.home.paths import Paths;"
        "examine('ktx', Paths(Path(sys.argv[1])), {'DO_NOT_TRACK': '1'}, send=True);"
        "print({'requests', 'posthog', 'flusher.delivery.wire'} & {*sys.modules})"
    )
    with start_python(code, home, env=environment(PYTHONPATH=str(ROOT))) as process:
        assert process.communicate(timeout=60)[0] == "set()\n"
