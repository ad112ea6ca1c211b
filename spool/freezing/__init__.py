"""The hook for PyInstaller, which finds it by its entry point: it packs the flusher and the libraries of that.

`hook-spool.py` is read when a program that imports `spool` is built; `rthooks.dat` names what runs first in the app.
"""

from __future__ import annotations

import os

__all__ = ["hook_folders"]


def hook_folders() -> list[str]:
    """Give the folders of hooks, as PyInstaller's entry point `hook-dirs` asks for them."""
    return [os.path.dirname(__file__)]
