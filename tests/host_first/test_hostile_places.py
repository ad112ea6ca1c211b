"""Places where a spool can't live: the host never notices, the receipt says why, and it heals.

`Host` checks in each test that no capture raised or took long, that nothing was on stdout, and that it left
with 0.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.support.host import NOBODY, Host, all_arrive
from tests.support.local_posthog import LocalPostHog
from tests.support.mounts import NEEDS_ROOT, remount, tmpfs
from tests.support.processes import flush, run_python, status

if sys.platform == "win32":
    pytest.skip("files have owners and modes here as POSIX knows them", allow_module_level=True)

# -- disks --------------------------------------------------------------------------------------------------


@pytest.mark.root
@NEEDS_ROOT
def test_a_full_disk_can_be_looked_at(tmp_path: Path, server: LocalPostHog) -> None:
    """Not a byte is left: `status` still opens the queue, says what waits, and changes nothing."""
    with tmpfs(tmp_path / "disk", "1m") as disk:
        with Host(disk / "home", server.url) as host:
            host.expect(400, "queued", "aside", "lost", reason="disk is full")
            queued = host.count("queued")
        with suppress(OSError), (disk / "rest").open("wb", buffering=0) as rest:
            while True:
                rest.write(bytes(1))
        found = status(disk / "home")
        assert found["pending"] >= queued
        assert status(disk / "home")["accounting"] == found["accounting"]


@pytest.mark.root
@NEEDS_ROOT
def test_a_fresh_home_on_a_disk_that_is_too_small_heals_when_it_grows(tmp_path: Path, server: LocalPostHog) -> None:
    """256 KiB don't even hold an empty queue; each loss is counted and told once there is space."""
    with tmpfs(tmp_path / "disk", "256k") as disk, Host(disk / "home", server.url) as host:
        host.expect(120, "queued", "aside", "lost", reason="disk is full")
        assert host.count("lost") > 0
        lost = host.count("lost")
        remount(disk, "size=8m")
        host.expect(3, "queued")
        losses = all_arrive(disk / "home", server, host)
        # install_first_run has no receipt here: it may have been lost as well.
        assert losses.pop("disk_full") - lost in (0, 1)
        assert losses == {}
        (told,) = [event for event in server.events() if event["event"] == "spool_loss"]
        assert told["properties"]["lostCount"] - lost in (0, 1)


@pytest.mark.root
@NEEDS_ROOT
def test_a_disk_that_fills_up_under_a_running_host_heals(tmp_path: Path, server: LocalPostHog) -> None:
    """Not one byte is free: what has a true receipt is on disk, the rest is counted; the flusher waits."""
    with tmpfs(tmp_path / "disk", "2m") as disk, Host(disk / "home", server.url) as host:
        host.expect(3, "queued")
        fill(disk / "ballast")
        host.expect(100, "queued", "aside", "lost", reason="disk is full")
        fill(disk / "ballast")
        host.expect(5, "lost", reason="disk is full")
        lost = host.count("lost")
        # It says so, or gets by on the bytes that it frees itself; it never fails otherwise.
        assert "Traceback" not in flush(disk / "home", "run", "--force").stderr
        (disk / "ballast").unlink()
        host.expect(3, "queued")
        assert all_arrive(disk / "home", server, host) == {"disk_full": lost}


@pytest.mark.root
@NEEDS_ROOT
def test_a_disk_that_the_spool_alone_has_filled_is_drained(tmp_path: Path, server: LocalPostHog) -> None:
    """Nobody else will make room: the flusher does with what it kept, and everything arrives once."""
    with tmpfs(tmp_path / "disk", "8m") as disk, Host(disk / "home", server.url) as host:
        host.expect(3, "queued")
        assert flush(disk / "home", "run").returncode == 0
        host.do("more = {'pad': 'x' * 3_000}")
        host.expect(4_000, "queued", "aside", "lost", reason="disk is full")
        fill(disk / "home" / "spool" / "aside" / ".draft")
        lost = host.count("lost")
        assert lost > 0
        assert all_arrive(disk / "home", server, host) == {"disk_full": lost}
        assert len(server.requests) < 60


def fill(ballast: Path) -> None:
    """Take what is left of a file system."""
    with ballast.open("ab", buffering=0) as file:
        for size in (65536, 4096, 1):
            try:
                while True:
                    file.write(b"x" * size)
            except OSError:
                continue


