"""Ports of loopback for servers that are started later. Not a reservation against other programs: it only makes a clash unlikely."""

import secrets
import socket
from pathlib import Path

from l4proxy.lab.network import LabError

LOWEST = 10_000
RANGE_FILE = Path("/proc/sys/net/ipv4/ip_local_port_range")
_given: set[int] = set()


def free_port() -> int:
    """Return a port that nothing uses on 127.0.0.1, for TCP and UDP, and that this process was not given before. LabError if none is.

    It lies below the range that the kernel takes the ports of connections from, as far as there is room: a port of that range may be
    taken by a connection before the server that it is meant for listens.
    """
    lowest_of_connections = int(RANGE_FILE.read_text().split()[0])
    below = [port for port in range(LOWEST, lowest_of_connections) if port not in _given]
    above = [port for port in range(max(LOWEST, lowest_of_connections), 65_536) if port not in _given]
    start = secrets.randbelow(len(below)) if below else 0
    for port in (*below[start:], *below[:start], *above):
        if _is_free(port):
            _given.add(port)
            return port
    raise LabError("no port of 127.0.0.1 is free for TCP and UDP: end what listens there")


def _is_free(port: int) -> bool:
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        with socket.socket(socket.AF_INET, kind) as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                return False
    return True
