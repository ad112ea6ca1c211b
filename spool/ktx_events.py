"""The events of ktx, typed: `Telemetry("ktx", ..., catalogue=CATALOGUE)` checks every capture against them.

Names, types, enumerations and bounds are those of ktx's own events.schema.json, which Node and Python share;
spool/events.schema.json is written from this module by scripts/generate_schema.py.
"""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from spool.catalogue import Catalogue, Event

__all__ = [
    "CATALOGUE",
    "Command",
    "ConnectionAdded",
    "ConnectionTest",
    "Connector",
    "DaemonStarted",
    "DaemonStopped",
    "IngestCompleted",
    "InstallFirstRun",
    "McpRequestCompleted",
    "ProjectStackSnapshot",
    "QueryHistoryFilterCompleted",
    "ScanCompleted",
    "SetupStep",
    "SlPlanCompleted",
    "SlQueryCompleted",
    "SlValidateCompleted",
    "SqlCompleted",
    "SqlGenCompleted",
    "WikiQueryCompleted",
]

# The largest whole number that JavaScript holds exactly.
_MAX_SAFE_INTEGER = 2**53 - 1

Count = Annotated[int, Meta(ge=0, le=_MAX_SAFE_INTEGER)]
DurationMs = Annotated[float, Meta(ge=0, description="How long it took, in milliseconds.")]
Driver = Annotated[str, Meta(description="Kind of database, as in sqlite or postgres.")]
IsDemo = Annotated[bool, Meta(description="Whether it is the demo that ktx brings along.")]
Outcome = Annotated[Literal["ok", "error"], Meta(description="How it ended.")]
ErrorClass = Annotated[str, Meta(description="Name of the error's class; never its text.")]
ErrorDetail = Annotated[str, Meta(max_length=1000, description="What went wrong, redacted and cut to size.")]
Dialect = Annotated[str, Meta(description="SQL dialect.")]
Version = Annotated[str, Meta(description="Version of the part that the field names.")]


class _KtxEvent(Event, rename="camel"):
    """The base of ktx's events: their fields are written in camelCase."""


class InstallFirstRun(_KtxEvent):
    """Once in the life of an install, when its id is minted."""


class Command(_KtxEvent):
    """Once for each command, on every path out of it."""

    command_path: Annotated[list[str], Meta(min_length=1, description="The command and its subcommands.")]
    duration_ms: DurationMs
    outcome: Annotated[Literal["ok", "error", "aborted"], Meta(description="How it ended; an interrupt aborts.")]
    error_class: ErrorClass | UnsetType = UNSET
    error_detail: ErrorDetail | UnsetType = UNSET
    flags_present: Annotated[dict[str, bool], Meta(description="Names of the flags that were given; no values.")]
    has_project: Annotated[bool, Meta(description="Whether it ran inside a project.")]
    project_group_attached: Annotated[bool, Meta(description="Whether the event names its project's group.")]


class SetupStep(_KtxEvent):
    """One step of the setup wizard is over."""

    step: Annotated[
        Literal[
            "project",
            "runtime",
            "models",
            "embeddings",
            "secrets",
            "databases",
            "sources",
            "context",
            "agents",
            "demo-tour",
        ],
        Meta(description="Which step."),
    ]
    outcome: Annotated[Literal["completed", "skipped", "abandoned"], Meta(description="How the step was left.")]
    duration_ms: DurationMs
    error_detail: ErrorDetail | UnsetType = UNSET


class ConnectionAdded(_KtxEvent):
    """A connection to a database was set up."""

    driver: Driver
    is_demo_connection: IsDemo


class ConnectionTest(_KtxEvent):
    """A connection was tried."""

    driver: Driver
    is_demo_connection: IsDemo
    outcome: Outcome
    error_class: ErrorClass | UnsetType = UNSET
    error_detail: ErrorDetail | UnsetType = UNSET
    duration_ms: DurationMs
    server_version: Annotated[str, Meta(description="Version that the database server reports.")] | UnsetType = UNSET


class Connector(Struct, frozen=True, kw_only=True, rename="camel"):
    """One connection of a project: its kind, and whether it is the demo's."""

    driver: Driver
    is_demo: IsDemo


class ProjectStackSnapshot(_KtxEvent):
    """What a project is made of."""

    connectors: Annotated[list[Connector], Meta(description="The connections of the project.")]
    connection_count: Annotated[Count, Meta(description="How many connections there are.")]
    has_sl: Annotated[bool, Meta(description="Whether there is a semantic layer.")]
    has_wiki: Annotated[bool, Meta(description="Whether there is a wiki.")]
    has_mcp: Annotated[bool, Meta(description="Whether an MCP server is set up.")]
    has_managed_runtime: Annotated[bool, Meta(description="Whether ktx manages the project's runtime.")]


class IngestCompleted(_KtxEvent):
    """A database was taken in, or the attempt failed: once for each target."""

    driver: Driver
    is_demo_connection: IsDemo
    schema_count: Annotated[Count, Meta(description="Schemas that were found.")]
    table_count: Annotated[Count, Meta(description="Tables that were found.")]
    column_count: Annotated[Count, Meta(description="Columns of all tables.")]
    rows_bucket: Annotated[
        Literal["<10k", "<100k", "<1M", "<10M", ">=10M"],
        Meta(description="Order of magnitude of the rows; the upper bound is not in it."),
    ]
    duration_ms: DurationMs
    outcome: Outcome
    error_class: ErrorClass | UnsetType = UNSET
    error_detail: ErrorDetail | UnsetType = UNSET


