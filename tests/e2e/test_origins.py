"""Origins that are names, with a real name server; source pools and the client's own address, with real routes.

One relay (ams) between a client and two origins. Besides the network's router a wire of its own joins ams and origin, and the
origin's default route goes back over it: what docs/operating.md has an operator set up.
"""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.e2e.network import Daemon, Network, network, run, wait_until, why_not

pytestmark = pytest.mark.e2e

WHOAMI = Path(__file__).with_name("whoami.py")
DNS_SERVER = Path(__file__).parents[1] / "dns_server.py"
DNS_PORT = 5353
PORT = 7

RELAY_4, ORIGIN_4 = "10.178.0.1", "10.178.0.2"
RELAY_6, ORIGIN_6 = "fd78:0:0:1::1", "fd78:0:0:1::2"
"""The ends of the wire between ams and origin."""

APPS = f"""\
name: followed
listen: [tcp/7001, udp/7001]
origins: ["moving.example.net:{PORT}"]
allow_private_origins: true
---
name: served
listen: [tcp/7002, udp/7002]
origins: ["srv:_who._tcp.example.net"]
allow_private_origins: true
---
name: unallowed
listen: [tcp/7003, udp/7003]
origins: ["moving.example.net:{PORT}"]
---
name: looping
listen: tcp/7004
origins: ["relay.example.net:7004"]
allow_private_origins: true
---
name: bothways
listen: [tcp/7005, udp/7005]
origins: ["both.example.net:{PORT}"]
allow_private_origins: true
---
name: transparent
listen: [tcp/7006, udp/7006]
origins: ["{ORIGIN_4}:{PORT}"]
client_address: transparent
---
name: transparent6
listen: [tcp/7007, udp/7007]
origins: ["[{ORIGIN_6}]:{PORT}"]
client_address: transparent
---
name: pooled
listen: [tcp/7008, udp/7008]
origins: ["{ORIGIN_4}:{PORT}"]
source: {{pool: [10.179.0.0/28, "fd79::/124"]}}
---
name: pooled6
listen: [tcp/7018, udp/7018]
origins: ["[{ORIGIN_6}]:{PORT}"]
source: {{pool: [10.179.0.0/28, "fd79::/124"]}}
---
name: poolless
listen: tcp/7009
origins: ["{ORIGIN_4}:{PORT}"]
source: {{pool: [10.180.0.1, 10.180.0.2]}}
"""


@dataclass
class Relay:
    """A relay whose origins are names, and what surrounds it."""

    net: Network
    daemon: Daemon
    zone_file: Path
    dns: "subprocess.Popen[bytes]"

    def set_zone(self, **changes: dict[str, list[str]]) -> None:
        """Change names of example.net; `_` in a word stands for `.` where it is doubled."""
        zone = json.loads(self.zone_file.read_text()) if self.zone_file.exists() else {}
        zone |= {name.replace("__", ".") + ".example.net": records for name, records in changes.items()}
        new = self.zone_file.with_suffix(".new")
        new.write_text(json.dumps(zone))
        new.rename(self.zone_file)

    def ask(self, protocol: str, port: int, *, v6: bool = False, host: str | None = None) -> list[str]:
        """Ask the origin of an app: client's address and port, what the origin sees of them, the origin; [] without an answer.

        `host`: an address of the relay, else its first one of a family.
        """
        host = host or (self.net["ams"].ipv6 if v6 else self.net["ams"].ipv4)
        asked = self.net["client"].run(sys.executable, str(WHOAMI), protocol, host, str(port))
        return asked.stdout.split()

    def origin_of(self, protocol: str, port: int) -> str:
        """Return which origin answers, "" when none does."""
        return (self.ask(protocol, port) or [""])[-1]

    def drops(self) -> dict[str, int]:
        """Return what was refused, by reason."""
        return dict(self.daemon.ask("status")["drops"])

    def is_refused(self, reason: str, port: int, *, v6: bool = False) -> None:
        """Assert that an app's flows get no answer, and that this reason is counted for it; names may still be asked for."""
        before = self.drops().get(reason, 0)

        def is_counted() -> bool:
            assert self.ask("tcp", port, v6=v6) == []
            drops = self.drops()
            assert drops.get(reason, 0) > before, f"{reason} was {before}, now {drops}"
            return True

        wait_until(f"{reason} is counted", is_counted)

    def problems(self) -> str:
        """Return what is wrong, in one text."""
        return "\n".join(problem["what"] for problem in self.daemon.ask("status")["problems"])


