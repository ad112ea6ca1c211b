"""A server that takes everything at once: reads a request, answers `{"status":"Ok"}`. Prints its port."""

from __future__ import annotations

import socketserver

ANSWER = b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 15\r\n\r\n{"status":"Ok"}'


class Sink(socketserver.StreamRequestHandler):
    """One connection, as long as the client keeps it."""

    disable_nagle_algorithm = True

    def handle(self) -> None:
        """Answer request after request."""
        while self.rfile.readline():
            length = 0
            while (line := self.rfile.readline().strip()) != b"":
                name, _, value = line.partition(b":")
                if name.lower() == b"content-length":
                    length = int(value)
            self.rfile.read(length)
            self.wfile.write(ANSWER)


class Server(socketserver.ThreadingTCPServer):
    """A thread for each connection."""

    daemon_threads = True


if __name__ == "__main__":
    with Server(("127.0.0.1", 0), Sink) as server:
        print(server.server_address[1], flush=True)
        server.serve_forever()
