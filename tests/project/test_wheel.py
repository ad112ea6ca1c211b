"""The wheel holds what a user needs and nothing else, and works with the source out of reach; the sdist builds it."""

from __future__ import annotations

import json
import os
import site
import subprocess
import sys
import tarfile
import venv
import zipfile
from collections.abc import Sequence
from email import message_from_string
from email.message import Message
from pathlib import Path

import pytest

from tests.support.local_posthog import LocalPostHog
from tests.support.processes import KEY, ROOT, SILENT

pytest.importorskip("hatchling", reason="hatchling is not installed: requirements-dev.txt has it")

BUILD = """
import os, sys
from hatchling import build
out, source = sys.argv[1:]
os.chdir(source)
print(build.build_sdist(out), build.build_wheel(out))
"""
HOST = """
import sys
from spool import Telemetry
from spool.ktx_events import CATALOGUE
t = Telemetry("ktx", "1.2.3", "phc_test", sys.argv[1], flush="never", catalogue=CATALOGUE)
with t.command(["ktx", "scan"]):
    pass
t.close()
"""
GUARDED = """
from spool import Telemetry
telemetry = Telemetry("ktx", "1", "phc_test")
def test_captures(captured):
    telemetry.capture("scan_completed", {"tableCount": 12})
    assert captured.one("scan_completed", tableCount=12)["uuid"]
"""
# Beside the modules.
DATA = {
    "flusher/report/page.css",
    "flusher/report/page.html",
    "spool/DESIGN.md",
    "spool/events.schema.json",
    "spool/freezing/hooks/rthooks.dat",
    "spool/py.typed",
    "flusher/py.typed",
}


def run(words: Sequence[object], cwd: Path, **more: str) -> subprocess.CompletedProcess[str]:
    """Run a program to its end, outside the checkout, with nothing of it on Python's path; it succeeds."""
    env = {name: value for name, value in os.environ.items() if name not in (*SILENT, "PYTHONPATH")}
    done = subprocess.run(
        list(map(str, words)), cwd=cwd, env={**env, **more}, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sdist, and with the wheel that was built from what the sdist holds."""
    folder = tmp_path_factory.mktemp("built")
    run([sys.executable, "-c", BUILD, folder / "first", ROOT], folder)
    (sdist,) = (folder / "first").glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
    (source,) = folder.glob("ktx_spool-*")
    run([sys.executable, "-c", BUILD, folder / "out", source], folder)
    return folder / "out"


@pytest.fixture(scope="module")
def wheel(built: Path) -> Path:
    """The wheel."""
    (wheel,) = built.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def programs(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bin folder of an environment with the wheel in it; the dependencies are those of this one.

    They come by a path at the end, so that the wheel's packages are found first. An editable install is a .pth
    file, and those are not read from such a path: the source is out of reach.
    """
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False, symlinks=True)
    python = folder / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", python, "--quiet", "--disable-pip-version-check"]
    run([*pip, "install", "--no-deps", "--no-index", wheel], folder)
    (packages,) = folder.glob("lib/python*/site-packages")
    (packages / "dependencies.pth").write_text("\n".join(site.getsitepackages()) + "\n")
    return folder / "bin"


def metadata(wheel: Path) -> Message:
    """Read what an index would show."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        return message_from_string(archive.read(name).decode("utf-8"))


def test_the_wheel_holds_the_two_packages_whole_and_nothing_else(wheel: Path) -> None:
    """Every module and the files beside them; no test, no script."""
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
    modules = {
        path.relative_to(ROOT).as_posix() for name in ("spool", "flusher") for path in (ROOT / name).rglob("*.py")
    }
    assert held == modules | DATA


def test_the_sdist_holds_what_a_packager_needs(built: Path) -> None:
    """The documents, the tests and the scripts, and no folder of a tool's own."""
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        held = {name.partition("/")[2] for name in archive.getnames()}
    assert {
        "README.md",
        "LICENSE",
        "pyproject.toml",
        "tests/project/test_wheel.py",
        "scripts/test",
        "constraints.txt",
    } <= held
    assert {name.split("/")[0] for name in held if name.startswith(".")} <= {".gitignore"}


