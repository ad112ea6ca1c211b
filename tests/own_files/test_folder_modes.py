"""Every folder and file that is made has its mode, whatever the umask is, and the umask is never changed."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from spool import Telemetry
from spool.home import Paths, make_folder, private_folder, write_new
from tests.support.local_posthog import LocalPostHog
from tests.support.processes import KEY, environment, flush_json
from tests.support.strace import needs_strace
from tests.support.users import run_ordinary, start_ordinary

if sys.platform == "win32":
    pytest.skip("files have owners and modes here as POSIX knows them", allow_module_level=True)

# The owner's bits are those that matter to us; of the others some.
MASKS = [owner * 0o100 + others for owner in range(8) for others in (0o00, 0o22, 0o77)]
# As a host that has a command, in a home of its own below folders that are not there yet, with each umask in turn.
HOSTS = """
import os, sys
from spool import Telemetry
for mask in map(int, sys.argv[2:]):
    os.umask(mask)
    home = f"{sys.argv[1]}/{mask:03o}/b/home"
    telemetry = Telemetry("ktx", "1", "phc_test", "http://127.0.0.1:9", home, flush="never")
    with telemetry.command(["ktx", "scan"]):
        print(telemetry.capture("scan_completed").state, os.path.isdir(f"{home}/spool/spans"))
    telemetry.close()
    assert os.umask(0o22) == mask
"""


@pytest.fixture
def homes(tmp_path: Path) -> Path:
    """A folder for homes, with nothing in it."""
    folder = tmp_path / "homes"
    folder.mkdir()
    return folder


def modes(folder: Path) -> dict[str, str]:
    """Give the modes below a folder that are not ours: 0700 for a folder, 0600 for a file."""
    found = {path: path.lstat() for path in folder.rglob("*")}
    return {
        str(path): stat.filemode(one.st_mode)
        for path, one in found.items()
        if stat.S_IMODE(one.st_mode) != (0o700 if stat.S_ISDIR(one.st_mode) else 0o600)
    }


def test_a_host_works_under_every_umask(homes: Path) -> None:
    """The folders above the home that were missing, the home, and all that is below it; aside and spans, too."""
    done = run_ordinary(HOSTS, homes, *MASKS)
    assert done.stdout.split() == ["queued", "True"] * len(MASKS), done.stderr
    assert modes(homes) == {}


def test_a_folder_and_a_file_have_their_mode_under_each_of_all_umasks(homes: Path) -> None:
    """All 512 of them: what makes every folder and every file of ours; the umask is as it was."""
    code = """
import os, sys
from pathlib import Path
from spool.home import private_folder, write_new
for mask in range(512):
    os.umask(mask)
    folder = Path(sys.argv[1], f"{mask:03o}", "a", "b")
    assert private_folder(folder) is True and private_folder(folder) is False
    write_new(folder / "file", b"")
    assert os.umask(0o22) == mask
"""
    done = run_ordinary(code, homes)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(list(homes.iterdir())) == 512
    assert modes(homes) == {}


def test_first_runs_at_once_under_a_umask_that_takes_everything_away(homes: Path) -> None:
    """None meets a home that another one has made and can't be entered yet: each event is taken."""
    code = """
import os, sys
from spool import Telemetry
os.umask(0o777)
print("ready", flush=True)
sys.stdin.readline()
telemetry = Telemetry("ktx", "1", "phc_test", "http://127.0.0.1:9", sys.argv[1], flush="never")
print(telemetry.capture("scan_completed").state, telemetry.identity.install_id)
"""
    runs = [start_ordinary(code, homes / "a" / "home") for _ in range(12)]
    for run in runs:
        assert run.stdout is not None
        assert run.stdout.readline() == "ready\n"
    for run in runs:
        assert run.stdin is not None
        run.stdin.write("\n")
        run.stdin.flush()
    said = [run.communicate(timeout=60)[0].split() for run in runs]
    assert {words[0] for words in said} <= {"queued", "aside"}
    assert len({words[1] for words in said}) == 1
    assert [path.name for path in (homes / "a").iterdir()] == ["home"]
    assert modes(homes) == {}


def test_a_flusher_works_under_a_umask_that_takes_everything_away(homes: Path, server: LocalPostHog) -> None:
    """It makes the log, its state, the reserve and the quarantine."""
    home = homes / "home"
    code = f"""
import os, sys
from spool import Telemetry
os.umask(0o777)
telemetry = Telemetry("ktx", "1", {KEY!r}, sys.argv[2], sys.argv[1], flush="never")
assert telemetry.capture("scan_completed")
telemetry.close()
with open(os.open(telemetry.paths.aside / "1.json", os.O_CREAT | os.O_WRONLY | os.O_EXCL), "w") as file:
    file.write("no event")
os.chmod(telemetry.paths.aside / "1.json", 0o600)
sys.argv = ["ktx-flush", "--home", sys.argv[1], "run", "--json"]
from flusher.cli import main
main()
"""
    done = run_ordinary(code, home, server.url)
    assert (done.returncode, '"delivered": 3' in done.stdout) == (0, True), done  # one tells of the file without one
    assert list((home / "spool" / "quarantine").iterdir())
    assert modes(homes) == {}