class ScanCompleted(_KtxEvent):
    """A database's structure was read, or the attempt failed."""

    driver: Driver
    table_count: Annotated[Count, Meta(description="Tables that were read.")]
    column_count: Annotated[Count, Meta(description="Columns of all tables.")]
    inferred_fk_count: Annotated[Count, Meta(description="Foreign keys that names and data suggest.")]
    declared_fk_count: Annotated[Count, Meta(description="Foreign keys that the schema declares.")]
    duration_ms: DurationMs
    outcome: Outcome
    error_class: ErrorClass | UnsetType = UNSET
    error_detail: ErrorDetail | UnsetType = UNSET


class SlValidateCompleted(_KtxEvent):
    """The semantic layer was validated."""

    source_count: Annotated[Count, Meta(description="Sources that were validated.")]
    model_count: Annotated[Count, Meta(description="Models that were validated.")]
    validation_error_count: Annotated[Count, Meta(description="Mistakes that were found.")]
    outcome: Outcome
    error_class: ErrorClass | UnsetType = UNSET
    duration_ms: DurationMs


class SlQueryCompleted(_KtxEvent):
    """A query of the semantic layer was compiled or run."""

    mode: Annotated[Literal["compile", "execute"], Meta(description="Whether it was compiled only, or run as well.")]
    referenced_source_count: Annotated[Count, Meta(description="Sources that the query names.")]
    referenced_dimension_count: Annotated[Count, Meta(description="Dimensions that the query names.")]
    referenced_measure_count: Annotated[Count, Meta(description="Measures that the query names.")]
    duration_ms: DurationMs
    outcome: Outcome
    error_class: ErrorClass | UnsetType = UNSET


class SqlCompleted(_KtxEvent):
    """A SQL statement was run on a connection."""

    driver: Driver
    is_demo_connection: IsDemo
    query_verb: Annotated[
        Literal["select", "explain", "show", "with", "other"], Meta(description="How the statement begins.")
    ]
    referenced_table_count: Annotated[Count, Meta(description="Tables that the statement names.")]
    duration_ms: DurationMs
    outcome: Outcome
    error_class: ErrorClass | UnsetType = UNSET


class WikiQueryCompleted(_KtxEvent):
    """The wiki was searched."""

    query_length: Annotated[Count, Meta(description="Length of the query in characters; never its text.")]
    result_count: Annotated[Count, Meta(description="Pages that were found.")]
    duration_ms: DurationMs
    outcome: Outcome


class McpRequestCompleted(_KtxEvent):
    """The MCP server answered a request."""

    tool_name: Annotated[str, Meta(description="The tool that was called.")]
    outcome: Outcome
    duration_ms: DurationMs
    error_class: ErrorClass | UnsetType = UNSET
    sample_rate: Annotated[Literal[1], Meta(description="Share of the requests that are captured: all.")]
    mcp_client_name: Annotated[str, Meta(description="Name that the client gives itself.")] | UnsetType = UNSET
    mcp_client_version: Annotated[str, Meta(description="Version that the client reports.")] | UnsetType = UNSET


class DaemonStarted(_KtxEvent):
    """The Python daemon is ready."""

    daemon_version: Version
    python_version: Version
    runtime_version: Version
    startup_duration_ms: Annotated[float, Meta(ge=0, description="From start to ready, in milliseconds.")]


class DaemonStopped(_KtxEvent):
    """The Python daemon ended."""

    reason: Annotated[Literal["signal", "request", "crash"], Meta(description="What ended it.")]
    uptime_ms: Annotated[float, Meta(ge=0, description="How long it ran, in milliseconds.")]


class SlPlanCompleted(_KtxEvent):
    """The daemon planned a query of the semantic layer."""

    outcome: Outcome
    stage: Annotated[
        Literal["parse", "resolve", "compile", "transpile"], Meta(description="The last stage that was reached.")
    ]
    error_class: ErrorClass | UnsetType = UNSET
    duration_ms: DurationMs
    source_count: Annotated[Count, Meta(description="Sources in the plan.")]
    join_count: Annotated[Count, Meta(description="Joins in the plan.")]


class SqlGenCompleted(_KtxEvent):
    """The daemon generated SQL."""

    outcome: Outcome
    dialect: Dialect
    error_class: ErrorClass | UnsetType = UNSET
    duration_ms: DurationMs


class QueryHistoryFilterCompleted(_KtxEvent):
    """A query history was reduced to the roles that matter."""

    dialect: Dialect
    considered_role_count: Annotated[Count, Meta(description="Roles that were looked at.")]
    excluded_role_count: Annotated[Count, Meta(description="Roles that were left out.")]
    parse_failed_count: Annotated[Count, Meta(description="Queries that could not be parsed.")]
    outcome: Outcome


CATALOGUE = Catalogue(
    InstallFirstRun,
    Command,
    SetupStep,
    ConnectionAdded,
    ConnectionTest,
    ProjectStackSnapshot,
    IngestCompleted,
    ScanCompleted,
    SlValidateCompleted,
    SlQueryCompleted,
    SqlCompleted,
    WikiQueryCompleted,
    McpRequestCompleted,
    DaemonStarted,
    DaemonStopped,
    SlPlanCompleted,
    SqlGenCompleted,
    QueryHistoryFilterCompleted,
    name="ktx",
)
