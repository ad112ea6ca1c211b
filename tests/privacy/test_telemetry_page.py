"""TELEMETRY.md says nothing that no test shows: each sentence, item and row of it names its tests here."""

from __future__ import annotations

import ast
import json
import platform
import re
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from flusher.context import Context, Options, Result
from flusher.run import run
from spool import Limits, Telemetry
from spool.exception.redaction import redact
from spool.home import Paths
from spool.settings import VERSION
from tests.support.local_posthog import LocalPostHog
from tests.support.processes import KEY, ROOT, environment, flush, flush_json, run_python, status

PAGE = (ROOT / "TELEMETRY.md").read_text(encoding="utf-8")
FIELDS = ("test_an_event_has_the_fields_of_the_page_and_no_other",)
COMMAND = ("test_a_command_event_has_the_fields_of_the_page_and_no_other",)
PLACES = ("test_each_place_on_the_page_holds_what_the_page_says",)
CANARY = ("test_a_secret_in_an_error_a_flag_or_a_variable_reaches_neither_disk_nor_output_nor_wire",)
ADDRESSES = ("test_an_ipv4_address_goes_wherever_it_stands", "test_an_ipv6_address_goes_in_every_form")

# Each sentence and item, and the tests that show it. Who changes one looks at both.
SHOWN: dict[str, tuple[str, ...]] = {
    "For another program, say `mycli`, read `~/.mycli` for `~/.ktx`, `MYCLI_` for `KTX_`, and `ktx-flush --app "
    "mycli` for `ktx-flush`.": ("test_another_program_has_its_own_home_variables_and_spool",),
    "Every event has these fields:": FIELDS,
    "A `command` event adds these:": COMMAND,
    "An event of another name adds what ktx says of it, such as how many tables a scan found.": (
        "test_a_wire_event_is_what_the_contract_says",
    ),
    "`install_first_run` is sent once for each install.": (
        "test_thirty_two_first_runs_at_once_give_one_id_one_notice_and_one_event",
    ),
    "`ktx-flush doctor --send` sends one event, `spool_canary`: without `spool_sequence`, and with "
    "`$process_person_profile`, false.": ("test_send_delivers_one_canary_that_the_account_knows_nothing_of",),
    "Your host name, your user name, the address of your network card and the folder you are in.": (
        "test_nothing_names_this_machine_or_its_user",
        "test_the_name_of_the_machine_goes",
        "test_the_loopback_and_the_address_of_a_network_card_go",
        *CANARY,
    ),
    "An IP address, in any field.": (*FIELDS, *ADDRESSES),
    "The values of flags, the arguments, and anything else that you typed.": (
        "test_what_a_person_typed_is_not_in_the_event",
        "test_what_was_typed_does_not_come_back_in_an_errors_text",
        "test_no_value_of_a_flag_is_ever_told",
    ),
    "The folder of your project: only its hash is told.": (
        "test_the_project_id_names_neither_the_install_nor_the_folder",
        *CANARY,
    ),
    "The values of environment variables.": ("test_the_value_of_a_variable_goes", *CANARY),
    "A request itself comes from your network address, or from that of your proxy if the environment names one.": (
        "test_a_proxy_of_the_environment_is_used_unless_no_proxy_says_otherwise",
    ),
    "`~/.ktx/telemetry.json`: the install id and your decision.": PLACES,
    "`~/.ktx/spool/queue`: the events that wait.": PLACES,
    "`~/.ktx/spool/aside`: the event of the first run, and events that could not enter the queue in time.": (
        "test_a_held_lock_delays_a_capture_no_longer_than_lock_wait_s",
        *PLACES,
    ),
    "`~/.ktx/spool/spans`: one file for each command that is under way.": PLACES,
    "`~/.ktx/spool/quarantine`: damaged queues, refused events and other files that can't be used, each kept whole; "
    "and, while a damaged queue is rebuilt, a copy of it in `.reading`.": (
        "test_what_can_not_be_read_is_kept_in_quarantine_and_counted",
        "test_what_is_no_event_is_set_aside_with_its_reason_and_counted",
        "test_an_odd_entry_stops_nothing",
        "test_a_rebuild_that_is_killed_anywhere_loses_nothing_and_doubles_nothing",
    ),
    "`~/.ktx/spool/destination.json`: where events go, the limits, and which catalogue applies.": PLACES,
    "`~/.ktx/spool/emitted.json`: how often each version of ktx captured which event, by command.": PLACES,
    "`~/.ktx/spool/flush.json`: when we last tried, when we may try next, how much fits into one request, and Linux's "
    "id of this boot.": PLACES,
    "`~/.ktx/spool/doctor-...`: a copy of the queue, only while `ktx-flush doctor` runs.": (
        "test_what_a_killed_doctor_leaves_is_removed_by_the_next_or_by_an_opt_out",
    ),
    "`~/.ktx/spool/flush.log`: what the last runs of `ktx-flush` came to, and how many events of each name they "
    "sent.": (
        "test_a_line_tells_what_the_run_told",
        *PLACES,
    ),
    "`~/.ktx/spool/losses.log`: why the last events were lost, in words that may name files and fields.": (
        "test_the_last_reasons_are_kept_and_no_more",
        "test_a_file_that_a_run_refuses_is_among_the_last_losses",
    ),
    "`~/.ktx/spool/report.html`: the page of `ktx-flush report`, if you asked for one.": (
        "test_the_page_is_private_and_may_be_written_again",
        *PLACES,
    ),
    "`~/.ktx/spool/launch.err`: why the last flusher did not come up, in Python's words; it holds no event.": (
        "test_a_flusher_that_dies_before_its_first_line_leaves_the_reason",
    ),
    "`~/.ktx/spool/queue.lock`, `flush.lock`, `launched`, `reserve`, `wiped`: locks, a time, empty space, a mark; no "
    "event.": PLACES,
    "Folders have the mode 0700, files 0600.": (
        "test_everything_is_private_under_any_umask",
        "test_the_copy_of_the_queue_is_private_under_any_umask",
        *PLACES,
    ),
    "`KTX_HOME` names another folder than `~/.ktx`.": ("test_another_program_has_its_own_home_variables_and_spool",),
    "An event leaves the queue when PostHog has acknowledged it.": (
        "test_whatever_the_server_does_wrong_the_queue_holds_everything",
    ),
    "What has waited for 30 days is deleted when two runs of `ktx-flush` at least a day apart could not deliver it.": (
        "test_limits_are_those_of_the_page_and_what_they_delete_is_counted",
    ),
    "Of more than 10,000 events or 64 MiB the oldest are deleted.": (
        "test_limits_are_those_of_the_page_and_what_they_delete_is_counted",
    ),
    "What is deleted unsent is counted, and `ktx-flush status` tells how much it was.": (
        "test_limits_are_those_of_the_page_and_what_they_delete_is_counted",
    ),
    "An event that PostHog rejects is kept with the reason; of more than 1,000 the oldest is deleted.": (
        "test_one_rejected_event_becomes_a_dead_letter_and_the_others_arrive",
        "test_dead_letters_are_kept_up_to_a_thousand_and_then_the_oldest_is_lost",
    ),
    "`ktx-flush list --json` prints each event that waits, as it would be sent; `ktx-flush show UUID` prints one.": (
        "test_list_and_show_print_what_is_sent_after_it",
    ),
    "`ktx-flush report --open` shows the same in your browser, with what was sent; the page loads nothing and sends "
    "nothing.": (
        "test_the_page_holds_exactly_what_is_sent",
        "test_the_browser_gets_the_file",
        "test_a_browser_loads_and_runs_nothing_of_it",
    ),
    "An event in `aside` gets its `spool_sequence` when it enters the queue.": (
        "test_list_and_show_print_what_is_sent_after_it",
    ),
    "With `KTX_TELEMETRY_DEBUG=1`, ktx writes each event to stderr, and stores and sends nothing.": (
        "test_debug_shows_and_stores_nothing",
    ),
    "`ktx-flush status` says whether telemetry is on, and which rule decided.": (
        "test_a_file_that_does_not_read_means_off_and_stays_as_it_is",
    ),
    "`ktx-flush doctor --json` names neither you nor the install: it may be sent to others.": (
        "test_json_names_no_person_no_install_and_no_whole_key",
    ),
    "`KTX_TELEMETRY_DISABLED=1`, `DO_NOT_TRACK=1` or `CI=1` in the environment: ktx and `ktx-flush` store, "
    "send and create nothing; what waits from before stays.": (
        "test_off_by_environment_touches_nothing",
        "test_off_by_a_variable_is_named_and_nothing_is_asked_or_tried",
        "test_an_opt_out_is_obeyed",
    ),
    "`ktx-flush disable`: telemetry is off for this install, and everything that waits is deleted at once, with "
    "`emitted.json`, `flush.log`, `losses.log` and `report.html`.": (
        "test_disable_and_enable_are_what_they_say",
        "test_opting_out_deletes_the_log_and_the_report",
        "test_no_file_below_the_spool_tells_of_an_event_after_an_opt_out",
    ),
    '`"enabled": false` in `telemetry.json`: the same, at the next run of ktx or `ktx-flush`.': (
        "test_off_by_file_deletes_what_waits_at_the_next_run",
    ),
    "A program that runs already obeys at its next event, and `ktx-flush` before its next request.": (
        "test_a_long_lived_host_obeys_at_once",
        "test_a_running_flusher_obeys_before_its_next_request",
    ),
    "`ktx-flush enable` switches telemetry on again, with the same install id.": (
        "test_disable_and_enable_are_what_they_say",
    ),
    "If `telemetry.json` is there and can't be read, telemetry is off, and nothing is sent, deleted or overwritten.": (
        "test_a_file_that_does_not_read_means_off_and_stays_as_it_is",
        "test_whatever_keeps_the_file_from_being_read_means_off",
    ),
    "So it is if another user has written it, or everybody may write to it.": (
        "test_consent_of_another_user_is_not_taken",
    ),
    "`ktx-flush enable` mends such a file.": ("test_a_file_that_does_not_read_means_off_and_stays_as_it_is",),
    "The first run makes the install id and writes one line to stderr, also where there is no terminal.": (
        "test_a_headless_first_run_is_counted",
    ),
    "Many first runs at once make one id and write one line.": (
        "test_thirty_two_first_runs_at_once_give_one_id_one_notice_and_one_event",
    ),
    "While a command runs, its file in `spans` holds its event, in case it is killed.": PLACES,
    "The next run finds the file of a killed command and sends the event, with the outcome `aborted`.": (
        "test_one_command_event_whatever_ends_the_command",
        "test_the_next_start_of_any_host_recovers_too",
    ),
    "The text of an error is one line of at most 1,000 characters.": (
        "test_any_text_becomes_one_line_within_its_limit",
    ),
    "Passwords, tokens, keys and credentials in addresses are known by their form, and cut out.": (
        "test_a_secret_that_nobody_named_is_known_by_what_surrounds_it",
        *CANARY,
    ),
    "What ktx itself names as secret is cut out in every spelling.": (
        "test_a_secret_that_the_host_names_is_found_in_every_spelling",
    ),
    "What you typed on the command line is cut out, word by word, where a word has four characters or more.": (
        "test_what_was_typed_does_not_come_back_in_an_errors_text",
        "test_a_typed_word_is_found_in_every_spelling",
    ),
    "Your home folder becomes `~`, your user name `<user>`, the name of your machine `<host>`, an IP address `<ip>`.": (
        "test_the_home_and_the_name_of_the_person_go",
        "test_the_name_of_the_machine_goes",
        *ADDRESSES,
        *CANARY,
    ),
    "The address of a network card is cut out.": ("test_the_loopback_and_the_address_of_a_network_card_go",),
    "The value of a variable is cut out where it stands with its name, as in `KTX_HOME=value`.": (
        "test_the_value_of_a_variable_goes",
    ),
    "A text may still hold what has no such form and was not typed: a file outside your home, or a secret in "
    "plain words.": ("test_what_has_no_form_of_a_secret_stays_in_an_errors_text",),
    "The kind of an error is told only if its name looks like that of a class.": (
        "test_an_errors_class_is_told_only_if_it_looks_like_one",
    ),
    "An error report (`$exception`) adds the functions and line numbers that led to the error, but not the path or "
    "source of your own scripts.": (
        "test_a_report_is_what_posthog_python_would_build",
        "test_a_users_script_is_told_without_its_path_and_its_lines",
    ),
    "Certificates are always checked.": (
        "test_a_certificate_is_trusted_by_the_bundle_that_the_environment_names_and_else_refused",
        "test_a_certificate_of_another_host_is_refused",
    ),
    "No redirect is followed.": ("test_a_redirect_is_not_followed",),
    "`ktx-flush doctor` asks the host whether it answers, by a request that holds no event, no key and no id.": (
        "test_where_all_is_well_doctor_says_so_and_changes_nothing",
    ),
    "Nothing of `~/.netrc` is used.": ("test_credentials_of_netrc_are_never_used",),
    "Proxies and certificate bundles are taken from the environment.": (
        "test_a_proxy_of_the_environment_is_used_unless_no_proxy_says_otherwise",
        "test_a_certificate_is_trusted_by_the_bundle_that_the_environment_names_and_else_refused",
    ),
    "No file in the folder you are in changes where events go.": (
        "test_nothing_in_the_working_folder_changes_the_destination",
    ),
}


