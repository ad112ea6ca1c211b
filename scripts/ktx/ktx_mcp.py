"""`ktx mcp stdio`: an MCP server on the official SDK, each call of a tool counted at one place.

Imported by its command alone: the SDK takes longer to load than the other commands take to run. Stdout is the
protocol's; the SDK moves it out of everybody's reach while it serves.
"""

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

from ktx_render import printable
from ktx_scan import ScanError, scan
from ktx_telemetry import VERSION, telemetry
from mcp.server.mcpserver import Context, MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from pydantic import Field

WAIT_MAX_S = 3600.0  # an hour is long enough to be killed in


def scan_tool(path: str) -> dict[str, Any]:
    """Count the tables, columns and foreign keys of the SQLite database at `path`. It is not changed."""
    try:
        found = scan(Path(path))
    except ScanError as error:
        raise ToolError(printable(str(error))) from error
    return {
        "tableCount": found.table_count,
        "columnCount": found.column_count,
        "declaredFkCount": found.declared_fk_count,
        "inferredFkCount": found.inferred_fk_count,
        "rowsBucket": found.rows_bucket,
    }


async def wait_tool(seconds: Annotated[float, Field(ge=0, le=WAIT_MAX_S)], context: Context) -> str:
    """Wait so many seconds, for those who want to interrupt a call. Its progress says that it began."""
    await context.report_progress(0, seconds)
    await asyncio.sleep(seconds)
    return "waited"


TOOLS: dict[str, Callable[..., Any]] = {"scan": scan_tool, "wait": wait_tool}


class CountedServer(MCPServer[Any]):
    """An MCP server whose every call of a tool passes through one function."""

    async def call_tool(self, name: str, arguments: dict[str, Any], context: Context[Any] | None = None) -> Any:
        """Call a tool. Exactly one `mcp_request_completed` is captured when this returns or raises."""
        started_s = time.monotonic()
        ending: dict[str, Any] = {"outcome": "ok"}
        try:
            return await super().call_tool(name, arguments, context)
        except BaseException as error:  # also a call that its client took back
            ending = {"outcome": "error", "errorClass": _error_class(error)}
            raise
        finally:
            telemetry().capture(
                "mcp_request_completed",
                {
                    # A name that is no tool's is the client's own text.
                    "toolName": name if name in TOOLS else "unknown",
                    "durationMs": (time.monotonic() - started_s) * 1000,
                    "sampleRate": 1,
                    **_client(context),
                    **ending,
                },
            )


def make_server() -> CountedServer:
    """Make the server with its tools."""
    server = CountedServer("ktx", version=VERSION, log_level="WARNING")
    for name, tool in TOOLS.items():
        server.add_tool(tool, name=name)
    return server


def serve() -> None:
    """Serve on stdin and stdout until the client closes them."""
    make_server().run("stdio")


def _client(context: Context[Any] | None) -> dict[str, str]:
    """Give what the client said of itself when it introduced itself."""
    introduction = context.request_context.session.client_params if context is not None else None
    if introduction is None:
        return {}
    client = introduction.client_info
    return {"mcpClientName": client.name, "mcpClientVersion": client.version}


def _error_class(error: BaseException) -> str:
    """Name the error that the SDK wrapped, once for the tool and once for the call."""
    while isinstance(error, ToolError) and error.__cause__ is not None:
        error = error.__cause__
    return error.error_class.value if isinstance(error, ScanError) else type(error).__name__
