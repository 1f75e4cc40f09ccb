"""Cuts at random moments under live flows: none is reset, no byte is wrong, and how long each is silent.

Four PoPs, a client and an origin in network namespaces made by hand. A TCP flow and a UDP flow of 50 messages a second each and a bulk TCP
flow go from ams to iad; whatever path they take at the moment is broken: a link, both ways or one, or the transit PoP, stopped or killed.
What was broken is mended before the next blow. As root.
"""

import itertools
import json
import os
import random
import select
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(1, str(Path(__file__).resolve().parents[2]))

from harness import parser, report

from tests.e2e.network import Daemon, Network, network, start_fleet, wait_until, why_not

ECHO = Path(__file__).resolve().parents[2] / "tests" / "e2e" / "echo.py"
POPS = ("ams", "iad", "sin", "fra")
APPS = {"message": 7001, "bulk": 7002, "datagram": 7003}
RATE = 50.0
BULK_RATE = 2_000_000
"""Bytes a second: it is always on its way, and leaves the machine room for the others."""

BROKEN_S = 1.5
LOOK_S = 3.0
"""Silence that began with a blow is looked for in this time after it."""

REST_S = (1.3, 2.3)
"""Between mending and the next blow: a path is alive again after a second."""

WORST_GAP_MS = 2_000.0
"""Beyond this something is broken; how good the rest is, the figures say."""

RECORD = struct.Struct("!QQ")
BLOCK = random.Random(7).randbytes(1 << 20)


def exchange_messages(host: str, port: int, seconds: float, kind: int) -> dict[str, Any]:
    """Send numbered messages over one connection or from one socket; return when each came back."""
    with socket.socket(socket.AF_INET, kind) as sock:
        sock.connect((host, port))
        if kind == socket.SOCK_STREAM:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        start, sent, back = time.monotonic(), 0, b""
        arrivals: list[float] = []
        numbers: set[int] = set()
        failure = ""
        while (now := time.monotonic()) < start + seconds + 5 and not failure:
            try:
                if now < start + seconds and now >= start + sent / RATE:
                    sock.sendall(RECORD.pack(sent, 0))
                    sent += 1
                if select.select([sock], [], [], 0.004)[0]:
                    data = sock.recv(65_536)
                    failure = "" if data else "closed"
                    back += data
            except OSError as error:
                failure = str(error)
            while len(back) >= RECORD.size:
                numbers.add(RECORD.unpack_from(back)[0])
                back = back[RECORD.size :]
                arrivals.append(time.monotonic())
            if now >= start + seconds and len(numbers) == sent:
                break
        wrong = len(arrivals) - len(numbers) + sum(number >= sent for number in numbers)
        return {
            "sent": sent,
            "received": len(numbers),
            "wrong": wrong,
            "failure": failure,
            "arrivals": arrivals,
        }


def exchange_bulk(host: str, port: int, seconds: float) -> dict[str, Any]:
    """Send a known stream at a steady rate; compare every byte that comes back."""
    with socket.create_connection((host, port)) as sock:
        sock.setblocking(False)
        start, sent, received, wrong, failure = time.monotonic(), 0, 0, 0, ""
        arrivals: list[float] = []
        while (now := time.monotonic()) < start + seconds + 10 and not failure:
            is_over = now >= start + seconds
            if is_over and received == sent:
                break
            due = min(int((now - start) * BULK_RATE) - sent, 65_536)
            try:
                readable, writable, _ = select.select(
                    [sock], [sock] if due > 0 and not is_over else [], [], 0.004
                )
                if writable:
                    place = sent % len(BLOCK)
                    sent += sock.send(memoryview(BLOCK)[place : place + due])
                if readable:
                    data = sock.recv(262_144)
                    failure = "" if data else "closed"
                    place = received % len(BLOCK)
                    wrong += data != (BLOCK + BLOCK)[place : place + len(data)]
                    received += len(data)
                    arrivals.append(time.monotonic())
            except BlockingIOError:
                continue
            except OSError as error:
                failure = str(error)
        return {"sent": sent, "received": received, "wrong": wrong, "failure": failure, "arrivals": arrivals}


def client(kind: str, host: str, seconds: float) -> None:
    """Be one client, in a namespace, and print what it saw."""
    if kind == "bulk":
        found = exchange_bulk(host, APPS[kind], seconds)
    else:
        protocol = socket.SOCK_STREAM if kind == "message" else socket.SOCK_DGRAM
        found = exchange_messages(host, APPS[kind], seconds, protocol)
    json.dump(found, sys.stdout)


class Fleet:
    """The PoPs, and what can be done to them."""

    def __init__(self, net: Network, folder: Path) -> None:
        self.net = net
        apps = ""
        for name, port in APPS.items():
            protocol = "udp" if name == "datagram" else "tcp"
            apps += f"---\nname: {name}\nlisten: {protocol}/{port}\norigins: ['{net['origin'].ipv4}:7']\n"
            apps += "routing: {egress: [iad]}\n"
        self.daemons: dict[str, Daemon] = start_fleet(net, folder, apps, pops=POPS)
        net.start("origin", sys.executable, str(ECHO), "serve", net["origin"].ipv4, "7")
        for name in APPS:
            wait_until(f"{name}: a way around", lambda name=name: self.has_ways(name), timeout_s=60)

    def has_ways(self, name: str) -> bool:
        """Whether there is a path and a backup that leads through another PoP."""
        (route, *_) = self.daemons["ams"].ask("route", "list", name)["routes"]
        ways = [tuple(route["path"]), *(tuple(backup["path"]) for backup in route["backups"])]
        return len({way[1:-1] for way in ways}) >= 2

    def path(self, name: str) -> list[str]:
        """Return the PoPs that a live flow passes now."""
        flows = self.daemons["ams"].ask("flow", "list", "--app", name)["flows"]
        return [str(pop) for pop in max(flows, key=lambda flow: flow["age_s"])["path"]]

    def strike(self, path: Sequence[str], dice: random.Random) -> tuple[str, Callable[[], None]]:
        """Break the path somewhere; return what was done, and what mends it."""
        if len(path) > 2 and dice.random() < 0.5:
            daemon = self.daemons[dice.choice(path[1:-1])]
            pid = daemon.engine_pid()
            if dice.random() < 0.3:
                os.kill(pid, signal.SIGKILL)
                return "transit killed", lambda: None
            os.kill(pid, signal.SIGSTOP)
            return "transit stopped", lambda: os.kill(pid, signal.SIGCONT)
        place = dice.randrange(len(path) - 1)
        a, b = path[place : place + 2]
        if dice.random() < 0.5:
            a, b = dice.sample((a, b), 2)
            self.net.cut(a, b, one_way=True)
            return "link, one way", lambda: self.net.mend(a, b, one_way=True)
        self.net.cut(a, b)
        return "link", lambda: self.net.mend(a, b)


