"""The one Telemetry of this program. A real host copies this file and fills in its own three values."""

from functools import cache

from spool import Telemetry
from spool.catalogue import Catalogue
from spool.ktx_events import (
    Command,
    DaemonStarted,
    DaemonStopped,
    IngestCompleted,
    InstallFirstRun,
    McpRequestCompleted,
    ScanCompleted,
)

APP = "ktx"  # home ~/.ktx, variables KTX_*
VERSION = "0.12.0"

# A key of PostHog is capture-only and may stand in the source; this one belongs to no project. The host is
# this machine, so that whoever tries the example sends nothing anywhere until KTX_TELEMETRY_ENDPOINT says so.
PROJECT_KEY = "phc_local_demo_key"
HOST = "http://127.0.0.1:8000"

# Of ktx's events those that this program captures: its tests ask for each, and `ktx-flush audit` knows them.
EVENTS = Catalogue(
    InstallFirstRun, Command, IngestCompleted, ScanCompleted, McpRequestCompleted, DaemonStarted, DaemonStopped
)


@cache
def telemetry() -> Telemetry:
    """Return the process's Telemetry, made on the first call, so that importing this touches no disk."""
    return Telemetry(app=APP, version=VERSION, project_key=PROJECT_KEY, host=HOST, catalogue=EVENTS, flush="auto")
