"""Guarantee 6: no one is counted who said no, by whatever means, and at once."""

from __future__ import annotations

import itertools
import json
import os
import sys
import time
from pathlib import Path

import pytest

from spool import Telemetry
from spool.consent import FileState, HomeState, consent, decide
from spool.errors import ConsentChangedError
from spool.home import Paths
from spool.queue import Queue
from spool.settings import is_set
from tests.support.local_posthog import LocalPostHog, slow
from tests.support.processes import KEY, environment, flush, flush_json, run_python, start_python, status

VARIABLES = ("KTX_TELEMETRY_DISABLED", "DO_NOT_TRACK", "CI")
# Without a variable: what the home is, what the file says, and the answer. Rows from the top win.
RULES = [
    (HomeState.UNUSABLE, None, (False, "home not usable")),
    (HomeState.FOREIGN, None, (False, "home belongs to another user")),
    (HomeState.USABLE, FileState.UNREADABLE, (False, "unreadable telemetry.json")),
    (HomeState.USABLE, FileState.DISABLED, (False, "telemetry.json")),
    (HomeState.USABLE, FileState.ENABLED, (True, "telemetry.json")),
    (HomeState.USABLE, FileState.ABSENT, (True, "first run")),
]


def test_every_combination_has_one_answer_and_one_rule() -> None:
    """All variables by all homes by all files: off always wins, and the answer names what decided."""
    rows = 0
    for chosen in itertools.product((None, "", "0", "false", "1", "yes"), repeat=3):
        env = {name: value for name, value in zip(VARIABLES, chosen, strict=True) if value is not None}
        setters = [name for name, value in env.items() if value in ("1", "yes")]
        for home, file in itertools.product(HomeState, FileState):
            decision = decide("ktx", env, home, file)
            expected = next(answer for at, says, answer in RULES if at is home and says in (None, file))
            assert decision == ((False, setters[0]) if setters else expected)
            rows += 1
    assert rows == 6**3 * 3 * 4


@pytest.mark.parametrize(
    ("value", "on"),
    [(None, False), ("", False), (" ", False), ("0", False), ("false", False), ("FALSE", False), ("1", True),
     ("true", True), ("no", True), ("off", True)],
)  # fmt: skip
def test_a_variable_says_yes_with_anything_but_empty_0_and_false(value: str | None, on: bool) -> None:
    """As the contract has it; whoever writes DO_NOT_TRACK=no is not tracked either."""
    assert is_set(value) is on


def test_another_app_has_its_own_variable() -> None:
    """MY_CLI_TELEMETRY_DISABLED switches my-cli off, and ktx not."""
    env = {"MY_CLI_TELEMETRY_DISABLED": "1"}
    assert decide("my-cli", env, HomeState.USABLE, FileState.ENABLED).decided_by == "MY_CLI_TELEMETRY_DISABLED"
    assert decide("ktx", env, HomeState.USABLE, FileState.ENABLED).enabled


def listing(home: Path) -> dict[str, tuple[int, int]]:
    """Every file below a home, with size and time of change."""
    return {str(path): (path.lstat().st_size, path.lstat().st_mtime_ns) for path in home.rglob("*")}


HOST = """
import sys
from spool import Telemetry
t = Telemetry("ktx", "1", "phc_test", sys.argv[2], sys.argv[1], flush="never")
receipt = t.capture("scan_completed", groups={"project": t.project_id(".")})
print(receipt.state, bool(receipt), receipt.reason, t.identity.enabled, sep="|")
"""


@pytest.mark.parametrize("variable", VARIABLES)
def test_off_by_environment_touches_nothing(variable: str, home: Path, server: LocalPostHog) -> None:
    """No file is created, read into the queue, spawned or sent; a backlog stays as it is."""
    env = environment(**{variable: "1"})
    assert run_python(HOST, home, server.url, env=env).stdout == f"disabled|False|{variable}|False\n"
    assert flush_json(home, "run", env=env)["result"] == "telemetry off"
    assert not home.exists()
    assert run_python(HOST, home, server.url).stdout.startswith("queued|True")
    before = listing(home)
    assert run_python(HOST, home, server.url, env=env).stdout.startswith("disabled")
    report = flush_json(home, "run", "--force", env=env)
    assert (report["exit_code"], report["result"], report["reason"]) == (0, "telemetry off", variable)
    assert listing(home) == before
    assert server.requests == []


def say_no(home: Path) -> None:
    """Do what a person or ktx does: change the file."""
    path = home / "telemetry.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "enabled": False}))


