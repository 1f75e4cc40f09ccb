"""PoPs of a fleet as real daemons in namespaces on plain veth pairs: for what costs processor time or memory.

PoPs stand in a row and each has a cable to the next one; a client hangs on the first and an origin on the last. Nothing
here emulates a distance.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from l4proxy.bench.testbed import L4PROXY, PYTHON, BenchmarkError, Host, Program, Testbed, run, wait_for

OVERLAY_PORT, APP_PORT, ORIGIN_PORT = 4600, 7000, 4000
CLIENT, ORIGIN = "10.214.9.1", "10.214.8.1"
METRICS = "127.0.0.1:9646"
START_S = 60.0
"""Until a daemon answers and its links are up; a busy machine takes its time to load an interpreter."""


@dataclass(frozen=True, slots=True)
class Pop:
    """One running PoP."""

    name: str
    host: Host
    address: str
    """Of its overlay socket."""
    program: Program
    folder: Path

    @property
    def socket(self) -> Path:
        """Its daemon's socket."""
        return self.folder / "l4proxy.sock"

    def ask(self, *command: str) -> Any:
        """Return what a reading command of ours says, as JSON; also of a PoP that calls itself degraded, as one under a flood does."""
        return json.loads(run([*L4PROXY, *command, "--json", "--socket", str(self.socket)], ok=(0, 5)))

    def counters(self) -> dict[str, float]:
        """Return the overlay's counters, `overlay_packets_total out` and the like, as Prometheus would read them."""
        fetch = f"import sys,urllib.request as r;sys.stdout.write(r.urlopen('http://{METRICS}/metrics').read().decode())"
        text = self.host.run(*PYTHON, "-c", fetch)
        found = re.findall(r'^l4proxy_(overlay_\w+)\{direction="(\w+)".*\} (\S+)$', text, re.MULTILINE)
        return {f"{name} {direction}": float(value) for name, direction, value in found}

    def engine(self) -> int:
        """Return the pid of its engine: whom packets cost time."""
        return int(self.ask("status")["engine_pid"])