def join_directly(net: Network) -> None:
    """Join ams and origin by a wire of their own, and lead the origin's answers back over it."""
    ams, origin = net["ams"].namespace, net["origin"].namespace
    run("ip", "-n", ams, "link", "add", "wire", "type", "veth", "peer", "name", "wire", "netns", origin)
    for where, v4, v6 in ((ams, RELAY_4, RELAY_6), (origin, ORIGIN_4, ORIGIN_6)):
        run("ip", "-n", where, "addr", "add", f"{v4}/24", "dev", "wire")
        run("ip", "-n", where, "addr", "add", f"{v6}/64", "dev", "wire", "nodad")
        run("ip", "-n", where, "link", "set", "wire", "up")
    run("ip", "-n", origin, "route", "replace", "default", "via", RELAY_4)
    run("ip", "-n", origin, "-6", "route", "replace", "default", "via", RELAY_6)
    for family, address in (("-4", ORIGIN_4), ("-6", ORIGIN_6)):
        for protocol in ("tcp", "udp"):
            rule = ("from", address, "ipproto", protocol, "sport", str(PORT), "lookup", "100")
            run("ip", "-n", ams, family, "rule", "add", *rule)
        run("ip", "-n", ams, family, "route", "add", "local", "default", "dev", "lo", "table", "100")
    # The pool: prefixes that are routed to the relay.
    run("ip", "-n", ams, "route", "add", "local", "10.179.0.0/28", "dev", "lo")
    run("ip", "-n", ams, "-6", "route", "add", "local", "fd79::/124", "dev", "lo")
    run("ip", "netns", "exec", ams, "sysctl", "-qw", "net.ipv6.ip_nonlocal_bind=1")


@pytest.fixture(scope="module")
def relay(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Relay]:
    """One relay for all tests of this file; each has apps of its own."""
    if reason := why_not():
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("origins")
    (folder / "apps.yaml").write_text(APPS)
    with network("ams", "client", "origin", "spare") as net:
        join_directly(net)
        for host, addresses in (
            ("origin", (ORIGIN_4, ORIGIN_6, net["origin"].ipv4, net["origin"].ipv6)),
            ("spare", (net["spare"].ipv4, net["spare"].ipv6)),
        ):
            for address in addresses:
                net.start(host, sys.executable, str(WHOAMI), "serve", address, str(PORT))
        zone_file = folder / "zone.json"
        arguments = [str(folder / "apps.yaml"), "--dns", f"127.0.0.1:{DNS_PORT}", "--metrics", "off"]
        daemon = Daemon(net, "ams", folder, arguments)
        zone_file.write_text("{}")
        command = (sys.executable, str(DNS_SERVER), "127.0.0.1", str(DNS_PORT), str(zone_file))
        subject = Relay(net, daemon, zone_file, net.start("ams", *command))
        subject.set_zone(
            moving={"A": [net["origin"].ipv4]},
            relay={"A": [net["ams"].ipv4]},
            both={"AAAA": [net["spare"].ipv6], "A": [net["origin"].ipv4]},
            first={"A": [net["origin"].ipv4]},
            second={"A": [net["spare"].ipv4]},
            _who___tcp={"SRV": [f"10 5 {PORT} first.example.net.", f"20 0 {PORT} second.example.net."]},
        )
        wait_until("all origins answer", lambda: answers(net, "origin") and answers(net, "spare"))
        daemon.start()
        for port, name in ((7001, net["origin"].ipv4), (7002, net["origin"].ipv4), (7005, net["spare"].ipv6)):
            wait_until(
                f"{port} is resolved", lambda port=port, name=name: subject.origin_of("tcp", port) == name
            )
        yield subject


