"""Doctor finds what keeps events from being taken or delivered, says how to mend it, and sends nothing unasked."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest

from flusher.doctor.disk import inspect_queue, scratch
from flusher.doctor.finding import Finding, State, exit_code
from spool.home import Paths
from tests.support.examination import doctor, examined, sound, tree
from tests.support.local_posthog import Answer, LocalPostHog, html, json_body, redirect, status
from tests.support.processes import KEY, environment, flush
from tests.support.processes import status as status_of

NO_EVENT = status(400, "request holds no event")


def test_where_all_is_well_doctor_says_so_and_changes_nothing(home: Path, server: LocalPostHog) -> None:
    """Exit code 0, every file as it was; of the server it asked one thing, without event, key or id."""
    sound(home, server)
    before = tree(home)
    code, found = examined(home)
    assert code == 0
    assert {name for name, one in found.items() if one["state"] != "ok"} == set()
    names = ["telemetry", "key", "host", "server", "clock", "home", "file system", "files", "sqlite", "locks", "canary"]
    assert [*found] == [*names, "queue", "launch", "schedule", "flusher"]
    assert all(one["mend"] is None for one in found.values())
    assert tree(home) == before
    (request,) = server.requests
    assert (request.method, request.path, request.events) == ("POST", "/batch/", 0)
    assert json.loads(request.body) == {"batch": []}
    assert server.accepted == []


def test_send_delivers_one_canary_that_the_account_knows_nothing_of(home: Path, server: LocalPostHog) -> None:
    """It bears the install id and no number of this install's, for a gap in those would mean a loss."""
    sound(home, server)
    before = status_of(home)
    code, found = examined(home, "--send")
    assert (code, found["delivery"]["state"]) == (0, "ok")
    (event,) = server.accepted
    assert (event["event"], event["distinct_id"]) == ("spool_canary", before["install_id"])
    assert "spool_sequence" not in event["properties"]
    assert event["properties"]["$process_person_profile"] is False
    after = status_of(home)
    assert (after["accounting"], after["pending"]) == (before["accounting"], before["pending"])
    assert (after["last_attempt"], after["schedule"]) == (None, before["schedule"])


# -- consent --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("variable", ["DO_NOT_TRACK", "CI", "KTX_TELEMETRY_DISABLED", "KTX_TELEMETRY_DEBUG"])
@pytest.mark.parametrize("arguments", [(), ("--send",)], ids=["look", "send"])
def test_off_by_a_variable_is_named_and_nothing_is_asked_or_tried(
    variable: str, arguments: tuple[str, ...], home: Path, server: LocalPostHog
) -> None:
    """No request, no scratch folder; a person's decision is no fault, so the exit code is 0."""
    sound(home, server)
    before = tree(home)
    code, found = examined(home, *arguments, env=environment(**{variable: "1"}))
    assert code == 0
    assert found["telemetry"]["state"] == "warn"
    assert f"unset {variable}" in found["telemetry"]["mend"]
    assert {"server", "clock", "canary", "queue", "delivery"} & {*found} == set()
    assert server.requests == []
    assert tree(home) == before


def test_off_by_the_file_is_named(home: Path, server: LocalPostHog) -> None:
    """The same, and the command that switches it on, for this very app and home."""
    sound(home, server)
    flush(home, "disable")
    code, found = examined(home, "--send")
    assert (code, found["telemetry"]["state"]) == (0, "warn")
    assert "ktx-flush --home ~/.ktx enable" in found["telemetry"]["mend"]
    assert server.requests == []


def test_an_unreadable_consent_file_is_named(home: Path, server: LocalPostHog) -> None:
    """Off, though nobody said so: that is to be mended, exit code 2."""
    sound(home, server)
    Paths(home).identity.write_text("{")
    code, found = examined(home)
    assert (code, found["telemetry"]["state"]) == (2, "fail")
    assert "enable" in found["telemetry"]["mend"]
    assert server.requests == []


def test_consent_is_asked_again_before_the_canary_is_sent(home: Path, server: LocalPostHog) -> None:
    """Switched off while doctor waits for the server's first answer: the canary stays here."""
    sound(home, server)
    server.misbehave(replace(NO_EVENT, after_s=1.5))
    with doctor(home, "--send", "--json") as process:
        deadline = time.monotonic() + 30
        while not server.requests and time.monotonic() < deadline:
            time.sleep(0.02)
        identity = Paths(home).identity
        identity.write_text(identity.read_text().replace("true", "false"))
        process.communicate(timeout=60)
    assert len(server.requests) == 1
    assert server.accepted == []


