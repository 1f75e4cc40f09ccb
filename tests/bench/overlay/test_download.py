"""The client and origin of downloads: the control that is asked for, and every byte."""

import socket
import threading

import pytest

from l4proxy.bench.overlay import download


@pytest.fixture
def port() -> int:
    at = download.listener(0, "cubic")

    def serve() -> None:
        with at:
            for _ in range(2):
                download.answer(at.accept()[0])

    threading.Thread(target=serve, daemon=True).start()
    found: int = at.getsockname()[1]
    return found


def test_what_is_asked_for_comes_whole(port: int) -> None:
    size = 3 * len(download.BLOCK) + 17
    figures = download.fetch("127.0.0.1", port, size, "cubic")
    assert figures["s"] >= figures["connect_s"] > 0
    assert figures["mbit_s"] == pytest.approx(size * 8 / figures["s"] / 1e6)


def test_connections_have_the_control_that_is_said(port: int) -> None:
    with download.listener(0, "reno") as at, socket.create_connection(at.getsockname()) as client:
        accepted, _ = at.accept()
        with accepted:
            control = accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16)
            assert control.startswith(b"reno")
        assert client
    assert download.fetch("127.0.0.1", port, 100, "reno")["s"] > 0


def test_a_wrong_or_missing_byte_is_seen(port: int) -> None:
    right = download.BLOCK * 2 + download.BLOCK[:5]
    assert download.is_right(right)
    assert not download.is_right(right[:70_000] + b"?" + right[70_001:])
    assert not download.is_right(right[1:])
    with socket.create_connection(("127.0.0.1", port)) as early:
        early.shutdown(socket.SHUT_WR)
        assert early.recv(1) == b"", "who asks for nothing gets nothing"