@pytest.mark.parametrize("limit", [0, 20_000])
def test_a_limit_on_file_sizes_is_a_full_disk(limit: int, home: Path, server: LocalPostHog) -> None:
    """RLIMIT_FSIZE: nothing can be written, or the queue's log can't grow but a file of one event can."""
    with Host(home, server.url) as host:
        host.expect(2, "queued")
        host.do(f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, -1))")
        host.expect(30, "lost" if limit == 0 else "aside", "queued", reason="disk")
        assert host.count("lost") == (30 if limit == 0 else 0)
        host.do("resource.setrlimit(resource.RLIMIT_FSIZE, (-1, -1))")
        host.expect(2, "queued")
        assert sum(all_arrive(home, server, host).values()) == host.count("lost")


@pytest.mark.root
@NEEDS_ROOT
def test_a_read_only_home_heals_when_it_may_be_written(tmp_path: Path, server: LocalPostHog) -> None:
    """Without an identity telemetry is off, with one the events are lost and counted."""
    with tmpfs(tmp_path / "disk") as disk:
        remount(disk, "ro")
        with Host(disk / "home") as host:
            host.expect(2, "disabled", reason="home not usable")
        remount(disk, "rw")
        with Host(disk / "home", server.url) as host:
            host.expect(2, "queued")
        remount(disk, "ro")
        with Host(disk / "home", server.url) as host:
            host.expect(3, "lost", reason="Read-only file system")
            remount(disk, "rw")
            host.expect(2, "queued")
        assert sum(all_arrive(disk / "home", server, host).values()) == 3


# -- permissions --------------------------------------------------------------------------------------------


