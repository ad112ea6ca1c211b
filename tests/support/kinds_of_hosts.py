"""One small program, shipped in each of the ways in which command-line programs are: how to build it, how to run it.

All are built from one folder of wheels, so that a build asks no registry; that folder is filled once for all workers.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import venv
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from spool.queue import FileLock
from tests.support.processes import ROOT, SILENT

__all__ = ["KINDS", "Kind", "fill"]

# Writes down each time that its own work begins. With an interval of 0 the next flusher is due at once.
PROGRAM = """
import os, sys, time
import typer
from spool import Telemetry
home, url = os.environ["DEMO_FOLDER"], os.environ["DEMO_URL"]
telemetry = Telemetry("demo", "1", "phc_test", url, home, flush_interval_s=0)
with open(os.environ["DEMO_RUNS"], "a") as file:
    file.write(repr(sys.argv[1:]) + "\\n")
app = typer.Typer()
@app.command()
def job(hang: bool = False, flush: float = 0.0) -> None:
    telemetry.capture("job_done")
    if hang:
        print("begun", flush=True)
        time.sleep(120)
    if flush:
        print(telemetry.flush(flush))
def main() -> None:
    telemetry.main(app)
if __name__ == "__main__":
    main()
"""
PROJECT = """
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"
[project]
name = "demo-cli"
version = "1.0"
dependencies = ["ktx-spool", "typer"]
[project.scripts]
demo-cli = "demo_cli:main"
[tool.hatch.build.targets.wheel]
only-include = ["demo_cli.py"]
"""
BUILD = "import os, sys; from hatchling import build; os.chdir(sys.argv[2]); build.build_wheel(sys.argv[1])"
# In a folder before the standard library's: old backports of its modules did much the same.
BACKPORT = "raise ImportError('a backport for an old Python')\n"


class Kind(NamedTuple):
    """How the program is run: its command line, and what belongs into its environment."""

    words: Sequence[str | Path]
    variables: dict[str, str]


def fill(folder: Path) -> None:
    """Make the program, its wheel, ours, and those of all dependencies, in `folder`."""
    (folder / "demo").mkdir()
    (folder / "demo" / "demo_cli.py").write_text(PROGRAM)
    (folder / "demo" / "pyproject.toml").write_text(PROJECT)
    wheels = folder / "wheels"
    wheels.mkdir()
    for source in (ROOT, folder / "demo"):
        _run(sys.executable, "-c", BUILD, wheels, source)
    pip = (sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check")
    wanted = [*wheels.glob("*.whl"), "pip", "setuptools"]
    _run(*pip, "download", "--dest", wheels, "--find-links", wheels, "--constraint", ROOT / "constraints.txt", *wanted)
    layer = folder / "layer"
    _run(*pip, "install", "--no-index", "--find-links", wheels, "--target", layer, "ktx-spool", "typer")


def _run(*words: object, **variables: str) -> None:
    env = {name: value for name, value in os.environ.items() if name not in SILENT and not name.startswith("PYTHON")}
    done = subprocess.run(
        [str(word) for word in words], env={**env, **variables}, capture_output=True, text=True, check=False, cwd="/"
    )
    assert done.returncode == 0, done.stderr[-4_000:]


# -- run by an interpreter ------------------------------------------------------------------------------------


def _python() -> Path:
    """Give an interpreter that knows nothing of the tests' environment."""
    return Path(sys.executable).resolve()


def _script(files: Path, _target: Path) -> Kind:
    return Kind([sys.executable, files / "demo" / "demo_cli.py"], {"PYTHONPATH": str(ROOT)})


def _module(files: Path, _target: Path) -> Kind:
    return Kind([sys.executable, "-m", "demo_cli"], {"PYTHONPATH": f"{ROOT}:{files / 'demo'}"})


def _environment(files: Path, target: Path) -> Path:
    venv.create(target, with_pip=False, symlinks=True)
    python = target / "bin" / "python"
    pip = (sys.executable, "-m", "pip", "--python", python, "--quiet", "--disable-pip-version-check")
    _run(*pip, "install", "--no-index", "--find-links", files / "wheels", "demo-cli")
    return python


def _isolated_module(files: Path, target: Path) -> Kind:
    return Kind([_environment(files, target), "-I", "-m", "demo_cli"], {})


def _layers(files: Path, target: Path) -> Kind:
    """Our packages in one folder of PYTHONPATH, their libraries in another, beside a backport of a standard module."""
    task, layer = target / "task", target / "layer"
    task.mkdir(parents=True)
    layer.symlink_to(files / "layer")
    for name in ("spool", "flusher"):
        shutil.copytree(files / "layer" / name, task / name)
    shutil.copy(files / "demo" / "demo_cli.py", task)
    backports = target / "backports"
    backports.mkdir()
    (backports / "queue.py").write_text(BACKPORT)  # which the host never imports, and urllib3 does
    return Kind([_python(), task / "demo_cli.py"], {"PYTHONPATH": f"{backports}:{task}:{layer}"})


