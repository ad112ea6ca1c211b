"""A host declares its own events in a few lines, with the editor's help, and pays only for what it uses."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal

import pytest

from spool.catalogue import UNSET, Catalogue, Event, Meta, UnsetType, name_of
from spool.errors import InvalidEventError
from spool.ktx_events import CATALOGUE, Connector, IngestCompleted, ProjectStackSnapshot, ScanCompleted
from tests.support.examples import COMMON
from tests.support.ktx_properties import INGEST
from tests.support.processes import environment, run_python


def test_an_instance_stands_for_its_mapping() -> None:
    """With the names as they are written, what is unset left out, and nested objects."""
    event = ProjectStackSnapshot(
        connectors=[Connector(driver="sqlite", is_demo=True)],
        connection_count=1,
        has_sl=True,
        has_wiki=False,
        has_mcp=False,
        has_managed_runtime=True,
    )
    assert CATALOGUE.check(name_of(event), event) == {
        "connectors": [{"driver": "sqlite", "isDemo": True}],
        "connectionCount": 1,
        "hasSl": True,
        "hasWiki": False,
        "hasMcp": False,
        "hasManagedRuntime": True,
    }
    with pytest.raises(InvalidEventError, match=r"^scan_completed: expected its own fields, got those of project_st"):
        CATALOGUE.check("scan_completed", event)


def test_an_instance_is_judged_like_a_mapping() -> None:
    """Its constructor checks nothing: the editor does, and the catalogue."""
    event = IngestCompleted(
        driver="sqlite",
        is_demo_connection=False,
        schema_count=-1,
        table_count="12",  # type: ignore[arg-type]  # the mistake under test: a type checker sees it
        column_count=1,
        rows_bucket="<10",  # type: ignore[arg-type]  # the same
        duration_ms=1,
        outcome="ok",
    )
    with pytest.raises(InvalidEventError, match=r"^ingest_completed.schemaCount: expected a whole number"):
        CATALOGUE.check("ingest_completed", event)
    with pytest.raises(TypeError, match="Missing required argument"):
        ScanCompleted(driver="sqlite")  # type: ignore[call-arg]  # the mistake under test


class Plan(StrEnum):
    """A text enum of the host's."""

    FREE = "free"
    PAID = "paid"


class ReportWritten(Event):
    """A host's own event."""

    format: Literal["pdf", "html"]
    title: Annotated[str, Meta(min_length=1)] | UnsetType = UNSET
    pages: Annotated[int, Meta(ge=0)]


class Signup(Event, tag="user signed up"):
    """One with a name that no class can have, and a field that bears the name of msgspec's tag."""

    type: Plan


def test_a_host_has_its_own_catalogue_in_five_lines() -> None:
    """Checked by the type checker where it is captured, and by the catalogue where it isn't."""
    own = Catalogue(ReportWritten, Signup)
    assert own.names() == ("report_written", "user signed up")
    assert own.check("report_written", ReportWritten(format="pdf", pages=3)) == {"format": "pdf", "pages": 3}
    assert own.check("user signed up", {"type": Plan.PAID}) == {"type": "paid"}
    assert own.check("command", {"outcome": "ok"}) == {"outcome": "ok"}  # the spool's own, whatever the catalogue
    with pytest.raises(InvalidEventError, match=r"report_written.title: expected text, length at least 1, got"):
        own.check("report_written", {"format": "pdf", "pages": 3, "title": ""})
    ReportWritten(format="doc", pages=3)  # type: ignore[arg-type]  # the type checker's to refuse
    assert set(own.json_schema()["$defs"]["report_written"]["required"]) == {*COMMON, "format", "pages"}


class Clash(Event, tag="report_written"):
    """A second event of that name."""


class Taken(Event):
    """A field that the spool adds itself."""

    arch: str


class Unsayable(Event):
    """A field that may be null, which no event of ktx knows."""

    detail: str | None = None


def test_a_catalogue_that_cannot_be_is_refused() -> None:
    """Names when it is made, types at the first use of the event."""
    with pytest.raises(ValueError, match="report_written: there is such an event already"):
        Catalogue(ReportWritten, Clash)
    with pytest.raises(ValueError, match=r"taken.arch: the spool uses this name itself"):
        Catalogue(Taken)
    with pytest.raises(InvalidEventError, match=r"unsayable: its class can't be read: unsayable.detail: .* UNSET"):
        Catalogue(Unsayable).check("unsayable", {})


# -- the cost -------------------------------------------------------------------------------------------------

COST = """
import json, sys, time, timeit
import typer, spool
before = set(sys.modules)
assert not any(name.startswith("msgspec") for name in before)
started = time.process_time()
from spool.ktx_events import CATALOGUE
import_ms = (time.process_time() - started) * 1000
started = time.process_time()
properties = json.loads(sys.argv[1])
CATALOGUE.check("ingest_completed", properties)
first_us = (time.process_time() - started) * 1e6
check_us = min(timeit.repeat(lambda: CATALOGUE.check("ingest_completed", properties), number=1000, repeat=5)) * 1000
print(f"import {import_ms:.1f} ms beside typer, first check {first_us:.0f} us, each check {check_us:.1f} us")
"""


def test_a_host_without_a_catalogue_does_not_pay_for_one(tmp_path: Path) -> None:
    """Neither `spool` nor typer loads msgspec. What a catalogue costs is printed, from compiled files."""
    env = environment(PYTHONPYCACHEPREFIX=str(tmp_path))
    env.pop("PYTHONDONTWRITEBYTECODE", None)
    for _ in range(2):  # the first run compiles
        done = run_python(COST, json.dumps(INGEST), env=env)
        assert done.returncode == 0, done.stderr
    print(done.stdout.strip())  # noqa: T201 - the number is for whoever runs the test with -s