def silence_ms(arrivals: Sequence[float], blow: float) -> float:
    """Return the longest time without an arrival that touches the seconds after a blow."""
    around = [at for at in arrivals if blow - 1 <= at <= blow + LOOK_S + 10]
    gaps = [
        (later - earlier) * 1e3
        for earlier, later in itertools.pairwise(around)
        if later >= blow and earlier <= blow + LOOK_S
    ]
    return max(gaps, default=float("inf"))


def percentile(values: Sequence[float], share: float) -> float:
    """Return the value that so large a share does not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0


def main() -> int:
    """Strike, mend, and judge."""
    options = parser(__doc__)
    options.add_argument("--cuts", type=int, default=200)
    options.add_argument("--seed", type=int, default=1)
    options.add_argument("--client", nargs=3, metavar=("KIND", "HOST", "SECONDS"), help="used by itself")
    args = options.parse_args()
    if args.client:
        kind, host, seconds = args.client
        client(kind, host, float(seconds))
        return 0
    if reason := why_not():
        raise SystemExit(f"cuts.py {reason}")
    with tempfile.TemporaryDirectory(prefix="l4proxy-") as folder, network(*POPS, "client", "origin") as net:
        return judge(args, *under_blows(args, Fleet(net, Path(folder))))


def under_blows(args: Any, fleet: Fleet) -> tuple[list[dict[str, Any]], dict[str, dict[str, Any]]]:
    """Let the flows run under blows; return the blows and what the clients saw."""
    dice = random.Random(args.seed)
    seconds = 4 + args.cuts * (BROKEN_S + sum(REST_S) / 2 + 2.5)
    host = fleet.net["ams"].ipv4
    clients = {
        kind: subprocess.Popen(
            fleet.net["client"].command(sys.executable, __file__, "--client", kind, host, str(seconds)),
            stdout=subprocess.PIPE,
            text=True,
        )
        for kind in APPS
    }
    end = time.monotonic() + seconds - LOOK_S
    blows: list[dict[str, Any]] = []
    time.sleep(3)
    try:
        while len(blows) < args.cuts and time.monotonic() < end:
            paths = {kind: fleet.path(kind) for kind in APPS}
            time.sleep(dice.uniform(0, 0.5))
            at = time.monotonic()
            struck = dice.choice(list(APPS))
            what, mend = fleet.strike(paths[struck], dice)
            hit = [kind for kind, path in paths.items() if path == paths[struck]]
            blows.append({"at": at, "what": what, "hit": hit})
            time.sleep(BROKEN_S)
            mend()
            time.sleep(dice.uniform(*REST_S))
        seen = {
            kind: json.loads(found.communicate(timeout=seconds + 60)[0]) for kind, found in clients.items()
        }
    finally:
        for found in clients.values():
            found.kill()
    return blows, seen


def judge(args: Any, blows: list[dict[str, Any]], seen: dict[str, dict[str, Any]]) -> int:
    """Say what came of it."""
    figures: dict[str, Any] = {"blows": len(blows), "seed": args.seed}
    for what in sorted({blow["what"] for blow in blows}):
        figures[f"of them: {what}"] = sum(blow["what"] == what for blow in blows)
    worst = 0.0
    for kind, found in seen.items():
        gaps = [silence_ms(found["arrivals"], blow["at"]) for blow in blows if kind in blow["hit"]]
        worst = max([worst, *gaps])
        figures[f"{kind}: blows to its path"] = len(gaps)
        figures[f"{kind}: silence ms p50, p99, max"] = ", ".join(
            f"{value:.0f}"
            for value in (percentile(gaps, 0.5), percentile(gaps, 0.99), max(gaps, default=0.0))
        )
        figures[f"{kind}: sent, received"] = f"{found['sent']}, {found['received']}"
        if found["failure"]:
            figures[f"{kind}: failed with"] = found["failure"]
    streams = [seen[kind] for kind in ("message", "bulk")]
    bounds = [
        ("no flow is reset", not any(found["failure"] for found in seen.values())),
        ("every byte of TCP comes back, and none is wrong", all(
            found["sent"] == found["received"] > 0 and found["wrong"] == 0 for found in streams
        )),
        ("UDP loses no more than its silence explains", seen["datagram"]["received"] >= 0.8 * seen["datagram"]["sent"]),
        (f"no silence is longer than {WORST_GAP_MS / 1e3:.0f} s", worst <= WORST_GAP_MS),
        ("as many blows as asked for", len(blows) == args.cuts),
    ]  # fmt: skip
    return report(args, f"{args.cuts} cuts under live flows", figures, bounds)


if __name__ == "__main__":
    raise SystemExit(main())
