"""Links, pipes, folders and foreign files where the spool keeps its own: not followed, not changed, not waited for.

They go to quarantine as they are, and everything that was promised arrives.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from flusher.context import Context, Options, RunReport
from flusher.report.status import collect
from flusher.run import run
from spool import Telemetry
from spool.home import Paths
from spool.queue import FileLock
from tests.support.local_posthog import LocalPostHog
from tests.support.processes import KEY, environment, run_python
from tests.support.processes import flush as run_flusher

if sys.platform == "win32":
    pytest.skip("files have owners and modes here as POSIX knows them", allow_module_level=True)

ROOT_ONLY = pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="only root gives files away")
NOBODY = 65534

FOLDERS = ["spool/queue", "spool/aside", "spool/spans", "spool/quarantine", "spool/queue.new"]
FILES = ["spool/queue.lock", "spool/queue/cache.db", "spool/queue/cache.db-wal", "spool/queue/cache.db-shm"]
PLACES = [*FILES, *FOLDERS]


def capture(home: Path, name: str) -> str:
    """Capture one event as a new process would; gives the receipt's state."""
    telemetry = Telemetry("ktx", "1", KEY, home=home, flush="never")
    receipt = telemetry.capture(name)
    telemetry.close()
    assert receipt or receipt.reason
    return receipt.state


def flush(home: Path, server: LocalPostHog) -> RunReport:
    """Let a flusher come, whatever it was told before."""
    return run(Context(app="ktx", paths=Paths(home), options=Options(host=server.url, key=KEY, force=True), env={}))


def losses(home: Path) -> dict[str, int]:
    """Give the losses by cause, of an account that adds up."""
    account = collect("ktx", Paths(home), {}).account
    assert account.balanced
    return account.losses


def facts(path: Path) -> object:
    """Give all that could have been changed of a file or folder, and below it."""
    if not path.exists():
        return None
    one = path.stat()
    below = [facts(entry) for entry in sorted(path.iterdir())] if path.is_dir() else path.read_bytes()
    return path.name, one.st_mode, one.st_uid, one.st_mtime_ns, below


def victim(tmp_path: Path, place: str = "spool") -> Path:
    """Make a precious folder or file, of the kind that belongs at the place."""
    precious = tmp_path / "precious"
    if place in FILES:
        precious.write_bytes(b"precious\n")
        precious.chmod(0o644)
    else:
        precious.mkdir(mode=0o755)
        (precious / "cache.db").write_bytes(b"precious\n")
        (precious / "1.json").write_bytes(b"{}")
    return precious


def exercise(home: Path, place: str, server: LocalPostHog, put: Callable[[Path], object]) -> None:
    """Put something at a place, capture and flush: it lies in quarantine, and what was promised has arrived."""
    assert capture(home, "before") == "queued"
    assert flush(home, server).remaining == 0
    path = home / place
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    put(path)
    there = os.lstat(path)
    assert capture(home, "during") in ("queued", "aside")
    report = flush(home, server)
    assert (report.result.exit_code, report.remaining) == (0, 0)
    moved = [found for found in (home / "spool").rglob("*") if os.path.samestat(there, os.lstat(found))]
    if place == "spool/queue.new":  # a queue is there: nobody looks at what would become one
        assert moved == [path]
    else:
        assert {found.relative_to(home / "spool").parts[0] for found in moved} == {"quarantine"}
        assert list((home / "spool/quarantine").glob("*.reason"))
    assert capture(home, "after") == "queued"
    assert flush(home, server).remaining == 0
    names = {event["event"] for event in server.events()} - {"install_first_run", "spool_loss"}
    assert names == {"before", "during", "after"}
    # The account went with the database, and says so by one loss.
    assert losses(home) == ({"damaged": 1} if place in ("spool/queue", "spool/queue/cache.db") else {})


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("target", ["there", "missing"])
def test_a_link_is_not_followed(place: str, target: str, home: Path, tmp_path: Path, server: LocalPostHog) -> None:
    """Whether it leads to something or to nothing: what it names is neither read, nor changed, nor created."""
    precious = victim(tmp_path, place) if target == "there" else tmp_path / "missing"
    before = facts(precious)
    exercise(home, place, server, lambda path: path.symlink_to(precious))
    assert facts(precious) == before


@pytest.mark.parametrize("place", FILES)
def test_a_file_with_a_second_name_is_left_alone(place: str, home: Path, tmp_path: Path, server: LocalPostHog) -> None:
    """A hard link to somebody's file looks like ours in all but the count of its names: it is moved, not changed."""
    precious = victim(tmp_path, place)
    before = facts(precious)
    exercise(home, place, server, lambda path: path.hardlink_to(precious))
    assert facts(precious) == before


@pytest.mark.parametrize("place", FILES)
def test_a_folder_is_no_file(place: str, home: Path, server: LocalPostHog) -> None:
    """It is out of the way after one run, whatever is in it."""
    exercise(home, place, server, Path.mkdir)


