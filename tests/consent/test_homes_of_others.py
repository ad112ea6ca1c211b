"""Homes that can't be used, or that others may decide on: one rule, which host and every command name alike.

Each test runs as a user whom the system doesn't know, as in `docker run --user 12345`.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from spool import Telemetry
from spool.consent import consent, telemetry_json
from spool.home import Paths
from tests.support.local_posthog import LocalPostHog
from tests.support.processes import KEY, flush, flush_json, run_python, status
from tests.support.users import NEEDS_ROOT, SOMEBODY, as_user, give, public_folder

if sys.platform == "win32":
    pytest.skip("files have owners and modes here as POSIX knows them", allow_module_level=True)

pytestmark = [pytest.mark.root, NEEDS_ROOT]

OTHER = 23456
LOOKS = '[("status", "--json"), ("disable",), ("enable",)]'
ID = "0b9f8c1e-5a3f-4a63-9c1c-0a1d2e3f4a5b"
HOST = """
import sys
from spool import Telemetry
telemetry = Telemetry("ktx", "1", "phc_test", "http://127.0.0.1:9", sys.argv[1], flush="never")
receipt = telemetry.capture("scan_completed")
print(receipt.state, receipt.reason, telemetry.identity.decided_by, sep="|")
"""


@pytest.fixture
def public() -> Iterator[Path]:
    """A folder that every user can enter."""
    with public_folder() as folder:
        yield folder


def tree(folder: Path) -> dict[str, tuple[int, int, int]]:
    """Give owner, mode and time of each file below a folder."""
    found = {str(path): path.lstat() for path in sorted([folder, *folder.rglob("*")])}
    return {path: (one.st_uid, one.st_mode, one.st_ctime_ns) for path, one in found.items()}


# -- homes that can't be used -----------------------------------------------------------------------------------

# What HOME is, None for not set; and whether commands look below the home, and find nothing there.
UNUSABLE: dict[str, tuple[str | None, bool]] = {
    "HOME not set": (None, False),
    "HOME of another, shut": ("{shut}", False),
    "HOME that is a file": ("{file}", False),
    "HOME=/": ("/", True),
    "HOME missing": ("/nowhere", True),
    "HOME read-only": ("{readonly}", True),
}
ASK = """
answers = {}
for case, home in json.loads(sys.argv[1]).items():
    os.environ.pop("HOME", None)
    if home is not None:
        os.environ["HOME"] = home
    answers[case] = capture(None), {" ".join(words): ktx_flush(*words) for words in COMMANDS}
print(json.dumps(answers))
"""


def test_host_and_every_command_name_the_same_rule(public: Path) -> None:
    """Each answers with the rule, a code of the contract and no word of the system's insides; nothing is made."""
    for name in ("shut", "readonly"):
        (public / name).mkdir()
    (public / "shut" / ".ktx" / "spool" / "queue").mkdir(parents=True)
    (public / "shut").chmod(0o700)
    (public / "file").write_text("")
    places = {name: public / name for name in ("shut", "readonly", "file")}
    homes = {case: home and home.format(**places) for case, (home, _looks) in UNUSABLE.items()}
    before = tree(public)
    answers = json.loads(as_user(SOMEBODY, ASK, json.dumps(homes), commands="COMMANDS").stdout)
    assert tree(public) == before
    for case, (host, commands) in answers.items():
        assert host == ["disabled", "home not usable", "home not usable"], case
        check_commands(commands, looks=UNUSABLE[case][1])


def check_commands(commands: dict[str, tuple[int, str, str]], *, looks: bool) -> None:
    """Check what each command answers, by its words: exit code, stdout, stderr."""
    for words, (code, out, err) in commands.items():
        assert "Errno" not in out + err, (words, out, err)
        assert "Traceback" not in out + err, (words, out, err)
        expected = 2 if words.startswith("doctor") else 1 if words in ("enable", "disable") else None
        assert code == expected if expected else code in (0, 2), (words, code, out, err)
    told = json.loads(commands["status --json"][1])
    assert told["telemetry"] == {"enabled": False, "decided_by": "home not usable"}
    assert (told["accounting"] is None) is not looks
    assert "off (decided by home not usable)" in commands["status"][1]
    assert [commands[words][0] for words in ("status", "status --json", "run", "retry")] == [0, 0, 0, 0]
    assert json.loads(commands["run --json"][1])["reason"] == "home not usable"
    for words in ("list", "show 0f8fad5b-d9cb-469f-a165-70867728950e", "purge --yes", "report", "retry"):
        assert looks or commands[words][1] == "telemetry is off (decided by home not usable): nothing was done\n"
    for words in ("enable", "disable"):
        assert "telemetry stays off (decided by home not usable): " in commands[words][2]
    found = {one["name"]: one for one in json.loads(commands["doctor --json"][1])["findings"]}
    assert found["telemetry"]["what"].startswith("off (decided by home not usable)")
    assert (found["home"]["state"], "schedule" in found) == ("fail", True)