class Fleet:
    """PoPs in a row, `names[0]` to `names[-1]`, with a client and an origin at the ends. All of it ends with the testbed."""

    def __init__(
        self,
        bed: Testbed,
        folder: Path,
        names: Sequence[str],
        cores: Mapping[str, int | str],
        apps: Sequence[Mapping[str, Any]] | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        """Make and start it. `cores`: by PoP, `client`, `origin`; `settings`: more of the fleet file.

        BenchmarkError when it does not come up.
        """
        self.bed, self.folder, self.names, self._cores = bed, folder, list(names), cores
        hosts = {
            name: bed.host(f"{folder.name}-{name}", cores[name]) for name in (*names, "client", "origin")
        }
        self.client, self.origin = hosts["client"], hosts["origin"]
        self._cable(hosts)
        self._write(apps or [app()], settings or {})
        self.pops = {name: self._start(name, hosts[name]) for name in names}
        programs = [pop.program for pop in self.pops.values()]
        wait_for("the fleet is up", programs, self._is_up, START_S)

    @property
    def ingress(self) -> Pop:
        """The PoP with the client."""
        return self.pops[self.names[0]]

    @property
    def egress(self) -> Pop:
        """The PoP with the origin."""
        return self.pops[self.names[-1]]

    def address(self, name: str) -> str:
        """Return the overlay address of a PoP: one of its own, which every cable leads to."""
        return f"10.214.100.{1 + self.names.index(name)}"

    def _cable(self, hosts: Mapping[str, Host]) -> None:
        for name in self.names:
            hosts[name].run("ip", "address", "add", f"{self.address(name)}/32", "dev", "lo")
        for index, (left, right) in enumerate(zip(self.names, self.names[1:], strict=False)):
            ends = f"10.214.{index}.1", f"10.214.{index}.2"
            self.bed.cable(hosts[left], f"{ends[0]}/24", hosts[right], f"{ends[1]}/24")
            for name in self.names[index + 1 :]:
                self._route(hosts[left], self.address(name), ends[1], self.address(left))
            for name in self.names[: index + 1]:
                self._route(hosts[right], self.address(name), ends[0], self.address(right))
        first, last = hosts[self.names[0]], hosts[self.names[-1]]
        self.bed.cable(self.client, f"{CLIENT}/24", first, "10.214.9.2/24")
        self.bed.cable(last, "10.214.8.2/24", self.origin, f"{ORIGIN}/24")

    @staticmethod
    def _route(host: Host, to: str, over: str, source: str) -> None:
        host.run("ip", "route", "add", f"{to}/32", "via", over, "src", source)

    def _write(self, apps: Sequence[Mapping[str, Any]], settings: Mapping[str, Any]) -> None:
        name = "bench"
        pops = {pop: {"transits": {"a": f"{self.address(pop)}:{OVERLAY_PORT}"}} for pop in self.names}
        # Only neighbours are joined, so that whatever leaves the first PoP for the last passes those between.
        links = [
            {"from": f"{a}/a", "to": f"{b}/a", "enabled": False}
            for i, a in enumerate(self.names)
            for j, b in enumerate(self.names)
            if abs(i - j) > 1
        ]
        document: dict[str, Any] = {
            "fleet": name,
            "pops": pops,
            **({"links": links} if links else {}),
            **settings,
        }
        (self.folder / "fleet.yaml").write_text(yaml.safe_dump(document, sort_keys=False))
        placed = [
            {"pops": [self.names[0]], "routing": {"egress": [self.names[-1]]}, "smart_routing": "on", **one}
            for one in apps
        ]
        (self.folder / "apps.yaml").write_text(yaml.safe_dump_all(placed, sort_keys=False))
        run([*L4PROXY, "pki", "init", "--dir", str(self.folder / "ca"), "--fleet", name])

    def _start(self, name: str, host: Host) -> Pop:
        folder = self.folder / name
        folder.mkdir()
        identity = str(folder / "identity")
        run([*L4PROXY, "pki", "issue", name, "--dir", str(self.folder / "ca"), "--out", identity])
        command = [
            *L4PROXY, "run", str(self.folder / "apps.yaml"), "--fleet", str(self.folder / "fleet.yaml"), "--pop", name,
            "--identity", identity, "--state-dir", str(folder / "state"), "--socket", str(folder / "l4proxy.sock"),
            "--metrics", METRICS, "--workers", "1",
        ]  # fmt: skip
        program: Program = self.bed.enter(host.program(*command, log=folder / "log"))
        return Pop(name, host, self.address(name), program, folder)

    def _is_up(self) -> bool:
        try:
            for pop in self.pops.values():
                if not pop.socket.exists() or not pop.ask("status")["ready"]:
                    return False
            routes = self.ingress.ask("route", "list")["routes"]
        except BenchmarkError:
            return False
        return bool(routes) and all(list(route["path"]) == self.names for route in routes)

    def reflect(self) -> Program:
        """Start the origin: it echoes, is sink and source. It listens when this returns."""
        command = [*L4PROXY, "bench", "reflect", "--listen", f"{ORIGIN}:{ORIGIN_PORT}"]
        log = self.folder / "reflect.log"
        program: Program = self.bed.enter(self.origin.program(*command, log=log))
        wait_for("the origin listens", [program], lambda: "reflecting on" in log.read_text(errors="replace"))
        return program


def app() -> dict[str, Any]:
    """Return the app of the measurements: TCP and UDP from the first PoP to the origin behind the last."""
    return {
        "name": "bench",
        "listen": [f"tcp/10.214.9.2:{APP_PORT}", f"udp/10.214.9.2:{APP_PORT}"],
        "origins": [f"{ORIGIN}:{ORIGIN_PORT}"],
    }
