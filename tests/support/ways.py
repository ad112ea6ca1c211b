"""Ways to end by kinds of hosts: what each host does, and what its parent and PostHog shall see of it."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["ENDS", "HEAD", "HOSTS", "KILLED", "LOADED", "End", "expected", "host_code"]


class End(NamedTuple):
    """A statement that ends a command, the exit code of the process, and outcome and class in the event."""

    statement: str
    code: int
    outcome: str
    error_class: str | None = None


ENDS = {
    "return": End("pass", 0, "ok"),
    "exception": End("raise LookupError('no such thing')", 1, "error", "LookupError"),
    "sys.exit(0)": End("sys.exit(0)", 0, "ok"),
    "sys.exit(7)": End("sys.exit(7)", 7, "error"),
    "sys.exit(text)": End("sys.exit('words')", 1, "error"),
    "Ctrl-C": End("kill(signal.SIGINT)", -2, "aborted"),
    "SIGTERM": End("kill(signal.SIGTERM)", -15, "aborted"),
    "SIGHUP": End("kill(signal.SIGHUP)", -1, "aborted"),
    "kill -9": End("kill(signal.SIGKILL)", -9, "aborted"),
    "os._exit": End("os._exit(3)", 3, "aborted"),
    "crash": End("os.abort()", -6, "aborted"),
    "segfault": End("import faulthandler; faulthandler._sigsegv()", -11, "aborted"),
    "out of memory": End("raise MemoryError", 1, "error", "MemoryError"),
}
KILLED = {"kill -9", "os._exit", "crash", "segfault"}
# Where a host makes something else of it. Typer makes 130 of a Ctrl-C, Click prints "Aborted!"; an MCP server
# answers its client with what a tool raised, and lives on.
OTHERWISE = {
    ("typer", "Ctrl-C"): End("", 130, "aborted"),
    ("click", "Ctrl-C"): End("", 1, "aborted"),
    ("mcp", "exception"): End("", 0, "ok"),
    ("mcp", "out of memory"): End("", 0, "ok"),
}

HEAD = """
import asyncio, os, random, resource, signal, sys, time
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
from spool import Telemetry
t = Telemetry("ktx", "1", "phc_test", sys.argv[2], sys.argv[1], flush="never")
def kill(number):
    os.kill(os.getpid(), number); time.sleep(20)
"""
# NAME is the command's name.
HOSTS = {
    "plain": """
with t.signals(), t.command(["ktx", "NAME"], {"json": True}):
    END
""",
    "async": """
async def kill(number):
    os.kill(os.getpid(), number); await asyncio.sleep(20)
async def work():
    with t.command(["ktx", "NAME"], {"json": True}):
        await asyncio.sleep(0)
        END
with t.signals():
    asyncio.run(work())
""",
    "typer": """
import typer
from typing import Annotated
app = typer.Typer(pretty_exceptions_enable=False)
@app.command("NAME")
def work(name: str, machine: Annotated[bool, typer.Option("--json")] = False):
    END
@app.command()
def other(): pass
t.main(app, ["NAME", "SECRET-NAME", "--json"])
""",
    "click": """
import click
@click.group()
def app(): pass
@app.command("NAME")
@click.argument("name")
@click.option("--json", "machine", is_flag=True)
def work(name, machine):
    END
t.main(app, ["NAME", "SECRET-NAME", "--json"])
""",
    "daemon": """
import threading
stop = threading.Event()
def serve(work):
    came, before = [], {}
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        before[number] = signal.signal(number, lambda number, _: (came.append(number), stop.set()))
    threading.Thread(target=stop.wait, daemon=True).start()
    work()
    for number, handler in before.items(): signal.signal(number, handler)
    if came: signal.raise_signal(came[0])
def kill(number):
    os.kill(os.getpid(), number); stop.wait(20)
def work():
    END
with t.signals(), t.command(["ktx", "NAME"], {"json": True}):
    serve(work)
""",
    "mcp": """
import json
from mcp.server.mcpserver import MCPServer
server = MCPServer("ktx", log_level="CRITICAL")
async def kill(number):
    os.kill(os.getpid(), number); await asyncio.sleep(0.2)
@server.tool()
async def end() -> str:
    try: END
    finally: os.close(client)
    return "ended"
there, client = os.pipe()
os.dup2(there, 0); os.close(there)
hello = {"protocolVersion": "2025-03-26", "capabilities": {}, "clientInfo": {"name": "x", "version": "1"}}
for message in (
    {"id": 1, "method": "initialize", "params": hello},
    {"method": "notifications/initialized"},
    {"id": 2, "method": "tools/call", "params": {"name": "end", "arguments": {}}},
): os.write(client, json.dumps({"jsonrpc": "2.0", **message}).encode() + b"\\n")
with t.signals(), t.command(["ktx", "NAME"], {"json": True}):
    server.run("stdio")
""",
}
# What many of a host load alike.
LOADED = {"typer": "import typer\n", "click": "import click\n", "mcp": "from mcp.server.mcpserver import MCPServer\n"}


def host_code(host: str, statement: str, name: str = "work") -> str:
    """Put a statement into the command of a host, at its indentation."""
    if host in ("async", "mcp"):
        statement = statement.replace("kill(", "await kill(")
    return HEAD + HOSTS[host].replace("END", statement).replace("NAME", name)


def expected(host: str, way: str) -> End:
    """Give what the parent and PostHog see of a host that ended in this way."""
    return OTHERWISE.get((host, way), ENDS[way])
