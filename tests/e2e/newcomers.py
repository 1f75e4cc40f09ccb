"""Clients that come one after the other, for the end-to-end tests: each asks an echo origin once, over TCP and over UDP, and waits.

No datagram is sent a second time and no connection is tried again, so whatever is lost shows. Run as a program inside a namespace:
`HOST TCP-PORT UDP-PORT SECONDS`; prints one JSON object.
"""

import json
import socket
import sys
import threading
import time

EVERY_S = 0.2
PATIENCE_S = 6.0


class Newcomers:
    """What became of all of them."""

    def __init__(self, host: str) -> None:
        self.host = host
        self.answered = {"tcp": 0, "udp": 0}
        self.slowest_ms = {"tcp": 0.0, "udp": 0.0}
        self.failures: list[str] = []
        self.lock = threading.Lock()
        self.start = time.monotonic()

    def ask(self, protocol: str, port: int) -> None:
        """Come once."""
        came = time.monotonic()
        try:
            answer = self._exchange(protocol, port)
            failure = "" if answer == b"hello" else f"answered {answer!r}"
        except OSError as error:
            failure = repr(error)
        took_ms = (time.monotonic() - came) * 1e3
        with self.lock:
            self.slowest_ms[protocol] = max(self.slowest_ms[protocol], round(took_ms, 1))
            if failure:
                self.failures.append(f"{protocol} at {came - self.start:.1f} s, {took_ms:.0f} ms: {failure}")
            else:
                self.answered[protocol] += 1

    def _exchange(self, protocol: str, port: int) -> bytes:
        if protocol == "tcp":
            with socket.create_connection((self.host, port), timeout=PATIENCE_S) as connection:
                connection.sendall(b"hello")
                return connection.recv(100)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams:
            datagrams.settimeout(PATIENCE_S)
            datagrams.connect((self.host, port))
            datagrams.send(b"hello")
            return datagrams.recv(100)


def main() -> None:
    """Let them come."""
    ports = {"tcp": int(sys.argv[2]), "udp": int(sys.argv[3])}
    found, seconds, threads = Newcomers(sys.argv[1]), float(sys.argv[4]), []
    for number in range(int(seconds / EVERY_S)):
        time.sleep(max(0.0, found.start + number * EVERY_S - time.monotonic()))
        for protocol, port in ports.items():
            threads.append(threading.Thread(target=found.ask, args=(protocol, port)))
            threads[-1].start()
    for thread in threads:
        thread.join()
    answer = {"answered": found.answered, "slowest_ms": found.slowest_ms, "failures": found.failures}
    json.dump(answer, sys.stdout)


if __name__ == "__main__":
    main()