@pytest.fixture
def public_folder() -> Iterator[Path]:
    """A folder that every user can enter: pytest's own can't be entered."""
    folder = Path(tempfile.mkdtemp(prefix="ktx-spool-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def give(folder: Path, uid: int) -> None:
    """Give a folder and all that is in it to a user."""
    for path in (folder, *folder.rglob("*")):
        os.lchown(path, uid, uid)


@pytest.mark.root
@NEEDS_ROOT
def test_no_permission_to_write_the_home_heals(public_folder: Path, server: LocalPostHog) -> None:
    """A user's own home without the right to write, first fresh, then in the life of a host."""
    home = public_folder / "home"
    home.mkdir(mode=0o500)
    give(home, 65534)
    with Host(home, server.url) as host:
        host.do(NOBODY)
        host.expect(2, "disabled", reason="home not usable")
        home.chmod(0o700)
        host.expect(2, "queued")
        shutil.rmtree(home / "spool")
        home.chmod(0o500)
        host.receipts.clear()
        host.expect(3, "lost", reason="Permission denied")
        home.chmod(0o700)
        host.expect(2, "queued")
    give(home, 0)
    assert sum(all_arrive(home, server, host).values()) == 3


@pytest.mark.root
@NEEDS_ROOT
def test_a_spool_of_another_user_is_left_alone_until_it_is_given_back(
    public_folder: Path, server: LocalPostHog
) -> None:
    """As after a careless `sudo`: nothing in it is touched, each loss is counted."""
    home = public_folder / "home"
    home.mkdir(mode=0o700)
    give(home, 65534)
    with Host(home, server.url) as host:
        host.do(NOBODY)
        host.expect(2, "queued")
        give(home / "spool", 0)
        before = {path: path.stat().st_mtime_ns for path in (home / "spool").rglob("*")}
        host.expect(3, "lost", reason="belongs to another user")
        assert {path: path.stat().st_mtime_ns for path in (home / "spool").rglob("*")} == before
        give(home / "spool", 65534)
        host.expect(2, "queued")
    give(home, 0)
    assert all_arrive(home, server, host) == {"unsafe_path": 3}


@pytest.mark.root
@NEEDS_ROOT
@pytest.mark.parametrize("there", [True, False], ids=["a home", "no home yet"])
def test_root_leaves_nothing_in_the_home_of_another_user(there: bool, tmp_path: Path) -> None:
    """`sudo ktx` would leave files that the owner can't write: it is off instead."""
    owned = tmp_path / "user" / ".ktx" if there else tmp_path / "user"
    owned.mkdir(exist_ok=True)
    give(owned, 1000)
    with Host(tmp_path / "user" / ".ktx") as host:
        host.expect(2, "disabled", reason="home belongs to another user")
    assert [*owned.iterdir()] == []


# -- what vanishes or is something else ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "part",
    [
        ".",
        "spool",
        "spool/queue",
        "spool/queue.lock",
        "spool/aside",
    ],
)
def test_what_is_deleted_under_a_running_host_comes_back(part: str, home: Path, server: LocalPostHog) -> None:
    """The queue was open: the next captures are queued, and a flusher without options delivers them."""
    with Host(home, server.url) as host:
        host.expect(3, "queued")
        (home / "spool" / "aside").mkdir(exist_ok=True)
        shutil.rmtree(home / part) if (home / part).is_dir() else (home / part).unlink()
        if "queue.lock" not in part and "aside" not in part:
            host.receipts.clear()  # what was deleted is gone
        host.expect(3, "queued")
        assert all_arrive(home, server, host) == {}


@pytest.mark.parametrize(
    "fresh",
    [
        True,
        False,
    ],
    ids=["fresh", "running"],
)
@pytest.mark.parametrize("kind", ["file", "link"])
def test_something_else_where_the_spool_should_be_is_left_alone(
    kind: str,
    fresh: bool,
    home: Path,
    server: LocalPostHog,
) -> None:
    """A file or a link is neither followed nor removed.

    A fresh home is off until it is gone, another one counts each event as lost.
    """
    home.mkdir()
    elsewhere = home / "elsewhere"
    elsewhere.mkdir()
    with Host(home, server.url) as host:
        if not fresh:
            host.expect(2, "queued")
            shutil.rmtree(home / "spool")
            host.receipts.clear()
        if kind == "file":
            (home / "spool").write_text("mine")
        else:
            (home / "spool").symlink_to(elsewhere)
        if fresh:
            host.expect(4, "disabled", reason="home not usable")
        else:
            host.expect(4, "lost", reason="no plain folder")
        assert [*elsewhere.iterdir()] == []
        (home / "spool").unlink()
        host.expect(2, "queued")
        assert all_arrive(home, server, host) == ({} if fresh else {"unsafe_path": 4})


def dangling(home: Path) -> Callable[[], object]:
    """Make the home a link that leads nowhere; give what mends it."""
    home.symlink_to(home.with_name("target"))
    return home.with_name("target").mkdir


def a_file(home: Path) -> Callable[[], object]:
    """Make the home a file; give what mends it."""
    home.write_text("mine")
    return home.unlink


@pytest.mark.parametrize("make", [dangling, a_file])
def test_a_home_that_is_none_is_left_alone(
    make: Callable[[Path], Callable[[], object]], home: Path, server: LocalPostHog
) -> None:
    """Telemetry is off, quietly, until the home can be one."""
    mend = make(home)
    with Host(home, server.url) as host:
        host.expect(2, "disabled", reason="home not usable")
        mend()
        host.expect(2, "queued")
    assert all_arrive(home, server, host) == {}


@pytest.mark.root
@NEEDS_ROOT
def test_a_process_whose_real_user_is_another_puts_each_event_in_once() -> None:
    """A set-user-id program: what counts is what it may see, not who started it, who can't look into the spool."""
    code = """
import os, sys
from spool import Telemetry
os.setresuid(12345, 0, 0)
telemetry = Telemetry("ktx", "1", "phc_x", home=sys.argv[1], flush="never")
assert [telemetry.capture("a").state for _ in range(2)] == ["queued"] * 2
"""
    with tempfile.TemporaryDirectory() as folder:  # pytest's own are closed to others
        os.chmod(folder, 0o755)  # noqa: S103 - that is what the test needs
        done = run_python(code, folder)
        assert done.returncode == 0, done.stderr
        assert status(Path(folder))["accounting"]["captured"] == 3  # and the first run


def test_a_home_that_could_not_be_named_is_asked_for_again(tmp_path: Path) -> None:
    """A relative home in a working folder that is gone: telemetry is on again in a folder that is there."""
    code = """
import os, sys
from spool import Telemetry
gone = os.path.join(sys.argv[1], "gone")
os.mkdir(gone); os.chdir(gone); os.rmdir(gone)
os.environ["KTX_HOME"] = "home"
telemetry = Telemetry("ktx", "1", "phc_x", flush="never")
assert telemetry.capture("a").reason == "home not usable"
os.chdir(sys.argv[1])
assert telemetry.capture("a").state == "queued"
"""
    done = run_python(code, tmp_path)
    assert done.returncode == 0, done.stderr
