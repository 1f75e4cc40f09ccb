"""Origins on loopback, plain or with TLS, that say what they saw.

The daemon knocks at each of them now and then to see whether it is there: a connection that says nothing was never there.
"""

import contextlib
import hashlib
import queue
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tests.tls.authority import Pair

DEADLINE_S = 30.0
CHUNK = 65_536

Connection = socket.socket
Serve = Callable[[Connection, "Origin"], None]


class Origin:
    """A port, what serves each connection there, and what was seen."""

    def __init__(self, serve: Serve, pair: Pair | None, alpn: list[str]) -> None:
        self._serve = serve
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.seen: queue.Queue[object] = queue.Queue()
        self._context: ssl.SSLContext | None = None
        if pair is not None:
            self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self._context.load_cert_chain(pair.certificate, pair.key)
            if alpn:
                self._context.set_alpn_protocols(alpn)
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                connection.settimeout(DEADLINE_S)
                thread = threading.Thread(target=self._run, args=(connection,), daemon=True)
                self._threads.append(thread)
                thread.start()

    def _run(self, plain: socket.socket) -> None:
        with plain:
            try:
                if self._context is None:
                    self._serve(plain, self)
                    return
                with self._context.wrap_socket(
                    plain, server_side=True, suppress_ragged_eofs=False
                ) as connection:
                    self._serve(connection, self)
            except OSError as error:
                self.seen.put(error)

    def next(self) -> object:
        """Return what was seen next."""
        return self.seen.get(timeout=DEADLINE_S)

    def close(self) -> None:
        """End it."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join(DEADLINE_S)


@contextmanager
def origin(serve: Serve, pair: Pair | None = None, alpn: list[str] | None = None) -> Iterator[Origin]:
    """Run an origin."""
    subject = Origin(serve, pair, alpn or [])
    try:
        yield subject
    finally:
        subject.close()


def read_all(connection: Connection) -> bytes:
    """Return what comes until the end is said."""
    parts = []
    while part := connection.recv(CHUNK):
        parts.append(part)
    return b"".join(parts)


def echo(connection: Connection, _: Origin) -> None:
    """Send back what comes, and the end after it."""
    while data := connection.recv(CHUNK):
        connection.sendall(data)
    end(connection)


def answer_at_end(connection: Connection, subject: Origin) -> None:
    """Read to the end, then answer: what a client that has closed its half still wants to hear."""
    if received := read_all(connection):
        subject.seen.put(received)
        connection.sendall(b"answer to " + received)
        end(connection)


def speak_first(connection: Connection, subject: Origin) -> None:
    """Say something and that it is the end, then hear the rest."""
    with contextlib.suppress(OSError):
        connection.sendall(b"that was all")
        connection.shutdown(socket.SHUT_WR)
        if received := read_all(connection):
            subject.seen.put(received)


def greet(connection: Connection, _: Origin) -> None:
    """Answer the first byte, so that whoever hears it knows that the flow is there, and hear the rest."""
    if connection.recv(1):
        connection.sendall(b"hi")
        read_all(connection)


def checksums(connection: Connection, _: Origin) -> None:
    """Read `length` (8 bytes), that many bytes, answer their SHA-256 and send as many back, whose digest comes last."""
    length = int.from_bytes(connection.recv(8), "big")
    digest, left = hashlib.sha256(), length
    while left:
        data = connection.recv(min(CHUNK, left))
        digest.update(data)
        left -= len(data)
    if not length:
        return
    connection.sendall(digest.digest())
    block, back = bytes(range(256)) * 256, hashlib.sha256()
    for start in range(0, length, len(block)):
        part = block[: min(len(block), length - start)]
        back.update(part)
        connection.sendall(part)
    connection.sendall(back.digest())
    end(connection)


def end(connection: Connection) -> None:
    """Say that nothing more comes: in TLS with a word of its own."""
    if isinstance(connection, ssl.SSLSocket):
        with contextlib.suppress(ssl.SSLError, OSError):
            connection.unwrap()
    else:
        connection.shutdown(socket.SHUT_WR)