def answers(net: Network, host: str) -> bool:
    """Whether an origin answers in its own namespace."""
    asked = net[host].run(sys.executable, str(WHOAMI), "tcp", net[host].ipv4, str(PORT))
    return bool(asked.stdout.strip())


def test_a_name_is_resolved_and_followed_when_it_moves(relay: Relay) -> None:
    origin, spare = relay.net["origin"].ipv4, relay.net["spare"].ipv4
    for protocol in ("tcp", "udp"):
        assert relay.origin_of(protocol, 7001) == origin
    relay.set_zone(moving={"A": [spare]})
    for protocol in ("tcp", "udp"):
        wait_until(
            f"{protocol} follows", lambda protocol=protocol: relay.origin_of(protocol, 7001) == spare, 30.0
        )
    # The name is gone: the last answer stays, and that is said.
    relay.set_zone(moving={"FAIL": []})
    stay = "A of moving.example.net: no name server gave a usable answer; the last addresses stay in force"
    wait_until("the failure is told", lambda: stay in relay.problems().replace("AAAA of", "A of"), 30.0)
    assert relay.origin_of("tcp", 7001) == spare
    relay.set_zone(moving={"A": [origin]})
    wait_until("the name is well again", lambda: relay.origin_of("tcp", 7001) == origin, 40.0)


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_a_relay_of_several_addresses_answers_from_the_one_that_was_asked(
    relay: Relay, protocol: str
) -> None:
    """Its listener is one of all addresses; a connected client hears nothing from any other. IPv6 clients reach an IPv4 origin."""
    net, more = relay.net["ams"], ("10.77.1.40", "fd77:1::40")
    for address, length in zip(more, ("24", "64"), strict=True):
        nodad = () if "." in address else ("nodad",)
        run("ip", "-n", net.namespace, "addr", "add", f"{address}/{length}", "dev", "eth0", *nodad)
    for host in (net.ipv4, net.ipv6, *more):
        seen = wait_until(f"{protocol} to {host}", lambda host=host: relay.ask(protocol, 7002, host=host))
        assert ":" in seen[0] if ":" in host else "." in seen[0]
        assert "." in seen[2], "the origin is an IPv4 one"
    for address, length in zip(more, ("24", "64"), strict=True):
        run("ip", "-n", net.namespace, "addr", "del", f"{address}/{length}", "dev", "eth0")


def test_services_are_used_by_priority_and_the_next_one_stands_in(relay: Relay) -> None:
    assert relay.origin_of("tcp", 7002) == relay.net["origin"].ipv4
    dead = "10 5 9 first.example.net."
    relay.set_zone(_who___tcp={"SRV": [dead, f"20 0 {PORT} second.example.net."]})
    for protocol in ("tcp", "udp"):
        wait_until(
            f"{protocol} goes to the second",
            lambda protocol=protocol: relay.origin_of(protocol, 7002) == relay.net["spare"].ipv4,
            30.0,
        )


def test_a_private_address_is_refused_by_name_and_reason(relay: Relay) -> None:
    relay.is_refused("origin_private", 7003)
    assert "origin moving.example.net:7 of app unallowed leads to" in relay.problems()
    assert "which is private: it is not dialled" in relay.problems()


def test_a_name_that_leads_back_here_is_refused(relay: Relay) -> None:
    relay.is_refused("origin_own_listener", 7004)


