"""What a host's user sees of the spool: lines on stderr. Stdout may be a protocol channel."""

from __future__ import annotations

import os
import sys

__all__ = ["first_run_notice", "say"]


def say(line: str, *, dim: bool = False) -> None:
    """Write one line to stderr, which a daemon may have closed."""
    try:
        dim = dim and sys.stderr.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
        sys.stderr.write(f"\033[2m{line}\033[0m\n" if dim else line + "\n")
        sys.stderr.flush()
    except (AttributeError, OSError, ValueError):
        return  # nobody listens: there is nobody left to tell


def first_run_notice(app: str, prefix: str) -> str:
    """Say what is collected, and how to say no."""
    return (
        f"{app} collects anonymous usage data to improve the product."
        f" To say no: set {prefix}TELEMETRY_DISABLED=1, or run ktx-flush --app {app} disable."
    )