def backlog(home: Path, url: str) -> None:
    """A spool with a pending event, a dead letter, an aside file and something in quarantine."""
    telemetry = Telemetry("ktx", "1", KEY, url, home, flush="never")
    telemetry.capture("CANARY-pending", {"secret": "CANARY"})
    telemetry.close()
    for folder in ("aside", "quarantine", "spans"):
        (home / "spool" / folder).mkdir(exist_ok=True)
        (home / "spool" / folder / "1-CANARY.json").write_text("CANARY")


def remains(home: Path) -> list[str]:
    """Files that still hold something of a backlog."""
    return [str(path) for path in home.rglob("*") if path.is_file() and b"CANARY" in path.read_bytes()]


@pytest.mark.parametrize("runner", ["host", "flusher"])
def test_off_by_file_deletes_what_waits_at_the_next_run(runner: str, home: Path, server: LocalPostHog) -> None:
    """Whichever runs next, host or flusher: not a byte of an event is left in any file; the counters add up."""
    backlog(home, server.url)
    say_no(home)
    assert remains(home)
    if runner == "host":
        assert run_python(HOST, home, server.url).stdout == "disabled|False|telemetry.json|False\n"
    else:
        assert flush_json(home)["result"] == "telemetry off"
    assert remains(home) == []
    assert server.requests == []
    told = status(home)
    assert told["telemetry"] == {"enabled": False, "decided_by": "telemetry.json"}
    assert told["losses"]["opted_out"] >= 1
    assert (told["pending"], told["dead"], told["aside"]) == (0, 0, 0)


def test_disable_and_enable_are_what_they_say(home: Path, server: LocalPostHog) -> None:
    """The id stays, the backlog goes, the numbers go on where they were."""
    backlog(home, server.url)
    before = json.loads((home / "telemetry.json").read_text())
    done = flush(home, "disable")
    assert (done.returncode, done.stderr) == (0, "")
    assert remains(home) == []
    assert json.loads((home / "telemetry.json").read_text()) == {**before, "enabled": False}
    assert flush(home, "enable").returncode == 0
    assert json.loads((home / "telemetry.json").read_text()) == before
    telemetry = Telemetry("ktx", "1", KEY, server.url, home, flush="never")
    assert telemetry.capture("after")
    telemetry.close()
    assert flush_json(home)["exit_code"] == 0
    numbers = {event["event"]: event["properties"]["spool_sequence"] for event in server.accepted}
    assert numbers["after"] == 2


@pytest.mark.parametrize(
    "content",
    ["", "{", "null", "[]", '{"enabled": true}', '{"installId": "x", "enabled": true, "createdAt": "y"}', "\0",
     '{"installId": "0b9f8c1e-5a3f-4a63-9c1c-0a1d2e3f4a5b", "enabled": true, "createdAt": "y", "more": 1}',
     '{"installId": "0b9f8c1e-5a3f-4a63-9c1c-0a1d2e3f4a5b", "enabled": "true", "createdAt": "y"}', "[" * 60_000],
)  # fmt: skip
def test_a_file_that_does_not_read_means_off_and_stays_as_it_is(content: str, home: Path, server: LocalPostHog) -> None:
    """Status says so, nothing is sent or deleted, and `enable` mends it."""
    backlog(home, server.url)
    (home / "telemetry.json").write_text(content)
    assert run_python(HOST, home, server.url).stdout == "disabled|False|unreadable telemetry.json|False\n"
    report = flush_json(home, "run", "--force")
    assert (report["result"], report["reason"]) == ("telemetry off", "unreadable telemetry.json")
    assert (home / "telemetry.json").read_text() == content
    assert remains(home)
    assert status(home)["telemetry"] == {"enabled": False, "decided_by": "unreadable telemetry.json"}
    assert flush(home, "enable").returncode == 0
    assert run_python(HOST, home, server.url).stdout.startswith("queued|True")


@pytest.mark.parametrize("kind", ["folder", "dangling link", "fifo"])
def test_whatever_keeps_the_file_from_being_read_means_off(kind: str, home: Path, server: LocalPostHog) -> None:
    """Nothing hangs, nothing is minted over it."""
    home.mkdir()
    path = home / "telemetry.json"
    if kind == "folder":
        path.mkdir()
    elif kind == "fifo":
        if sys.platform == "win32":
            pytest.skip("no pipes with names here")
        os.mkfifo(path)
    else:
        path.symlink_to(home / "nowhere")
    assert run_python(HOST, home, server.url, timeout_s=20).stdout == "disabled|False|unreadable telemetry.json|False\n"
    assert sorted(entry.name for entry in home.iterdir()) == ["telemetry.json"]