# -- destination ----------------------------------------------------------------------------------------------


def test_no_key_is_named(home: Path, server: LocalPostHog) -> None:
    """A host that knows none yet."""
    sound(home, server, key=None)
    code, found = examined(home, "--send")
    assert (code, found["key"]["state"]) == (2, "fail")
    assert "KTX_TELEMETRY_KEY" in found["key"]["mend"]
    assert server.accepted == []


# Keys, the state, a word that is said.
KEYS: dict[str, tuple[State, str]] = {
    "phx_0123456789": ("fail", "personal"),
    "phc 1": ("fail", "space"),
    "0123456789abcdef": ("warn", "does not look like a project key"),
}


@pytest.mark.parametrize("key", KEYS)
def test_a_key_of_the_wrong_form_is_named(key: str, home: Path, server: LocalPostHog) -> None:
    """A personal key, a broken one, one of another make: the mend says which one belongs there."""
    sound(home, server)
    state, word = KEYS[key]
    code, found = examined(home, env=environment(KTX_TELEMETRY_KEY=key))
    assert (code, found["key"]["state"]) == (2 if state == "fail" else 0, state)
    assert word in found["key"]["what"]
    assert "phc_" in found["key"]["mend"]


@pytest.mark.parametrize("address", ["http://ph.example.com", "ph.example.com", "https://u:p@ph.example.com"])
def test_a_host_that_events_may_not_go_to_is_named_and_not_asked(
    address: str, home: Path, server: LocalPostHog
) -> None:
    """Not encrypted and not this machine; no scheme; with a password."""
    sound(home, server)
    code, found = examined(home, "--send", env=environment(KTX_TELEMETRY_ENDPOINT=address))
    assert (code, found["host"]["state"]) == (2, "fail")
    assert "https://" in found["host"]["mend"]
    assert "server" not in found


def test_a_host_that_is_not_encrypted_and_allowed_is_named(home: Path, server: LocalPostHog) -> None:
    """Somebody may want it; who is on the way can read what is sent."""
    sound(home, server)
    env = environment(KTX_TELEMETRY_ENDPOINT="http://127.0.0.2:9", KTX_TELEMETRY_ALLOW_HTTP="1")
    code, found = examined(home, env=env)
    assert (code, found["host"]["state"]) == (75, "warn")
    assert "unset KTX_TELEMETRY_ALLOW_HTTP" in found["host"]["mend"]


def test_a_broken_destination_file_is_named(home: Path, server: LocalPostHog) -> None:
    """Key and host both stand there."""
    sound(home, server)
    Paths(home).destination.write_text("{")
    code, found = examined(home)
    assert (code, found["key"]["state"], found["host"]["state"]) == (2, "fail", "fail")
    assert "delete it, and run the host CLI once" in found["host"]["what"]


def test_a_host_that_can_not_be_reached_is_named(home: Path, server: LocalPostHog) -> None:
    """Nobody listens there: exit code 75, for nothing here is wrong."""
    sound(home, server)
    server.stop()
    code, found = examined(home, "--send")
    assert (code, found["server"]["state"], found["delivery"]["state"]) == (75, "fail", "fail")
    assert "not reached: the host refuses connections" in found["server"]["what"]
    assert "network" in found["server"]["mend"]


# Answers of somebody who is not PostHog, or not well; what is said, how to mend it.
ANSWERS: dict[str, tuple[Answer, str, str]] = {
    "login page": (html(), "is not PostHog", "log in"),
    "login page, 400": (html(400), "is not PostHog", "log in"),
    "json of another": (json_body(200, {"ok": True}), "is not PostHog", "address of PostHog"),
    "nothing there": (status(404), "no PostHog at this address", "address of PostHog"),
    "elsewhere": (redirect("https://login.example.com/"), "redirects elsewhere", "address of PostHog"),
    "no such method": (status(405), "is not PostHog (405)", "address of PostHog"),
    "down": (status(503), "busy or down", "wait"),
}


