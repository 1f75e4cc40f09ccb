"""Overlays over IPv6, and over both families in one fleet: flows and measurements as over IPv4."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.conftest import ECHO, NO_DIRECT_LINK, PATHS, FleetUnderTest, app, both
from tests.e2e.network import Network, network, run, start_fleet, wait_until, why_not

pytestmark = pytest.mark.e2e

PORTS = {"direct": 11_007, "transit": 12_007}


def fields_of(net: Network, underlay: str) -> dict[str, str]:
    """Return what the fleet file says of each PoP. Mixed: ams has only IPv4, sin only IPv6, and iad joins them."""
    v4 = {pop: f"{net[pop].ipv4}:4600" for pop in ("ams", "iad", "sin")}
    v6 = {pop: f"'[{net[pop].ipv6}]:4600'" for pop in ("ams", "iad", "sin")}
    if underlay == "ipv6":
        return {pop: f"transits: {{a: {address}}}" for pop, address in v6.items()}
    return {
        "ams": f"transits: {{a: {v4['ams']}}}",
        "iad": f"transits: {{a: {v4['iad']}, b: {v6['iad']}}}",
        "sin": f"transits: {{b: {v6['sin']}}}",
    }


@pytest.fixture(scope="module", params=["ipv6", "mixed"])
def underlay_fleet(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[FleetUnderTest]:
    """Three PoPs with an echo app directly to iad, and one through iad to sin."""
    if reason := why_not():
        pytest.skip(reason)
    with network("ams", "iad", "sin", "client", "origin") as net:
        apps = "".join(app("echo", both(port), f"{net['origin'].ipv4}:7", way) for way, port in PORTS.items())
        daemons = start_fleet(
            net,
            tmp_path_factory.mktemp(request.param),
            apps,
            links=NO_DIRECT_LINK if request.param == "ipv6" else "",
            fields=fields_of(net, request.param),
        )
        net.start("origin", sys.executable, str(ECHO), "serve", net["origin"].ipv4, "7")
        fleet = FleetUnderTest(net, daemons)
        for way in PORTS:
            fleet.wait_for_route(f"echo-{way}", PATHS[way])
        yield fleet


@pytest.mark.parametrize("way", PORTS)
@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_flows_pass_directly_and_through_a_transit(
    underlay_fleet: FleetUnderTest, way: str, protocol: str
) -> None:
    command = underlay_fleet.echo(protocol, PORTS[way], seconds=1.0)

    answer = json.loads(underlay_fleet.net["client"].run(*command).stdout)

    assert answer["received"] == answer["sent"] == 50
    assert not answer.get("reset")


def test_links_join_transits_of_one_family_and_are_measured(underlay_fleet: FleetUnderTest) -> None:
    def are_measured() -> bool:
        links = underlay_fleet.daemons["iad"].ask("link", "list")["links"]
        own = [link for link in links if link["from"] == "iad"]
        return len(own) == 2 and all(link["up"] and 0 < link["rtt_ms"] < 1000 for link in own)

    wait_until("both links of iad are up and have an RTT", are_measured, timeout_s=15)
    names = {link["name"] for link in underlay_fleet.daemons["iad"].ask("link", "list")["links"]}
    is_mixed = "iad/b>sin/b" in names
    assert ("ams/a>sin/a" in names) is not is_mixed
    assert {"ams/a>iad/a", "iad/b>sin/b" if is_mixed else "iad/a>sin/a"} <= names


def test_a_path_of_1280_bytes_carries_everything(tmp_path: Path) -> None:
    """The least that IPv6 allows, as many tunnelled access lines have: 1,204 bytes are left for a packet of ours."""
    if reason := why_not():
        pytest.skip(reason)
    script = (
        "import socket,threading,os,sys\n"
        "s=socket.create_connection((sys.argv[1],int(sys.argv[2])));d=os.urandom(3000000)\n"
        "t=threading.Thread(target=lambda:(s.sendall(d),s.shutdown(1)));t.start()\n"
        "b=b''\n"
        "while c:=s.recv(65536):b+=c\n"
        "t.join();print('same' if b==d else len(b))"
    )
    with network("ams", "iad", "client", "origin") as net:
        for where, device in ((net.router, "iad"), (net["iad"].namespace, "eth0")):
            run("ip", "-n", where, "link", "set", device, "mtu", "1280")
        daemons = start_fleet(
            net,
            tmp_path,
            app("echo", both(PORTS["direct"]), f"{net['origin'].ipv4}:7", "direct"),
            pops=("ams", "iad"),
            fields={pop: f"transits: {{a: '[{net[pop].ipv6}]:4600'}}" for pop in ("ams", "iad")},
        )
        net.start("origin", sys.executable, str(ECHO), "serve", net["origin"].ipv4, "7")
        fleet = FleetUnderTest(net, daemons)
        fleet.wait_for_route("echo-direct", PATHS["direct"])
        address, port = net["ams"].ipv4, str(PORTS["direct"])

        done = net["client"].run(sys.executable, "-c", script, address, port, timeout_s=30)
        datagrams = json.loads(net["client"].run(*fleet.echo("udp", PORTS["direct"], seconds=1.0)).stdout)

        assert done.stdout.strip() == "same"
        assert datagrams["received"] == datagrams["sent"] == 50