def test_doctor_speaks_of_no_other_system(public: Path) -> None:
    """On Linux of no LaunchAgents, also where HOME can't be entered; on a Mac of no systemd and no crontab."""
    (public / "shut").mkdir(mode=0o700)
    doctor = 'print(json.dumps(ktx_flush("doctor")))'
    mac = f'sys.platform = "darwin"\nos.environ["PATH"] = "/nowhere"\n{doctor}'
    for code, words in ((doctor, ("Launch", "launchd", "plist")), (mac, ("systemd", "systemctl", "cron"))):
        exit_code, out, err = json.loads(
            as_user(SOMEBODY, code, commands='[("doctor",)]', HOME=str(public / "shut")).stdout
        )
        assert (exit_code, err) == (2, "")
        assert [word for word in words if word in out] == []


def test_a_check_that_fails_keeps_no_other_from_being_done(home: Path) -> None:
    """What doctor can't look at is a finding; the others follow."""
    code = """
import sys
from pathlib import Path
from flusher.doctor import examine
from spool.home import Paths
def fails(*_arguments, **_options):
    raise PermissionError(13, "Permission denied", "/somewhere")
for name in ("resolve", "look_at_home", "look_at_all"):
    setattr(examine, name, fails)
for one in examine.examine("ktx", Paths(Path(sys.argv[1])), {}, send=False):
    print(one.name, one.state, one.what, sep="|")
"""
    done = run_python(code, home)
    said = [line.split("|") for line in done.stdout.splitlines()]
    assert [line[0] for line in said] == ["telemetry", "destination", "home", "launch", "schedule"], done
    assert {line[2] for line in said[1:] if line[0] != "launch"} == {
        "this could not be looked at: /somewhere: Permission denied"
    }


# -- homes on which others may decide ---------------------------------------------------------------------------


def write_yes(path: Path, uid: int, *, enabled: bool = True) -> None:
    """Have a user write a decision."""
    path.write_bytes(telemetry_json(ID, enabled=enabled))
    os.lchown(path, uid, uid)


def foreign_link(home: Path) -> None:
    """A link of another user's, to a file of this one."""
    write_yes(home.parent / "yes.json", SOMEBODY)
    (home / "telemetry.json").symlink_to(home.parent / "yes.json")
    os.lchown(home / "telemetry.json", OTHER, OTHER)


def own_link(home: Path, uid: int = SOMEBODY) -> None:
    """A link of this user's, as those who keep such files in one place have it; to a file of theirs, or of root's."""
    write_yes(home.parent / "yes.json", uid)
    (home / "telemetry.json").symlink_to(home.parent / "yes.json")
    os.lchown(home / "telemetry.json", SOMEBODY, SOMEBODY)


def writable(home: Path, mode: int) -> None:
    """A file that more may write than its owner."""
    write_yes(home / "telemetry.json", SOMEBODY)
    (home / "telemetry.json").chmod(mode)


OFF, ON = "disabled|{0}|{0}", "queued|None|telemetry.json"
UNREADABLE, FOREIGN = OFF.format("unreadable telemetry.json"), OFF.format("home belongs to another user")
# The home's mode, what is done in it, and what a host of this user then says.
HOMES: dict[str, tuple[int, Any, str]] = {
    "a file of another user's": (0o777, lambda home: write_yes(home / "telemetry.json", OTHER), UNREADABLE),
    "a no of another user's": (
        0o777, lambda home: write_yes(home / "telemetry.json", OTHER, enabled=False), UNREADABLE
    ),
    "a link of another user's": (0o777, foreign_link, UNREADABLE),
    "a file that everybody may write": (0o700, lambda home: writable(home, 0o666), UNREADABLE),
    "no file, where everybody may write": (0o777, lambda _home: None, FOREIGN),
    "a file of one's own, where everybody may write": (0o777, lambda home: writable(home, 0o600), ON),
    "no file, where everybody has files of their own": (0o1777, lambda _home: None, ON),
    "a group's": (0o775, lambda home: writable(home, 0o664), ON),
    "a group's, without a file": (0o775, lambda _home: None, ON),
    "a file of root's": (0o755, lambda home: write_yes(home / "telemetry.json", 0), ON),
    "a link of one's own": (0o700, own_link, ON),
    "a link of one's own to a file of root's": (0o700, lambda home: own_link(home, 0), ON),
}  # fmt: skip


