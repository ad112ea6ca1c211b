"""Public calls as hosts write them. Never executed: `mypy --strict` and pyright read it, so the types are a promise."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn, assert_type
from uuid import uuid4

import msgspec
import typer
from msgspec import UNSET, UnsetType

import spool
from spool import Identity, Limits, Receipt, Telemetry
from spool.catalogue import Catalogue, Event
from spool.command.span import CommandSpan
from spool.ktx_events import CATALOGUE
from spool.testing.captured import Captured

# -- a Telemetry ----------------------------------------------------------------------------------------------

least = Telemetry("ktx", "0.12.0")
most = Telemetry(
    app="my-cli",
    version=spool.__version__,
    project_key="phc_x",
    host="https://eu.i.posthog.com",
    home=Path("/somewhere"),
    catalogue=CATALOGUE,
    limits=Limits(max_events=10, max_bytes=1 << 20, max_age_s=3600.0, max_event_bytes=9_000, lock_wait_s=0.1),
    durability="power",
    flush="never",
    geoip_disable=False,
    person_profiles=False,
    flush_interval_s=60.0,
    packages=["my_cli", "my_cli_plugins"],
)
with_text = Telemetry("ktx", "0.12.0", None, home="/somewhere", packages="my_cli")

# -- events ---------------------------------------------------------------------------------------------------

receipt = least.capture("scan_completed")
assert_type(receipt, Receipt)
assert_type(bool(receipt), bool)
assert_type(receipt.state, Literal["queued", "aside", "debug", "disabled", "lost"])
assert_type(receipt.uuid, str | None)
assert_type(receipt.reason, str | None)
least.capture("scan_completed", {"tableCount": 12, "nested": {"any": [1, None]}}, groups={"project": "p"})
least.capture("e", distinct_id="user", timestamp=datetime.now(UTC), uuid=uuid4())
least.capture("e", uuid=str(uuid4()))
try:
    raise OSError
except OSError as error:
    assert_type(least.capture_exception(error, handled=True, secrets=["password"]), Receipt)
least.hide("password", "token")
assert_type(least.redacted("text"), str)


# -- a host's own catalogue -----------------------------------------------------------------------------------


class TableRead(Event, rename="camel"):
    """An event of a host: a class, checked when it is captured."""

    driver: Literal["sqlite", "postgres"]
    row_count: Annotated[int, msgspec.Meta(ge=0)]
    schema_name: str | UnsetType = UNSET


own = Catalogue(TableRead)
typed = Telemetry("my-cli", "1", catalogue=own)
typed.capture("table_read", {"driver": "sqlite", "rowCount": 3})
typed.capture("table_read", TableRead(driver="sqlite", row_count=3))
assert_type(own.check("table_read", TableRead(driver="sqlite", row_count=3)), dict[str, Any])
assert_type(own.names(), tuple[str, ...])
assert_type(own.json_schema(), dict[str, Any])

# -- commands and signals -------------------------------------------------------------------------------------

with least.signals(), least.command(["ktx", "ingest"], flags={"json": True}) as span:
    assert_type(span, CommandSpan)
    span.annotate(outcome="aborted", error_class="WizardLeft")
    least.span.finish(outcome="ok")


async def work() -> None:
    """A command of an async host."""
    with least.command(["ktx", "serve"]):
        await asyncio.sleep(0)


def entry(app: typer.Typer) -> NoReturn:
    """A process entry."""
    least.main(app, ["ingest", "--json"])


# -- what a host asks -----------------------------------------------------------------------------------------

identity = least.identity
assert_type(identity, Identity)
assert_type(identity.install_id, str | None)
assert_type(identity.enabled, bool)
assert_type(identity.decided_by, str)
assert_type(least.project_id(Path()), str)
assert_type(least.project_id("."), str)
assert_type(least.flush(timeout_s=1.5), bool)
assert_type(least.close(), None)


# -- the guard kit --------------------------------------------------------------------------------------------


def test_of_a_host(captured: Captured) -> None:
    """A test with the fixture."""
    event = captured.one("ingest_completed", outcome="error")
    assert_type(event["properties"], Any)
    captured.none("ingest_completed")
    assert_type(captured.names(), list[str])
    assert_type(len(captured.all("ingest_completed")), int)
    with captured.opted_out():
        least.capture("ingest_completed")
