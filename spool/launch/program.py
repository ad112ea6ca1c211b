"""How a flusher is started from this process: the one place that decides, for `auto`, `flush()` and `schedule`.

| this process is | a flusher is |
|---|---|
| Python, however it finds its modules | the same interpreter, isolated: no variable and no folder of a person's work |
| a frozen app, as PyInstaller and cx_Freeze make it | the app itself, with a mark in its environment (`mark`) |
| Python in another program | the interpreter that this Python came with, if there is one |

An isolated interpreter has the standard library and its own site-packages. Where that is not enough (pex, zipapp, a
layer on PYTHONPATH, an editable install) this process's search path is appended: what stands there shadows no module of
the standard library.
"""

from __future__ import annotations

import os
import re
import shlex
import site
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import find_spec
from typing import NamedTuple

from spool.errors import ConfigurationError
from spool.settings import MARK

__all__ = ["Program", "Written", "flusher_program", "read_words"]

# What a flusher imports first: where these are, their own libraries are.
_NEEDED = ("flusher", "posthog", "requests", "typer", "diskcache", "filelock", "msgspec")
# Short and without a character that cron, systemd or a shell cares about. The search path is its first argument.
_APPENDED = "import os, sys; sys.path += sys.argv.pop(1).split(os.pathsep); from flusher.__main__ import main; main()"
_PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
_INTERPRETER = re.compile(r"(python|pypy|graalpy)[\d.]*[dtw]{0,2}(\.exe)?", re.IGNORECASE)


class Program(NamedTuple):
    """A command line that starts with an absolute path, and the variables that belong to it."""

    words: list[str]
    variables: Mapping[str, str]

    def as_words(self) -> list[str]:
        """Give it as words alone, for cron and its like; ConfigurationError where that can't be."""
        settings = [f"{name}={value}" for name, value in self.variables.items()]
        if settings and "=" in self.words[0]:
            raise ConfigurationError(
                f"{self.words[0]} has a = in it, which env takes for a variable: use another place"
            )
        return ["/usr/bin/env", *settings, *self.words] if settings else self.words


def flusher_program(arguments: Sequence[str]) -> Program:
    """Give what runs `ktx-flush` with these arguments here; ConfigurationError says why nothing can, and what to do.

    Imports nothing of the flusher: it looks where its modules are.
    """
    frozen = bool(getattr(sys, "frozen", False))
    program = sys.executable if frozen else _interpreter()
    if not program:
        raise ConfigurationError(
            "this program has Python inside it and no interpreter beside it: run ktx-flush by cron"
        )
    path = _search_path()
    missing, folders = _look([*sys.path] if frozen else [*_isolated(), *path])
    if missing and frozen:
        raise ConfigurationError(
            f"this program was built without {missing[0]}: run ktx-flush by cron, or build it with spool and flusher"
        )
    if missing:
        raise ConfigurationError(f"{missing[0]} is not installed where this program runs: install ktx-spool there")
    if frozen:
        return Program([program], {MARK: shlex.join(arguments)})
    if folders <= set(_isolated()):
        return Program([program, "-I", "-m", "flusher", *arguments], {})
    return Program([program, "-I", "-c", _APPENDED, os.pathsep.join(path), *arguments], {})


class Written(NamedTuple):
    """What `as_words` gave, read back: the program, the folders of its modules that it names, and the arguments."""

    program: str
    folders: list[str]
    arguments: list[str]


def read_words(words: Sequence[str]) -> Written:
    """Read a command line of ours, as somebody may have changed it; ValueError if it is none."""
    match list(words):
        case ["/usr/bin/env", marked, program] if marked.startswith(f"{MARK}="):
            return Written(program, [], shlex.split(marked.partition("=")[2]))
        case [program, "-I", "-c", _, folders, *arguments]:
            return Written(program, folders.split(os.pathsep), arguments)
        case [program, _, *_]:
            return Written(program, [], list(words[1:]))
    raise ValueError("no command line of ours")


def _interpreter() -> str | None:
    """Give this process's interpreter; in another program with Python inside, the one that this Python came with.

    Such a program may be called as an interpreter is, and Python may have found its name on the PATH: it has to be
    where this Python is, or there is no other.
    """
    named = sys.executable
    looks = bool(named) and os.path.isabs(named) and _INTERPRETER.fullmatch(os.path.basename(named)) is not None
    places = {os.path.join(os.path.realpath(prefix), "") for prefix in (sys.prefix, sys.base_prefix, sys.exec_prefix)}
    if looks and any(os.path.realpath(found).startswith(tuple(places)) for found in (named, os.path.dirname(named))):
        return named
    name = "python.exe" if sys.platform == "win32" else f"bin/python{sys.version_info[0]}.{sys.version_info[1]}"
    for prefix in (sys.prefix, sys.base_prefix):
        found = os.path.join(prefix, name)
        if os.access(found, os.X_OK):
            return found
    return named if looks else None


def _look(path: Sequence[str]) -> tuple[list[str], set[str]]:
    """Say which modules are missing, and in which folders or archives the others are. Nothing is imported."""
    missing: list[str] = []
    folders: set[str] = set()
    for name in _NEEDED:
        spec = PathFinder.find_spec(name, path) or _found_otherwise(name)
        if spec is None or spec.origin is None:
            missing.append(name)
        else:
            is_package = spec.submodule_search_locations is not None
            folders.add(os.path.dirname(os.path.dirname(spec.origin) if is_package else spec.origin))
    return missing, folders


def _found_otherwise(name: str) -> ModuleSpec | None:
    """Ask the finders of this process: a frozen app and some editable installs have their own."""
    with suppress(Exception):  # they are not ours
        return find_spec(name)
    return None


def _isolated() -> list[str]:
    """Give the folders of modules that an isolated interpreter has by itself, as far as it is sure to have them."""
    library = os.path.dirname(os.__file__)
    return [library, os.path.join(library, "lib-dynload"), *site.getsitepackages()]


def _search_path() -> list[str]:
    """Give this process's search path, without what is there anyway, and without folders of a person's work.

    Those are the working folder, of now and of the start, and the script's own. This package's own folder is in front,
    whatever it is.
    """
    left_out = {*_isolated(), os.environ.get("PWD")}
    main = getattr(sys.modules.get("__main__"), "__file__", None)
    if main:
        left_out.add(os.path.dirname(os.path.abspath(main)))
    with suppress(OSError):  # it was deleted
        left_out.add(os.getcwd())
    own = os.path.dirname(_PACKAGE)
    path = [entry for entry in sys.path if isinstance(entry, str) and os.path.isabs(entry) and os.pathsep not in entry]
    return [own, *(one for one in dict.fromkeys(path) if one not in left_out and one != own and os.path.exists(one))]
