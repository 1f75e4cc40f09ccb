"""The loads over TLS, against a server of Python's with the certificate that they come with."""

import os
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from l4proxy.bench.relay import tls_load


def serve(connection: ssl.SSLSocket) -> None:
    """Do what a reflector does: echo, swallow and tell how much it was, or send."""
    header = connection.recv(16)
    if header == tls_load.SOURCE:
        while True:
            connection.sendall(bytes(65_536))
    swallowed, tail = 0, b""
    while header == tls_load.SINK:
        part = connection.recv(65_536)
        swallowed, tail = swallowed + len(part), (tail + part)[-16:]
        if tail[:8] == tls_load.TRAILER:
            connection.sendall((swallowed - 16).to_bytes(8, "big"))
            return
    while header:
        connection.sendall(header)
        header = connection.recv(65_536)


@pytest.fixture
def target(tmp_path: Path) -> Iterator[str]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tls_load.write_certificate(tmp_path))
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def accept() -> None:
            while True:
                try:
                    plain, _ = listener.accept()
                except OSError:
                    return
                try:
                    with context.wrap_socket(plain, server_side=True) as connection:
                        serve(connection)
                except OSError:
                    # The client has what it wanted.
                    plain.close()

        thread = threading.Thread(target=accept)
        thread.start()
        yield f"127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)
    thread.join()


def test_connections_are_counted_at_full_handshakes(target: str) -> None:
    figures = tls_load.tls_connect(target, [os.getpid()], seconds=0.2)
    assert figures["cpu"] > 0
    assert figures["per_second_a_core"] == pytest.approx(1e6 / figures["cpu"])


@pytest.mark.parametrize("reverse", [False, True])
def test_bulk_is_counted_where_it_arrives(target: str, reverse: bool) -> None:
    figures = tls_load.tls_bulk(target, [os.getpid()], seconds=0.2, reverse=reverse)
    assert figures["cpu"] > 0
    assert figures["gb_s"] > 0


def test_keys_are_for_their_owner(tmp_path: Path) -> None:
    both = tls_load.write_certificate(tmp_path)
    assert both.stat().st_mode & 0o077 == 0
    assert (tmp_path / "key.pem").stat().st_mode & 0o077 == 0