# What a field holds, as far as a program can tell.
ENVELOPE: dict[str, Callable[[Any], bool]] = {
    "uuid": lambda value: UUID(value).version == 4,
    "event": lambda value: value == "scan_completed",
    "distinct_id": lambda value: UUID(value).version == 4,
    "timestamp": lambda value: datetime.fromisoformat(value).utcoffset() == timedelta(0),
    "cliVersion": lambda value: value == "0.12.0",
    "nodeVersion": lambda value: value == f"python-{platform.python_version()}",
    "osPlatform": lambda value: value == sys.platform,
    "osRelease": lambda value: value == platform.release(),
    "arch": lambda value: value in ("x64", "arm64") or value == platform.machine().lower(),
    "runtime": lambda value: value == "daemon-py",
    "isCi": lambda value: value is False,
    "$lib": lambda value: value == "ktx-spool",
    "$lib_version": lambda value: value == VERSION,
    "$groups": lambda value: re.fullmatch(r"[0-9a-f]{64}", value["project"]) is not None and len(value) == 1,
    "$geoip_disable": lambda value: value is True,
    "$ignore_sent_at": lambda value: value is True,
    "spool_sequence": lambda value: value == 1,
}


def rows(after: str) -> list[str]:
    """Give the fields of the table that follows a sentence of the page."""
    table = PAGE.partition(after)[2].lstrip().partition("\n\n")[0]
    return [line.split("`")[1] for line in table.splitlines()[2:]]


