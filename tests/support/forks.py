"""Many short processes of one host: forked after its imports, each ends as a process of its own."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from tests.support.processes import run_python

__all__ = ["Ended", "run_forked"]


class Ended(NamedTuple):
    """What the parent sees of a process: its exit code (of a signal: less than zero), and what it printed."""

    code: int
    out: str
    err: str


FORKING = """
import gc, json, os, sys, spool.command.span, spool.exception.redaction, spool.beside.spans
gc.freeze()  # at its end a child would look through all that its parent imported
folder, cases = sys.argv[-1], json.loads(sys.stdin.read())
for number, code in enumerate(cases):
    pid = os.fork()
    if pid == 0:
        for stream, name in ((1, "out"), (2, "err")):
            os.dup2(os.open(f"{folder}/{number}.{name}", os.O_WRONLY | os.O_CREAT), stream)
        exec(compile(code, "<string>", "exec"), globals())
        break
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    with open(f"{folder}/{number}.code", "w") as file: file.write(str(code))
"""


def run_forked(
    head: str, cases: Mapping[str, str], *arguments: object, env: Mapping[str, str] | None = None
) -> dict[str, Ended]:
    """Run each case to its end, one after the other, in a fork of the process that ran `head`."""
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile("w+") as given:
        given.write(json.dumps(list(cases.values())))
        given.seek(0)
        done = run_python(head + FORKING, *arguments, folder, env=env, stdin=given)
        assert done.returncode == 0, done.stderr
        files = [Path(folder) / str(number) for number in range(len(cases))]
        ended = [
            Ended(
                int(file.with_suffix(".code").read_text()), *(file.with_suffix(s).read_text() for s in (".out", ".err"))
            )
            for file in files
        ]
    return dict(zip(cases, ended, strict=True))
