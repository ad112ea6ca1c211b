"""The side door takes files from anybody: what is sound is delivered, and nothing else is in its way."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from spool import Telemetry
from spool.catalogue import Catalogue, Event
from spool.home import Paths
from spool.ktx_events import CATALOGUE
from spool.launch.destination import host_catalogue
from tests.support.local_posthog import LocalPostHog
from tests.support.processes import KEY, ROOT, flush, flush_json, run_python, status

ID = "0b9f8c1e-5a3f-4a63-9c1c-0a1d2e3f4a5b"
COMMON = {
    "cliVersion": "0.12.0",
    "nodeVersion": "v22.11.0",
    "osPlatform": "linux",
    "osRelease": "6",
    "arch": "x64",
    "runtime": "node",
    "isCi": False,
    "$lib": "ktx-spool",
    "$groups": {"project": "0f"},
}
WIKI = {"queryLength": 12, "resultCount": 3, "durationMs": 41.5, "outcome": "ok"}
SOUND = {
    "uuid": str(UUID(int=1, version=4)),
    "event": "wiki_query_completed",
    "distinct_id": ID,
    "timestamp": "2026-11-23T12:00:00.000000Z",
    "properties": {**WIKI, **COMMON},
}
# What a file may hold instead of an event, and what its reason names.
UNSOUND: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "no JSON"),
    "half": (json.dumps(SOUND)[:150].encode(), "no JSON"),
    "an array": (b"[]", "no JSON object"),
    "no UTF-8": (json.dumps(SOUND).encode() + b"\xff", "utf-8"),
    "UTF-16": (json.dumps(SOUND).encode("utf-16"), "utf-8"),
    "nested": (b"[" * 50_000, "no JSON"),
    "deep": (json.dumps({**SOUND, "properties": json.loads('{"a":' * 200 + "1" + "}" * 200)}).encode(), "nested"),
    "too large": (json.dumps({**SOUND, "properties": {"a": "x" * 2_000_000}}).encode(), "larger than"),
    **{
        f"{name} {value!r}": (json.dumps({**SOUND, name: value}).encode(), name)
        for name, value in (
            ("uuid", None),
            ("uuid", "UPPER" + ID[5:]),
            ("uuid", ID.upper()),
            ("event", ""),
            ("event", "x" * 201),
            ("distinct_id", 5),
            ("distinct_id", "x" * 201),
            ("timestamp", "yesterday"),
            ("timestamp", "2026-11-23T12:00:00"),
            ("properties", []),
        )
    },
}


def destined(home: Path, server: LocalPostHog, **more: Any) -> Path:
    """Make a home whose only host is of another language: identity, destination, an empty aside. Gives aside."""
    paths = Paths(home)
    paths.aside.mkdir(parents=True, mode=0o700)
    fields = {"installId": ID, "enabled": True, "createdAt": "2026-11-23T12:00:00.000Z"}
    paths.identity.write_text(json.dumps(fields))
    paths.destination.write_text(json.dumps({"host": server.url, "project_key": KEY, **more}))
    return paths.aside


def leave(aside: Path, number: int, **changes: Any) -> str:
    """Leave an event under the next name and a uuid of its own; gives the uuid."""
    uuid = str(UUID(int=number, version=4))
    (aside / f"{number:020d}-{uuid}.json").write_text(json.dumps({**SOUND, "uuid": uuid, **changes}))
    return uuid


def test_what_is_no_event_is_set_aside_with_its_reason_and_counted(home: Path, server: LocalPostHog) -> None:
    """Every kind of it between two sound events, in one home: those two arrive, in one run."""
    if sys.platform == "win32":
        pytest.skip("no pipes with names here")
    aside = destined(home, server, catalogue="ktx")
    promised = [leave(aside, 1), leave(aside, 99)]
    for number, (content, _reason) in enumerate(UNSOUND.values(), 10):
        (aside / f"{number:020d}-x.json").write_bytes(content)
    (aside / "70-folder.json").mkdir()
    os.symlink("/etc/hostname", aside / "71-link.json")
    os.mkfifo(aside / "72-pipe.json")
    report = flush_json(home)
    assert (report["exit_code"], report["absorbed"], report["rejected"], report["remaining"]) == (0, 2, 0, 0)
    assert [event["uuid"] for event in server.accepted[:2]] == promised
    assert [event["event"] for event in server.accepted[2:]] == ["spool_loss"]
    assert status(home)["losses"] == {"invalid": len(UNSOUND) + 2, "too_large": 1}
    assert list(aside.iterdir()) == []
    kept = {path.name[7:]: path for path in Paths(home).quarantine.iterdir()}
    for number, (content, reason) in enumerate(UNSOUND.values(), 10):
        assert kept[f"{number:020d}-x.json"].read_bytes() == content
        assert reason in kept[f"{number:020d}-x.reason"].read_text()


def test_an_event_that_the_catalogue_does_not_allow_is_a_dead_letter(home: Path, server: LocalPostHog) -> None:
    """The operator sees event, field and what was expected, and may send it all the same."""
    aside = destined(home, server, catalogue="ktx")
    wrong = {
        leave(aside, 1, event="wiki_query"): "wiki_query: unknown event; did you mean wiki_query_completed?",
        leave(aside, 2, properties={**COMMON, **WIKI, "resultCount": -1}): "wiki_query_completed.resultCount: expected",
        leave(aside, 3, properties=WIKI): "wiki_query_completed.cliVersion: missing",
        leave(aside, 4, properties={**COMMON, **WIKI, "query": "secret"}): "wiki_query_completed.query: unknown field",
    }
    right = [leave(aside, 5), leave(aside, 6, event="$exception", properties={"$exception_list": []})]
    report = flush_json(home)
    assert (report["exit_code"], report["absorbed"], report["rejected"], report["remaining"]) == (3, 2, 4, 0)
    assert [event["uuid"] for event in server.accepted] == right
    assert list(aside.iterdir()) == []
    assert status(home)["accounting"] == {"captured": 6, "delivered": 2, "pending": 0, "dead": 4, "lost": 0}
    for uuid, reason in wrong.items():
        assert f"not in the catalogue: {reason}" in flush(home, "show", uuid).stderr
    assert flush_json(home)["exit_code"] == 0  # nothing is new
    assert flush_json(home, "retry")["retried"] == 4
    assert flush_json(home)["delivered"] == 4
    assert {event["uuid"] for event in server.accepted} == {*wrong, *right}


def test_a_run_that_only_rejects_says_so(home: Path, server: LocalPostHog) -> None:
    """Exit code 3 and the way to see them, though nothing was sent; a purge leaves no letter behind."""
    aside = destined(home, server, catalogue="ktx")
    leave(aside, 1, event="other")
    done = flush(home, "run")
    assert done.returncode == 3
    assert "look in list --dead" in done.stdout + done.stderr
    leave(aside, 2, event="other")
    assert flush_json(home, "purge", "--yes")["purged"] == 1
    assert status(home)["dead"] == 1
    assert server.requests == []


def test_many_rejected_files_do_not_hide_one_event_that_posthog_rejects(home: Path, server: LocalPostHog) -> None:
    """A destination that rejects everything is told from events that are wrong by what it rejected itself."""
    aside = destined(home, server, catalogue="ktx")
    for number in range(1, 61):
        leave(aside, number, event="other")
    server.reject(leave(aside, 61))
    sound = leave(aside, 62)
    report = flush_json(home)
    assert (report["exit_code"], report["rejected"], report["delivered"]) == (3, 61, 1)
    assert [event["uuid"] for event in server.accepted] == [sound]


KILLED = """
import os, sys
from spool import Telemetry
t = Telemetry("ktx", "1", home=sys.argv[1], flush="never")
with t.command(["ktx", "work"]):
    os._exit(9)