def test_a_long_lived_host_obeys_at_once(home: Path, server: LocalPostHog) -> None:
    """A daemon captures, the file changes, its next capture is refused; then back again."""
    telemetry = Telemetry("ktx", "1", KEY, server.url, home, flush="never")
    assert telemetry.capture("before")
    say_no(home)
    receipt = telemetry.capture("after the no")
    assert (receipt.state, receipt.reason) == ("disabled", "telemetry.json")
    flush(home, "enable")
    assert telemetry.capture("after the yes")
    telemetry.close()
    flush_json(home)
    assert [event["event"] for event in server.accepted] == ["after the yes"]


def test_a_running_flusher_obeys_before_its_next_request(home: Path, server: LocalPostHog) -> None:
    """The file changes while the first of many batches is under way: no second request."""
    telemetry = Telemetry("ktx", "1", KEY, server.url, home, flush="never")
    for number in range(50):
        telemetry.capture("scan_completed", {"number": number})
    telemetry.close()
    server.misbehave(slow(1.5))
    code = "from flusher.cli import main; main()"
    with start_python(code, "--home", home, "run", "--batch-size", "5", "--json", env=environment()) as run:
        time.sleep(1.2)
        say_no(home)
        out, _err = run.communicate(timeout=30)
    assert json.loads(out)["result"] == "telemetry off"
    assert len(server.requests) <= 1
    assert flush_json(home)["result"] == "telemetry off"
    assert status(home)["pending"] == 0


def test_debug_shows_and_stores_nothing(home: Path, server: LocalPostHog) -> None:
    """Also for one who has opted out: what would be captured is on stderr, no file appears."""
    env = environment(KTX_TELEMETRY_DEBUG="1", DO_NOT_TRACK="1")
    done = run_python(HOST, home, server.url, env=env)
    assert done.stdout.startswith("debug|False|")
    assert done.stderr.startswith("[telemetry] {")
    assert json.loads(done.stderr.removeprefix("[telemetry] "))["event"] == "scan_completed"
    assert not home.exists()


def test_root_in_a_home_of_somebody_else_leaves_no_trace(tmp_path: Path, server: LocalPostHog) -> None:
    """Sudo with the user's HOME: telemetry is off, and nothing root-owned is left there."""
    if sys.platform == "win32":
        pytest.skip("no root here")
    if os.geteuid() != 0:
        pytest.skip("needs root")
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    os.chown(theirs, 1000, 1000)
    assert run_python(HOST, theirs, server.url).stdout == "disabled|False|home belongs to another user|False\n"
    assert list(theirs.iterdir()) == []
    assert flush_json(theirs)["reason"] == "home belongs to another user"


def test_consent_that_changes_under_the_lock_is_seen(home: Path, server: LocalPostHog) -> None:
    """Between the question and the append somebody opts out: nothing is written after it."""
    telemetry = Telemetry("ktx", "1", KEY, server.url, home, flush="never")
    assert telemetry.capture("before")
    asked = consent("ktx", Paths(home), {})
    flush(home, "disable")
    queue = Queue(Paths(home))
    with pytest.raises(ConsentChangedError):
        queue.append('{"properties":{"a":1}}', consent=asked.signature)
    queue.close()
    receipt = telemetry.capture("in between")
    assert (receipt.state, receipt.reason) == ("disabled", "telemetry.json")
    telemetry.close()
    assert status(home)["pending"] == 0


@pytest.mark.parametrize("damage", ["gone", "garbage", "flipped"])
def test_an_opt_out_deletes_a_damaged_queue_as_well(damage: str, home: Path, server: LocalPostHog) -> None:
    """No event's text stays on disk, the command succeeds, and the next run has nothing left to do."""
    telemetry = Telemetry("ktx", "1", KEY, server.url, home, flush="never")
    for _ in range(20):
        assert telemetry.capture("waiting", {"text": "SOMETHING-THAT-WAITS"})
    telemetry.close()
    database = Path(Paths(home).database)
    if damage == "gone":
        database.unlink()
    elif damage == "garbage":
        database.write_bytes(b"garbage" * 5_000 + b"SOMETHING-THAT-WAITS")
    else:
        data = bytearray(database.read_bytes())
        data[5_000:5_040] = bytes(40)
        database.write_bytes(bytes(data))
    done = flush(home, "disable")
    assert (done.returncode, done.stderr) == (0, ""), done
    left = [path for path in home.rglob("*") if path.is_file() and b"SOMETHING-THAT-WAITS" in path.read_bytes()]
    assert left == []
    assert flush_json(home)["result"] == "telemetry off"
