"""The reference of datagrams: two ends with a tunnel between them, in front of a reflector."""

import socket
import threading
from pathlib import Path

import pytest

from l4proxy import _native
from l4proxy.bench.relay.tls_load import write_certificate


def test_datagrams_cross_the_tunnel_and_come_back_to_whom_they_belong(target: str, tmp_path: Path) -> None:
    write_certificate(tmp_path)
    egress = _native.BenchFloor("quic-egress", "127.0.0.1:0", target, tmp_path)
    ingress = _native.BenchFloor("quic-ingress", "127.0.0.1:0", egress.address, tmp_path)
    host, _, port = ingress.address.rpartition(":")
    reports = []
    ends = [
        threading.Thread(target=lambda end=end: reports.append(end.run(60.0)))  # type: ignore[misc]
        for end in (egress, ingress)
    ]
    for end in ends:
        end.start()
    try:
        clients = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(3)]
        for number, client in enumerate(clients):
            client.settimeout(0.5)
            client.connect((host, int(port)))
            message = bytes([number]) * 160
            for _ in range(20):  # what comes before the handshake is over is lost
                client.send(message)
                try:
                    answer = client.recv(2048)
                except TimeoutError:
                    continue
                assert answer == message
                break
            else:
                pytest.fail("nothing came back")
            client.close()
    finally:
        for floor in (ingress, egress):
            floor.stop()
        for end in ends:
            end.join(10)
    assert [report["flows"] for report in reports] == [3, 3]


def test_a_tunnel_needs_an_identity(tmp_path: Path) -> None:
    for floor in ("quic-ingress", "quic-egress"):
        with pytest.raises(ValueError, match="identity: a floor over QUIC needs one"):
            _native.BenchFloor(floor, "127.0.0.1:0", "127.0.0.1:9")
        with pytest.raises(ValueError, match="identity"):
            _native.BenchFloor(floor, "127.0.0.1:0", "127.0.0.1:9", tmp_path)