@pytest.mark.parametrize("name", ANSWERS)
def test_a_server_that_is_not_posthog_or_not_well_is_named(name: str, home: Path, server: LocalPostHog) -> None:
    """Exit code 75, and whether a person has something to do."""
    answer, what, mend = ANSWERS[name]
    sound(home, server)
    server.always(answer)
    code, found = examined(home)
    assert (code, found["server"]["state"]) == (75, "fail")
    assert what in found["server"]["what"]
    assert mend in found["server"]["mend"]
    assert server.accepted == []


@pytest.mark.parametrize("body", [{"status": "Ok"}, {"status": 1}])
def test_a_posthog_that_takes_an_empty_batch_is_one(body: object, home: Path, server: LocalPostHog) -> None:
    """Older ones may."""
    sound(home, server)
    server.always(json_body(200, body))
    assert examined(home)[1]["server"]["state"] == "ok"


def test_a_canary_that_is_refused_is_named(home: Path, server: LocalPostHog) -> None:
    """The key is not this server's: only sending shows it, and the server's own words are given."""
    sound(home, server)
    server.api_key = "phc_another"
    code, found = examined(home, "--send")
    assert (code, found["server"]["state"], found["delivery"]["state"]) == (75, "ok", "fail")
    assert "401" in found["delivery"]["what"]


@pytest.mark.parametrize(("days", "words"), [(2, "2.0 days behind"), (-2, "2.0 days ahead of"), (0.9, None)])
def test_a_clock_that_is_off_by_more_than_a_day_is_named(
    days: float, words: str | None, home: Path, server: LocalPostHog
) -> None:
    """By the server's Date; a time zone too many is no matter."""
    sound(home, server)
    date = format_datetime(datetime.now(UTC) + timedelta(days=days), usegmt=True)
    server.always(replace(NO_EVENT, headers={"Date": date}))
    code, found = examined(home)
    assert (code, found["clock"]["state"]) == ((2, "fail") if words else (0, "ok"))
    if words:
        assert words in found["clock"]["what"]
        assert "set the clock" in found["clock"]["mend"]


@pytest.mark.parametrize("date", ["", "yesterday", "Mon, 99 Nov 2026 99:00:00 GMT"])
def test_a_server_that_tells_no_time_says_nothing_of_the_clock(date: str, home: Path, server: LocalPostHog) -> None:
    """Nor does it end doctor."""
    sound(home, server)
    server.always(replace(NO_EVENT, headers={"Date": date}))
    code, found = examined(home)
    assert (code, "clock" in found) == (0, False)


def test_a_bundle_of_certificates_that_is_not_there_is_named(home: Path, server: LocalPostHog) -> None:
    """The variable that names it is what to mend."""
    sound(home, server)
    code, found = examined(home, "--send", env=environment(REQUESTS_CA_BUNDLE="/nonexistent.pem"))
    assert (code, found["connection"]["state"]) == (2, "fail")
    assert "unset REQUESTS_CA_BUNDLE" in found["connection"]["mend"]


# -- what is said ---------------------------------------------------------------------------------------------


def test_json_names_no_person_no_install_and_no_whole_key(tmp_path: Path, server: LocalPostHog) -> None:
    """What a user is told to send to others: the home is `~`, of a key 8 characters; versions are there."""
    user = tmp_path / "home" / "alice.example"
    home = user / "Data of Alice"
    key = "phc_0123456789abcdefghij"
    sound(home, server, key=key)
    (home / "spool" / "queue" / "cache.db").chmod(0o644)
    server.stop()
    env = environment(HOME=str(user), USER="alice.example", LOGNAME="alice.example")
    with doctor(home, "--json", env=env) as process:
        text = process.communicate(timeout=60)[0]
    said = json.loads(text)
    install_id = json.loads(Paths(home).identity.read_text())["installId"]
    for private in (str(user), str(home), "alice", "Alice", install_id, key[:9]):
        assert private not in text
    found = {one["name"]: one for one in said["findings"]}
    assert found["home"]["what"] == "~/.ktx"
    assert found["key"]["what"] == f"{key[:8]}..."
    assert "~/.ktx/spool" in found["files"]["mend"]
    assert {"ktx_spool", "python", "sqlite", "platform", "os", "file_system", "packages"} == {*said["versions"]}
    assert said["versions"]["python"] == f"CPython {'.'.join(map(str, sys.version_info[:3]))}"


