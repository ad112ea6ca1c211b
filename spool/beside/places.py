"""Makes room for `aside/` and `spans/` where something else has their name."""

from __future__ import annotations

from contextlib import suppress

from spool.home import Paths, Quarantine

__all__ = ["make_way"]


def make_way(paths: Paths) -> None:
    """Set aside what stands where `aside/` and `spans/` belong, as a flusher does. Never raises.

    Under the flusher's lock: of two that look at once, the second might move the folder that the first has made. While
    a flusher is at work it is left to that.
    """
    with suppress(Exception):  # no lock to be had, or none to be loaded: whoever asks meets the folder as it is
        from spool.queue import FileLock  # noqa: PLC0415 - with the queue, which not every host can load

        quarantine = Quarantine(paths)
        quarantine.clear(paths.flush_lock, "file")
        with FileLock(paths.flush_lock).held(0.0):
            for folder in (paths.aside, paths.spans):
                quarantine.clear(folder, "folder")
