"""The guard kit holds in the process of a test, whatever the test does to its environment."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.local_posthog import LocalPostHog
from tests.support.processes import environment

# The person who runs the tests: `real` is their home, in the system's own entry of their account as well.
PERSON = """
import pwd
from pathlib import Path
real = str(Path(__file__).parent / "real")
pwd.getpwuid = lambda uid: pwd.struct_passwd(("me", "x", uid, uid, "", real, "/bin/sh"))
"""
HOST = """
from spool import Telemetry
from spool.catalogue import Catalogue, Event

class Alpha(Event): pass

telemetry = Telemetry("mycli", "1", "phc_test", {url!r}, catalogue=Catalogue(Alpha))
with_home = Telemetry("other", "1", "phc_test", {url!r}, home={home!r}, catalogue=Catalogue(Alpha))
"""
# Each is the beginning of a test: the environment is cleared for what comes next.
WAYS = {
    "patch.dict": "with mock.patch.dict(os.environ, {'PATH': '/usr/bin:/bin'}, clear=True):",
    "patch.dict, the real home": "with mock.patch.dict(os.environ, {'HOME': real, 'MYCLI_HOME': real}, clear=True):",
    "monkeypatch": "with delenv_all(monkeypatch):",
    "another object": "with mock.patch.object(os, 'environ', {}):",
    "CliRunner": "with CliRunner(env=dict.fromkeys(os.environ)).isolation():",
    "no way back": "with nullcontext(os.environ.clear()):",
}
TEST = """
import json, os, pytest
from contextlib import contextmanager, nullcontext
from pathlib import Path
from unittest import mock
from typer.testing import CliRunner
from flusher.cli import app
from host import Telemetry, telemetry, with_home
from spool.errors import InvalidEventError

real = str(Path(__file__).parent / "real")

@contextmanager
def delenv_all(monkeypatch):
    for name in list(os.environ):
        monkeypatch.delenv(name)
    yield

def test_it(captured, monkeypatch):
    assert telemetry.capture("alpha")
    WAY
        made_now = Telemetry("third", "1", "phc_test", telemetry._host.options.destination["host"])
        for host in (telemetry, with_home, made_now):
            assert host.paths.home == captured.home
            assert host.capture("alpha")
            assert host.flush(timeout_s=30) is False
            host.close()
        with pytest.raises(InvalidEventError):
            telemetry.capture("alfa")
        shown = CliRunner().invoke(app, ["--app", "mycli", "status", "--json"], catch_exceptions=False)
        assert json.loads(shown.stdout)["accounting"]["pending"] == 4
        assert captured.names() == ["alpha"] * 4
    assert not (captured.home / "spool" / "launched").exists()
"""


@pytest.fixture
def suite(tmp_path: Path, server: LocalPostHog) -> Path:
    """A host's own tests, and the home of the person who runs them."""
    folder = tmp_path / "suite"
    (folder / "real").mkdir(parents=True)
    (folder / "conftest.py").write_text(PERSON)
    (folder / "host.py").write_text(HOST.format(url=server.url, home=str(folder / "real" / "chosen")))
    return folder


def run(suite: Path, *options: str) -> str:
    """Run the host's tests as a process, in which all pass; give what it printed."""
    env = environment(HOME=str(suite / "real"), PYTHONPATH=f"{suite}:{environment()['PYTHONPATH']}")
    command = [sys.executable, "-m", "pytest", "-q", "-s", "-p", "no:cacheprovider", "-p", "no:anyio", *options]
    done = subprocess.run(command, cwd=suite, env=env, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("way", WAYS.values(), ids=list(WAYS))
def test_a_test_that_clears_its_environment_stays_in_its_own_home(suite: Path, server: LocalPostHog, way: str) -> None:
    """A host made before, one with a home of its own, one made now, a command run in the process: all know the home."""
    (suite / "test_host.py").write_text(TEST.replace("WAY", way))
    run(suite)
    assert list((suite / "real").iterdir()) == []
    assert server.requests == []


AFTER = """
import os, pytest
from pathlib import Path
from unittest import mock
from host import Telemetry, telemetry
from spool.launch import start
from spool.home import Paths

ended = []

def test_with_the_kit(captured):
    with mock.patch.dict(os.environ, clear=True):
        assert telemetry.capture("alpha")
    ended.append(captured.home)

def test_without():
    assert telemetry.paths.home == Path(os.environ["HOME"], ".mycli")
    assert not telemetry._host.strict

def test_one_that_fails_in_the_middle(captured):
    assert captured == []
    ended.append(captured.home)
    pytest.xfail("as tests do")

def test_no_flusher_is_started_for_the_home_of_a_test_that_is_over():
    for home in ended:
        assert start.launch_if_due("mycli", Paths(home), 0.0, 5.0) is None
        assert not (home / "spool" / "launched").exists()
        assert start.run("mycli", Paths(home), 30.0) is None
    assert telemetry.paths.home == Path(os.environ["HOME"], ".mycli")
"""


@pytest.mark.parametrize("workers", [[], ["-n2", "--dist=loadfile"]], ids=["alone", "xdist"])
def test_after_a_test_the_home_is_the_hosts_again(suite: Path, server: LocalPostHog, workers: list[str]) -> None:
    """Also after one that failed, and in the workers of xdist. What a thread left in a test's home is never sent."""
    (suite / "test_host.py").write_text(AFTER)
    (suite / "test_more.py").write_text(AFTER)
    run(suite, *workers)
    assert list((suite / "real").iterdir()) == []
    assert server.requests == []


CHILD = """
import json, os, subprocess, sys

CODE = '''
from spool import Telemetry
t = Telemetry("mycli", "1", "phc_test", URL)
t.capture("alpha")
t.close()
Telemetry("mycli", "1", "phc_test", URL).flush(timeout_s=10)
'''

def test_a_child(captured):
    env = {"PYTHONPATH": os.environ["PYTHONPATH"], "HOME": os.environ["HOME"]}
    env["KTX_SPOOL_TESTING"] = str(captured.home)
    subprocess.run([sys.executable, "-c", CODE], env=env, check=True)
    captured.one("alpha")
    assert not (captured.home / "spool" / "launched").exists()
"""


def test_one_variable_is_enough_for_a_child_with_an_environment_of_its_own(suite: Path, server: LocalPostHog) -> None:
    """As the page says: its events are the test's, the real home stays as it is, and no flusher is started."""
    (suite / "test_host.py").write_text(CHILD.replace("URL", json.dumps(server.url)))
    run(suite)
    assert list((suite / "real").iterdir()) == []
    assert server.requests == []
