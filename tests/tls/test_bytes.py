"""What goes through a session: all of it, both ends of it, and no end that nobody has said."""

import contextlib
import hashlib
import select
import socket
import ssl
import struct
import time

import pytest

from tests.edge import client, port_of
from tests.tls.conftest import World
from tests.tls.origins import CHUNK, DEADLINE_S, read_all

VERSIONS = [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]

BULK = 50_000_000


@pytest.mark.parametrize("app", ["sums", "plain-sums"])
def test_fifty_megabytes_each_way_come_whole(world: World, app: str) -> None:
    block = bytes(range(251)) * 1_000
    sent, left = hashlib.sha256(), BULK
    with world.edge.connect(app, client()) as connection:
        connection.sendall(BULK.to_bytes(8, "big"))
        while left:
            part = block[:left]
            connection.sendall(part)
            sent.update(part)
            left -= len(part)
        received = _exactly(connection, 32)
        assert received == sent.digest()
        digest, left = hashlib.sha256(), BULK
        while left:
            part = connection.recv(min(CHUNK, left))
            assert part
            digest.update(part)
            left -= len(part)
        assert _exactly(connection, 32) == digest.digest()


def _exactly(connection: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        part = connection.recv(count - len(data))
        assert part, "the connection ended"
        data += part
    return data


def test_a_slow_reader_gets_everything_and_slows_the_sender_down(world: World) -> None:
    """An echo of which nothing is read until every buffer on the way is full and nothing more can be sent.

    In one thread: a session of OpenSSL is not for two at once.
    """
    data = bytes(range(256)) * 250_000
    plain = world.edge.dial("flexible")
    with client().wrap_socket(plain, server_hostname="first.test", suppress_ragged_eofs=False) as connection:
        connection.setblocking(False)
        sent = _send_until_full(connection, data)
        assert sent < len(data), "64 MB fit into no buffers"
        received = bytearray()
        until = time.monotonic() + DEADLINE_S
        while len(received) < len(data):
            assert time.monotonic() < until, f"{len(received)} of {len(data)} came"
            select.select([connection], [connection] if sent < len(data) else [], [], 1)
            with contextlib.suppress(ssl.SSLWantReadError):
                received.extend(connection.recv(10_000))
            with contextlib.suppress(ssl.SSLWantReadError, ssl.SSLWantWriteError):
                # What could not be sent is tried again with the very same bytes, as OpenSSL demands.
                sent += connection.send(data[sent : sent + CHUNK])
    assert bytes(received) == data


def _send_until_full(connection: ssl.SSLSocket, data: bytes) -> int:
    """Send until nothing has been taken for a second; return how many bytes were."""
    sent, quiet_since = 0, time.monotonic()
    while sent < len(data) and time.monotonic() < quiet_since + 1:
        try:
            sent += connection.send(data[sent : sent + CHUNK])
            quiet_since = time.monotonic()
        except ssl.SSLWantWriteError:
            select.select([], [connection], [], 0.1)
    return sent


class Half:
    """A client whose half of a session ends before the other: Python's sockets cannot, its objects can."""

    def __init__(self, plain: socket.socket, version: ssl.TLSVersion) -> None:
        self.plain = plain
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.session = client(version=version).wrap_bio(self._in, self._out, server_hostname="first.test")
        self._go_on(self.session.do_handshake)

    def _go_on(self, act: object) -> object:
        assert callable(act)
        while True:
            try:
                result = act()
            except ssl.SSLWantReadError:
                self._flush()
                self._in.write(self.plain.recv(CHUNK))
            else:
                self._flush()
                return result

    def _flush(self) -> None:
        if data := self._out.read():
            self.plain.sendall(data)

    def send_and_end(self, data: bytes) -> None:
        """Send, and say that nothing more comes."""
        self.session.write(data)
        with contextlib.suppress(ssl.SSLWantReadError):
            self.session.unwrap()
        self._flush()

    def read_raw(self) -> bytes:
        """Return the bytes below TLS until the connection ends."""
        return read_all(self.plain)


@pytest.mark.parametrize("version", VERSIONS)
def test_a_client_that_has_ended_its_half_still_gets_its_answer(
    world: World, version: ssl.TLSVersion
) -> None:
    with world.edge.dial("late") as plain:
        port = port_of(plain)
        half = Half(plain, version)
        half.send_and_end(b"question")
        assert world.origins["late"].next() == b"question"
        records = half.read_raw()
    # What remains of the session is the answer, and the word that it is the end.
    assert len(records) > len(b"answer to question")
    assert world.edge.record("late", port)["reason"] == "finished"


@pytest.mark.parametrize("version", VERSIONS)
def test_the_end_of_the_origin_is_said_and_the_client_goes_on(world: World, version: ssl.TLSVersion) -> None:
    with world.edge.connect("first", client(version=version)) as connection:
        port = port_of(connection)
        # An end that nobody has said would be an error here (suppress_ragged_eofs).
        assert read_all(connection) == b"that was all"
        connection.sendall(b"and this")
        with contextlib.suppress(ssl.SSLError, OSError):
            connection.unwrap()
    assert world.origins["first"].next() == b"and this"
    assert world.edge.record("first", port)["reason"] == "finished"


@pytest.mark.parametrize("version", VERSIONS)
def test_bytes_that_were_cut_off_are_no_end(world: World, version: ssl.TLSVersion) -> None:
    """A FIN without close_notify: whoever is between may have sent it, so the origin is told that it broke."""
    connection = world.edge.connect("late", client(version=version))
    port = port_of(connection)
    connection.sendall(b"half a ques")
    plain = socket.socket(fileno=connection.detach())
    with plain:
        plain.shutdown(socket.SHUT_WR)
        seen = world.origins["late"].next()
    assert isinstance(seen, ConnectionResetError), seen
    record = world.edge.record("late", port)
    assert (record["code"], record["reason"], record["closed_by"]) == (490, "tls_truncated", "client")


def test_what_somebody_else_has_put_in_between_is_not_passed_on(world: World) -> None:
    connection = world.edge.connect("late", client())
    port = port_of(connection)
    plain = socket.socket(fileno=connection.detach())
    with plain:
        plain.sendall(b"\x17\x03\x03\x00\x20" + bytes(32))
        assert isinstance(world.origins["late"].next(), ConnectionResetError)
        with contextlib.suppress(ConnectionResetError):
            read_all(plain)
    record = world.edge.record("late", port)
    assert (record["code"], record["reason"]) == (490, "tls_broken")


def test_a_reset_of_the_client_reaches_the_origin(world: World) -> None:
    connection = world.edge.connect("greets", client())
    port = port_of(connection)
    # A client that is gone before the origin is dialled is none of the origin's business.
    connection.sendall(b"x")
    assert connection.recv(2) == b"hi"
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    socket.socket(fileno=connection.detach()).close()
    assert isinstance(world.origins["greets"].next(), ConnectionResetError)
    assert world.edge.record("greets", port)["reason"] == "reset"
