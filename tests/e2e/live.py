"""Live flows of the end-to-end tests: clients that run through a test while something breaks, and what they saw. They break nothing."""

import json
from pathlib import Path
from typing import Any

from tests.e2e.conftest import FleetUnderTest
from tests.e2e.network import wait_until


def wait_for_backup(fleet: FleetUnderTest) -> None:
    """Wait until the ingress knows a way around through sin, so that a cut has somewhere to go."""

    def has_backup() -> bool:
        (route, *_) = fleet.daemons["ams"].ask("route", "list", "echo-direct")["routes"]
        return any(backup["path"] == ["ams", "sin", "iad"] for backup in route["backups"])

    wait_until("a backup through sin", has_backup, timeout_s=30)


class Clients:
    """A TCP and a UDP flow of the app echo-direct, 50 messages a second each, for `seconds`. They end with the network at the latest."""

    def __init__(self, fleet: FleetUnderTest, port: int, seconds: float) -> None:
        self._daemon = fleet.daemons["ams"]
        self._timeout_s = seconds + 30
        self._running = {}
        for protocol in ("tcp", "udp"):
            with self._output(protocol).open("wb") as output:
                command = fleet.echo(protocol, port, seconds=seconds)
                self._running[protocol] = fleet.net.start("client", *command, output=output)

    def path(self, protocol: str) -> list[str] | None:
        """Return the links that the flow takes now; None while it is not there."""
        flow = self._flow(protocol)
        return None if flow is None else list(flow["links"])

    def path_changes(self, protocol: str) -> int:
        """Return how often the flow has changed its path."""
        flow = self._flow(protocol)
        assert flow is not None, f"no {protocol} flow"
        return int(flow["path_changes"])

    def results(self) -> dict[str, dict[str, Any]]:
        """Wait for both and return what they saw."""
        for client in self._running.values():
            client.wait(timeout=self._timeout_s)
        return {protocol: json.loads(self._output(protocol).read_text()) for protocol in self._running}

    def _output(self, protocol: str) -> Path:
        return self._daemon.folder / f"client-{protocol}.json"

    def _flow(self, protocol: str) -> dict[str, Any] | None:
        flows = self._daemon.ask("flow", "list", "--app", "echo-direct")["flows"]
        return next((flow for flow in flows if flow["protocol"] == protocol), None)


def assert_tcp_is_whole(results: dict[str, dict[str, Any]]) -> None:
    """Every TCP message came, without a reset."""
    assert results["tcp"]["reset"] == ""
    assert results["tcp"]["received"] == results["tcp"]["sent"] > 0
