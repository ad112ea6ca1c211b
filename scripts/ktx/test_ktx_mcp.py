"""The MCP server's own tests of its events, with the guard kit: each call of a tool is told at one place."""

import asyncio
from pathlib import Path

import pytest

pytest.importorskip("mcp", reason="the official MCP SDK is not installed")

from ktx_mcp import make_server
from mcp.server.mcpserver.exceptions import ToolError
from sample_shop import make_shop

from spool.testing import Captured


def test_each_call_of_a_tool_is_told_once(captured: Captured, tmp_path: Path) -> None:
    """One that works, one that fails, and one of a tool that is none: its name is the client's own text."""
    make_shop(tmp_path / "shop.db")
    server = make_server()
    asyncio.run(server.call_tool("scan", {"path": str(tmp_path / "shop.db")}))
    for name, arguments in (("scan", {"path": str(tmp_path / "missing.db")}), ("/etc/passwd", {})):
        with pytest.raises(ToolError):
            asyncio.run(server.call_tool(name, arguments))
    captured.one("mcp_request_completed", toolName="scan", outcome="ok")
    captured.one("mcp_request_completed", toolName="scan", outcome="error", errorClass="FileNotFoundError")
    captured.one("mcp_request_completed", toolName="unknown", outcome="error")
    assert len(captured) == 3
