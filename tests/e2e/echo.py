"""A TCP and UDP echo origin for the end-to-end tests, and clients that count what they lose. Run as a program inside a namespace."""

import argparse
import contextlib
import json
import select
import socket
import struct
import sys
import threading
import time

RECORD = struct.Struct("!QQ")


def serve(address: str, port: int) -> None:
    """Echo every TCP byte and every datagram that comes to address:port, for ever."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    listener = socket.create_server((address, port), family=family)
    datagrams = socket.socket(family, socket.SOCK_DGRAM)
    datagrams.bind((address, port))

    def echo_datagrams() -> None:
        while True:
            data, source = datagrams.recvfrom(65_535)
            with contextlib.suppress(OSError):
                datagrams.sendto(data, source)

    def echo_stream(connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            while data := connection.recv(65_536):
                connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)

    threading.Thread(target=echo_datagrams, daemon=True).start()
    while True:
        connection, _ = listener.accept()
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        threading.Thread(target=echo_stream, args=(connection,), daemon=True).start()


def message_stream(host: str, port: int, seconds: float, rate: float) -> dict[str, object]:
    """Send numbered messages over one TCP connection at a steady rate; return what came back, in what order, with which gaps."""
    connection = socket.create_connection((host, port), timeout=10)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.setblocking(False)
    sent = received = 0
    longest_gap = 0.0
    out = back = b""
    reset = ""
    start = last = time.monotonic()
    while time.monotonic() < start + seconds + 10:
        now = time.monotonic()
        if now < start + seconds and now >= start + sent / rate:
            out += RECORD.pack(sent, int(now * 1e9))
            sent += 1
        if now >= start + seconds and received == sent:
            break
        readable, _, _ = select.select([connection], [], [], min(0.005, 1 / rate))
        try:
            if out:
                with contextlib.suppress(BlockingIOError):
                    out = out[connection.send(out) :]
            if readable:
                data = connection.recv(65_536)
                if not data:
                    reset = "closed"
                    break
                back += data
        except OSError as error:
            reset = str(error)
            break
        while len(back) >= RECORD.size:
            number, _ = RECORD.unpack_from(back)
            back = back[RECORD.size :]
            if number != received:
                return {"error": f"message {number} came when {received} was due"}
            received += 1
            longest_gap = max(longest_gap, time.monotonic() - last)
            last = time.monotonic()
    return {"sent": sent, "received": received, "reset": reset, "longest_gap_ms": round(longest_gap * 1e3, 1)}


def datagram_stream(host: str, port: int, seconds: float, rate: float) -> dict[str, object]:
    """Send numbered datagrams from one socket at a steady rate; return how many came back and the longest silence."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    client = socket.socket(family, socket.SOCK_DGRAM)
    client.connect((host, port))
    client.setblocking(False)
    sent = 0
    seen: set[int] = set()
    longest_gap = 0.0
    errors = 0
    start = last = time.monotonic()
    while (now := time.monotonic()) < start + seconds + 1:
        try:
            if now < start + seconds and now >= start + sent / rate:
                sent += 1
                client.send(RECORD.pack(sent - 1, int(now * 1e9)))
            readable, _, _ = select.select([client], [], [], min(0.005, 1 / rate))
            if readable:
                number, _ = RECORD.unpack(client.recv(65_535))
                seen.add(number)
                longest_gap = max(longest_gap, time.monotonic() - last)
                last = time.monotonic()
        except OSError:
            errors += 1
    return {
        "sent": sent,
        "received": len(seen),
        "errors": errors,
        "longest_gap_ms": round(longest_gap * 1e3, 1),
    }


def main() -> None:
    """Parse the command line; clients print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["serve", "tcp", "udp"])
    parser.add_argument("host")
    parser.add_argument("port", type=int)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--rate", type=float, default=50.0)
    args = parser.parse_args()
    if args.what == "serve":
        serve(args.host, args.port)
    stream = message_stream if args.what == "tcp" else datagram_stream
    json.dump(stream(args.host, args.port, args.seconds, args.rate), sys.stdout)


if __name__ == "__main__":
    main()