def test_of_both_families_the_one_that_answers_serves(relay: Relay) -> None:
    """IPv6 comes first; when nothing comes back from there the other one has been begun meanwhile."""
    net = relay.net
    assert relay.origin_of("tcp", 7005) == net["spare"].ipv6
    rule = ("to", net["spare"].ipv6, "blackhole", "pref", "5")
    run("ip", "-n", net.router, "-6", "rule", "add", *rule)
    try:
        assert relay.origin_of("tcp", 7005) == net["origin"].ipv4
    finally:
        run("ip", "-n", net.router, "-6", "rule", "del", *rule)


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
@pytest.mark.parametrize(("port", "v6"), [(7006, False), (7007, True)])
def test_a_transparent_origin_sees_the_client(relay: Relay, protocol: str, port: int, v6: bool) -> None:
    own, own_port, seen, seen_port, _ = relay.ask(protocol, port, v6=v6)
    assert (seen, seen_port) == (own, own_port)
    assert own == (relay.net["client"].ipv6 if v6 else relay.net["client"].ipv4)


def test_a_transparent_origin_of_the_other_family_is_not_dialled(relay: Relay) -> None:
    relay.is_refused("source_other_family", 7006, v6=True)


def test_a_mark_of_the_sockets_does_instead_of_the_rule(relay: Relay) -> None:
    """The second way that docs/operating.md names, for hosts with a firewall."""
    ams = relay.net["ams"]
    if shutil.which("nft") is None:
        pytest.skip("needs the nft command (Debian package nftables)")
    table = """
        table inet l4proxy {
            chain prerouting {
                type filter hook prerouting priority mangle;
                socket transparent 1 meta mark set 1
            }
        }
        """
    loaded = subprocess.run(ams.command("nft", "-f", "-"), input=table, capture_output=True, text=True)
    if loaded.returncode != 0:
        pytest.skip(f"this kernel's nftables does not match sockets: {loaded.stderr.strip()[:100]}")
    rule = ("from", ORIGIN_4, "ipproto", "tcp", "sport", str(PORT), "lookup", "100")
    mark = ("fwmark", "1", "lookup", "100")
    run("ip", "-n", ams.namespace, "rule", "del", *rule)
    try:
        assert relay.ask("tcp", 7006) == [], "without either the answers go elsewhere"
        run("ip", "-n", ams.namespace, "rule", "add", *mark)
        own, _, seen, *_ = relay.ask("tcp", 7006)
        assert seen == own
    finally:
        run("ip", "-n", ams.namespace, "rule", "del", *mark, check=False)
        run("ip", "-n", ams.namespace, "rule", "add", *rule)
        ams.run("nft", "delete", "table", "inet", "l4proxy")


def test_a_client_is_seen_from_one_address_of_the_pool(relay: Relay) -> None:
    for port, prefix in ((7008, "10.179.0."), (7018, "fd79::")):
        seen = {relay.ask(protocol, port)[2] for protocol in ("tcp", "udp", "tcp", "udp")}
        assert len(seen) == 1
        assert seen.pop().startswith(prefix)
    assert relay.ask("tcp", 7009) == []
    assert "source pool of app poolless: 10.180.0.1 and 1 more are not of this host" in relay.problems()


def test_without_the_right_a_transparent_app_refuses_and_says_so(relay: Relay, tmp_path: Path) -> None:
    """Never a flow that comes from the proxy's own address instead."""
    if shutil.which("setpriv") is None:
        pytest.skip("needs the setpriv command (Debian package util-linux)")
    net = relay.net
    (tmp_path / "apps.yaml").write_text(
        f"name: bare\nlisten: tcp/7106\norigins: ['{net['spare'].ipv4}:{PORT}']\nclient_address: transparent\n"
    )
    arguments = [str(tmp_path / "apps.yaml"), "--metrics", "off"]
    daemon = Daemon(
        net, "ams", tmp_path, arguments, prefix=("setpriv", "--bounding-set", "-net_admin,-net_raw")
    )
    daemon.start()
    assert relay.ask("tcp", 7106) == []
    wait_until("it is counted", lambda: daemon.ask("status")["drops"].get("source_not_permitted") == 1)
    status = daemon.ask("status")
    assert [problem["what"] for problem in status["problems"]] == [
        "app bare is transparent, which needs CAP_NET_ADMIN or CAP_NET_RAW: its flows are refused"
    ]
    daemon.tell("drain")