def test_the_metadata_is_complete(wheel: Path) -> None:
    """Name, licence with its text, the README, the Pythons, the extra, and a script."""
    found = metadata(wheel)
    classifiers = found.get_all("Classifier") or []
    pythons = {
        line.rsplit(" ", 1)[-1] for line in classifiers if line.startswith("Programming Language :: Python :: 3.")
    }
    assert (found["Name"], found["License-Expression"], found["License-File"]) == ("ktx-spool", "Apache-2.0", "LICENSE")
    assert (found["Requires-Python"], pythons) == (">=3.11", {"3.11", "3.12", "3.13"})
    assert "Typing :: Typed" in classifiers
    assert found["Description-Content-Type"] == "text/markdown"
    assert found.get_all("Provides-Extra") == ["report"]
    assert str(found.get_payload()).strip() == (ROOT / "README.md").read_text("utf-8").strip()
    with zipfile.ZipFile(wheel) as archive:
        (scripts,) = (archive.read(name).decode() for name in archive.namelist() if name.endswith("entry_points.txt"))
    assert "ktx-flush = flusher.__main__:main" in scripts


def test_every_dependency_has_a_floor(wheel: Path) -> None:
    """What is older was not tried: scripts/floors runs the tests at the floors."""
    required = metadata(wheel).get_all("Requires-Dist") or []
    assert len(required) >= 6
    assert [line for line in required if ">=" not in line] == []


@pytest.mark.parametrize("words", [["ktx-flush"], ["python", "-m", "flusher"]], ids=" ".join)
def test_the_installed_command_shows_its_help(words: list[str], programs: Path, tmp_path: Path) -> None:
    """By its script and by its module."""
    done = run([programs / words[0], *words[1:], "--help"], tmp_path)
    assert "Usage: ktx-flush" in done.stdout
    assert done.stderr == ""


def test_a_host_with_the_wheel_delivers(programs: Path, server: LocalPostHog, tmp_path: Path) -> None:
    """The whole way with the installed files: a command is captured, delivered, and shown in a report."""
    home = tmp_path / "home"
    where = "import spool, flusher; print(spool.__file__, flusher.__file__)"
    assert str(ROOT) not in run([programs / "python", "-c", where], tmp_path).stdout
    run([programs / "python", "-c", HOST, server.url], tmp_path, KTX_HOME=str(home))
    done = run([programs / "ktx-flush", "run", "--json", "--key", KEY], tmp_path, KTX_HOME=str(home))
    assert json.loads(done.stdout)["delivered"] == 2
    assert {event["event"] for event in server.events()} == {"install_first_run", "command"}
    run([programs / "ktx-flush", "report", "--output", "page.html"], tmp_path, KTX_HOME=str(home))
    assert "</html>" in (tmp_path / "page.html").read_text()


def test_the_guard_kit_of_the_wheel_is_a_plugin_of_pytest(programs: Path, tmp_path: Path) -> None:
    """Installed is enough: the fixture is there, and names what was captured."""
    (tmp_path / "test_host.py").write_text(GUARDED)
    done = run([programs / "python", "-m", "pytest", "-p", "no:cacheprovider", "-q", "test_host.py"], tmp_path)
    assert "1 passed" in done.stdout


def test_a_type_checker_reads_the_types_of_the_wheel(programs: Path, tmp_path: Path) -> None:
    """py.typed is honoured: a call with a wrong type is found where only the wheel is."""
    (tmp_path / "host.py").write_text("from spool import Telemetry\nt = Telemetry('ktx', 1)\nreveal_type(t.app)\n")
    done = subprocess.run(
        [programs / "python", "-m", "mypy", "--strict", "--cache-dir", "cache", "host.py"],
        cwd=tmp_path,
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert 'Argument 2 to "Telemetry" has incompatible type "int"; expected "str"' in done.stdout
    assert 'Revealed type is "str"' in done.stdout
