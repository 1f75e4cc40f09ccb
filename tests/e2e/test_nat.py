"""PoPs behind NAT that can only dial out: flows both ways, mappings that change under them, people who send their packets again.

The router translates what comes from the two overlay ports to addresses of its own and lets nothing else in to them.
"""

import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import ECHO
from tests.e2e.network import Daemon, Network, network, run, start_fleet, wait_until, why_not
from tests.e2e.programs import need

pytestmark = pytest.mark.e2e

PORTS = {"in": 7101, "out": 7102, "between": 7103}
"""in: home is the ingress, iad the egress. out: ams the ingress, home the egress. between: from home to cabin, which no link joins."""
INGRESS = {"in": "home", "out": "ams", "between": "home"}
EGRESS = {"in": "iad", "out": "home", "between": "cabin"}
LENGTH = {"in": 2, "out": 2, "between": 3}
"""PoPs on the path."""

NAT = {"home": "192.0.2.71", "cabin": "192.0.2.72"}
"""What the others see them as."""

FLUSH = """\
import socket, struct
s = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 12)
s.send(struct.pack('=IHHII', 20, 1 << 8 | 2, 5, 1, 0) + struct.pack('=BBH', socket.AF_INET, 0, 0))
assert struct.unpack_from('=i', s.recv(4096), 16)[0] == 0
"""
"""Forget every connection that the router tracks (linux/netfilter/nfnetlink_conntrack.h: IPCTNL_MSG_CT_DELETE)."""


class Homes:
    """A fleet of ams and iad, and of home and cabin behind NAT, with an app for each way."""

    def __init__(self, net: Network, folder: Path) -> None:
        self.net = net
        self.translate(4600)
        # Every link takes next to no time here: what a busy machine adds to one of them must not make a detour pay.
        apps = "".join(
            f"---\nname: {way}\nlisten: [tcp/{port}, udp/{port}]\norigins: ['{net['origin'].ipv4}:7']\n"
            f"pops: [{INGRESS[way]}]\nrouting: {{egress: [{EGRESS[way]}], min_gain: 1s}}\n"
            for way, port in PORTS.items()
        )
        # The addresses of home and cabin in the file are the same and nobody's: others must not need them.
        fields = {
            pop: f"transits: {{a: {{address: '198.51.100.9:4600', bind: '{net[pop].ipv4}:4600'}}}}, dial: outbound"
            for pop in NAT
        }
        self.daemons: dict[str, Daemon] = start_fleet(
            net, folder, apps, pops=("ams", "cabin", "home", "iad"), fields=fields
        )
        net.start("origin", sys.executable, str(ECHO), "serve", net["origin"].ipv4, "7")
        for way in PORTS:
            wait_until(f"the route {way}", lambda way=way: len(self.path(way)) == LENGTH[way], timeout_s=30)

    def path(self, way: str) -> list[str]:
        """The PoPs that new flows take."""
        (route, *_) = self.daemons[INGRESS[way]].ask("route", "list", way)["routes"]
        return list(route["path"])

    def translate(self, port: int) -> None:
        """Translate the overlay ports to `port` of the router's addresses from now on, also where they were translated otherwise."""
        inside = ("ip", "netns", "exec", self.net.router)
        lines = ["add table ip nat", "delete table ip nat", "table ip nat {"]
        lines += ["chain out { type nat hook postrouting priority srcnat;"]
        lines += [
            f"ip saddr {self.net[pop].ipv4} udp sport 4600 snat to {outside}:{port}"
            for pop, outside in NAT.items()
        ]
        lines += ["}", "chain in { type filter hook forward priority 0;"]
        lines += [f"ip daddr {self.net[pop].ipv4} udp dport 4600 ct state new drop" for pop in NAT]
        lines += ["}", "chain own { type filter hook input priority 0;"]
        lines += [f"ip daddr {{ {', '.join(NAT.values())} }} drop", "}", "}"]
        for outside in NAT.values():
            run(*inside, "ip", "addr", "replace", f"{outside}/32", "dev", "lo")
        run(*inside, "nft", "\n".join(lines))
        run(*inside, sys.executable, "-c", FLUSH)

    def moves(self, pop: str) -> int:
        """How often this PoP has found another at a new address."""
        with socket.socket(socket.AF_UNIX) as asked:
            asked.settimeout(10)
            asked.connect(str(self.daemons[pop].socket))
            asked.sendall(b"GET /metrics HTTP/1.0\r\nhost: daemon\r\n\r\n")
            with asked.makefile("r") as answer:
                for line in answer:
                    if line.startswith("l4proxy_engine_events_total") and '"overlay_address_moves"' in line:
                        return int(float(line.split()[-1]))
        raise AssertionError("no such metric")

    def client(self, way: str, protocol: str, seconds: float, output: Any) -> Any:
        """Start a flow of 50 messages a second."""
        command = [sys.executable, str(ECHO), protocol, self.net[INGRESS[way]].ipv4, str(PORTS[way])]
        return self.net.start("client", *command, "--seconds", str(seconds), output=output)


