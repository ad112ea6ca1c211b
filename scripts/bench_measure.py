"""How a figure is taken: an environment with the peers, whole processes in turns, a row against its target."""

from __future__ import annotations

import json
import os
import platform
import sqlite3
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, suppress
from dataclasses import asdict, dataclass, field
from io import StringIO
from pathlib import Path
from typing import Any, Literal, TypeVar

from flusher.context import BATCH_SIZE
from spool import Telemetry
from tests.support.processes import environment

__all__ = [
    "BATCH_SIZE",
    "Bound",
    "Row",
    "Setting",
    "Spent",
    "clean",
    "in_turns",
    "machine",
    "medians",
    "middle",
    "prepare",
    "setting",
]

T = TypeVar("T")

ROOT = Path(__file__).resolve().parents[1]
PEERS = ROOT / "scripts" / "bench_peers"
VENV = ROOT / ".bench" / "venv"
PYTHON = VENV / "bin" / "python"
# What the environment holds beside the project itself, whose constraints give posthog, diskcache, filelock and typer.
INSTALLED = ("persist-queue==1.1.0", "sqlite-utils==4.2.1", "flask==3.1.3", "httpie==3.2.4")


# What is installed was compiled when it was; without this a checkout would be compiled at every start.
DISTURBING = {"PYTHONDONTWRITEBYTECODE", "PYTHONUNBUFFERED", "PYTHONDEVMODE", "PYTHONPROFILEIMPORTTIME"}


@dataclass(frozen=True, slots=True)
class Bound:
    """What a row has to reach: its ratio or its own value, at most or at least a number."""

    of: Literal["ratio", "value"]
    sign: Literal["<=", ">="]
    number: float

    def holds(self, number: float) -> bool:
        """Tell whether a measured number reaches it."""
        return number <= self.number if self.sign == "<=" else number >= self.number


@dataclass(frozen=True, slots=True)
class Row:
    """One figure: ours, the peer's in the same run, what is asked of it. `note` says what else was seen."""

    figure: str
    unit: str
    ours: float
    peer_name: str = ""
    peer: float | None = None
    target: Bound | None = None
    note: str = ""

    @property
    def ratio(self) -> float | None:
        """Ours to the peer's."""
        return self.ours / self.peer if self.peer else None

    @property
    def met(self) -> bool | None:
        """Whether the target is reached; None for a row that only informs."""
        if self.target is None:
            return None
        measured = self.ours if self.target.of == "value" else self.ratio
        return measured is not None and self.target.holds(measured)

    def as_json(self) -> dict[str, Any]:
        """Give the row for a program to read."""
        return {**asdict(self), "ratio": self.ratio, "met": self.met}


def middle(name: str, seen: Sequence[Mapping[str, float]]) -> tuple[float, str]:
    """Give the median of what was seen under a name, in milliseconds, and the least for a note: load only adds."""
    taken = [1000 * one[name] for one in seen]
    return statistics.median(taken), f"least {min(taken):.1f}"


@dataclass(frozen=True, slots=True)
class Spent:
    """What a process took from its start to its end."""

    code: int
    wall_s: float
    cpu_s: float
    peak_bytes: float
    out: str


@dataclass(frozen=True, slots=True)
class Setting:
    """Where a run takes place: a folder of its own, the server that takes everything, how thorough it is."""

    folder: Path
    host: str
    quick: bool
    # What was measured on a backlog of a size, for rows and curves alike.
    backlogs: dict[int, dict[str, float]] = field(default_factory=dict)

    @property
    def rounds(self) -> int:
        """How often a whole process is run for its median."""
        return 9 if self.quick else 25

    def new_folder(self, name: str) -> Path:
        """Make a folder that nobody has used."""
        return Path(tempfile.mkdtemp(prefix=f"{name}-", dir=self.folder))

    def home(self, name: str) -> Path:
        """Make a home as after a first run: an identity, a destination, nothing else."""
        home = self.new_folder(name)
        telemetry = Telemetry("bench", "1.0.0", "phc_bench", host=self.host, home=home, flush="never")
        with redirect_stderr(StringIO()):  # the notice of a first run
            telemetry.capture("first")
        telemetry.close()
        return home

    def peer(self, name: str, *arguments: object, **env: str) -> Spent:
        """Run a program of `bench_peers` to its end."""
        return self.run([str(PYTHON), str(PEERS / f"{name}.py"), *map(str, arguments)], **env)

    def look(self, *arguments: object, **env: str) -> dict[str, float]:
        """Run `bench_peers/look.py`; give what it saw."""
        seen: dict[str, float] = json.loads(self.peer("look", *arguments, **env).out)
        return seen

    def flush(self, home: Path) -> Spent:
        """Run the flusher on a home to its end, as cron does."""
        return self.run([str(PYTHON), "-m", "flusher", "--app", "bench", "--home", str(home), "run", "--json"])

    def run(self, command: list[str], **env: str) -> Spent:
        """Run a command to its end; SystemExit with its last words if it fails."""
        done = subprocess.run(
            [sys.executable, "-I", "-S", str(PEERS / "spawn.py"), *command],
            env=clean(BENCH_HOST=self.host, **env),
            capture_output=True,
            text=True,
            check=True,
        )
        out, _, last = done.stdout.rstrip().rpartition("\n")
        code, wall_s, cpu_s, peak = map(float, last.split())
        if code != 0:
            sys.exit(f"{' '.join(command)} ended with {code:g}:\n{out}\n{done.stderr}")
        return Spent(int(code), wall_s, cpu_s, peak, out)


