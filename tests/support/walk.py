"""A host in which every public method is called under a circumstance. Run as a script; prints a line of JSON for each.

Each call has a process of its own, forked from a host that has imported `spool` and nothing else of it, or ("warm") has
captured already. When the circumstance is over the same process captures once more and closes: what was promised
meanwhile must stand in the account by then.
"""

from __future__ import annotations

import contextlib
import inspect
import json
import os
import resource
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import typer

import spool
from spool import Identity, Receipt, Telemetry

if sys.platform == "win32":
    sys.exit("it needs forks, and limits of a process")

RAN: list[str] = []


@click.command()
def click_app() -> None:
    """Note that it ran."""
    RAN.append("click")


typer_app = typer.Typer()


@typer_app.command()
def job() -> None:
    """Note that it ran."""
    RAN.append("typer")


# What the apps load when they run is loaded before a circumstance: only what is ours is looked at.
click_app([], standalone_mode=False)
typer_app([], standalone_mode=False)
RAN.clear()


def in_command(telemetry: Telemetry) -> object:
    """Go through a command, annotated and finished, as a host does."""
    with telemetry.command(["ktx", "x"], {"json": True}) as span:
        span.annotate(outcome="ok")
        RAN.append("block")
    span.finish()
    return RAN == ["block"]


def in_signals(telemetry: Telemetry) -> object:
    """Go through a block with handlers; they are as before afterwards."""
    before = signal.getsignal(signal.SIGTERM)
    with telemetry.signals():
        RAN.append("block")
    return RAN == ["block"] and signal.getsignal(signal.SIGTERM) is before


def by_main(app: Any) -> Callable[[Telemetry], object]:
    """Give what runs an app as the process's entry."""

    def run(telemetry: Telemetry) -> object:
        try:
            telemetry.main(app, [])
        except SystemExit as left:
            return left.code in (0, None) and len(RAN) == 1

    return run


def passes_through(telemetry: Telemetry) -> object:
    """Tell whether the host's own error leaves a command as it is."""
    try:
        with telemetry.command(["ktx", "x"]):
            raise KeyError("the host's own")
    except KeyError:
        return True


# How each method is called, and whether its answer is one that it may give.
METHODS: dict[str, tuple[Callable[[Telemetry], object], Callable[[Any], bool]]] = {
    "capture": (lambda t: t.capture("a", {"n": 1}), lambda given: isinstance(given, Receipt)),
    "capture_exception": (lambda t: t.capture_exception(ValueError("x")), lambda given: isinstance(given, Receipt)),
    "command": (in_command, lambda given: given is True),
    "command and an error": (passes_through, lambda given: given is True),
    "signals": (in_signals, lambda given: given is True),
    "main (click)": (by_main(click_app), lambda given: given is True),
    "main (typer)": (by_main(typer_app), lambda given: given is True),
    "span": (lambda t: t.span.annotate(outcome="ok"), lambda given: given is None),
    "flush": (lambda t: t.flush(20.0), lambda given: type(given) is bool),  # yes, where nothing was captured yet
    "project_id": (lambda t: t.project_id("."), lambda given: isinstance(given, str)),
    "identity": (lambda t: t.identity, lambda given: isinstance(given, Identity)),
    "hide": (lambda t: t.hide("secret"), lambda given: given is None),
    "redacted": (lambda t: t.redacted("text"), lambda given: isinstance(given, str)),
    "paths": (lambda t: t.paths, lambda given: given is None or given.home == t_home()),
    "close": (lambda t: t.close(), lambda given: given is None),
}
# The events that a call promises.
PROMISED = {"capture": 1, "capture_exception": 1, "command": 1, "command and an error": 1}
PROMISED |= {"main (click)": 1, "main (typer)": 1}


def t_home() -> Path:
    """Give the home of this process."""
    return Path(os.environ["KTX_HOME"])


# -- circumstances ------------------------------------------------------------------------------------------


@contextmanager
def no_descriptor() -> Iterator[None]:
    """Let no file be opened."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


@contextmanager
def no_memory() -> Iterator[None]:
    """Let the process have no more memory than it has, and take what is free of that, down to some kilobytes."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size, before[1]))
    hoard: list[bytearray] = []
    for part in (1 << 20, 1 << 16, 1 << 12, 1 << 9):
        with contextlib.suppress(MemoryError):
            while True:
                hoard.append(bytearray(part))
    del hoard[-8:]
    try:
        yield
    finally:
        hoard.clear()
        resource.setrlimit(resource.RLIMIT_AS, before)


@contextmanager
def missing(module: str) -> Iterator[None]:
    """Let one module fail to import, as it does where it isn't installed or can't be read."""

    class Missing:
        def find_spec(self, name: str, _path: object = None, _target: object = None) -> None:
            if name == module:
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    finder: Any = Missing()
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)


