"""An event can't drift from its catalogue: what ktx's schema says is what a capture is held to."""

from __future__ import annotations

import math
import shutil
import subprocess
import sys
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from types import MappingProxyType
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spool import ktx_events
from spool.catalogue import Event, name_of
from spool.errors import InvalidEventError
from spool.ktx_events import CATALOGUE
from tests.support.examples import COMMON, REFERENCE, conforms, right, wrong
from tests.support.ktx_properties import INGEST
from tests.support.processes import ROOT, environment

SCHEMA = CATALOGUE.json_schema()
NAMES = list(REFERENCE["$defs"])
CLASSES = {name_of(one): one for one in vars(ktx_events).values() if isinstance(one, type) and issubclass(one, Event)}

COMMAND: dict[str, Any] = {
    "commandPath": ["ktx", "ingest"],
    "durationMs": 1,
    "outcome": "ok",
    "flagsPresent": {"--json": True},
    "hasProject": True,
    "projectGroupAttached": False,
}
STACK: dict[str, Any] = {
    "connectors": [{"driver": "sqlite", "isDemo": True}],
    "connectionCount": 1,
    "hasSl": True,
    "hasWiki": False,
    "hasMcp": False,
    "hasManagedRuntime": True,
}
MCP: dict[str, Any] = {"toolName": "query", "outcome": "ok", "durationMs": 1, "sampleRate": 1}


def facts(schema: Any) -> Any:
    """Give what a schema demands: without descriptions, and what has no order without one."""
    if isinstance(schema, Mapping):
        kept = {
            name: facts(rule) for name, rule in schema.items() if not isinstance(rule, str) or name != "description"
        }
        return {name: sorted(rule) if name in ("required", "enum") else rule for name, rule in kept.items()}
    return schema


def refusal(event: str, properties: Any) -> str:
    """Give the message with which the catalogue refuses an event."""
    with pytest.raises(InvalidEventError) as refused:
        CATALOGUE.check(event, properties)
    return str(refused.value)


def complaint(event: str, example: dict[str, Any]) -> str:
    """Give the message with which the catalogue refuses a whole event; empty if it doesn't."""
    try:
        CATALOGUE.check_complete(event, example)
    except InvalidEventError as refused:
        return str(refused)
    return ""


# -- the same as ktx's ----------------------------------------------------------------------------------------


def test_the_schema_has_the_references_events_and_fields_in_its_order() -> None:
    """Nothing is missing, nothing is added, also to the fields that all have."""
    assert SCHEMA["x-ktx-catalog"] == REFERENCE["x-ktx-catalog"]
    assert SCHEMA["x-ktx-common-fields"] == REFERENCE["x-ktx-common-fields"]
    assert list(CATALOGUE.names()) == list(SCHEMA["$defs"]) == NAMES
    assert set(SCHEMA) == set(REFERENCE)


@pytest.mark.parametrize("event", NAMES)
def test_each_event_demands_what_the_reference_demands(event: str) -> None:
    """Types, required and optional, enumerations, bounds, nested objects: equal but for the descriptions."""
    assert facts(SCHEMA["$defs"][event]) == facts(REFERENCE["$defs"][event])


def test_every_event_and_every_field_is_described() -> None:
    """The schema is what an analyst reads."""
    for event in SCHEMA["$defs"].values():
        assert event["description"]
        assert all(field["description"] for field in event["properties"].values())


def test_the_schema_in_the_package_is_current(tmp_path: Path) -> None:
    """The script says so; of a copy that isn't current it says so in one line, and writes the same bytes anew."""
    shutil.copytree(ROOT / "spool", tmp_path / "spool", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "scripts").mkdir()
    copy = shutil.copy(ROOT / "scripts" / "generate_schema.py", tmp_path / "scripts")
    written = tmp_path / "spool" / "events.schema.json"

    def generate(script: Path | str, *arguments: str) -> tuple[int, str]:
        command = [sys.executable, str(script), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, env=environment(), check=False, timeout=60)
        return done.returncode, done.stdout + done.stderr

    assert generate(ROOT / "scripts" / "generate_schema.py", "--check") == (0, "")
    for stale in (written.read_text().replace("1000", "999", 1), "", None):
        written.unlink() if stale is None else written.write_text(stale)
        code, said = generate(copy, "--check")
        assert (code, said.count("\n")) == (1, 1)
        assert "spool/events.schema.json is not current" in said
    assert generate(copy) == (0, "")
    assert written.read_bytes() == (ROOT / "spool" / "events.schema.json").read_bytes()