def clean(**more: str) -> dict[str, str]:
    """Give an environment in which Python runs as on a machine where all of this was installed."""
    return {name: value for name, value in environment(**more).items() if name not in DISTURBING}


def prepare() -> None:
    """Make the environment of the peers, once: `.bench/venv` in the checkout; compile what runs from the checkout."""
    _install()
    folders = [str(ROOT / name) for name in ("spool", "flusher", "scripts")]
    subprocess.run([str(PYTHON), "-m", "compileall", "-q", *folders], check=True)


def _install() -> None:
    stamp = VENV / f".{'-'.join(INSTALLED)}"
    if stamp.exists():
        return
    print("installing the peers into .bench/venv ...", file=sys.stderr)
    if not PYTHON.exists():
        subprocess.run([sys.executable, "-m", "venv", str(VENV)], check=True)
    options = ["--quiet", "--disable-pip-version-check", "--constraint", str(ROOT / "constraints.txt")]
    install = [str(PYTHON), "-m", "pip", "install", *options, "--editable", str(ROOT), *INSTALLED]
    if subprocess.run(install, check=False).returncode != 0:
        sys.exit("the peers could not be installed: see above; `--only disk` does without them")
    stamp.touch()


@contextmanager
def setting(*, quick: bool) -> Iterator[Setting]:
    """Give a fresh folder and a server that takes everything, for the block."""
    with (
        tempfile.TemporaryDirectory(prefix="ktx-spool-bench-", ignore_cleanup_errors=True) as folder,
        subprocess.Popen([sys.executable, str(PEERS / "sink.py")], stdout=subprocess.PIPE, text=True) as sink,
    ):
        try:
            assert sink.stdout is not None  # noqa: S101 - it was asked for
            yield Setting(Path(folder), f"http://127.0.0.1:{int(sink.stdout.readline())}", quick)
        finally:
            sink.terminate()


def in_turns(rounds: int, actions: Mapping[str, Callable[[], T]]) -> dict[str, list[T]]:
    """Do each action once a round, one after the other, so that a busy machine hits all of them alike."""
    results: dict[str, list[T]] = {name: [] for name in actions}
    for _ in range(rounds):
        for name, action in actions.items():
            results[name].append(action())
    return results


def medians(results: Mapping[str, list[Spent]], base: str) -> dict[str, tuple[float, float]]:
    """Give for each what it took more than `base` in the same round: the median of wall and of CPU seconds."""
    return {
        name: (
            statistics.median(one.wall_s - other.wall_s for one, other in zip(taken, results[base], strict=True)),
            statistics.median(one.cpu_s - other.cpu_s for one, other in zip(taken, results[base], strict=True)),
        )
        for name, taken in results.items()
    }


def machine() -> dict[str, Any]:
    """Say in a few words where this ran, and how many processes wanted a processor in the last minute."""
    if sys.platform == "win32":
        sys.exit("the programs are started with posix_spawn")
    processor = platform.processor() or platform.machine()
    with suppress(OSError):  # Linux alone has it
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        processor = next((line.partition(": ")[2] for line in lines if line.startswith("model name")), processor)
    return {
        "processor": processor,
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
        "load": round(os.getloadavg()[0], 1),
    }
