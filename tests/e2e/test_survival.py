"""Live flows while the path under them dies, and while daemons are stopped, killed, and started again."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import ECHO, FleetUnderTest, app
from tests.e2e.live import Clients, assert_tcp_is_whole, wait_for_backup
from tests.e2e.network import network, start_fleet, wait_until, why_not
from tests.e2e.programs import Ssh, need

pytestmark = pytest.mark.e2e

PORT = 7007
SSH_PORT = 7022


@pytest.fixture
def breakable(tmp_path: Path) -> Iterator[FleetUnderTest]:
    """Three PoPs with one echo app whose flows go from ams to iad; the test may break anything."""
    if reason := why_not():
        pytest.skip(reason)
    with network("ams", "iad", "sin", "client", "origin") as net:
        apps = app("echo", f"[tcp/{PORT}, udp/{PORT}]", f"{net['origin'].ipv4}:7", "direct")
        apps += app("ssh", f"tcp/{SSH_PORT}", f"{net['origin'].ipv4}:22", "direct")
        daemons = start_fleet(net, tmp_path, apps)
        net.start("origin", sys.executable, str(ECHO), "serve", net["origin"].ipv4, "7")
        fleet = FleetUnderTest(net, daemons)
        fleet.wait_for_route("echo-direct", ["ams", "iad"])
        wait_for_backup(fleet)
        yield fleet


def assert_unharmed(results: dict[str, dict[str, Any]], max_gap_ms: float, max_lost: int) -> None:
    """Every TCP message came, without a reset; UDP lost no more than the gap explains."""
    assert_tcp_is_whole(results)
    assert results["tcp"]["longest_gap_ms"] <= max_gap_ms
    assert results["udp"]["sent"] - results["udp"]["received"] <= max_lost
    assert results["udp"]["longest_gap_ms"] <= max_gap_ms


@pytest.mark.parametrize(
    "one_way", [None, ("ams", "iad"), ("iad", "ams")], ids=["both-ways", "to-egress", "to-ingress"]
)
def test_flows_outlive_a_cut_of_their_path(
    breakable: FleetUnderTest, one_way: tuple[str, str] | None
) -> None:
    """The bound is generous: how fast a repair must be is measured in the benchmark, here it must always happen."""
    clients = Clients(breakable, PORT, seconds=8)
    time.sleep(2)
    breakable.net.cut(*(one_way or ("ams", "iad")), one_way=one_way is not None)

    results = clients.results()

    assert_unharmed(results, max_gap_ms=2_000, max_lost=100)


def test_an_interactive_ssh_session_outlives_a_cut(breakable: FleetUnderTest, tmp_path: Path) -> None:
    need("ssh", "sshd")
    server = Ssh(breakable.net, "origin", tmp_path / "ssh")
    target = ["-p", str(SSH_PORT), f"root@{breakable.net['ams'].ipv4}", "cat"]
    session = subprocess.Popen(
        breakable.net["client"].command("ssh", *server.options, *target),
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1,
    )  # fmt: skip
    assert session.stdin is not None
    assert session.stdout is not None

    for line in range(60):
        if line == 20:
            breakable.net.cut("ams", "iad")
        session.stdin.write(f"line {line}\n")
        assert session.stdout.readline() == f"line {line}\n"
        time.sleep(0.1)
    session.stdin.close()

    assert session.wait(timeout=10) == 0
    session.stdout.close()


def test_flows_outlive_the_death_of_a_transit_pop(breakable: FleetUnderTest) -> None:
    """With the direct link cut first, everything goes through sin; when the direct link is back and sin is killed, flows go on."""
    breakable.net.cut("ams", "iad")
    breakable.wait_for_route("echo-direct", ["ams", "sin", "iad"])
    clients = Clients(breakable, PORT, seconds=14)
    time.sleep(2)
    breakable.net.mend("ams", "iad")
    time.sleep(5)
    os.kill(breakable.daemons["sin"].engine_pid(), signal.SIGSTOP)

    results = clients.results()

    assert_unharmed(results, max_gap_ms=2_000, max_lost=100)


def test_a_stopped_then_killed_and_restarted_daemon_disturbs_no_flow(breakable: FleetUnderTest) -> None:
    ams = breakable.daemons["ams"]
    assert ams.process is not None
    engine = ams.engine_pid()
    clients = Clients(breakable, PORT, seconds=40)
    daemon_pid = next(
        int(pid)
        for pid in breakable.net["ams"]
        .run("ip", "netns", "pids", breakable.net["ams"].namespace)
        .stdout.split()
        if b"\0run\0" in Path(f"/proc/{pid}/cmdline").read_bytes()
    )
    os.kill(daemon_pid, signal.SIGSTOP)
    time.sleep(30)
    os.kill(daemon_pid, signal.SIGKILL)
    ams.process.wait(timeout=5)
    ams.start()

    results = clients.results()

    assert_unharmed(results, max_gap_ms=200, max_lost=0)
    assert ams.engine_pid() == engine


def test_an_engine_that_dies_is_started_again(breakable: FleetUnderTest) -> None:
    ams = breakable.daemons["ams"]
    first = ams.engine_pid()
    os.kill(first, signal.SIGKILL)

    wait_until("another engine", lambda: ams.engine_pid() != first)
    breakable.wait_for_route("echo-direct", ["ams", "iad"])

    def answers() -> bool:
        done = breakable.net["client"].run(*breakable.echo("tcp", PORT, seconds=0.5), check=False)
        return done.returncode == 0 and json.loads(done.stdout)["received"] == 25

    wait_until("a new flow", answers, timeout_s=30)


def test_smart_routing_is_toggled_fleet_wide_and_the_toggle_survives_a_restart(
    breakable: FleetUnderTest,
) -> None:
    breakable.daemons["sin"].tell("smart-routing", "off", "echo-direct")

    def state(pop: str) -> str:
        routes = breakable.daemons[pop].ask("route", "list", "echo-direct")["routes"]
        return str(routes[0]["smart_routing"])

    wait_until("off at ams", lambda: state("ams") == "off")
    ams = breakable.daemons["ams"]
    assert ams.process is not None
    ams.process.terminate()
    ams.process.wait(timeout=45)
    ams.start()
    assert state("ams") == "off"
    ams.tell("smart-routing", "default", "echo-direct")
    wait_until("on again at sin", lambda: state("sin") == "on")
