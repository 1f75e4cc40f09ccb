"""A flood of forged sources against a UDP app whose origin answers everything: no player notices, and memory stays within bounds.

Two namespaces: one has the PoP, the origin and the players; from the other a million sources that do not exist send one datagram
each. Needs root.
"""

import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from harness import app, free_port, many_descriptors, parser, pop, report

POP, NET = f"l4pop-{os.getpid()}", f"l4net-{os.getpid()}"
INSIDE = "L4PROXY_FLOOD_NAMESPACE"
OURS, THEIRS = "10.77.0.1", "10.77.0.2"
PLAYERS, SENDS_PER_SECOND = 200, 10
ASSURING_S = 1.2
MAX_ADDED_MB, MIN_DELIVERED, MAX_SERVED_S = 64.0, 0.999, 1.0
MAX_NEW = 16_384
"""The engine's cap of sessions that have proved nothing (docs/engine-protocol.md)."""
SO_RCVBUFFORCE = 33
"""From the kernel's headers; the socket module does not have it."""
BUFFER = 8 << 20


def ip(*words: str) -> None:
    """Run `ip`."""
    subprocess.run(["ip", *words], check=True)


def in_namespaces() -> int:
    """Make the namespaces, run this program again inside, take them away."""
    try:
        for name in (POP, NET):
            ip("netns", "add", name)
            ip("-n", name, "link", "set", "lo", "up")
        ip("link", "add", "flood", "netns", POP, "type", "veth", "peer", "name", "flood", "netns", NET)
        for name, address in ((POP, OURS), (NET, THEIRS)):
            ip("-n", name, "address", "add", f"{address}/24", "dev", "flood")
            ip("-n", name, "link", "set", "flood", "up")
        # Answers to sources that do not exist go out, as they would, and end there.
        ip("-n", POP, "route", "add", "default", "via", THEIRS)
        environment = {**os.environ, INSIDE: NET}
        command = ["ip", "netns", "exec", POP, sys.executable, *sys.argv]
        return subprocess.run(command, env=environment, check=False).returncode
    finally:
        for name in (POP, NET):
            subprocess.run(["ip", "netns", "delete", name], check=False)


def answer_everything(origin: socket.socket) -> None:
    """Echo for ever."""
    while True:
        data, source = origin.recvfrom(2_048)
        try:
            origin.sendto(data, source)
        except OSError:
            continue


class Players:
    """Clients that send ten times a second and count what comes back."""

    def __init__(self, port: int) -> None:
        self._place = (OURS, port)
        self._sockets = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(PLAYERS)]
        for player in self._sockets:
            player.setblocking(False)
        self.sent = self.answered = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._play, daemon=True)
        self._thread.start()

    def _play(self) -> None:
        at = time.monotonic()
        while not self._stop.is_set():
            for player in self._sockets:
                player.sendto(b"move", self._place)
                self.sent += 1
            at += 1 / SENDS_PER_SECOND
            time.sleep(max(0.0, at - time.monotonic()))
            self._collect()
        time.sleep(1)
        self._collect()

    def _collect(self) -> None:
        for player in self._sockets:
            try:
                while player.recv(64):
                    self.answered += 1
            except BlockingIOError:
                continue

    def end(self) -> float:
        """Stop, and return the share that was answered."""
        self._stop.set()
        self._thread.join(30)
        return self.answered / self.sent


FLOODER = """
import random, socket, struct, sys, time
place, port, sources, seconds = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])
raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
target, dice, begin = socket.inet_aton(place), random.Random(1), time.monotonic()
for number in range(sources):
    # 100.64.0.0 to 100.127.255.255 and a port: no two alike.
    source = struct.pack(">I", 0x64400000 | (number * 2_654_435_761 & 0x3FFFFF))
    udp = struct.pack(">HHHH", 1_024 + number % 60_000, port, 8 + 24, 0) + b"x" * 24
    raw.sendto(struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(udp), 0, 0, 64, 17, 0) + source + target + udp, (place, 0))
    if number % 50 == 0:
        time.sleep(max(0.0, begin + number * seconds / sources - time.monotonic()))
print(time.monotonic() - begin)
"""


def resident_mb(pid: int) -> float:
    """Resident memory of a process."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def served_after(port: int) -> float:
    """How long until a client that nobody has seen yet is answered."""
    begin = time.monotonic()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(0.1)
        while time.monotonic() < begin + 30:
            client.sendto(b"hello", (OURS, port))
            try:
                client.recv(64)
            except TimeoutError:
                continue
            return time.monotonic() - begin
    return 30.0


def main() -> int:
    """Flood, play, judge."""
    arguments = parser(__doc__)
    arguments.add_argument("--sources", type=int, default=1_000_000)
    arguments.add_argument("--seconds", type=float, default=60.0)
    args = arguments.parse_args()
    if INSIDE not in os.environ:
        return in_namespaces()
    many_descriptors()
    origin = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    origin.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, BUFFER)
    origin.bind(("127.0.0.1", 0))
    threading.Thread(target=answer_everything, args=(origin,), daemon=True).start()
    port = free_port()
    with pop(app("game", f"udp/{OURS}:{port}", origin.getsockname()[1])) as found:
        players = Players(port)
        time.sleep(2 * ASSURING_S)
        engine = int(found.status()["engine_pid"])
        before = resident_mb(engine)
        command = ["ip", "netns", "exec", os.environ[INSIDE], sys.executable, "-c", FLOODER]
        command += [OURS, str(port), str(args.sources), str(args.seconds)]
        flood = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        most = 0
        most_mb = before
        while flood.poll() is None:
            time.sleep(0.5)
            most = max(most, int(found.status()["flows"]["udp"]))
            most_mb = max(most_mb, resident_mb(engine))
        took = float(flood.communicate()[0])
        served = served_after(port)
        delivered = players.end()
        drops = {name: count for name, count in found.drops().items() if count}
    figures = {
        "sources": args.sources,
        "seconds": round(took, 1),
        "delivered_share": round(delivered, 5),
        "most_sessions": most,
        "added_mb": round(most_mb - before, 1),
        "newcomer_served_s": round(served, 3),
        "drops": drops,
    }
    bounds = [
        (f"{PLAYERS} assured sessions deliver at least {MIN_DELIVERED:.1%}", delivered >= MIN_DELIVERED),
        (f"the table stays within {MAX_NEW + PLAYERS}", most <= MAX_NEW + PLAYERS),
        (f"memory grows by at most {MAX_ADDED_MB:.0f} MB", most_mb - before <= MAX_ADDED_MB),
        (f"a newcomer is served within {MAX_SERVED_S:.0f} s", served <= MAX_SERVED_S),
    ]
    return report(args, "A million forged UDP sources in a minute", figures, bounds)


if __name__ == "__main__":
    sys.exit(main())
