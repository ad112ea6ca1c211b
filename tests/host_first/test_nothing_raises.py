"""No public method raises for the machine, and each event that it promised is on disk or counted as lost."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from spool import Telemetry
from tests.support.processes import ROOT, environment, flush, run_python, status

if sys.platform == "win32":
    pytest.skip("forks, and limits of a process", allow_module_level=True)

from tests.support.walk import METHODS

# Libraries of others that a first capture, a first error or a first flush loads.
LIBRARIES = ("_sqlite3", "diskcache", "filelock", "json", "uuid", "zlib", "hashlib", "subprocess")


def modules_loaded_late() -> list[str]:
    """Give our modules that `import spool` doesn't load yet: each is imported at some first use."""
    code = "import sys, spool, json\nprint(json.dumps([name for name in sys.modules if name.startswith('spool')]))"
    early = set(json.loads(run_python(code).stdout))
    files = (
        path.relative_to(ROOT).with_suffix("") for path in (ROOT / "spool").rglob("*.py") if "hooks" not in path.parts
    )
    every = {".".join(file.parts).removesuffix(".__init__") for file in files}
    return sorted(name for name in every - early if not name.startswith("spool.testing"))


def walk(tmp_path: Path, *circumstances: str) -> Iterator[dict[str, Any]]:
    """Call every method under each circumstance, each in a process and a home of its own."""
    for package in ("spool", "flusher"):
        shutil.copytree(ROOT / package, tmp_path / "copy" / package, ignore=shutil.ignore_patterns("__pycache__"))
    done = subprocess.run(
        [sys.executable, "-P", ROOT / "tests/support/walk.py", tmp_path, *circumstances],
        env=environment(PYTHONPATH=str(tmp_path / "copy")),
        capture_output=True,
        text=True,
        timeout=900,
        check=True,
    )
    assert "Traceback" not in done.stderr
    calls = [json.loads(line) for line in done.stdout.splitlines()]
    assert {call["under"] for call in calls} == set(circumstances)
    yield from calls


def check(call: dict[str, Any]) -> None:
    """Check one call: its answer, the signals, the next capture, and the account of all that was promised."""
    assert call["fine"], call
    assert not call["masked"], call
    assert call["after"] in ("queued", "aside"), call
    assert call["captured"] == call["promised"], call
    assert call["captured"] == call["pending"] + call["lost"], call


@pytest.mark.parametrize("circumstance", ["no descriptor", "no memory", "the package removed", "a full stack"])
def test_no_method_raises_when_the_machine_gives_out(tmp_path: Path, circumstance: str) -> None:
    """Before and after a first capture. A host without a descriptor can't ask for consent at first: it is off then."""
    found = list(walk(tmp_path, circumstance))
    for call in found:
        off = circumstance == "no descriptor" and not call["warm"]
        check({**call, "promised": call["captured"]} if off else call)
    assert {call["method"] for call in found} >= set(METHODS) - {"main (click)", "main (typer)"}
    assert {call["warm"] for call in found} == {False, True}


@pytest.mark.parametrize("group", range(4))
def test_no_method_raises_when_a_module_of_ours_cannot_be_imported(tmp_path: Path, group: int) -> None:
    """Each that is loaded at some first use, in turn."""
    modules = modules_loaded_late()
    assert {"spool.capture", "spool.queue.cache", "spool.command.span", "spool.exception.report"} <= set(modules)
    for call in walk(tmp_path, *modules[group::4]):
        check(call)


def test_no_method_raises_when_a_library_cannot_be_imported(tmp_path: Path) -> None:
    """Also without sqlite3: then events go aside."""
    found = list(walk(tmp_path, *LIBRARIES))
    for call in found:
        check(call)
    aside = [call["given"] for call in found if call["method"] == "capture" and call["under"] == "_sqlite3"]
    assert aside == ["aside"]


AT_THE_END = """
import sys
from tests.support.walk import METHODS, Telemetry
telemetry = Telemetry("ktx", "1", "phc_x", "http://127.0.0.1:9", flush="never")
if sys.argv[2] == "warm": telemetry.capture("warm")
class Late:
    def __init__(self): import os; self.write, self.method = os.write, METHODS[sys.argv[1]][0]
    def __del__(self):
        try: self.method(telemetry)
        except BaseException as error: self.write(2, b"raised: " + repr(error).encode())
sys.modules["held to the end"] = Late()
"""


@pytest.mark.parametrize("state", ["cold", "warm"])
@pytest.mark.parametrize("method", [one for one in METHODS if not one.startswith("main")])
def test_no_method_raises_at_the_end_of_the_interpreter(home: Path, method: str, state: str) -> None:
    """In a destructor, when nothing can be imported any more and names are gone."""
    done = run_python(AT_THE_END, method, state, env=environment(KTX_HOME=str(home)))
    assert (done.returncode, done.stdout) == (0, "")
    assert "raised" not in done.stderr
    assert "Traceback" not in done.stderr


