"""A UDP ping for the tests: `probe ADDRESS COUNT INTERVAL_S` prints received RTTs in ms as JSON; `echo` answers on port 9."""

import contextlib
import json
import socket
import sys
import time


def _family(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def echo(address: str) -> None:
    with socket.socket(_family(address), socket.SOCK_DGRAM) as endpoint:
        endpoint.bind((address, 9))
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        while True:
            payload, sender = endpoint.recvfrom(2048)
            endpoint.sendto(payload, sender)


def probe(address: str, count: int, interval_s: float) -> list[float]:
    rtts = []
    with socket.socket(_family(address), socket.SOCK_DGRAM) as endpoint:
        endpoint.connect((address, 9))
        started, sent, last = time.monotonic(), 0, time.monotonic() + count * interval_s + 1.0
        while (now := time.monotonic()) < last and len(rtts) < count:
            due = started + sent * interval_s
            if sent < count and now >= due:
                with contextlib.suppress(ConnectionRefusedError):
                    endpoint.send(repr(now).encode())
                sent += 1
                continue
            endpoint.settimeout(max(0.0005, min(last, due if sent < count else last) - now))
            try:
                payload = endpoint.recv(2048)
            except (TimeoutError, ConnectionRefusedError):  # refused: the echo is not there yet
                continue
            rtts.append((time.monotonic() - float(payload)) * 1000)
    return rtts


if __name__ == "__main__":
    if sys.argv[1] == "echo":
        echo(sys.argv[2])
    else:
        sys.stdout.write(json.dumps(probe(sys.argv[2], int(sys.argv[3]), float(sys.argv[4]))))