@pytest.mark.parametrize("case", HOMES)
def test_consent_of_another_user_is_not_taken(case: str, public: Path) -> None:
    """Nor does their no delete what waits. With a umask of 002, or files of root's, all is as ever."""
    mode, do, expected = HOMES[case]
    home = public / "home"
    (home / "spool" / "aside").mkdir(parents=True, mode=0o700)
    (home / "spool" / "aside" / ".draft").write_text("precious")
    (home / "spool").chmod(0o700)
    give(public, SOMEBODY)
    do(home)
    home.chmod(mode)
    code = 'print(*capture(sys.argv[1]), sep="|"); print(ktx_flush("--home", sys.argv[1], "status", "--json")[1])'
    said, _, told = as_user(SOMEBODY, code, home, commands=LOOKS).stdout.partition("\n")
    assert said == expected
    assert json.loads(told)["telemetry"]["decided_by"] == expected.rpartition("|")[2]
    assert (home / "spool" / "aside" / ".draft").exists()


def test_a_home_that_another_user_has_linked_is_not_taken(public: Path) -> None:
    """It leads where they want, to a folder of this user's."""
    (public / "mine").mkdir()
    write_yes(public / "mine" / "telemetry.json", SOMEBODY)
    give(public, SOMEBODY)
    (public / "home").symlink_to(public / "mine")
    os.lchown(public / "home", OTHER, OTHER)
    assert as_user(SOMEBODY, "print(*capture(sys.argv[1]))", public / "home").stdout == (
        "disabled home belongs to another user home belongs to another user\n"
    )


def test_enable_mends_a_file_of_another_user(public: Path) -> None:
    """As it mends one that doesn't read: then it is this user's own."""
    home = public / "home"
    home.mkdir()
    give(public, SOMEBODY)
    write_yes(home / "telemetry.json", OTHER)
    code = 'print(ktx_flush("--home", sys.argv[1], "enable")[1].strip(), *capture(sys.argv[1]))'
    assert as_user(SOMEBODY, code, home, commands=LOOKS).stdout == "telemetry is on queued None telemetry.json\n"
    assert (home / "telemetry.json").stat().st_uid == SOMEBODY
    assert json.loads((home / "telemetry.json").read_text())["installId"] != ID


def test_an_edit_that_keeps_size_and_time_is_seen(home: Path, server: LocalPostHog) -> None:
    """A daemon captures; the file is changed in place, and its time set back: its next capture is refused."""
    telemetry = Telemetry("ktx", "1", KEY, server.url, home, flush="never")
    assert telemetry.capture("before")
    path = home / "telemetry.json"
    before = path.stat()
    path.write_bytes(path.read_bytes().replace(b'"enabled": true', b'"enabled":false'))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    after = path.stat()
    assert (after.st_size, after.st_mtime_ns, after.st_ino) == (before.st_size, before.st_mtime_ns, before.st_ino)
    receipt = telemetry.capture("after")
    assert (receipt.state, receipt.reason) == ("disabled", "telemetry.json")
    telemetry.close()
    assert status(home)["pending"] == 0


def test_an_opt_out_that_a_release_before_has_carried_out_is_not_done_again(home: Path, server: LocalPostHog) -> None:
    """Its mark has three numbers; a mark of another opt-out doesn't count."""
    telemetry = Telemetry("ktx", "1", KEY, server.url, home, flush="never")
    assert telemetry.capture("before")
    telemetry.close()
    assert flush(home, "disable").returncode == 0
    seen, mark = consent("ktx", Paths(home), {}).signature, Paths(home).wiped
    assert seen is not None
    assert mark.read_text() == repr(seen)
    for left, done in ((repr(seen[:3]), True), (repr((*seen[:2], 1)), False), (repr((*seen[:3], 1)), False)):
        (home / "spool" / "report.html").write_text("left")
        mark.write_text(left)
        assert flush_json(home)["result"] == "telemetry off"
        assert (home / "spool" / "report.html").exists() is done
        assert mark.read_text() == (left if done else repr(seen))


# -- root in the home of a user ---------------------------------------------------------------------------------

WRITES = ("enable", "retry", "purge --yes", "purge --dead --yes", "report", "import {file}", "export {out}", "list",
          "show 0f8fad5b-d9cb-469f-a165-70867728950e", "schedule install")  # fmt: skip