@contextmanager
def package_gone() -> Iterator[None]:
    """Remove the package from disk, as an upgrade under a running host does; afterwards another one is there."""
    package = Path(spool.__file__).parent
    package.rename(package.with_name("gone"))
    try:
        yield
    finally:
        package.with_name("gone").rename(package)


def nearly_full(free: int, call: Callable[[], object]) -> object:
    """Call with so many frames left."""

    def deeper(left: int) -> object:
        return deeper(left - 1) if left else call()

    return deeper(sys.getrecursionlimit() - len(inspect.stack(0)) - free - 3)


# -- one call -----------------------------------------------------------------------------------------------


def ours(error: BaseException) -> bool:
    """Tell whether an error is the package's: neither the app's own, nor that of the call itself on a full stack."""
    package, call, last = str(Path(spool.__file__).parent), error.__traceback__, ""
    while call is not None:
        file = call.tb_frame.f_code.co_filename
        if file.startswith(package) or "/typer/" in file or "/click/" in file or file == __file__:
            last = file
        call = call.tb_next
    return last.startswith(package)


def accounted(home: Path) -> dict[str, int]:
    """Add up the account, with what stands beside the queue."""
    from spool.beside import aside  # noqa: PLC0415 - not before the call that is looked at
    from spool.beside.loss_notes import notes, parse  # noqa: PLC0415 - not before the call that is looked at
    from spool.home import Paths  # noqa: PLC0415 - not before the call that is looked at
    from spool.queue import Queue  # noqa: PLC0415 - not before the call that is looked at

    paths = Paths(home)
    queue = Queue(paths)
    account = queue.account()
    queue.close()
    waits = len(aside.files(paths))
    noted = sum(note.losses for path in notes(paths) if (note := parse(path.name)) is not None)
    lost = sum(account.losses.values()) + noted
    return {"captured": account.captured + waits + noted, "pending": account.pending + waits, "lost": lost}


def one(method: str, warm: bool, circumstance: Callable[[], Any], free: int | None) -> dict[str, Any]:
    """Call one method under a circumstance in this process, and look what became of what it promised."""
    telemetry = Telemetry("ktx", "1", "phc_x", "http://127.0.0.1:9", flush="never")
    events = 0
    if warm:
        events += bool(telemetry.capture("warm"))
    call, allowed = METHODS[method]
    given: Any = None
    raised = ""
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    with circumstance():
        try:
            given = call(telemetry) if free is None else nearly_full(free, lambda: call(telemetry))
        except (RecursionError, MemoryError, OSError) as error:
            raised = repr(error) if ours(error) else "not ours"
        except BaseException as error:  # noqa: BLE001 - whatever comes out is the finding
            raised = repr(error)
        fine = raised == "not ours" or (raised == "" and allowed(given))
        held = signal.pthread_sigmask(signal.SIG_BLOCK, ()) != mask
    after = telemetry.capture("after")
    telemetry.close()
    account = accounted(t_home())
    told = str(given.state) if isinstance(given, Receipt) else repr(given)[:40]
    return {
        "method": method, "warm": warm, "free": free, "given": told, "raised": raised, "fine": fine, "masked": held,
        "after": after.state, "promised": events + PROMISED.get(method, 0) + 2, **account,
    }  # fmt: skip


def forked(home: Path, *arguments: Any) -> dict[str, Any]:
    """Do `one` in a forked process, in a home of its own."""
    receiver, sender = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.environ["KTX_HOME"] = str(home)
            os.write(sender, json.dumps(one(*arguments)).encode())
        except BaseException as error:  # noqa: BLE001 - told to the test
            os.write(sender, json.dumps({"method": arguments[0], "fine": False, "raised": repr(error)}).encode())
        finally:
            os._exit(0)
    os.close(sender)
    text = b""
    while part := os.read(receiver, 65536):
        text += part
    os.close(receiver)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    shutil.rmtree(home, ignore_errors=True)
    found: dict[str, Any] = (
        json.loads(text) if text else {"method": arguments[0], "fine": False, "raised": f"died: {status}"}
    )
    return found


def walk(name: str, base: Path) -> Iterator[dict[str, Any]]:
    """Call every method under the circumstance of this name."""
    circumstances: dict[str, Callable[[], Any]] = {
        "no descriptor": no_descriptor,
        "no memory": no_memory,
        "the package removed": package_gone,
        "a full stack": contextlib.nullcontext,
    }
    circumstance = circumstances.get(name) or (lambda: missing(name))
    depths: list[int | None] = [1, 6, 14, 30, 60, 110] if name == "a full stack" else [None]
    states = (False, True) if name in circumstances else (False,)
    for method in METHODS:
        if name == "a full stack" and method.startswith("main"):
            continue  # it is the bottom of a stack
        for warm in states:
            for free in depths:
                yield {"under": name, **forked(base / "home", method, warm, circumstance, free)}


if __name__ == "__main__":
    for wanted in sys.argv[2:]:
        for found in walk(wanted, Path(sys.argv[1])):
            sys.stdout.write(json.dumps(found) + "\n")