def _zipapp(files: Path, target: Path) -> Kind:
    """The program and our packages in one archive; the libraries, of which some are no Python, in a folder."""
    source = target / "source"
    source.mkdir(parents=True)
    for name in ("spool", "flusher"):
        shutil.copytree(files / "layer" / name, source / name)
    shutil.copy(files / "demo" / "demo_cli.py", source)
    archive = target / "demo.pyz"
    _run(_python(), "-m", "zipapp", source, "--output", archive, "--main", "demo_cli:main")
    return Kind([_python(), archive], {"PYTHONPATH": str(files / "layer")})


def _zipapp_by_its_name(files: Path, target: Path) -> Kind:
    """The same, run from its folder."""
    kind = _zipapp(files, target)
    return Kind(["/usr/bin/env", f"--chdir={target}", _python(), "demo.pyz"], kind.variables)


# -- tools ----------------------------------------------------------------------------------------------------


def _tool(name: str) -> str:
    return str(Path(sys.executable).with_name(name))


def _pex(files: Path, target: Path) -> Kind:
    archive = target / "demo.pex"
    target.mkdir()
    _run(
        _tool("pex"), "demo-cli", "--no-index", "--find-links", files / "wheels", "--script", "demo-cli",
        "--python", _python(), "--output-file", archive, PEX_ROOT=str(target / "root"),
    )  # fmt: skip
    return Kind([_python(), archive], {"PEX_ROOT": str(target / "root")})


def _shiv(files: Path, target: Path) -> Kind:
    archive = target / "demo.pyz"
    target.mkdir()
    _run(
        _tool("shiv"), "--no-index", "--find-links", files / "wheels", "--entry-point", "demo_cli:main",
        "--output-file", archive, "demo-cli",
    )  # fmt: skip
    return Kind([_python(), archive], {"SHIV_ROOT": str(target / "root")})


def _uv(files: Path, target: Path) -> Kind:
    places = {"UV_TOOL_DIR": str(target / "tools"), "UV_TOOL_BIN_DIR": str(target / "bin"), "UV_CACHE_DIR": str(target)}
    _run(
        _tool("uv"), "tool", "install", "--no-index", "--find-links", files / "wheels", "--python", _python(),
        "--no-config", "demo-cli", **places,
    )  # fmt: skip
    return Kind([target / "bin" / "demo-cli"], {})


def _pipx(files: Path, target: Path) -> Kind:
    places = {"PIPX_HOME": str(target / "pipx"), "PIPX_BIN_DIR": str(target / "bin")}
    wheels = files / "wheels"
    _run(
        _tool("pipx"), "install", "--python", _python(), "--pip-args", f"--no-index --find-links {wheels}", "demo-cli",
        **places, PIP_NO_INDEX="1", PIP_FIND_LINKS=str(wheels),
    )  # fmt: skip
    return Kind([target / "bin" / "demo-cli"], {})


def _with_pyinstaller(files: Path) -> Path:
    """Give an interpreter that has PyInstaller and the program; made once for both ways."""
    folder = files / "with-pyinstaller"
    with FileLock(files / "with-pyinstaller.lock").held(600.0):
        if not folder.exists():
            python = _environment(files, folder)
            pip = (sys.executable, "-m", "pip", "--python", python, "--quiet", "--disable-pip-version-check")
            _run(*pip, "install", "--constraint", ROOT / "constraints.txt", "pyinstaller")
    return folder / "bin" / "python"


def _pyinstaller(way: str) -> Callable[[Path, Path], Kind]:
    def build(files: Path, target: Path) -> Kind:
        _run(
            _with_pyinstaller(files), "-m", "PyInstaller", way, "--noconfirm", "--log-level", "WARN", "--name", "demo",
            "--distpath", target / "dist", "--workpath", target / "work", "--specpath", target,
            files / "demo" / "demo_cli.py", PYINSTALLER_CONFIG_DIR=str(files / "pyinstaller-cache"),
        )  # fmt: skip
        built = target / "dist" / "demo"
        return Kind([built / "demo" if built.is_dir() else built], {})

    return build


KINDS: dict[str, Callable[[Path, Path], Kind]] = {
    "a script": _script,
    "python -m": _module,
    "python -I -m": _isolated_module,
    "layers on PYTHONPATH": _layers,
    "zipapp": _zipapp,
    "zipapp, by its name": _zipapp_by_its_name,
    "pex": _pex,
    "shiv": _shiv,
    "uv tool": _uv,
    "pipx": _pipx,
    "PyInstaller, a folder": _pyinstaller("--onedir"),
    "PyInstaller, one file": _pyinstaller("--onefile"),
}