@pytest.fixture
def theirs(public: Path) -> Path:
    """A user's home, in which events wait; one is dead."""
    home = public / ".ktx"
    telemetry = Telemetry("ktx", "1", KEY, "http://127.0.0.1:9", home, flush="never")
    for _ in range(3):
        assert telemetry.capture("scan_completed")
    telemetry.close()
    assert flush_json(home, "run", "--max-retries", "0")["exit_code"] == 75
    give(public, SOMEBODY)
    return home


@pytest.mark.parametrize("words", WRITES)
def test_root_changes_nothing_in_the_home_of_a_user(words: str, theirs: Path, tmp_path: Path) -> None:
    """As with `sudo -E`: one line says to run it as the owner, exit code 2, and not a file is touched or made."""
    (tmp_path / "events").write_text("")
    before = tree(theirs.parent)
    done = flush(theirs, *words.format(file=tmp_path / "events", out=tmp_path / "out").split())
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1), done
    assert "belongs to another user: run this as its owner" in done.stderr
    assert tree(theirs.parent) == before
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("words", ["run", "run --force", "status", "doctor", "doctor --send", "audit"])
def test_root_may_look_into_the_home_of_a_user(words: str, theirs: Path) -> None:
    """Telemetry is off for root there, which each says; nothing is touched."""
    before = tree(theirs.parent)
    done = flush(theirs, *words.split())
    assert done.returncode == (2 if "doctor" in words else 0), done
    assert "home belongs to another user" in done.stdout or words == "audit"
    assert tree(theirs.parent) == before


@pytest.mark.parametrize("install", [True, False], ids=["an install", "no install yet"])
def test_root_disables_as_the_owner(install: bool, theirs: Path) -> None:
    """Whoever runs `sudo ktx-flush disable` wants that user's telemetry off: it is, and nothing there is root's."""
    home = theirs if install else theirs.parent / ".mycli"
    done = flush(home, "disable")
    assert (done.returncode, done.stderr) == (0, ""), done
    assert f"telemetry is off for {home}" in done.stdout
    assert {path.lstat().st_uid for path in theirs.parent.rglob("*")} == {SOMEBODY}
    code = """
print(*capture(sys.argv[1]), ktx_flush("--home", sys.argv[1], "enable")[1].strip(), *capture(sys.argv[1]))
"""
    said = as_user(SOMEBODY, code, home, commands=LOOKS).stdout
    assert said == "disabled telemetry.json telemetry.json telemetry is on queued None telemetry.json\n"
    if install:
        code = 'print(ktx_flush("--home", sys.argv[1], "status", "--json")[1])'
        told = json.loads(as_user(SOMEBODY, code, home, commands=LOOKS).stdout)
        account = told["accounting"]
        assert (account["lost"], told["losses"]) == (4, {"opted_out": 4})
        assert account["captured"] == account["pending"] + account["lost"]


def test_root_follows_no_link_of_a_user_to_a_folder_of_its_own(theirs: Path, public: Path) -> None:
    """To disable through it would write and delete there: it is done as the user who made the link, who may not."""
    roots = public / "roots"
    (roots / "spool" / "aside").mkdir(parents=True)
    (roots / "spool" / "aside" / "1.json").write_text("precious")
    roots.chmod(0o700)
    before = tree(roots)
    (theirs.parent / "link").symlink_to(roots)
    os.lchown(theirs.parent / "link", SOMEBODY, SOMEBODY)
    done = flush(theirs.parent / "link", "disable")
    assert (done.returncode, tree(roots)) == (1, before), done


def test_a_schedule_is_not_written_into_the_folders_of_another_user(public: Path) -> None:
    """Root's own telemetry, with a user's HOME: their systemd would not read it, and they could not remove it."""
    give(public, SOMEBODY)
    code = """
import os, sys
from pathlib import Path
os.environ["HOME"] = sys.argv[1]
os.environ.pop("XDG_CONFIG_HOME", None)
from flusher.schedule.systemd import Systemd
from flusher.schedule.launchd import Launchd
from flusher.schedule.timetable import Entry, Timetable
from spool.errors import ConfigurationError
for method in (Systemd(), Launchd()):
    try:
        method.install(Entry("a", "ktx", ("x",), Timetable.spread(15, "x")))
    except ConfigurationError as error:
        print(error)
"""
    done = run_python(code, public)
    assert done.stdout.count("belongs to another user: nothing was changed") == 2, done
    assert list(public.iterdir()) == []
