"""Real daemons and hosts in the lab's emulator: for what distance costs. A figure that was taken while the emulator was late is none.

Times are those of one machine that does everything, so each measurement watches how late the emulator was; late ones are
thrown away and taken again, up to a bound.
"""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

from l4proxy.bench.testbed import BenchmarkError
from l4proxy.lab import daemons, privilege
from l4proxy.lab.network import LabError, Network

LATE_LIMIT_US = 2_000
"""A measurement in which 1 % of packets were later than this is thrown away: 1 % of the round trips that are measured."""
ATTEMPTS = 6
LINKS_S = 40.0
"""Until every link is up and has samples enough for a first estimate."""
MIN_SAMPLES = 5


@contextmanager
def emulated(document: Mapping[str, Any], *, precise: bool = False) -> Iterator["Wan"]:
    """Make a lab with its daemons; it goes with the context. BenchmarkError when this machine lets us make none."""
    access = privilege.detect()
    if access.mode is None:
        raise BenchmarkError("; ".join(access.missing))
    try:
        network = Network.up(document, mode=access.mode, wire=access.wire, precise=precise)
        try:
            daemons.start_fleet(network)
            wan = Wan(network)
            for pop in network.plan.pops:
                ready = partial(wan.is_measured, pop.name)
                daemons.wait_until(f"{pop.name}: every link is up and measured", ready, LINKS_S)
            yield wan
        finally:
            network.down()
    except LabError as error:
        raise BenchmarkError(str(error)) from error


class Wan:
    """A lab that stands."""

    def __init__(self, network: Network) -> None:
        self.network = network
        self.retaken = 0
        """Measurements that were thrown away because the emulator was late."""

    def is_measured(self, pop: str) -> bool:
        """Whether a PoP's own links are up and have samples; links that the lab does not have do not count."""
        links = daemons.ask(self.network, pop, "link", "list")["links"]
        own = [link for link in links if link["from"] == pop and link["name"] in self.network.plan.links]
        return bool(own) and all(link["up"] and link["samples"] >= MIN_SAMPLES for link in own)

    def address(self, host: str) -> str:
        """Return a host's IPv4 address."""
        return self.network.plan.hosts[host].ipv4

    def serve(self, host: str, module: str, *arguments: str) -> None:
        """Start a module of `l4proxy.bench.overlay` in a host; it ends with the lab. Returns when it has said `ready`."""
        log = self.network.run.folder / f"{module}-{host}.log"
        with log.open("wb") as out:
            self.network.start(host, _module(module, *arguments), "origin", out)
        daemons.wait_until(f"{module} on {host}", lambda: "ready" in log.read_text(), 15.0)

    def ask(self, host: str, module: str, *arguments: str, timeout_s: float = 120.0) -> dict[str, Any]:
        """Run a module in a host to its end and return the JSON that it prints. BenchmarkError when it fails."""
        command = self.network.command(host, _module(module, *arguments))
        done = subprocess.run(
            command, env=self.network.run.environment(), capture_output=True, text=True, timeout=timeout_s, check=False
        )  # fmt: skip
        if done.returncode != 0:
            raise BenchmarkError(f"{module} on {host}: {done.stderr.strip()[-300:]}")
        answer: dict[str, Any] = json.loads(done.stdout)
        return answer

    def on_time(
        self, measure: Callable[[], dict[str, float]], again: Callable[[], None] = lambda: None
    ) -> dict[str, float]:
        """Return what `measure` gives while the emulator keeps its times. `again` is called before another attempt.

        BenchmarkError when it was late every time: the figure would be this machine's, not the network's.
        """
        late = 0.0
        for attempt in range(ATTEMPTS):
            if attempt:
                self.retaken += 1
                again()
            self.network.stats(reset=True)
            figures = measure()
            late = self.network.stats(reset=True)["lateness"]["p99_us"]
            if late <= LATE_LIMIT_US:
                return figures | {"late_us_p99": late}
        raise BenchmarkError(
            f"the emulator was {late / 1e3:.1f} ms late in {ATTEMPTS} attempts: this machine is too busy"
        )

    def route(self, pop: str, path: list[str], timeout_s: float = 60.0) -> None:
        """Wait until a PoP would send new flows over this path."""

        def arrived() -> bool:
            routes = daemons.ask(self.network, pop, "route", "list")["routes"]
            ours = [route for route in routes if route["ingress"] == pop]
            return bool(ours) and all(list(route["path"]) == path for route in ours)

        daemons.wait_until(f"{pop} routes over {' > '.join(path)}", arrived, timeout_s)


def _module(name: str, *arguments: str) -> list[str]:
    return [sys.executable, "-m", f"l4proxy.bench.overlay.{name}", *arguments]
