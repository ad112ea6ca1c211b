"""The command line that means one app's spool, for a message that a person copies."""

from __future__ import annotations

import shlex
from collections.abc import Mapping

from spool.home.paths import Paths, resolve_home

__all__ = ["tool"]


def tool(app: str, paths: Paths, env: Mapping[str, str]) -> str:
    """Give `ktx-flush` with `--app` and `--home` where it would look elsewhere without them."""
    words = ["ktx-flush"] + (["--app", app] if app != "ktx" else [])
    if paths.home != resolve_home(app, None, env):
        words += ["--home", str(paths.home)]
    return shlex.join(words)