def test_every_sentence_of_the_page_is_shown_by_tests_that_exist() -> None:
    """In its order, one to a line, and none twice."""
    said = [line.removeprefix("- ") for line in PAGE.splitlines() if line and line[0] not in "#|"]
    assert said == list(SHOWN)
    assert [line for line in said if re.search(r"[.?!] +[A-Z`]", line)] == []
    trees = (ast.parse(path.read_bytes()) for path in (ROOT / "tests").rglob("test_*.py"))
    there = {node.name for tree in trees for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    assert {name for names in SHOWN.values() for name in names} - there == set()


def waiting(home: Path) -> list[dict[str, Any]]:
    """Give the events that wait, as `ktx-flush list` prints them."""
    done = flush(home, "list")
    assert (done.returncode, done.stderr) == (0, "")
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_an_event_has_the_fields_of_the_page_and_no_other(home: Path, tmp_path: Path) -> None:
    """One of a project, with a field of the host's own; each field holds what the page says."""
    telemetry = Telemetry("ktx", "0.12.0", KEY, home=home, flush="never")
    assert telemetry.capture("scan_completed", {"tables": 3}, groups={"project": telemetry.project_id(tmp_path)})
    telemetry.close()
    (event,) = [event for event in waiting(home) if event["event"] == "scan_completed"]
    properties = event.pop("properties")
    assert properties.pop("tables") == 3
    assert list(ENVELOPE) == rows("Every event has these fields:")
    fields = {**event, **properties}
    assert set(fields) == set(ENVELOPE)
    assert [name for name, holds in ENVELOPE.items() if not holds(fields[name])] == []


COMMANDS = """
import os, sys
from spool import Telemetry
t = Telemetry("ktx", "0.12.0", "phc_test", home=sys.argv[1], flush="never")
try:
    with t.command(["ktx", "ingest"], {"json": True}, project="."):
        raise ValueError("no such table")
except ValueError:
    pass
t.command(["ktx", "scan"], {"json": None}).__enter__()
os._exit(9)
"""


def test_a_command_event_has_the_fields_of_the_page_and_no_other(home: Path) -> None:
    """One that fails and one that is killed: between them they have every field of the table."""
    run_python(COMMANDS, home)
    flush(home, "run", "--host", "http://127.0.0.1:9", "--key", "phc_x", "--max-retries", "0")
    failed, killed = (event["properties"] for event in waiting(home) if event["event"] == "command")
    fields = rows("A `command` event adds these:")
    assert {name for name in failed | killed if name not in ENVELOPE} == set(fields)
    assert [failed.get(name) for name in fields if name != "durationMs"] == [
        ["ktx", "ingest"], "error", {"json": True}, True, True, "ValueError", "no such table", None,
    ]  # fmt: skip
    assert [killed.get(name) for name in fields if name != "durationMs"] == [
        ["ktx", "scan"], "aborted", {"json": False}, False, False, None, None, "killed",
    ]  # fmt: skip
    assert all(0 <= properties["durationMs"] < 60_000 for properties in (failed, killed))


def test_each_place_on_the_page_holds_what_the_page_says(tmp_path: Path) -> None:
    """A command was killed and a delivery failed: each file named is there, private, with what is said of it."""
    env = environment(HOME=str(tmp_path))
    home = tmp_path / ".ktx"
    run_python(COMMANDS.replace("home=sys.argv[1], ", 'host="http://127.0.0.1:9", '), env=env)
    assert set(json.loads((home / "telemetry.json").read_text())) >= {"installId", "enabled"}
    assert b"no such table" in b"".join(path.read_bytes() for path in (home / "spool/queue").iterdir())
    (aside,) = (home / "spool/aside").iterdir()
    assert json.loads(aside.read_text())["event"] == "install_first_run"
    (span,) = (home / "spool/spans").iterdir()
    assert json.loads(span.read_text())["properties"]["commandPath"] == ["ktx", "scan"]
    assert set(json.loads((home / "spool/destination.json").read_text())) == {"host", "project_key", "limits"}
    (version,) = json.loads((home / "spool/emitted.json").read_text())["versions"]
    assert version["commands"] == {"ktx ingest": {"error": {"runs": 1, "events": {"command": 1}}}}
    assert flush(home, "run", "--max-retries", "0").returncode == 75
    state = json.loads((home / "spool/flush.json").read_text())
    assert {"last_attempt", "next_attempt", "batch_bytes", "failed_runs"} <= set(state)
    assert {"result", "sent"} <= set(json.loads((home / "spool/flush.log").read_text()))
    assert flush(home, "report").returncode == 0
    assert b"no such table" in (home / "spool/report.html").read_bytes()
    named = set(re.findall(r"`(?:~/\.ktx/spool/)?([a-z.]+)`", PAGE))
    assert {path.name for path in (home / "spool").iterdir()} - named == set()
    modes = {(path.is_dir(), path.stat().st_mode & 0o777) for path in (home / "spool").rglob("*")}
    assert modes == {(True, 0o700), (False, 0o600)}


def test_another_program_has_its_own_home_variables_and_spool(tmp_path: Path, server: LocalPostHog) -> None:
    """Telemetry of mycli: ~/.mycli, MYCLI_*, ktx-flush --app mycli; KTX_* is nothing to it, MYCLI_HOME is."""
    code = (
        "import sys\nfrom spool import Telemetry\n"
        "t = Telemetry('mycli', '1', 'phc_test', sys.argv[1], flush='never')\nprint(t.capture('a').state)"
    )
    env = environment(HOME=str(tmp_path), KTX_HOME=str(tmp_path / "ktx"), KTX_TELEMETRY_DISABLED="1")
    assert run_python(code, server.url, env=env).stdout == "queued\n"
    assert run_python(code, server.url, env={**env, "MYCLI_TELEMETRY_DISABLED": "1"}).stdout == "disabled\n"
    elsewhere = {**env, "MYCLI_HOME": str(tmp_path / "elsewhere")}
    assert run_python(code, server.url, env=elsewhere).stdout == "queued\n"
    command = [sys.executable, "-m", "flusher", "--app", "mycli", "run", "--json"]
    for number, world in enumerate((env, elsewhere), 1):
        done = subprocess.run(command, env=world, capture_output=True, text=True, check=True)
        assert json.loads(done.stdout)["delivered"] == 2
        assert len(server.accepted) == 2 * number
    assert {path.name for path in tmp_path.iterdir() if path.name != "user"} == {".mycli", "elsewhere"}


@pytest.mark.parametrize(
    ("limits", "cause"),
    [(Limits(max_events=3), "over_count"), (Limits(max_bytes=2_000), "over_bytes"), (Limits(max_age_s=60), "expired")],
)
def test_limits_are_those_of_the_page_and_what_they_delete_is_counted(limits: Limits, cause: str, home: Path) -> None:
    """The oldest go first, the newest stays, and the account adds up."""
    assert Limits() == Limits(max_events=10_000, max_bytes=64 * 2**20, max_age_s=30 * 24 * 3600.0)
    telemetry = Telemetry("ktx", "1", KEY, "http://127.0.0.1:9", home, limits=limits, flush="never")
    if cause == "expired":
        for numbers, days in ((range(6), 0.1), (range(6, 7), 2.0)):  # one that the first run did not see stays
            assert all(telemetry.capture("scan_completed", {"number": number}) for number in numbers)
            ends = Context("ktx", Paths(home), Options(force=True, max_retries=0), uptime=lambda: ("", 0.0))
            ends.clock = partial(sum, (time.time(), days * 24 * 3600.0))
            assert run(ends).result is Result.UNREACHABLE
    else:
        for number in range(6):
            assert telemetry.capture("scan_completed", {"number": number})
    telemetry.close()
    left = [event["properties"]["number"] for event in waiting(home) if event["event"] == "scan_completed"]
    last = 6 if cause == "expired" else 5
    assert 1 <= len(left) <= 4
    assert left == list(range(last + 1))[-len(left) :]
    assert status(home)["losses"][cause] >= 2


def test_list_and_show_print_what_is_sent_after_it(home: Path, server: LocalPostHog) -> None:
    """What was printed arrives to the letter; only the number of an event aside comes later."""
    telemetry = Telemetry("ktx", "1", KEY, server.url, home, flush="never")
    for said in ("plain", "\u00fcn\u00ef \N{HOUSE BUILDING}", '"quotes" \\ \n'):
        assert telemetry.capture("scan_completed", {"text": said})
    telemetry.close()
    listed = waiting(home)
    assert [json.loads(flush(home, "show", event["uuid"]).stdout) for event in listed] == listed
    assert flush_json(home)["delivered"] == 4
    sent = {event["uuid"]: event for event in server.accepted}
    numbered = [event for event in listed if "spool_sequence" in event["properties"]]
    assert (len(listed), len(numbered)) == (4, 3)
    for event in listed:
        number = sent[event["uuid"]]["properties"]["spool_sequence"]
        assert {**event, "properties": {**event["properties"], "spool_sequence": number}} == sent[event["uuid"]]
    assert all(event == sent[event["uuid"]] for event in numbered)


def test_what_has_no_form_of_a_secret_stays_in_an_errors_text() -> None:
    """The page says so, and it is so: redaction is no promise about plain words."""
    text = "/srv/acme/orders.db does not open with rosebud"
    assert redact(text, home="/home/jane", user="jane") == text
