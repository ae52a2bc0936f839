"""A feed server that does whatever a case says: raw bytes on a socket, or the honest feed of a real primary."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator

Answer = Callable[[str], Iterator[bytes]]
"""What is sent for a request's path, piece by piece; the connection closes at the end."""

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/vnd.ledger-feed+msgpack\r\n"
STREAM = HEAD + b"Connection: close\r\n\r\n"  # the body ends with the connection


class HostileFeed:
    """Serves ``/{case}/feed/…`` by the answer of that case; ``upstream`` is the port of the honest primary."""

    def __init__(self, upstream: int) -> None:
        self.cases: dict[str, Answer] = {}
        self.asked: dict[str, int] = {}
        self.closing = threading.Event()
        self._upstream = upstream
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def url(self, case: str) -> str:
        return f"http://127.0.0.1:{self.port}/{case}"

    def close(self) -> None:
        """No more connections, and the ones that wait end."""
        self.closing.set()
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            head = b""
            while b"\r\n\r\n" not in head:
                piece = connection.recv(65536)
                if not piece:
                    return
                head += piece
            method, target, rest = head.split(b" ", 2)
            case, _, path = target.decode().removeprefix("/").partition("/")
            self.asked[case] = self.asked.get(case, 0) + 1
            answer = self.cases.get(case)
            if answer is None:
                self._relay(connection, method + b" /" + path.encode() + b" " + rest)
                return
            for piece in answer("/" + path):
                connection.sendall(piece)

    def _relay(self, connection: socket.socket, request: bytes) -> None:
        """Be the honest primary, for as long as either end stays; one request a connection, for paths differ there."""
        request = request.replace(b"onnection: keep-alive", b"onnection: close", 1)
        with socket.create_connection(("127.0.0.1", self._upstream)) as upstream:
            upstream.sendall(request)
            back = threading.Thread(target=_copy, args=(connection, upstream), daemon=True)
            back.start()
            _copy(upstream, connection)


def _copy(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while piece := source.recv(1 << 16):
            target.sendall(piece)
    for end in (source, target):
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
