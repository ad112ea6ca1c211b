"""A relay on loopback that carries so many bytes a second to a server, as a slow uplink does."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

__all__ = ["SlowUplink", "slow_uplink"]

# Small, so that what is not carried yet is felt by the sender.
_BUFFER_BYTES = 16 * 1024
_PARTS_PER_S = 50


class SlowUplink:
    """The way to a server. `bytes_per_s` may be changed while it is in use; answers are not slowed down."""

    def __init__(self, port: int, bytes_per_s: int) -> None:
        self.bytes_per_s = bytes_per_s
        self._to = ("127.0.0.1", port)
        self._listener = socket.socket()
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER_BYTES)  # inherited by its connections
        self._listener.bind(("127.0.0.1", 0))
        self._listener.listen()
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        """Take no more connections."""
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _serve(self) -> None:
        while True:
            try:
                near, _address = self._listener.accept()
            except OSError:
                return  # closed
            far = socket.create_connection(self._to)
            threading.Thread(target=self._carry, args=(near, far, True), daemon=True).start()
            threading.Thread(target=self._carry, args=(far, near, False), daemon=True).start()

    def _carry(self, source: socket.socket, target: socket.socket, slowly: bool) -> None:
        with suppress(OSError):  # one side has closed both
            while part := source.recv(max(1, self.bytes_per_s // _PARTS_PER_S) if slowly else 65_536):
                if slowly:
                    time.sleep(len(part) / self.bytes_per_s)
                target.sendall(part)
        for end in (source, target):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()


@contextmanager
def slow_uplink(port: int, bytes_per_s: int) -> Iterator[SlowUplink]:
    """Give a slow way to a port of this machine, for a block."""
    way = SlowUplink(port, bytes_per_s)
    try:
        yield way
    finally:
        way.close()
