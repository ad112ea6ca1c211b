"""Ways to end by kinds of hosts: what each host does, and what its parent and PostHog shall see of it."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["ENDS", "HEAD", "HOSTS", "KILLED", "End", "exit_code", "host_code"]


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
# Typer makes 130 of a Ctrl-C, Click prints "Aborted!"; the others die of the signal.
CTRL_C = {"typer": 130, "click": 1}

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
}


def host_code(host: str, statement: str, name: str = "work") -> str:
    """Put a statement into the command of a host, at its indentation."""
    if host == "async":
        statement = statement.replace("kill(", "await kill(")
    return HEAD + HOSTS[host].replace("END", statement).replace("NAME", name)


def exit_code(host: str, way: str) -> int:
    """Give what the parent sees of a host that ended in this way."""
    return CTRL_C.get(host, ENDS[way].code) if way == "Ctrl-C" else ENDS[way].code
