"""Doctor at work on a home: what it found, by name, and the home's files before and after."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from spool import Telemetry
from tests.support.local_posthog import LocalPostHog
from tests.support.processes import KEY, environment

__all__ = ["doctor", "examined", "findings", "sound", "tree"]


def sound(home: Path, server: LocalPostHog, key: str | None = KEY) -> None:
    """Make a home in which an event waits, and nothing is wrong."""
    telemetry = Telemetry("ktx", "1", key, server.url, home, flush="never")
    assert telemetry.capture("scan_completed").state == "queued"
    telemetry.close()


def doctor(
    home: Path, *arguments: str, env: Mapping[str, str] | None = None, wrapper: Sequence[object] = ()
) -> subprocess.Popen[str]:
    """Start `ktx-flush doctor`."""
    words = [*wrapper, sys.executable, "-m", "flusher", "--home", home, "doctor", *arguments]
    return subprocess.Popen(
        [*map(str, words)],
        env=dict(env or environment()), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def findings(
    home: Path, *arguments: str, env: Mapping[str, str] | None = None, wrapper: Sequence[object] = ()
) -> tuple[int, list[dict[str, Any]]]:
    """Let doctor examine a home; give its exit code, which its JSON says too, and every finding."""
    with doctor(home, *arguments, "--json", env=env, wrapper=wrapper) as process:
        out, err = process.communicate(timeout=60)
    assert err == "", err
    said = json.loads(out)
    assert said["exit_code"] == process.returncode
    found: list[dict[str, Any]] = said["findings"]
    for one in found:
        assert (one["mend"] is None) == (one["state"] == "ok"), one
    return process.returncode, found


def examined(
    home: Path, *arguments: str, env: Mapping[str, str] | None = None, wrapper: Sequence[object] = ()
) -> tuple[int, dict[str, dict[str, Any]]]:
    """The same, each finding by its name."""
    code, found = findings(home, *arguments, env=env, wrapper=wrapper)
    assert len({one["name"] for one in found}) == len(found), found
    return code, {one["name"]: one for one in found}


def tree(folder: Path) -> dict[str, object]:
    """Give everything below a folder: mode, owner, size and content, and for files when they were changed."""
    facts: dict[str, object] = {}
    for path in sorted([folder, *folder.rglob("*")]):
        status = os.lstat(path)
        content = (path.read_bytes(), status.st_mtime_ns) if path.is_file() and not path.is_symlink() else None
        facts[str(path)] = (status.st_mode, status.st_uid, content)
    return facts
