"""Descriptors that the spool opens: none is 0, 1 or 2, and one that stays open is looked at before each use.

A host may close descriptors that it does not know (a daemon closes all of them); the next files that it opens get their
numbers. A host may also be started without stdin, stdout or stderr: the next file that anybody opens then gets the
number of one of them, and what the host prints goes into that file.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import ClassVar

__all__ = ["Descriptor", "lowest_free", "open_numbers", "streams_kept_free"]

_STREAMS = (0, 1, 2)
# How far to look where the system has no list of a process's descriptors.
_MOST_NUMBERS = 1024


class Descriptor:
    """A descriptor that stays open, and the file that it was opened on."""

    def __init__(self, number: int) -> None:
        """Take a number that was opened just now: whoever had it before has lost it."""
        self.number = number
        self.opened = os.fstat(number)
        self._lost = False
        _holders[number] = self

    def look(self) -> os.stat_result | None:
        """Give the file's present status; None if the number stands for something else, now or at an earlier look."""
        if self._lost:
            return None
        try:
            now = os.fstat(self.number)
        except OSError:
            self._lost = True
            return None
        self._lost = not os.path.samestat(now, self.opened) or _holders.get(self.number) is not self
        return None if self._lost else now

    def is_ours(self) -> bool:
        """Tell whether the number still stands for what was opened."""
        return self.look() is not None

    def close(self) -> None:
        """Close the descriptor, unless it is the host's by now."""
        if self.is_ours():
            self._lost = True
            os.close(self.number)


_holders: weakref.WeakValueDictionary[int, Descriptor] = weakref.WeakValueDictionary()


def lowest_free() -> int:
    """Give the number that the next file will get, if no other thread opens or closes one."""
    number = _open_placeholder()
    os.close(number)
    return number


def open_numbers() -> list[int]:
    """Give the descriptors that this process has open, and perhaps some that it hasn't."""
    try:
        numbers = [int(name) for name in os.listdir("/dev/fd")]
    except (OSError, ValueError):
        numbers = []
    # Some systems list the standard streams alone. The folder itself was open while it was listed.
    return numbers if max(numbers, default=0) > max(_STREAMS) else list(range(_MOST_NUMBERS))


class _Streams:
    """Which of 0, 1 and 2 are occupied by us at the moment, and for which blocks."""

    occupied: ClassVar[list[int]] = []
    blocks: ClassVar[set[object]] = set()
    lock = threading.RLock()  # a signal handler may interrupt its own thread in here


@contextmanager
def streams_kept_free() -> Iterator[None]:
    """Let nothing that is opened in the block get the number of a standard stream, not even for a moment.

    One that is closed is occupied meanwhile, by what can neither be read nor written (where the system has no such
    thing, not in the direction of the stream): a host that uses it meets the error that it meets without us.
    """
    with _Streams.lock:  # without a block under way nothing of ours stands there
        all_open = not _Streams.blocks and not any(map(_is_closed, _STREAMS))
    if all_open:
        yield
        return
    block = object()
    try:
        with _Streams.lock:
            _Streams.blocks.add(block)
            for number in filter(_is_closed, _STREAMS):
                _occupy(number)
        yield
    finally:
        with _Streams.lock:
            _Streams.blocks.discard(block)
            if not _Streams.blocks:
                _give_back()


def _is_closed(number: int) -> bool:
    try:
        os.get_inheritable(number)  # the cheapest question
    except OSError:
        return True
    return False


def _occupy(number: int) -> None:
    # Gets the lowest number that is free: this one, unless another thread opens something at the same time.
    got = _open_placeholder(number)
    if got in _STREAMS:
        _Streams.occupied.append(got)
    else:
        os.close(got)


def _open_placeholder(stream: int = 0) -> int:
    """Open what can neither be read nor written; elsewhere than on Linux, not as that stream would be."""
    if hasattr(os, "O_PATH"):
        return os.open(os.sep, os.O_PATH)
    return os.open(os.devnull, os.O_WRONLY if stream == 0 else os.O_RDONLY)


def _give_back() -> None:
    while _Streams.occupied:
        number = _Streams.occupied.pop()
        with suppress(OSError):  # the host has closed it
            if not os.get_inheritable(number):  # else the host has put a stream of its own there meanwhile
                os.close(number)


def _begin_afresh_in_child() -> None:
    """Give them back in a forked child: the threads that would do so don't exist there."""
    _Streams.lock = threading.RLock()
    _Streams.blocks.clear()
    _give_back()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_afresh_in_child)