# -- the verdict ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("event", NAMES)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_what_the_reference_allows_is_accepted(event: str, data: st.DataObject) -> None:
    """By the check, by msgspec itself and by a judge that shares no code with either; and it stays as it is."""
    example = data.draw(right(REFERENCE["$defs"][event]))
    assert conforms(REFERENCE["$defs"][event], example)
    CATALOGUE.check_complete(event, example)
    own = {name: value for name, value in example.items() if name not in COMMON}
    assert CATALOGUE.check(event, own) == own
    exact = {name: 1 if name == "sampleRate" else value for name, value in own.items()}  # msgspec: 1.0 is no 1
    instance = msgspec.convert(exact, CLASSES[event])
    assert CATALOGUE.check(event, instance) == exact


@pytest.mark.parametrize("event", NAMES)
@settings(max_examples=2, deadline=None)
@given(data=st.data())
def test_what_is_wrong_in_one_place_is_judged_as_the_reference_judges_it(event: str, data: st.DataObject) -> None:
    """Each field dropped, misspelled and given every odd value: one line, with the event's name, or no complaint."""
    schema = REFERENCE["$defs"][event]
    for example in wrong(data.draw(right(schema)), schema):
        message = complaint(event, example)
        assert (message == "") == conforms(schema, example)
        assert message.isprintable()
        assert not message or message.startswith((f"{event}.", f"{event}:"))


class Driver(StrEnum):
    """As hosts have it."""

    SQLITE = "sqlite"


@pytest.mark.parametrize(
    ("event", "properties"),
    [
        ("ingest_completed", {**INGEST, "tableCount": 3.0, "durationMs": 0}),
        ("ingest_completed", {**INGEST, "driver": Driver.SQLITE, "errorDetail": "\ud83d\ude00" * 1000}),
        ("ingest_completed", MappingProxyType(INGEST)),
        ("command", {**COMMAND, "commandPath": ("ktx",), "flagsPresent": MappingProxyType({"--x y": True})}),
        ("mcp_request_completed", {**MCP, "sampleRate": 1.0}),
        ("install_first_run", None),
        ("spool_loss", {"counts": {"full": 3}}),
        ("$exception", {"$exception_list": []}),
    ],
)
def test_what_is_right_as_json_is_right_as_python(event: str, properties: Any) -> None:
    """A whole float, a text enum, a tuple, a read-only mapping; and what the spool itself captures."""
    assert CATALOGUE.check(event, properties) == dict(properties or {})


# -- the message ----------------------------------------------------------------------------------------------

