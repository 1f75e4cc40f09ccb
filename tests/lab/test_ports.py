"""Ports for servers of the lab, benchmarks and tests: distinct, free for both protocols, outside the range of connections."""

import socket
from pathlib import Path

import pytest

from l4proxy.lab import ports
from l4proxy.lab.network import LabError
from l4proxy.lab.ports import free_port


def test_a_port_is_given_once_and_is_free_for_tcp_and_udp() -> None:
    given = [free_port() for _ in range(200)]
    assert len(set(given)) == len(given)
    for port in given:
        for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
            with socket.socket(socket.AF_INET, kind) as server:
                server.bind(("127.0.0.1", port))


def test_connections_take_no_such_port_while_there_is_room_below_theirs() -> None:
    lowest_of_connections = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    if lowest_of_connections <= ports.LOWEST:
        pytest.skip("this machine takes the ports of connections from 10000 or below")
    assert ports.LOWEST <= free_port() < lowest_of_connections


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
def test_a_port_in_use_is_passed_over(
    kind: socket.SocketKind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = free_port()
    with socket.socket(socket.AF_INET, kind) as server:
        server.bind(("127.0.0.1", taken))
        only(range(taken, taken + 1), tmp_path, monkeypatch)
        assert free_port() > taken


def test_none_left_is_an_error_that_names_the_fix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    only(range(65_535, 65_536), tmp_path, monkeypatch)
    monkeypatch.setattr(ports, "_given", {65_535})
    with pytest.raises(LabError, match="end what listens there"):
        free_port()


def only(below: range, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave only these ports below the range of connections, and none of them given."""
    file = folder / "range"
    file.write_text(f"{below.stop}\t65535\n")
    monkeypatch.setattr(ports, "RANGE_FILE", file)
    monkeypatch.setattr(ports, "LOWEST", below.start)
    monkeypatch.setattr(ports, "_given", set())
