"""Certificates of real engines: renewed over the tunnel under live flows, past the end of those that they began with; and revoked."""

import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from l4proxy import pki
from tests.e2e.conftest import ECHO, FleetUnderTest, app
from tests.e2e.live import Clients, assert_tcp_is_whole
from tests.e2e.network import L4PROXY, Daemon, network, run, start_fleet, wait_until, why_not

pytestmark = pytest.mark.e2e

PORT = 7007

LIFETIME = timedelta(seconds=45)
"""From its making; with as much before, a third is left after 15 seconds."""


@pytest.fixture
def fleet(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[FleetUnderTest]:
    """Three PoPs with certificates of this lifetime; iad renews them."""
    if reason := why_not():
        pytest.skip(reason)
    with network("ams", "iad", "sin", "client", "origin") as net:
        apps = app("echo", f"[tcp/{PORT}, udp/{PORT}]", f"{net['origin'].ipv4}:7", "direct")
        daemons = start_fleet(net, tmp_path, apps, issuer="iad", lifetime=request.param)
        net.start("origin", sys.executable, str(ECHO), "serve", net["origin"].ipv4, "7")
        fleet = FleetUnderTest(net, daemons)
        fleet.wait_for_route("echo-direct", ["ams", "iad"])
        yield fleet


def identity_of(daemon: Daemon) -> pki.Identity:
    """Return what lies in the folder of a PoP's identity."""
    folder = daemon.folder.parent / f"id-{daemon.host}"
    return pki.load_identity(folder, datetime.now(UTC), "e2e", daemon.host)


def peers(daemon: Daemon) -> dict[str, bool]:
    """Return with whom a PoP has a tunnel."""
    return {pop["name"]: pop["connected"] for pop in daemon.ask("pop", "list")["pops"] if not pop["self"]}


def problems(daemon: Daemon) -> str:
    return "\n".join(found["what"] for found in daemon.ask("status")["problems"])


def restart(daemon: Daemon) -> None:
    """End a daemon and its engine without waiting for flows, and start both again."""
    assert daemon.process is not None
    daemon.process.terminate()
    try:
        daemon.process.wait(timeout=2)
    except subprocess.TimeoutExpired:
        daemon.process.terminate()
        daemon.process.wait(timeout=40)
    daemon.start()


@pytest.mark.parametrize("fleet", [LIFETIME], indirect=True)
def test_certificates_are_renewed_under_live_flows_which_outlive_the_first_ones(
    fleet: FleetUnderTest,
) -> None:
    first = {name: identity_of(daemon) for name, daemon in fleet.daemons.items()}
    last_end = max(found.not_after for found in first.values())
    seconds = (last_end - datetime.now(UTC)).total_seconds() + 10
    clients = Clients(fleet, PORT, seconds=seconds)

    results = clients.results()
    assert datetime.now(UTC) > last_end
    assert_tcp_is_whole(results)
    assert results["udp"]["received"] >= 0.99 * results["udp"]["sent"]

    for name, daemon in fleet.daemons.items():
        found = identity_of(daemon)
        assert found.serial != first[name].serial
        assert found.key_pem != first[name].key_pem
        assert found.not_after > datetime.now(UTC)
        assert "certificate" not in problems(daemon)
    # Who starts now has the new certificate only, and those who are there accept it and show theirs.
    restart(fleet.daemons["sin"])
    for name in ("ams", "iad"):
        wait_until(f"a tunnel of {name} and sin", lambda name=name: peers(fleet.daemons[name])["sin"], 30)


@pytest.mark.parametrize("fleet", [None], indirect=True)
def test_a_revoked_pop_loses_its_flows_and_cannot_come_back(fleet: FleetUnderTest) -> None:
    """iad, where the flows of ams go out, believes ams no more."""
    ams, iad = fleet.daemons["ams"], fleet.daemons["iad"]
    clients = Clients(fleet, PORT, seconds=20)
    wait_until("a flow", lambda: clients.path("tcp"), 20)
    began = time.monotonic()
    run(str(L4PROXY), "pki", "revoke", "ams", "--dir", str(iad.folder.parent / "id-iad"))

    def flows() -> list[dict[str, Any]]:
        return [flow for flow in ams.ask("flow", "list")["flows"] if flow["protocol"] == "tcp"]

    wait_until("the flow's end", lambda: not flows(), 20)
    assert time.monotonic() - began < 20
    assert clients.results()["tcp"]["reset"]
    wait_until("no tunnel with iad", lambda: not peers(ams)["iad"], 20)
    restart(ams)
    told = "no tunnel with iad: peer refused our certificate: revoked"
    wait_until("ams is told why", lambda: told in problems(ams), 40)
    assert not peers(ams)["iad"]
    assert not peers(iad)["ams"]
    assert peers(iad)["sin"], "others are left alone"
    wait_until("who has not the list goes on with it", lambda: peers(ams)["sin"], 30)
    assert fleet_metric(iad, "l4proxy_tunnel_handshakes_failed_total")["revoked"] > 0


def fleet_metric(daemon: Daemon, name: str) -> dict[str, float]:
    """Return a metric of a daemon by its reason."""
    text = run("curl", "-s", "--unix-socket", str(daemon.socket), "http://localhost/metrics").stdout
    found = {}
    for line in text.splitlines():
        if line.startswith(name + "{"):
            found[line.partition('reason="')[2].partition('"')[0]] = float(line.rpartition(" ")[2])
    return found