def test_a_person_gets_a_line_for_each_finding_and_one_to_mend_it(home: Path, server: LocalPostHog) -> None:
    """Whole lines that can be copied, with no colour where there is no terminal."""
    sound(home, server)
    (home / "spool" / "queue" / "cache.db").chmod(0o644)
    done = flush(home, "doctor")
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    at = next(number for number, line in enumerate(lines) if line.startswith("warn  files"))
    assert lines[at].endswith(f"open to other users: {home}/spool/queue/cache.db")
    assert lines[at + 1].strip() == f"mend: chmod -R go-rwx {home}/spool"
    assert "\x1b" not in done.stdout
    subprocess.run(lines[at + 1].split("mend: ")[1], shell=True, check=True)  # noqa: S602 - the very line that is offered
    assert "open to other users" not in flush(home, "doctor").stdout


CODES: dict[str, tuple[dict[str, State], int]] = {
    "nothing": ({}, 0),
    "warnings": ({"telemetry": "warn", "files": "warn"}, 0),
    "configuration": ({"key": "fail"}, 2),
    "destination": ({"server": "fail", "delivery": "fail", "flusher": "fail"}, 75),
    "both": ({"server": "fail", "queue": "fail"}, 2),
}


@pytest.mark.parametrize("name", CODES)
def test_the_exit_code_says_who_is_to_act(name: str) -> None:
    """0 nobody, 2 a person here, 75 the other end."""
    states, code = CODES[name]
    assert exit_code([Finding(name, state, "") for name, state in states.items()]) == code


# -- its traces -----------------------------------------------------------------------------------------------


def leftovers(home: Path) -> list[Path]:
    """Give the scratch folders that are there."""
    return sorted(home.rglob("doctor-*"))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_doctor_that_is_stopped_removes_its_scratch_folder(
    number: signal.Signals, home: Path, server: LocalPostHog
) -> None:
    """Ctrl-C while it waits for a lock that somebody holds: no traceback, and no copy of the queue stays."""
    sound(home, server)
    with _holding(Paths(home).queue_lock), doctor(home) as process:
        _until(lambda: leftovers(home) != [])
        process.send_signal(number)
        said = process.communicate(timeout=30)
    assert (process.returncode, *said) == (130, "", "")
    assert leftovers(home) == []


def test_what_a_killed_doctor_leaves_is_removed_by_the_next_or_by_an_opt_out(home: Path, server: LocalPostHog) -> None:
    """A copy of events must not outlive them: an hour later by a doctor, at once by `disable`."""
    sound(home, server)

    def killed() -> Path:
        with _holding(Paths(home).queue_lock), doctor(home) as process:
            _until(lambda: leftovers(home) != [])
            process.kill()
        (left,) = leftovers(home)
        return left

    left = killed()
    examined(home)
    assert leftovers(home) == [left]
    os.utime(left, (time.time() - 3_601,) * 2)
    examined(home)
    assert leftovers(home) == []
    killed()
    flush(home, "disable")
    assert leftovers(home) == []


@pytest.mark.parametrize("mask", [0o000, 0o077])
def test_the_copy_of_the_queue_is_private_under_any_umask(mask: int, home: Path, server: LocalPostHog) -> None:
    """Also what a doctor leaves behind that was killed in the middle."""
    sound(home, server)
    before = os.umask(mask)
    try:
        with scratch(Paths(home)) as folder:
            assert inspect_queue(Paths(home), folder).account.pending == 1
            modes = {(path.is_dir(), path.stat().st_mode & 0o777) for path in [folder, *folder.rglob("*")]}
    finally:
        os.umask(before)
    assert modes == {(True, 0o700), (False, 0o600)}
    assert not folder.exists()


def test_a_home_that_is_not_there_is_not_made(home: Path, server: LocalPostHog) -> None:
    """A fresh machine: what is missing is said, and the server is asked."""
    env = environment(KTX_TELEMETRY_ENDPOINT=server.url, KTX_TELEMETRY_KEY=KEY)
    code, found = examined(home, "--send", env=env)
    assert (code, found["home"]["state"], found["server"]["state"]) == (0, "warn", "ok")
    assert "run the host CLI once" in found["home"]["mend"]
    assert not home.exists()
    assert server.accepted == []


def _until(reached: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not reached():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def _holding(lock: Path) -> subprocess.Popen[str]:
    """Have another process hold a lock until the block's end."""
    code = (
        "import fcntl, sys; file = open(sys.argv[1]); fcntl.flock(file, fcntl.LOCK_EX); print(1, flush=True); input()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(lock)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "1\n"
    return process
