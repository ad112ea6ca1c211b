"""Debian's Chromium without a window: a page's DOM after it was loaded, and a picture of it."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

__all__ = ["CHROMIUM", "picture", "rendered"]

CHROMIUM = shutil.which("chromium")
# No sandbox, for root has none; the rest keeps the browser itself from the network.
_QUIET = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--hide-scrollbars",
    "--disable-dev-shm-usage",
)  # fmt: skip


def _run(folder: Path, page: Path, *options: str) -> str:
    command = [CHROMIUM or "chromium", *_QUIET, f"--user-data-dir={folder / 'profile'}", *options, page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True, cwd=folder)
    shutil.rmtree(folder / "profile")
    return done.stdout


def rendered(folder: Path, page: Path) -> str:
    """Give the DOM as HTML once the page was loaded, with all that it loads and runs."""
    return _run(folder, page, "--virtual-time-budget=2000", "--dump-dom")


def picture(folder: Path, page: Path, *, width: int, dark: bool) -> bytes:
    """Give a PNG of the first 1,600 pixels of a page."""
    target = folder / "picture.png"
    scheme = f"--blink-settings=preferredColorScheme={0 if dark else 1}"
    _run(folder, page, scheme, f"--window-size={width},1600", f"--screenshot={target}")
    return target.read_bytes()
