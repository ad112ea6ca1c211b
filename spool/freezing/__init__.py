"""The hook for PyInstaller, which finds it by its entry point: it packs the flusher and the libraries of that.

What is in `hooks/` is no module: `hook-spool.py` is run when a program that imports `spool` is built, and `rthooks.dat`
names what runs first in the app.
"""

from __future__ import annotations

import os

__all__ = ["hook_folders"]


def hook_folders() -> list[str]:
    """Give the folders of hooks, as PyInstaller's entry point `hook-dirs` asks for them."""
    return [os.path.join(os.path.dirname(__file__), "hooks")]
