"""TCP and UDP flows through local, direct and transit paths, as their ends see them."""

import json
import sys
from pathlib import Path

import pytest

from tests.e2e.conftest import MARKS, PATHS, VARIANTS, FleetUnderTest
from tests.e2e.network import wait_until

pytestmark = pytest.mark.e2e

WHOAMI = Path(__file__).with_name("whoami.py")


def port_of(variant: str, offset: int) -> int:
    """Return the listener port of a program in the app of this variant."""
    return 10_000 + 1_000 * VARIANTS.index(variant) + offset


@pytest.mark.parametrize("offset", [7, 8], ids=["ipv4-origin", "ipv6-origin"])
def test_tcp_messages_come_back_complete_and_in_order(
    fleet: FleetUnderTest, variant: str, offset: int
) -> None:
    answer = json.loads(fleet.net["client"].run(*fleet.echo("tcp", port_of(variant, offset))).stdout)

    assert answer["sent"] == 100
    assert answer["received"] == 100
    assert answer["reset"] == ""


@pytest.mark.parametrize("family", ["ipv4", "ipv6"])
def test_datagrams_come_back_from_the_address_that_was_asked(
    fleet: FleetUnderTest, variant: str, family: str
) -> None:
    """The client's socket is connected: an answer from any other address would never reach it."""
    host = getattr(fleet.net["ams"], family)

    answer = json.loads(fleet.net["client"].run(*fleet.echo("udp", port_of(variant, 7), host=host)).stdout)

    assert answer["sent"] == 100
    assert answer["received"] == 100


@pytest.mark.parametrize("offset", [10, 11], ids=["ipv4-origin", "ipv6-origin"])
def test_marks_of_datagrams_arrive_as_they_were_sent_both_ways(
    fleet: FleetUnderTest, variant: str, offset: int
) -> None:
    """DSCP and ECN: one, the other, both, none, and another."""
    marks = [0xB8, 0x02, 0xBA, 0x00, 0x28]
    ask = [sys.executable, str(MARKS), "ask", fleet.net["ams"].ipv4, str(port_of(variant, offset))]
    done = fleet.net["client"].run(*ask, *map(str, marks))

    assert done.stdout.splitlines() == [f"{mark} {mark}" for mark in marks]


def test_an_apps_dscp_replaces_that_of_its_datagrams_and_leaves_ecn(
    fleet: FleetUnderTest, variant: str
) -> None:
    ask = [sys.executable, str(MARKS), "ask", fleet.net["ams"].ipv4, str(port_of(variant, 12))]
    done = fleet.net["client"].run(*ask, str(0x28), str(0x2A))

    assert done.stdout.splitlines() == [f"{0xB8} {0xB8}", f"{0xBA} {0xBA}"]


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_an_origin_is_told_of_the_client_whatever_way_the_flow_took(
    fleet: FleetUnderTest, variant: str, protocol: str
) -> None:
    """The header comes from the PoP that dials; it names the client of another PoP, and that PoP's listener."""
    port = port_of(variant, 9)
    done = fleet.net["client"].run(sys.executable, str(WHOAMI), protocol, fleet.net["ams"].ipv4, str(port))

    own_address, own_port, *told = done.stdout.split()
    assert own_address == fleet.net["client"].ipv4
    assert told == [own_address, own_port, fleet.net["ams"].ipv4, str(port)]


def test_a_flow_is_listed_with_its_path_and_counters(fleet: FleetUnderTest, variant: str) -> None:
    client = fleet.net.start("client", *fleet.echo("tcp", port_of(variant, 7), seconds=3))

    def flows() -> list[dict[str, object]]:
        listed = fleet.daemons["ams"].ask("flow", "list", "--app", f"echo-{variant}")["flows"]
        return [flow for flow in listed if flow["protocol"] == "tcp" and flow["bytes_to_client"] > 0]

    (flow,) = wait_until("one flow with traffic", flows, timeout_s=5)

    assert flow["path"] == PATHS[variant]
    assert flow["ingress"] == "ams"
    assert flow["egress"] == PATHS[variant][-1]
    assert flow["client"].startswith(fleet.net["client"].ipv4)
    client.wait(timeout=20)


def test_route_explain_names_the_rule_that_decided(fleet: FleetUnderTest, variant: str) -> None:
    explained = fleet.daemons["ams"].ask("route", "explain", f"echo-{variant}")

    assert PATHS[variant] in [
        candidate["path"] for route in explained["routes"] for candidate in route["candidates"]
    ]
    assert all(route["reason"] for route in explained["routes"])


def test_shadow_says_what_it_would_take_and_moves_nothing(fleet: FleetUnderTest) -> None:
    ams = fleet.daemons["ams"]
    ams.tell("smart-routing", "shadow", "echo-direct")
    try:
        (route, *_) = wait_until(
            "the app is in shadow",
            lambda: [
                route
                for route in ams.ask("route", "list", "echo-direct")["routes"]
                if route["smart_routing"] == "shadow"
            ],
        )
        assert (route["moves"], route["path"]) == (False, PATHS["direct"])
        assert "shadow: direct; smart routing would take" in route["reason"]
        assert route["smart"]["path"]
    finally:
        ams.tell("smart-routing", "default", "echo-direct")


def test_explain_says_why_not_and_gain_has_every_other_pop(fleet: FleetUnderTest) -> None:
    ams = fleet.daemons["ams"]
    asked = ams.ask("route", "explain", "echo-transit", "--why-not", ">".join(PATHS["transit"]))
    assert {route["why_not"]["because"] for route in asked["routes"]} == {"it is taken"}
    gained = ams.ask("route", "gain")["pairs"]
    assert {pair["to"] for pair in gained} == set(fleet.daemons) - {"ams"}
    assert ams.ask("route", "record")["max_bytes"] == 64 << 20