"""


def test_the_rejected_event_of_a_command_is_its_only_one(home: Path, server: LocalPostHog) -> None:
    """The command's process died before it removed its span: no second event is made of that."""
    aside = destined(home, server)
    assert run_python(KILLED, home).returncode == 9
    Paths(home).destination.write_text(json.dumps({"host": server.url, "project_key": KEY, "catalogue": "ktx"}))
    (span,) = Paths(home).spans.iterdir()
    uuid = span.name[:36]
    (aside / f"{1:020d}-{uuid}.json").write_text(json.dumps({**SOUND, "uuid": uuid, "event": "command"}))
    report = flush_json(home)
    assert (report["rejected"], report["recovered_spans"], server.accepted) == (1, 0, [])
    assert status(home)["accounting"]["captured"] == 1


@pytest.mark.parametrize("left", [{}, {"catalogue": None}, {"catalogue": "somebody's"}, {"catalogue": ["ktx"]}])
def test_without_a_catalogue_that_it_knows_the_flusher_sends_all_that_is_sound(
    left: dict[str, Any], home: Path, server: LocalPostHog
) -> None:
    """A host may have none, or one of its own, which no flusher imports."""
    aside = destined(home, server, **left)
    sent = [leave(aside, 1, event="anything", properties={}), leave(aside, 2)]
    assert flush_json(home)["exit_code"] == 0
    assert [event["uuid"] for event in server.accepted] == sent


class Rendered(Event):
    """An event of another host."""


@pytest.mark.parametrize(("catalogue", "name"), [(CATALOGUE, "ktx"), (None, None), (Catalogue(Rendered), None)])
def test_a_host_leaves_word_of_the_catalogue_that_it_captures_by(
    catalogue: Catalogue | None, name: str | None, home: Path
) -> None:
    """By name, where a flusher has it too; the last host decides."""
    for before in (CATALOGUE, catalogue):
        telemetry = Telemetry("ktx", "1", KEY, home=home, catalogue=before, flush="never")
        telemetry.capture("command")
        telemetry.close()
    assert host_catalogue(Paths(home)) == name


def test_the_example_of_the_document_is_absorbed_and_delivered(
    home: Path, server: LocalPostHog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A shell runs it as it stands there; ktx's catalogue allows it, and not a field is changed on the way."""
    page = (ROOT / "spool" / "DESIGN.md").read_text()
    (script,) = re.findall(r"^```sh\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    aside = destined(home, server, catalogue="ktx")
    monkeypatch.setenv("KTX_HOME", str(home))
    subprocess.run(["sh", "-e", "-c", script], check=True, timeout=30)
    (path,) = aside.iterdir()
    written = json.loads(path.read_text())
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.name.endswith(f"-{written['uuid']}.json")
    assert flush_json(home)["exit_code"] == 0
    (event,) = server.accepted
    assert event == {**written, "properties": {**written["properties"], "spool_sequence": 1}}