# -- what is counted, and what is said of it ----------------------------------------------------------------


CHANGED_MEANWHILE = """
import sys
from collections.abc import Mapping
from spool import Telemetry
class Odd(Mapping):
    def __getitem__(self, name): raise RuntimeError("no such row")
    def __iter__(self): return iter(["a"])
    def __len__(self): return 1
telemetry = Telemetry("ktx", "1", "phc_x", "http://127.0.0.1:9", flush="never")
print(telemetry.capture("odd", Odd()).state, telemetry.capture("odd", {"deep": Odd()}).state)
"""


def test_what_an_object_of_the_host_raises_is_a_counted_loss(home: Path) -> None:
    """A mapping that raises, at the top and further down: the receipt, the account and `status` agree on the reason."""
    done = run_python(CHANGED_MEANWHILE, env=environment(KTX_HOME=str(home)))
    assert done.stdout.split() == ["lost", "lost"]
    found = status(home)
    assert found["losses"] == {"invalid": 2}
    assert [(one["event"], one["cause"]) for one in found["last_losses"]] == [("odd", "invalid")] * 2
    assert "RuntimeError: no such row" in found["last_losses"][0]["reason"]


def test_it_raises_in_strict_mode_and_is_shown_in_debug_mode(home: Path) -> None:
    """The author sees it at once."""
    strict = run_python(CHANGED_MEANWHILE, env=environment(KTX_HOME=str(home), KTX_TELEMETRY_STRICT="1"))
    assert strict.returncode == 1
    assert "InvalidEventError: odd: a value can't be read: RuntimeError: no such row" in strict.stderr
    debug = run_python(CHANGED_MEANWHILE, env=environment(KTX_HOME=str(home), KTX_TELEMETRY_DEBUG="1"))
    assert debug.stderr.count("[telemetry] lost: odd: odd: a value can't be read: RuntimeError: no such row\n") == 2


def test_the_last_reasons_are_kept_and_no_more(home: Path) -> None:
    """Twenty of them, the newest last; the count is that of all."""
    telemetry = Telemetry("ktx", "1", "phc_x", home=home, flush="never")
    for number in range(100):
        assert not telemetry.capture(f"event {number}", {"n": "x" * 1_000_000})
    telemetry.close()
    found = status(home)
    assert found["losses"] == {"too_large": 100}
    assert [one["event"] for one in found["last_losses"]] == [f"event {number}" for number in range(80, 100)]
    assert (home / "spool" / "losses.log").stat().st_size < 40_000


def test_a_run_that_refuses_thousands_tells_the_last_reasons(home: Path) -> None:
    """All are counted; the file of the reasons stays small."""
    telemetry = Telemetry("ktx", "1", "phc_x", "http://127.0.0.1:9", home=home, flush="never")
    assert telemetry.capture("first")
    telemetry.close()
    for number in range(2_000):
        (home / "spool" / "aside" / f"{number}.json").write_text("no event")
    flush(home)
    found = status(home)
    assert (found["losses"], len(found["last_losses"])) == ({"invalid": 2_000}, 20)
    assert (home / "spool" / "losses.log").stat().st_size < 32 * 1024


def test_a_file_that_a_run_refuses_is_among_the_last_losses(home: Path) -> None:
    """The flusher's own losses have their reasons there, too."""
    telemetry = Telemetry("ktx", "1", "phc_x", home=home, flush="never")
    telemetry.capture("first")
    telemetry.close()
    (home / "spool" / "aside" / "1-x.json").write_text("no event")
    flush(home, "--host", "http://127.0.0.1:9", "--max-retries", 0)
    (last,) = status(home)["last_losses"]
    assert (last["event"], last["cause"]) == ("1-x.json", "invalid")
    assert last["reason"].startswith("no JSON")


def test_what_a_signal_handler_of_the_host_raises_passes_through(home: Path) -> None:
    """Whenever it comes: before a first capture, while that loads, in a flush; of whatever class, also an OSError."""
    code = """
import os, signal, sys, time
from spool import Telemetry
class Mine(OSError): pass
def handler(*_): signal.setitimer(signal.ITIMER_REAL, 0); raise Mine
signal.signal(signal.SIGALRM, handler)
came = 0
for delay_s in [0.0005 * n for n in range(1, 40)]:
    telemetry = Telemetry("ktx", "1", "phc_x", "http://127.0.0.1:9", flush="never")
    try:
        signal.setitimer(signal.ITIMER_REAL, delay_s)
        end = time.monotonic() + delay_s + 0.05
        while time.monotonic() < end: telemetry.capture("a"); telemetry.identity; telemetry.project_id(".")
    except Mine: came += 1
try:
    signal.setitimer(signal.ITIMER_REAL, 0.2)
    telemetry.flush(20)
except Mine: came += 1
print(came)
"""
    assert run_python(code, env=environment(KTX_HOME=str(home))).stdout == "40\n"
