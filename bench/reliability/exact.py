"""Gigabytes through many flows at once, with receivers that stall and ends that are cut: byte-exact or reset, nothing in between.

Each flow has one conversation after the other: one end sends a pattern that depends on position and seed, the other compares every byte.
A cut is a reset by either end at a random place. A receiver that sees an orderly end before the last byte has been lied to.
"""

import contextlib
import os
import random
import socket
import struct
import threading
import time
from dataclasses import dataclass, field

from harness import app, free_port, many_descriptors, parser, pop, report

HEAD = struct.Struct("!BQQQ")
"""Who sends (1: the client), seed, length of the conversation, where the client-side sender or receiver will cut (length: nowhere)."""

PERIOD = 1_048_573
"""Of the pattern: a prime, so that no buffer's size hides bytes that were left out or came twice."""

CHUNK = 256 * 1024
STALL = 0.005
"""Share of reads after which a receiver sleeps, up to STALL_S."""

STALL_S = 0.25
PATTERN = os.urandom(PERIOD) * 2
NEVER_S = 120.0


@dataclass
class Tally:
    """What came of the conversations."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    exact: int = 0
    reset: int = 0
    wrong: int = 0
    short: int = 0
    stuck: int = 0
    bytes: int = 0

    def add(self, what: str, count: int = 1) -> None:
        """Count something."""
        with self.lock:
            setattr(self, what, getattr(self, what) + count)


def at(seed: int, place: int, length: int) -> bytes:
    """Return bytes of a pattern; `length` is at most PERIOD."""
    start = (seed + place) % PERIOD
    return PATTERN[start : start + length]


def cut(connection: socket.socket) -> None:
    """Close with a reset."""
    with contextlib.suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def send(connection: socket.socket, seed: int, length: int, until: int) -> bool:
    """Send a pattern and hear that all of it came; False: it was cut, here or there. TimeoutError when nothing moves."""
    place = 0
    try:
        while place < min(length, until):
            place += connection.send(at(seed, place, min(CHUNK, min(length, until) - place)))
        if until < length:
            cut(connection)
            return False
        connection.shutdown(socket.SHUT_WR)
        return connection.recv(1) == b"k"
    except TimeoutError:
        raise
    except OSError:
        return False


def receive(
    connection: socket.socket, seed: int, length: int, until: int, dice: random.Random, tally: Tally
) -> str:
    """Compare what comes with the pattern; return what came of it."""
    place = 0
    try:
        while place < until:
            data = connection.recv(min(CHUNK, until - place))
            if not data:
                return "short"
            if data != at(seed, place, len(data)):
                return "wrong"
            place += len(data)
            tally.add("bytes", len(data))
            if dice.random() < STALL:
                time.sleep(dice.random() * STALL_S)
        if until < length:
            cut(connection)
            return "reset"
        if connection.recv(1) != b"":
            return "wrong"
        connection.sendall(b"k")
    except TimeoutError:
        return "stuck"
    except OSError:
        return "reset"
    return "exact"


class Origin:
    """Takes either part of each conversation, as its head says."""

    def __init__(self, tally: Tally) -> None:
        self._tally = tally
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            connection, _ = self._listener.accept()
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        connection.settimeout(NEVER_S)
        with connection:
            try:
                head = b""
                while len(head) < HEAD.size:
                    piece = connection.recv(HEAD.size - len(head))
                    if not piece:
                        return
                    head += piece
            except OSError:
                return
            from_client, seed, length, until = HEAD.unpack(head)
            if from_client:
                dice = random.Random(seed)
                self._tally.add(receive(connection, seed, length, until, dice, self._tally))
            else:
                try:
                    send(connection, seed, length, until)
                except TimeoutError:
                    self._tally.add("stuck")


def converse(port: int, dice: random.Random, size: int, cuts: float, tally: Tally) -> None:
    """Have one conversation as the client."""
    from_client, seed = dice.random() < 0.5, dice.randrange(1 << 32)
    length = dice.randint(1, 2 * size)
    here, there = length, length
    if dice.random() < cuts:
        if dice.random() < 0.5:
            here = dice.randrange(length)
        else:
            there = dice.randrange(length)
    with socket.create_connection(("127.0.0.1", port), timeout=NEVER_S) as client:
        client.sendall(HEAD.pack(from_client, seed, length, there))
        if from_client:
            try:
                send(client, seed, length, here)
            except TimeoutError:
                tally.add("stuck")
        else:
            tally.add(receive(client, seed, length, here, dice, tally))


def main() -> int:
    """Run it; exit code 1 when a bound does not hold."""
    options = parser(__doc__)
    options.add_argument("--flows", type=int, default=50)
    options.add_argument("--megabytes", type=int, default=10_000)
    options.add_argument(
        "--conversation-megabytes", type=float, default=16.0, help="mean of one conversation"
    )
    options.add_argument(
        "--cuts", type=float, default=0.2, help="share of the conversations that an end cuts"
    )
    options.add_argument("--seconds", type=float, default=900.0, help="no new conversations after this long")
    args = options.parse_args()
    many_descriptors()
    tally = Tally()
    origin, port = Origin(tally), free_port()
    size = round(args.conversation_megabytes * 1e6)
    with pop(app("exact", f"tcp/127.0.0.1:{port}", origin.port)) as found:
        began = time.monotonic()

        def flow(number: int) -> None:
            dice = random.Random(number)
            while tally.bytes < args.megabytes * 1e6 and time.monotonic() < began + args.seconds:
                converse(port, dice, size, args.cuts, tally)

        threads = [threading.Thread(target=flow, args=(number,), daemon=True) for number in range(args.flows)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        took_s = time.monotonic() - began
        drops = found.drops()
    figures = {
        "flows": args.flows,
        "gigabytes_compared": round(tally.bytes / 1e9, 3),
        "seconds": round(took_s, 1),
        "conversations_exact": tally.exact,
        "conversations_reset": tally.reset,
        "bytes_wrong": tally.wrong,
        "ended_early_without_a_reset": tally.short,
        "stuck": tally.stuck,
        "refused": sum(count for reason, count in drops.items() if reason in ("fd_limit", "tcp_flows_full")),
    }
    bounds = [
        ("every conversation byte-exact or reset", tally.wrong == tally.short == tally.stuck == 0),
        ("all of it was carried", tally.bytes >= args.megabytes * 1e6 and tally.exact > 0),
    ]
    return report(args, f"{tally.bytes / 1e9:.0f} GB with stalls and cuts", figures, bounds)


if __name__ == "__main__":
    raise SystemExit(main())
