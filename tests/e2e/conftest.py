"""Fixtures of the end-to-end tests: one fleet of three PoPs for the tests that do not break it."""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.e2e.network import Daemon, Network, network, start_fleet, wait_until, why_not

ECHO = Path(__file__).with_name("echo.py")
MARKS = Path(__file__).with_name("marks.py")

VARIANTS = ("local", "direct", "transit")
"""local: ams dials the origin. direct: iad does, over one link. transit: sin does, and the links between ams and sin carry no traffic."""

EGRESS = {"local": "ams", "direct": "iad", "transit": "sin"}

NO_DIRECT_LINK = """\
  - {from: ams/a, to: sin/a, enabled: false}
  - {from: sin/a, to: ams/a, enabled: false}
"""


def app(name: str, listen: str, origin: str, variant: str, more: str = "") -> str:
    """Return one app document whose flows take the way of `variant`."""
    egress = EGRESS[variant]
    rest = f"routing: {{egress: [{egress}]}}\n{more}"
    return f"---\nname: {name}-{variant}\nlisten: {listen}\norigins: ['{origin}']\n{rest}"


@dataclass
class FleetUnderTest:
    """A network with three daemons, a client and an origin host with an echo server on port 7."""

    net: Network
    daemons: dict[str, Daemon]

    def wait_for_route(self, app_name: str, path: list[str]) -> None:
        """Wait until the ingress sends new flows of the app over this path."""

        def is_there() -> bool:
            routes = self.daemons["ams"].ask("route", "list", app_name)["routes"]
            return any(route["path"] == path for route in routes)

        wait_until(f"route of {app_name} is {path}", is_there, timeout_s=30)

    def echo(
        self, protocol: str, port: int, seconds: float = 2.0, rate: float = 50.0, host: str | None = None
    ) -> list[str]:
        """Return the command of an echo client towards a port of the ingress PoP."""
        target = host or self.net["ams"].ipv4
        return [
            sys.executable,
            str(ECHO),
            protocol,
            target,
            str(port),
            "--seconds",
            str(seconds),
            "--rate",
            str(rate),
        ]


def both(port: int) -> str:
    """Return a listen entry for TCP and UDP on one port."""
    return f"[tcp/{port}, udp/{port}]"


PATHS = {"local": ["ams"], "direct": ["ams", "iad"], "transit": ["ams", "iad", "sin"]}


@pytest.fixture(scope="session")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FleetUnderTest]:
    """Three PoPs that no test may break, with an app per variant and program."""
    if reason := why_not():
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("fleet")
    with network("ams", "iad", "sin", "client", "origin") as net:
        origin = net["origin"]
        apps = ""
        for number, variant in enumerate(VARIANTS):
            base = 10_000 + 1_000 * number
            apps += app("echo", both(base + 7), f"{origin.ipv4}:7", variant)
            apps += app("echo6", both(base + 8), f"[{origin.ipv6}]:7", variant)
            apps += app("told", both(base + 9), f"{origin.ipv4}:9", variant, "client_address: proxy-v2\n")
            apps += app("marks", f"udp/{base + 10}", f"{origin.ipv4}:10", variant)
            apps += app("marks6", f"udp/{base + 11}", f"[{origin.ipv6}]:10", variant)
            apps += app("ef", f"udp/{base + 12}", f"{origin.ipv4}:10", variant, "dscp: ef\n")
            apps += app("iperf", both(base + 201), f"{origin.ipv4}:5201", variant)
            apps += app("sockperf", both(base + 111), f"{origin.ipv4}:11111", variant)
            apps += app("ssh", f"tcp/{base + 22}", f"{origin.ipv4}:22", variant)
            apps += app("web", f"tcp/{base + 80}", f"{origin.ipv4}:80", variant)
            apps += app("sip", f"[udp/{base + 60}]", f"{origin.ipv4}:5060", variant)
            apps += app("rtp", f"udp/{base + 500}-{base + 519}", f"{origin.ipv4}:{base + 500}", variant)
            apps += app("luanti", f"udp/{base + 300}", f"{origin.ipv4}:30000", variant)
        daemons = start_fleet(net, folder, apps, links=NO_DIRECT_LINK)
        for family in (origin.ipv4, origin.ipv6):
            net.start("origin", sys.executable, str(ECHO), "serve", family, "7")
            net.start("origin", sys.executable, str(MARKS), "serve", family, "10")
        net.start("origin", sys.executable, "-m", "tests.e2e.told", origin.ipv4, "9")
        under_test = FleetUnderTest(net, daemons)
        for variant in VARIANTS:
            under_test.wait_for_route(f"echo-{variant}", PATHS[variant])
        yield under_test


@pytest.fixture(params=VARIANTS)
def variant(request: pytest.FixtureRequest) -> str:
    """Each way that a flow can take."""
    return str(request.param)