@pytest.mark.parametrize("place", FOLDERS)
def test_a_file_is_no_folder(place: str, home: Path, server: LocalPostHog) -> None:
    """It is out of the way after one run, whatever it holds."""
    exercise(home, place, server, lambda path: path.write_bytes(b"precious"))


@ROOT_ONLY
@pytest.mark.parametrize("place", PLACES)
def test_what_belongs_to_another_user_is_not_used(place: str, home: Path, server: LocalPostHog) -> None:
    """Root in the home of somebody, or somebody in a home of root: a foreign owner decides nothing here."""

    def put(path: Path) -> None:
        path.write_bytes(b"precious") if place in FILES else path.mkdir(mode=0o700)
        os.chown(path, NOBODY, NOBODY)

    exercise(home, place, server, put)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names here")
@pytest.mark.parametrize("place", FILES)
def test_a_pipe_is_not_waited_for(place: str, home: Path, server: LocalPostHog) -> None:
    """To open a pipe that nobody writes to would never end."""
    exercise(home, place, server, os.mkfifo)


@pytest.mark.parametrize("at_work", [True, False], ids=["a flusher at work", "no flusher"])
def test_with_lock_and_side_door_both_unusable_an_event_goes_aside_or_is_counted(
    at_work: bool, home: Path, tmp_path: Path, server: LocalPostHog
) -> None:
    """The host makes room for its event, which a flusher at work does by itself; else the receipt says that it is lost.

    Nothing is written through the link.
    """
    assert capture(home, "before") == "queued"
    precious = victim(tmp_path, "spool/aside")
    before, paths = facts(precious), Paths(home)
    paths.aside.rename(tmp_path / "kept")
    paths.aside.symlink_to(precious)
    telemetry = Telemetry("ktx", "1", KEY, home=home, flush="never")
    flusher = FileLock(paths.flush_lock)
    if at_work:
        flusher.acquire(1.0)
    with FileLock(paths.queue_lock).held(1.0):
        receipt = telemetry.capture("during")
    flusher.close()
    assert receipt.state == ("lost" if at_work else "aside")
    assert "aside" in str(receipt.reason) or not at_work
    assert facts(precious) == before
    assert telemetry.capture("after")
    telemetry.close()
    assert flush(home, server).remaining == 0
    assert facts(precious) == before
    assert losses(home) == ({"unsafe_path": 1} if at_work else {})


def test_a_refusal_leaves_no_folder_open(home: Path, tmp_path: Path) -> None:
    """A host that runs its own tests with warnings as errors would fail by ours."""
    assert capture(home, "before") == "queued"
    (home / "spool/queue.lock").unlink()
    (home / "spool/queue.lock").symlink_to(tmp_path / "missing")
    code = "import sys; from spool import Telemetry; print(Telemetry('ktx', '1', home=sys.argv[1]).capture('x').state)"
    done = run_python(code, home, env=environment(PYTHONWARNINGS="always::ResourceWarning"))
    assert (done.stdout, done.stderr) == ("aside\n", "")


def test_a_home_that_is_a_link_of_its_owner_works(home: Path, tmp_path: Path, server: LocalPostHog) -> None:
    """Homes are linked to other disks: only what lies below the home must be no link."""
    (tmp_path / "elsewhere").mkdir()
    home.symlink_to(tmp_path / "elsewhere")
    assert capture(home, "before") == "queued"
    assert flush(home, server).remaining == 0
    assert "before" in {event["event"] for event in server.events()}


def test_a_pipe_as_the_lock_does_not_hold_up_a_new_process(home: Path) -> None:
    """Also at the very first capture of an install."""
    (home / "spool").mkdir(parents=True, mode=0o700)
    os.mkfifo(home / "spool/queue.lock")
    code = "import sys; from spool import Telemetry; print(Telemetry('ktx', '1', home=sys.argv[1]).capture('x').state)"
    assert run_python(code, home, timeout_s=20).stdout == "aside\n"


def test_a_spool_that_is_a_link_is_neither_wiped_nor_given_a_report(home: Path, tmp_path: Path) -> None:
    """Saying no is written down; what the link names keeps every file, and one line says why."""
    assert capture(home, "before") == "queued"
    precious = victim(tmp_path)
    (precious / "aside").mkdir()
    for name in ("flush.log", "report.html", "aside/1.json"):
        (precious / name).write_text("precious\n")
    (home / "spool").rename(tmp_path / "kept")
    (home / "spool").symlink_to(precious)
    before = facts(precious)
    for command, code in (("report", 2), ("disable", 1)):
        done = run_flusher(home, command)
        assert (done.returncode, done.stderr.count("\n")) == (code, 1)
        assert "is no plain folder" in done.stderr
    assert facts(precious) == before
    assert "off" in run_flusher(home, "status").stdout
