"""Whatever lies below a home: the rest is delivered in the same run, and the odd thing is set aside once."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

import pytest

if sys.platform == "win32":
    pytest.skip("files have owners and modes here as POSIX knows them", allow_module_level=True)

from spool import Telemetry
from spool.home import Paths, Quarantine
from tests.support.local_posthog import LocalPostHog
from tests.support.mounts import NEEDS_ROOT
from tests.support.odd_entries import KINDS, NOBODY, OTHER, PLACES, event, flush, furnish, put
from tests.support.processes import KEY, ROOT, environment, flush_json, run_python, status

# What root may do all the same.
PERMISSIONS = ["a shut folder", "a foreign folder", "a foreign file", "a shut file", "a second name"]
HOST = """
import sys
from spool import Telemetry
telemetry = Telemetry("ktx", "1", "phc_test", sys.argv[2], home=sys.argv[1], flush="never")
receipt = telemetry.capture("captured")
telemetry.close()
print(receipt.uuid if receipt else receipt)
"""


# -- one at a time ------------------------------------------------------------------------------------------


def throw(tmp_path: Path, server: LocalPostHog, *words: object) -> None:
    """Throw kinds at places, in a process of its own; everything that was promised there arrives."""
    command = [sys.executable, "-m", "tests.support.odd_entries", str(tmp_path), server.url, *map(str, words)]
    done = subprocess.run(
        command, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=900, check=False
    )
    assert (done.returncode, done.stdout == "") == (0, False), done.stderr
    assert set(done.stdout.split()) - {arrived["uuid"] for arrived in server.events()} == set()


@pytest.mark.root
@NEEDS_ROOT
@pytest.mark.parametrize("part", range(8))
def test_an_odd_entry_stops_nothing(part: int, tmp_path: Path, server: LocalPostHog) -> None:
    """Each kind at some places: a run delivers the rest, the next one names it no more, and a host goes on."""
    throw(tmp_path, server, 0, part, 32)


@pytest.mark.root
@NEEDS_ROOT
@pytest.mark.parametrize("part", range(2))
def test_an_odd_entry_stops_nothing_of_a_user_who_is_not_root(part: int, server: LocalPostHog) -> None:
    """What can't be moved has to stay: it is told in each run, and nothing else is the worse for it."""
    with tempfile.TemporaryDirectory() as folder:  # pytest's own are closed to others
        os.chmod(folder, 0o711)  # noqa: S103 - that is what the test needs
        throw(Path(folder), server, NOBODY, part, 4, *PERMISSIONS)


# -- many at once, and real processes -----------------------------------------------------------------------


@pytest.mark.root
@NEEDS_ROOT
@pytest.mark.parametrize("seed", range(3))
def test_a_heap_of_odd_entries_stops_nothing(seed: int, home: Path, server: LocalPostHog) -> None:
    """A host captures, two runs deliver, and every command that looks finds its way."""
    chance = random.Random(seed)
    furnish(home, server.url)
    for place in chance.sample(PLACES, 15):
        path = home / "spool" / place.path
        if path.parent.is_dir() and not path.parent.is_symlink():  # not itself below an odd one
            put(chance.choice(KINDS), path, old=place.old)
    promised = [host(home, server)]
    for _ in range(2):
        report = flush_json(home, "run", "--force", "--host", server.url, "--key", KEY)
        assert (report["exit_code"], report["remaining"], report["stderr"]) == (0, 0, "")
    assert report["set_aside"] == ""
    assert status(home)["pending"] == 0
    assert flush_json(home, "list") == {"events": [], "exit_code": 0, "stderr": ""}
    assert flush_json(home, "report")["exit_code"] == 0
    assert {finding["name"] for finding in flush_json(home, "doctor")["findings"]} >= {"home", "files", "quarantine"}
    promised.append(host(home, server))
    assert flush_json(home, "run", "--force")["exit_code"] == 0  # the host has left its destination anew
    assert set(promised) - {arrived["uuid"] for arrived in server.events()} == set()


def host(home: Path, server: LocalPostHog) -> str:
    """Capture as a host that starts and ends; gives the uuid of a true receipt."""
    done = run_python(HOST, home, server.url)
    assert (done.returncode, done.stdout.count("-")) == (0, 4), (done.stdout, done.stderr)
    return done.stdout.strip()


# -- what is ours all the same ------------------------------------------------------------------------------

CLOTHES: dict[str, Callable[[Path], object]] = {
    "shut": lambda path: path.chmod(0),
    "with a second name": lambda path: path.with_name("backup").hardlink_to(path),
    "of another user": lambda path: os.chown(path, OTHER, OTHER),
    "open to all": lambda path: path.chmod(0o666),
}