COUNT = "expected a whole number, at least 0 and at most 9007199254740991"
PATH = "expected an array, length at least 1"
BUCKET = "expected one of <10k, <100k, <1M, <10M, >=10M"
MISTAKES: list[tuple[str, Any, str]] = [
    ("ingest_completed", {"tableCont": 1}, ".tableCont: unknown field; did you mean tableCount?"),
    ("install_first_run", {"x": 1}, ".x: unknown field; expected one of none"),
    ("ingest_completed", {"arch": "x64"}, ".arch: the spool adds this field itself; leave it out"),
    ("setup_step", {"step": "models"}, ".outcome: missing; expected one of completed, skipped, abandoned"),
    ("ingest_completed", {"driver": 5}, ".driver: expected text, got 5"),
    ("ingest_completed", {"driver": None}, ".driver: expected text, got null"),
    ("ingest_completed", {"isDemoConnection": 0}, ".isDemoConnection: expected true or false, got 0"),
    ("ingest_completed", {"rowsBucket": "secret"}, f".rowsBucket: {BUCKET}, got text of length 6"),
    (
        "ingest_completed",
        {"errorDetail": "x" * 1001},
        ".errorDetail: expected text, length at most 1000, got text of length 1001",
    ),
    ("ingest_completed", {"tableCount": True}, f".tableCount: {COUNT}, got true"),
    ("ingest_completed", {"tableCount": 2.5}, f".tableCount: {COUNT}, got 2.5"),
    ("ingest_completed", {"tableCount": -1}, f".tableCount: {COUNT}, got -1"),
    ("ingest_completed", {"tableCount": 2**53}, f".tableCount: {COUNT}, got 9007199254740992"),
    ("ingest_completed", {"tableCount": "3"}, f".tableCount: {COUNT}, got text of length 1"),
    ("ingest_completed", {"durationMs": math.nan}, ".durationMs: expected a number, at least 0, got nan"),
    ("ingest_completed", {"durationMs": math.inf}, ".durationMs: expected a number, at least 0, got inf"),
    ("ingest_completed", {"durationMs": -0.25}, ".durationMs: expected a number, at least 0, got -0.25"),
    (
        "ingest_completed",
        {"durationMs": 10**5000},
        ".durationMs: expected a number, at least 0, got one beyond a double",
    ),
    ("ingest_completed", {"durationMs": {1}}, ".durationMs: expected a number, at least 0, got set"),
    ("mcp_request_completed", {"sampleRate": 0.5}, ".sampleRate: expected 1, got 0.5"),
    ("command", {"commandPath": []}, f".commandPath: {PATH}, got an array of length 0"),
    ("command", {"commandPath": "ktx"}, f".commandPath: {PATH}, got text of length 3"),
    ("command", {"commandPath": {"ktx"}}, f".commandPath: {PATH}, got set"),
    ("command", {"commandPath": ["ktx", 1]}, ".commandPath[1]: expected text, got 1"),
    (
        "command",
        {"flagsPresent": {"--key\n": "secret"}},
        ".flagsPresent.'--key\\n': expected true or false, got text of length 6",
    ),
    ("command", {"flagsPresent": {1: True}}, ".flagsPresent: expected names that are text, got 1"),
    ("command", {"flagsPresent": []}, ".flagsPresent: expected an object, got an array of length 0"),
    (
        "project_stack_snapshot",
        {"connectors": [{"driver": "x"}]},
        ".connectors[0].isDemo: missing; expected true or false",
    ),
    ("project_stack_snapshot", {"connectors": [[]]}, ".connectors[0]: expected an object, got an array of length 0"),
]
RIGHT = {
    "ingest_completed": INGEST,
    "command": COMMAND,
    "project_stack_snapshot": STACK,
    "mcp_request_completed": MCP,
}


@pytest.mark.parametrize(("event", "change", "message"), MISTAKES)
def test_a_mistake_is_told_by_event_field_and_what_was_expected(event: str, change: Any, message: str) -> None:
    """One line; of a text that was refused its length only, since it may be a secret."""
    assert refusal(event, {**RIGHT.get(event, {}), **change}) == event + message


def test_an_unknown_event_is_told_with_those_that_are_known() -> None:
    """The near one, or all; what is no text at all is cut to a readable length."""
    assert refusal("ingest_complete", INGEST) == "ingest_complete: unknown event; did you mean ingest_completed?"
    assert refusal("a\nb", None) == f"'a\\nb': unknown event; expected one of {', '.join(NAMES)}"
    odd: list[Any] = [None, 5, [], {}, "x" * 10_000, "\ud800", ""]
    assert all(len(refusal(event, INGEST)) < 600 for event in odd)


@pytest.mark.parametrize("event", ["command", "spool_loss"])
def test_properties_that_are_no_mapping_are_refused(event: str) -> None:
    """Also of an event that is the spool's own."""
    assert refusal(event, [1]) == f"{event}: expected an object, got an array of length 1"
