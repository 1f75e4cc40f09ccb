"""Thousands of reloads under traffic, one in ten invalid: no flow of any app is closed, and a file that is wrong changes nothing.

One app stays as it is and carries TCP flows and a UDP session; the other one moves to another port, changes its timeouts, comes and goes.
"""

import random
import socket
import threading
import time

from harness import Echo, Pop, RequestFailed, app, ask, free_port, parser, pop, report

BROKEN = (
    "name: [unclosed\n",
    "---\nname: other\nlisten: tcp/99999\norigins: [127.0.0.1]\n",
    "---\nname: steady\nlisten: tcp/1\norigins: []\n",
    "---\nname: other\nlistne: tcp/1\norigins: [127.0.0.1]\n",
)


class UdpEcho:
    """An origin for datagrams."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        while True:
            self._socket.sendto(*self._socket.recvfrom(65_536))


class Traffic:
    """Flows that talk all the time."""

    def __init__(self, port: int, udp_port: int, flows: int) -> None:
        self.failed = 0
        self.messages = 0
        self.datagrams_lost = 0
        self._stop = threading.Event()
        self._flows = [socket.create_connection(("127.0.0.1", port), timeout=60) for _ in range(flows)]
        self._udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._udp.connect(("127.0.0.1", udp_port))
        self._udp.settimeout(30)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._stop.is_set():
            for flow in self._flows:
                self.messages += 1
                self.failed += not ask(flow, b"%012d" % self.messages)
            self._udp.send(b"%012d" % self.messages)
            try:
                self.datagrams_lost += self._udp.recv(100) != b"%012d" % self.messages
            except OSError:
                self.datagrams_lost += 1
            time.sleep(0.002)

    def end(self) -> None:
        """Finish the round that is under way."""
        self._stop.set()
        self._thread.join(120)


class Variants:
    """The file in its changing forms."""

    def __init__(self, steady: str, origin_port: int) -> None:
        self._steady, self._origin_port = steady, origin_port
        self._dice = random.Random(1)
        self._ports = [free_port() for _ in range(3)]
        self.other: int | None = None

    def valid(self) -> str:
        """Return another valid file; `other` is then the port of the app that changes, None without it."""
        self.other = self._dice.choice([None, *self._ports])
        if self.other is None:
            return self._steady
        idle = f"idle_timeout: {{tcp: {self._dice.randint(60, 3_600)}s}}\n"
        return self._steady + app("other", f"tcp/127.0.0.1:{self.other}", self._origin_port, idle)

    def broken(self) -> str:
        """Return a file that is wrong somewhere."""
        return self._steady + self._dice.choice(BROKEN)

    def listens_rightly(self) -> bool:
        """Whether exactly the port of the last valid file serves."""
        return all(_serves(port) == (port == self.other) for port in self._ports)


def _serves(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=60) as client:
            return ask(client, b"hello")
    except OSError:
        return False


def reload_all(found: Pop, variants: Variants, reloads: int, invalid: float) -> dict[str, int]:
    """Reload so many times; return what went otherwise than it should."""
    wrong = {"accepted_though_invalid": 0, "refused_though_valid": 0, "half_applied": 0}
    generation = int(found.status()["generation"])
    dice = random.Random(2)
    for number in range(reloads):
        is_broken = dice.random() < invalid
        found.apps.write_text(variants.broken() if is_broken else variants.valid())
        try:
            generation = int(found.reload()["generation"])
            wrong["accepted_though_invalid"] += is_broken
        except RequestFailed:
            wrong["refused_though_valid"] += not is_broken
        if number % 20 == 0 or is_broken:
            is_same = int(found.status()["generation"]) == generation or not is_broken
            wrong["half_applied"] += not (is_same and variants.listens_rightly())
    return wrong


def main() -> int:
    """Run it; exit code 1 when a bound does not hold."""
    options = parser(__doc__)
    options.add_argument("--reloads", type=int, default=2_000)
    options.add_argument(
        "--invalid", type=float, default=0.1, help="share of the reloads whose file is wrong"
    )
    options.add_argument("--flows", type=int, default=50)
    args = options.parse_args()
    origin, udp_origin = Echo(), UdpEcho()
    port, udp_port = free_port(), free_port()
    steady = app("steady", f"tcp/127.0.0.1:{port}", origin.port)
    steady += app("steady-udp", f"udp/127.0.0.1:{udp_port}", udp_origin.port)
    with pop(steady) as found:
        traffic = Traffic(port, udp_port, args.flows)
        began = time.monotonic()
        wrong = reload_all(found, Variants(steady, origin.port), args.reloads, args.invalid)
        took_s = time.monotonic() - began
        traffic.end()
    figures = {
        "reloads": args.reloads,
        "ms_per_reload": round(1000 * took_s / args.reloads, 1),
        "flows": args.flows,
        "messages": traffic.messages,
        "messages_failed": traffic.failed,
        "datagrams_lost": traffic.datagrams_lost,
        **wrong,
    }
    bounds = [
        ("no flow closed, no message failed", traffic.failed == 0 and traffic.messages > 0),
        ("nothing half applied, every file judged rightly", not any(wrong.values())),
    ]
    return report(args, f"{args.reloads:,} reloads under traffic", figures, bounds)


if __name__ == "__main__":
    raise SystemExit(main())
