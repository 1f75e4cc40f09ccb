"""Downloads as a client and an origin do them, with a congestion control that is said: plain blocking sockets, checked bytes.

    python -m l4proxy.bench.overlay.download serve PORT
    python -m l4proxy.bench.overlay.download fetch HOST PORT BYTES CONTROL

The origin has a port for each of `CONTROLS`, from PORT upwards; what it accepts there sends with that control. A time begins before
the connect and ends with the last byte, so handshakes count.
"""

import argparse
import json
import socket
import sys
import threading
import time
from contextlib import suppress
from random import Random

CONTROLS = ("cubic", "bbr")
BLOCK = Random(1).randbytes(1 << 16)  # noqa: S311 - not a secret: so that a byte out of place shows
TIMEOUT_S = 60.0


def listener(port: int, control: str) -> socket.socket:
    """Return a listener whose connections have this congestion control."""
    found = socket.create_server(("", port), backlog=64)
    found.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, control.encode())
    return found


def serve(port: int) -> None:
    """Answer for ever, on a port for each control."""

    def accept(control: str, at: socket.socket) -> None:
        while True:
            connection, _ = at.accept()
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, control.encode())
            threading.Thread(target=answer, args=(connection,), daemon=True).start()

    threads = [
        threading.Thread(target=accept, args=(control, listener(port + index, control)))
        for index, control in enumerate(CONTROLS)
    ]
    for thread in threads:
        thread.start()
    sys.stdout.write("ready\n")
    sys.stdout.flush()


def answer(connection: socket.socket) -> None:
    """Send as many bytes as the client asks for with eight."""
    with connection, suppress(OSError):
        asked = connection.recv(8, socket.MSG_WAITALL)
        left = int.from_bytes(asked) if len(asked) == 8 else 0
        while left > 0:
            connection.sendall(BLOCK[:left])
            left -= len(BLOCK)
        connection.shutdown(socket.SHUT_WR)
        connection.recv(1)


def fetch(host: str, port: int, size: int, control: str) -> dict[str, float]:
    """Return how long a download took. ValueError when a byte is wrong or missing."""
    received = 0
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, control.encode())
        connection.settimeout(TIMEOUT_S)
        began = time.monotonic()
        connection.connect((host, port))
        first = time.monotonic()
        connection.sendall(size.to_bytes(8))
        pieces = []
        while received < size and (piece := connection.recv(1 << 18)):
            pieces.append(piece)
            received += len(piece)
        took = time.monotonic() - began
    if received != size:
        raise ValueError(f"{received} of {size} bytes came")
    if not is_right(b"".join(pieces)):
        raise ValueError("wrong bytes")
    return {"s": took, "connect_s": first - began, "mbit_s": size * 8 / took / 1e6}


def is_right(content: bytes) -> bool:
    """Whether it is what `answer` sends: the block again and again."""
    return all(
        content[at : at + len(BLOCK)] == BLOCK[: len(content) - at]
        for at in range(0, len(content), len(BLOCK))
    )


def main() -> None:
    """Be one of the two."""
    parser = argparse.ArgumentParser(prog="l4proxy.bench.overlay.download")
    commands = parser.add_subparsers(dest="command", required=True)
    origin = commands.add_parser("serve")
    client = commands.add_parser("fetch")
    client.add_argument("host")
    for one in (origin, client):
        one.add_argument("port", type=int)
    client.add_argument("bytes", type=int)
    client.add_argument("control", choices=CONTROLS)
    given = parser.parse_args()
    if given.command == "serve":
        serve(given.port)
    else:
        sys.stdout.write(json.dumps(fetch(given.host, given.port, given.bytes, given.control)) + "\n")


if __name__ == "__main__":
    main()
