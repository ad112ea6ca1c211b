"""The fields that every event has beside its own: version, platform, runtime, and instructions to PostHog.

None of them names a person or a place.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import Any

from spool.errors import InvalidEventError
from spool.settings import VERSION, is_set

__all__ = ["envelope", "host_facts"]

# Node's names for processors, which ktx's events use, where Python has another one.
_ARCH = {"x86_64": "x64", "amd64": "x64", "aarch64": "arm64", "i386": "ia32", "i686": "ia32"}


def host_facts(version: str, env: Mapping[str, str]) -> dict[str, Any]:
    """Give ktx's seven common fields. `nodeVersion` is required by ktx; here it names Python."""
    if sys.platform != "win32":
        system = os.uname()
        release, machine = system.release, system.machine.lower()
    else:
        windows = sys.getwindowsversion()
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


def envelope(groups: Mapping[str, str] | None, *, geoip_disable: bool, person_profiles: bool = True) -> dict[str, Any]:
    """Give the properties that the spool adds to every event, beside the host's own common fields.

    Raises InvalidEventError for groups that are no mapping of texts. A group without an id is left out.
    """
    fields: dict[str, Any] = {"$lib": "ktx-spool", "$lib_version": VERSION}
    if groups is not None and not isinstance(groups, Mapping):
        raise InvalidEventError(f"groups are a mapping, not {type(groups).__name__}")
    named = {kind: name for kind, name in (groups or {}).items() if name}
    if named:
        fields["$groups"] = named
    elif not person_profiles:  # PostHog keeps groups only with person profiles
        fields["$process_person_profile"] = False
    fields["$geoip_disable"] = geoip_disable
    # A retry near midnight must not move the timestamp: the server deduplicates by its day.
    fields["$ignore_sent_at"] = True
    return fields
