"""An origin that says how each datagram was marked, and a client that marks its own, for the end-to-end tests. Run as a program.

`serve ADDRESS PORT` answers every datagram with the TOS byte that it came with, as text, and marks the answer alike; `ask HOST PORT TOS…`
sends one datagram for each mark over one socket and prints, for each, what the origin said and how the answer was marked.
"""

import socket
import sys

PATIENCE_S = 1.0
TRIES = 10


def _open(host: str) -> socket.socket:
    """Return a socket that hears the mark of what it receives."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_DGRAM)
    if family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVTCLASS, 1)
    else:
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_RECVTOS, 1)
    return sock


def _mark(sock: socket.socket, tos: int) -> None:
    """Mark what the socket sends from here on."""
    if sock.family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_TCLASS, tos)
    else:
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, tos)


def _receive(sock: socket.socket) -> tuple[bytes, int, tuple[str, int]]:
    """Return the next datagram, its mark, and who sent it."""
    data, ancillary, _, source = sock.recvmsg(2_000, 100)
    marks = [value[0] for level, kind, value in ancillary if (level, kind) in
             ((socket.IPPROTO_IP, socket.IP_TOS), (socket.IPPROTO_IPV6, socket.IPV6_TCLASS))]  # fmt: skip
    return data, marks[0] if marks else 0, source


def serve(address: str, port: int) -> None:
    """Answer for ever."""
    sock = _open(address)
    sock.bind((address, port))
    while True:
        number, tos, source = _receive(sock)
        _mark(sock, tos)
        sock.sendto(number + b" %d" % tos, source)


def ask(host: str, port: int, marks: list[int]) -> None:
    """Print a line for each mark."""
    sock = _open(host)
    sock.connect((host, port))
    sock.settimeout(PATIENCE_S)
    for number, mark in enumerate(marks):
        _mark(sock, mark)
        for _ in range(TRIES):
            sock.send(b"%d" % number)
            try:
                answer, tos, _ = _receive(sock)
            except TimeoutError:
                continue
            which, heard = answer.split()
            # An answer to an earlier try of another mark says nothing.
            if int(which) == number:
                sys.stdout.write(f"{int(heard)} {tos}\n")
                break


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(sys.argv[2], int(sys.argv[3]))
    ask(sys.argv[2], int(sys.argv[3]), [int(word) for word in sys.argv[4:]])