@pytest.fixture(scope="module")
def homes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Homes]:
    """One fleet for all tests: none of them breaks it."""
    if reason := why_not():
        pytest.skip(reason)
    need("nft")
    with network("ams", "iad", "home", "cabin", "client", "origin") as net:
        yield Homes(net, tmp_path_factory.mktemp("nat"))


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
@pytest.mark.parametrize("way", PORTS)
def test_flows_pass_in_both_directions_and_between_two_behind_nat(
    homes: Homes, tmp_path: Path, way: str, protocol: str
) -> None:
    with (tmp_path / "answer").open("wb") as output:
        homes.client(way, protocol, 1.0, output).wait(timeout=30)

    answer = json.loads((tmp_path / "answer").read_text())
    assert answer["received"] == answer["sent"] == 50
    assert not answer.get("reset")
    path = homes.path(way)
    assert (path[0], path[-1], len(path)) == (INGRESS[way], EGRESS[way], LENGTH[way])


def test_mappings_that_change_under_live_flows_cost_no_reset(homes: Homes, tmp_path: Path) -> None:
    before = {pop: homes.moves(pop) for pop in ("ams", "iad")}
    running = {}
    for way in PORTS:
        for protocol in ("tcp", "udp"):
            with (tmp_path / f"{way}-{protocol}").open("wb") as output:
                running[way, protocol] = homes.client(way, protocol, 9.0, output)
    for port in (4700, 4800):
        time.sleep(2.0)
        homes.translate(port)
        wanted = 2 * (port // 100 - 46)
        wait_until(
            "ams and iad find both again",
            lambda wanted=wanted: all(homes.moves(pop) >= before[pop] + wanted for pop in before),
        )

    for (way, protocol), client in running.items():
        client.wait(timeout=40)
        answer = json.loads((tmp_path / f"{way}-{protocol}").read_text())
        assert not answer.get("reset"), (way, protocol, answer)
        share = 1.0 if protocol == "tcp" else 0.8
        assert answer["sent"] > 300
        assert answer["received"] >= share * answer["sent"], (way, protocol, answer)


def test_who_sends_its_packets_again_from_elsewhere_moves_nothing(homes: Homes) -> None:
    """The client's host sees what home sends to iad (as if it sat beside the router), and sends it again from its own address."""
    inside = ("ip", "netns", "exec", homes.net.router)
    code = (
        "import socket,sys,time\n"
        "s=socket.socket(socket.AF_PACKET,socket.SOCK_DGRAM,socket.ntohs(0x800));s.bind(('home',0));s.settimeout(0.2)\n"
        "end=time.monotonic()+2.5\n"
        "while time.monotonic()<end:\n"
        "  try: p=s.recv(65535)\n"
        "  except TimeoutError: continue\n"
        "  if p[9]==17 and socket.inet_ntoa(p[16:20])==sys.argv[1] and p[20:22]==b'\\x11\\xf8': print(p[28:].hex())\n"
    )
    seen = run(*inside, sys.executable, "-c", code, homes.net["iad"].ipv4).stdout.split()
    assert any(packet.startswith("0b") for packet in seen), "probes are among them"
    before = homes.moves("iad"), homes.moves("ams")

    script = (
        "import socket,sys,time\n"
        "s=socket.socket(socket.AF_INET,socket.SOCK_DGRAM);s.settimeout(0.01);sent=got=0\n"
        "for line in sys.stdin.read().split():\n"
        "  for p in (bytes.fromhex(line),bytes.fromhex(line)[:-1]+b'x'):\n"
        "    s.sendto(p,(sys.argv[1],4600));sent+=len(p)\n"
        "    try: got+=len(s.recv(65535))\n"
        "    except TimeoutError: pass\n"
        "print(sent,got)\n"
    )
    done = subprocess.run(
        homes.net["client"].command(sys.executable, "-c", script, homes.net["iad"].ipv4),
        input="\n".join(seen), capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    sent, got = map(int, done.stdout.split())

    assert (homes.moves("iad"), homes.moves("ams")) == before
    assert got <= 3 * sent