@pytest.mark.parametrize("killed", ["mkdir", "chmod", "rename"])
@pytest.mark.root
@needs_strace
def test_a_folder_whose_maker_was_killed_is_made_by_the_next(killed: str, home: Path) -> None:
    """Between the steps a folder has another name, which the next one uses; nothing else is left."""
    code = "import sys; from pathlib import Path; from spool.home import make_folder; make_folder(Path(sys.argv[1]))"
    calls = f"{killed},{killed}at,?f{killed}at,?{killed}at2"
    wrapper = ["strace", "-f", "-o", os.devnull, "-e", f"trace={calls}", "-e", f"inject={calls}:signal=KILL:when=1"]
    command = [*wrapper, sys.executable, "-c", code, str(home)]
    done = subprocess.run(command, env=environment(), capture_output=True, check=False, timeout=60)
    assert done.returncode != 0, done
    assert not home.exists()
    assert make_folder(home) is True
    assert [path.name for path in home.parent.iterdir() if "home" in path.name] == ["home"]


@pytest.mark.root
@needs_strace
@pytest.mark.parametrize("error", ["EPERM", "EOPNOTSUPP"])
def test_a_file_system_without_modes_will_do(error: str, home: Path, server: LocalPostHog) -> None:
    """To set a mode is refused, as on Android and by some FUSE: the folders are what the system makes of them."""
    code = """
import os, sys
os.umask(0o27)
from spool import Telemetry
telemetry = Telemetry("ktx", "1", "phc_test", sys.argv[2], sys.argv[1], flush="never")
print(telemetry.capture("scan_completed").state)
"""
    calls = "chmod,fchmod,fchmodat,?fchmodat2"
    wrapper = ["strace", "-f", "-o", os.devnull, "-e", f"trace={calls}", "-e", f"inject={calls}:error={error}"]
    command = [*wrapper, sys.executable, "-c", code, str(home), server.url]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, check=False, timeout=60)
    assert (done.stdout, done.returncode) == ("queued\n", 0), done
    assert flush_json(home)["delivered"] == 2


CAPTURE = """
import sys
from spool import Telemetry
telemetry = Telemetry("ktx", "1", "phc_test", "http://127.0.0.1:9", sys.argv[1], flush="never")
receipt = telemetry.capture("scan_completed")
print(receipt.state, receipt.reason)
"""


def test_a_home_that_an_earlier_release_could_not_enter_is_mended(homes: Path) -> None:
    """It is empty and ours: nobody has decided anything in it. Only a host does that; to look changes nothing."""
    home = homes / "home"
    home.mkdir()
    home.chmod(0o600)
    look = "import sys; sys.argv[:] = ['x', '--home', sys.argv[1], 'status']; from flusher.cli import main; main()"
    assert "off (decided by home not usable)" in run_ordinary(look, home).stdout
    assert stat.S_IMODE(home.stat().st_mode) == 0o600
    assert run_ordinary(CAPTURE, home).stdout == "queued None\n"
    assert modes(homes) == {}


def test_a_home_that_a_person_has_shut_stays_shut(homes: Path) -> None:
    """There is something in it, which may say no."""
    home = homes / "home"
    home.mkdir()
    (home / "telemetry.json").write_text("{}")
    home.chmod(0o600)
    assert run_ordinary(CAPTURE, home).stdout == "disabled home not usable\n"
    assert stat.S_IMODE(home.stat().st_mode) == 0o600


def test_what_is_in_the_way_of_a_folder_stays_as_it_is(tmp_path: Path) -> None:
    """A file, a link that leads nowhere: no folder is made, and nothing is left beside it."""
    (tmp_path / "file").write_text("precious")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    assert make_folder(tmp_path / "file") is False
    assert make_folder(tmp_path / "link") is False
    with pytest.raises(NotADirectoryError):
        private_folder(tmp_path / "file" / "below")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "link", "user"]
    write_new(tmp_path / "more", b"")
    assert Telemetry("ktx", "1", home=tmp_path / "more", flush="never").capture("a").state == "disabled"
    assert Paths(tmp_path / "more").home.read_bytes() == b""


@pytest.mark.parametrize("what", ["a file", "a link"])
@pytest.mark.parametrize(
    "taken",
    [
        ".home.new",
        "home/.spool.new",
        "home/spool/.aside.new",
        "home/spool/.spans.new",
        "home/spool/.queue.new.new",
    ],
)
def test_a_draft_name_that_is_taken_stops_nothing(taken: str, what: str, tmp_path: Path, server: LocalPostHog) -> None:
    """What stands there stays; folders are made by another name first."""
    place, home = tmp_path / taken, tmp_path / "home"
    for folder in reversed([parent for parent in place.parents if parent.is_relative_to(home)]):
        folder.mkdir(mode=0o700)
    place.write_text("theirs") if what == "a file" else place.symlink_to(tmp_path / "nowhere")
    telemetry = Telemetry("ktx", "1", "phc_test", server.url, home=home, flush="never")
    with telemetry.command(["ktx", "scan"]):
        assert telemetry.capture("a").state == "queued"
    telemetry.close()
    report = flush_json(home)
    assert (report["exit_code"], report["delivered"], report["remaining"]) == (0, 3, 0)
    assert place.is_symlink() or place.read_text() == "theirs"
