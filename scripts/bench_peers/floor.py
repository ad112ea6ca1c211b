"""The floor: what an append costs by filelock and diskcache, with nothing around them."""

from __future__ import annotations

from pathlib import Path

from diskcache import Cache
from filelock import FileLock

__all__ = ["Floor"]


class Floor:
    """A queue in a folder. The lock is tried again every millisecond, for as long as it takes."""

    def __init__(self, folder: str) -> None:
        self._lock = FileLock(Path(folder, "floor.lock"), poll_interval=0.001)
        with self._lock:
            self._cache = Cache(Path(folder, "floor"), eviction_policy="none")

    def append(self, text: str) -> None:
        """Put one text on disk, under the next number."""
        with self._lock, self._cache.transact():
            number = self._cache.incr("sequence")
            self._cache.add(number, text)
