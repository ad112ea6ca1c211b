"""A flusher starts wherever the host does: one program, shipped in eleven ways, each really built."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from spool.home import Paths
from spool.queue import FileLock
from spool.settings import GUARD, MARK
from tests.support.crontabs import NEEDS_CRON, Crontabs, said
from tests.support.kinds_of_hosts import KINDS, Kind, fill
from tests.support.local_posthog import LocalPostHog
from tests.support.processes import SILENT, status

if sys.platform == "win32":
    pytest.skip("the programs are built for POSIX", allow_module_level=True)
for module in ("pex", "shiv", "uv", "pipx"):
    pytest.importorskip(module, reason=f"{module} is not installed: requirements-dev.txt has it")


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheels, for all workers of this run: the first one fills the folder."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "kinds-of-hosts"
    folder.mkdir(exist_ok=True)
    with FileLock(folder / "lock").held(600.0):
        if not (folder / "filled").exists():
            fill(folder)
            (folder / "filled").touch()
    return folder


class Host:
    """The program as it was built, with a home and a server."""

    def __init__(self, kind: Kind, folder: Path, server: LocalPostHog) -> None:
        self.home, self._runs = folder / "home", folder / "runs"
        self.words = [str(word) for word in kind.words]
        kept = {name: value for name, value in os.environ.items() if name not in SILENT and name[:6] != "PYTHON"}
        own = {"DEMO_URL": server.url, "DEMO_FOLDER": str(self.home), "DEMO_RUNS": str(self._runs)}
        self.env = {**kept, **own, **kind.variables}
        self.folder = folder

    def start(self, *arguments: str, **variables: str) -> subprocess.Popen[str]:
        """Start it, in a folder that holds nothing."""
        empty = self.folder / "empty"
        empty.mkdir(exist_ok=True)
        return subprocess.Popen(
            [*self.words, *arguments], cwd=empty, env={**self.env, **variables},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        )  # fmt: skip

    def run(self, *arguments: str, **variables: str) -> str:
        """Run it to its end, and give what it printed."""
        process = self.start(*arguments, **variables)
        out, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
        return out

    @property
    def runs(self) -> int:
        """How often its own work has begun."""
        return len(self._runs.read_text().splitlines())


def wait_for(server: LocalPostHog, event: str, count: int = 1) -> None:
    """Wait until so many of these have arrived: a command with its outcome, or any event."""
    deadline = time.monotonic() + 60
    while arrived(server)[event] < count:
        assert time.monotonic() < deadline, arrived(server)
        time.sleep(0.05)


def arrived(server: LocalPostHog) -> Counter[str]:
    """Count what has arrived."""
    return Counter(str(event["properties"].get("outcome", event["event"])) for event in server.accepted)


def rested(home: Path) -> None:
    """Wait until no flusher is at work, and let the next one start at once."""
    with FileLock(Paths(home).flush_lock).held(30.0):
        os.utime(Paths(home).launched, (0, 0))


@pytest.fixture
def host(request: pytest.FixtureRequest, files: Path, tmp_path: Path, server: LocalPostHog) -> Host:
    """The program of this kind; each is built once."""
    name = request.param
    target = files / "built" / name.replace(" ", "-").replace(",", "")
    built = target / "kind.json"
    with FileLock(target.with_suffix(".lock")).held(600.0):
        if not built.exists():
            words, variables = KINDS[name](files, target)
            target.mkdir(exist_ok=True, parents=True)
            built.write_text(json.dumps([list(map(str, words)), variables]))
    return Host(Kind(*json.loads(built.read_text())), tmp_path, server)


@pytest.mark.parametrize("host", KINDS, indirect=True)
def test_auto_and_flush_deliver_and_the_hosts_own_work_is_done_once(host: Host, server: LocalPostHog) -> None:
    """A command that ends, one that is killed, one that flushes: all arrives."""
    host.run()
    wait_for(server, "ok")
    rested(host.home)
    killed = host.start("--hang")
    assert killed.stdout is not None
    assert killed.stdout.readline() == "begun\n", killed.communicate()
    os.killpg(killed.pid, signal.SIGKILL)  # an app of one file has a second process
    killed.communicate()
    rested(host.home)
    host.run()
    wait_for(server, "aborted")
    rested(host.home)
    assert host.run("--flush", "20") == "True\n"
    rested(host.home)
    host.run(**{MARK: f"--app demo --home {host.home} run --quiet --wait 20"})
    assert arrived(server) == {"install_first_run": 1, "job_done": 4, "ok": 3, "aborted": 1}
    assert host.runs == 4
    assert status(host.home)["launch_problem"] is None


@pytest.mark.root
@NEEDS_CRON
@pytest.mark.parametrize("host", KINDS, indirect=True)
def test_an_entry_for_cron_delivers_with_nothing_of_the_hosts_environment(
    host: Host, server: LocalPostHog, tmp_path: Path
) -> None:
    """Installed by the program itself, with the mark; run as cron runs it."""
    host.run(**{GUARD: "1"})  # starts no flusher
    crontabs = Crontabs(tmp_path / "crontabs")
    marked = f"--app demo --home {host.home} schedule install --method cron"
    done = crontabs.run(*host.words, env={**host.env, MARK: marked})
    if "too long" in done.stderr:  # pex has a folder for each library
        assert "--method systemd" in said(done, 2)
        return
    said(done)
    line = crontabs.text.decode()
    assert "--spread 45" in line
    command = " ".join(line.split()[5:]).replace("--spread 45", "--spread 0").replace("\\%", "%")
    bare = {"HOME": str(tmp_path), "PATH": "/usr/bin:/bin", "SHELL": "/bin/sh"}
    done = subprocess.run(
        ["/bin/sh", "-c", command], cwd="/", env=bare, capture_output=True, text=True, timeout=120, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", ""), line
    assert arrived(server) == {"install_first_run": 1, "job_done": 1, "ok": 1}
    assert host.runs == 1
