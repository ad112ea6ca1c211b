"""The common fields of every event: version, platform, runtime. Nothing that names a person or a place."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import Any

from spool.consent.rule import is_set

__all__ = ["host_facts"]

# Node's names, which ktx's events use, for what Python calls otherwise.
_ARCH = {"x86_64": "x64", "amd64": "x64", "aarch64": "arm64", "i386": "ia32", "i686": "ia32"}


def host_facts(version: str, env: Mapping[str, str]) -> dict[str, Any]:
    """Give ktx's seven common fields. `nodeVersion` is required by ktx; here it names Python."""
    if hasattr(os, "uname"):
        system = os.uname()
        release, machine = system.release, system.machine.lower()
    else:
        windows = sys.getwindowsversion()  # type: ignore[attr-defined]  # Windows only
        release, machine = (
            f"{windows.major}.{windows.minor}.{windows.build}",
            env.get("PROCESSOR_ARCHITECTURE", "").lower(),
        )
    return {
        "cliVersion": version,
        "nodeVersion": "python-" + ".".join(map(str, sys.version_info[:3])),
        "osPlatform": sys.platform,
        "osRelease": release,
        "arch": _ARCH.get(machine, machine),
        "runtime": "daemon-py",
        "isCi": is_set(env.get("CI")),
    }