@pytest.mark.root
@NEEDS_ROOT
@pytest.mark.parametrize("clothes", CLOTHES)
@pytest.mark.parametrize("folder", ["aside", "spans"])
def test_an_event_is_delivered_whatever_its_file_looks_like(
    folder: str, clothes: str, home: Path, server: LocalPostHog
) -> None:
    """A backup gives files a second name, a careless command another mode: in doubt an event is sent."""
    furnish(home, server.url)
    uuid = str(uuid4())
    path = home / "spool" / folder / (f"{1:020d}-{uuid}.json" if folder == "aside" else f"{uuid}.json")
    path.write_bytes(event(uuid))
    CLOTHES[clothes](path)
    assert flush(home, server.url).remaining == 0
    assert uuid in {arrived["uuid"] for arrived in server.events()}
    assert status(home)["losses"] == {"disk_full": 2}
    assert not path.exists()


def test_a_living_command_with_a_second_name_is_left_alone(home: Path, server: LocalPostHog) -> None:
    """A backup runs while a command does: the command ends as if nothing had been."""
    telemetry = Telemetry("ktx", "1", KEY, server.url, home=home, flush="never")
    with telemetry.command(["ktx", "scan"]):
        (span,) = (home / "spool" / "spans").iterdir()
        (home / "backup").hardlink_to(span)
        report = flush(home, server.url)
        assert (report.recovered_spans, report.set_aside) == (0, "")
    telemetry.close()
    assert flush(home, server.url).remaining == 0
    (command,) = [arrived for arrived in server.events() if arrived["event"] == "command"]
    assert command["properties"]["outcome"] == "ok"
    assert status(home)["losses"] == {}


# -- what can't be moved, and names -------------------------------------------------------------------------


@pytest.mark.root
@NEEDS_ROOT
@pytest.mark.parametrize(
    "place", ["aside/1.json", "spans/1.json", "aside/1-0a.invalid.1.lost", "flush.json", "quarantine"]
)
def test_what_can_not_be_moved_is_told_and_counted_once(place: str, home: Path, server: LocalPostHog) -> None:
    """Not even root may touch it: three runs deliver around it, and each says so."""
    furnish(home, server.url)
    path = home / "spool" / place
    path.write_bytes(b"{}")
    if subprocess.run(["chattr", "+i", path], capture_output=True, check=False).returncode:
        pytest.skip("no file that can't be changed on this file system")
    try:
        for _ in range(3):
            host(home, server)
            report = flush(home, server.url)
            assert (report.result.exit_code, report.remaining) == (0, 0)
            assert report.set_aside.startswith(f"left where it is: {place} (")
            assert report.set_aside.count(place) == 1
        assert sum(status(home)["losses"].values()) == 2 + (place in ("aside/1.json", "spans/1.json"))
    finally:
        subprocess.run(["chattr", "-i", path], check=True)


@pytest.mark.parametrize(
    "name", ["x" * 255, "x" * 250 + ".json", "é" * 127, "x.reason", ".reason", "x.", "a\nb", "\udcff" * 200]
)
def test_a_name_of_any_length_fits_into_quarantine(name: str, home: Path) -> None:
    """With its mark and beside its reason, which says where it comes from; both in names of 255 bytes."""
    paths = Paths(home)
    paths.spans.mkdir(parents=True)
    quarantine = Quarantine(paths)
    for number in range(2):  # of one name twice, too
        (paths.spans / name).write_text(f"{number}")
        assert quarantine.take(paths.spans / name, "is odd")
    kept = list(paths.quarantine.iterdir())
    assert len(kept) == 4
    reasons = [path for path in kept if path.read_text().startswith("is odd\nfrom spans/")]
    assert len(reasons) == 2
    assert all(path.name.endswith(".reason") for path in reasons)
    assert max(len(os.fsencode(path.name)) for path in kept) <= 255
    assert (len(quarantine.taken), quarantine.left) == (2, [])


def test_a_quarantine_of_another_kind_goes_into_a_new_one(home: Path, server: LocalPostHog) -> None:
    """Of a link the link itself; what it names is not touched."""
    furnish(home, server.url)
    precious = home.with_name("precious")
    precious.mkdir()
    (home / "spool" / "quarantine").symlink_to(precious)
    (home / "spool" / "aside" / "1.json").write_text("{}")
    report = flush(home, server.url)
    assert report.set_aside.startswith("set aside in quarantine: quarantine (")
    kept = {path.name.partition("-")[2]: path for path in (home / "spool" / "quarantine").iterdir()}
    assert any(path.is_symlink() and path.readlink() == precious for path in kept.values())
    assert kept["1.json"].read_text() == "{}"
    assert list(precious.iterdir()) == []
    shutil.rmtree(precious)
