"""The story of `make run`: three PoPs carry real flows with smart routing off, on, through a cut link, and after its repair.

Every path in the report is what the ingress PoP says that the client's own flows take; every figure is the client's.
"""

import contextlib
import json
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from l4proxy.lab import daemons, measure, programs
from l4proxy.lab.network import LabError, Network
from l4proxy.lab.story import APP, CLIENT, ORIGIN, PORT, Story

WINDOW_S = 6.0
"""How long a step is measured: 300 messages a flow, enough for a p99 that is not the maximum."""
THROUGH_CUT_S = 8.0
"""How long flows are watched after the cut: detection, rerouting and a return to calm."""
GRACE_S = 1.5
"""How long after a window late echoes still count: the longest round trip, a loss and its repair."""
SETTLE_S = 2.0
"""From opening a client's flows to the window: connecting, and the first round trips of a fresh tunnel."""
CONVERGE_TIMEOUT_S = 30.0
RETURN_TIMEOUT_S = 12.0
"""How long to wait for flows to return after a repair. They may; they need not."""
DOWNLOAD_BYTES, DOWNLOAD_S = 4_000_000, 6.0
MIN_SAMPLES = 5
"""Probe samples of every link before the story begins: enough for a first estimate."""
LATE_LIMIT_US = 1_000
"""A window in which the emulator was later than this (p99) says more about this machine: it is measured once more."""

FLOWS = ("tcp", "udp")
"""The client's flows that are numbered messages, and have round trips."""

Progress = Callable[[str], None]
Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Client:
    """The demo's client process and its record."""

    process: "subprocess.Popen[bytes]"
    record: Path

    def flows(self) -> dict[str, measure.FlowRecord]:
        """Read what happened so far."""
        with self.record.open() as lines:
            return measure.read(lines)


@dataclass(slots=True)
class Demo:
    """One telling of the story, in a lab that stands and whose daemons are ready."""

    network: Network
    story: Story
    progress: Progress
    steps: list[Json] = field(default_factory=list)

    def tell(self) -> None:
        """Go through the four steps; `steps` grows with each."""
        ingress, transit, egress = self.story.pops
        self.network.start(ORIGIN, programs.module("traffic", "origin", str(PORT)), "origin")
        self.progress("waiting until every link is measured")
        daemons.wait_until("every link is up and measured", self._links_are_measured, CONVERGE_TIMEOUT_S)
        self._toggle("off", [ingress, egress])
        with self._client("off") as client:
            self._measured_step("smart_routing_off", client)
        self._toggle("on", [ingress, transit, egress])
        with self._client("on") as client:
            self._measured_step("smart_routing_on", client)
            self._cut_step(client)
            self._mend_step(client)

    # -- the steps -----------------------------------------------------------------------------------------------

    def _toggle(self, value: str, path: Sequence[str]) -> None:
        """Set smart routing fleet-wide, and wait until the ingress would send new flows over `path`."""
        self.progress(f"smart routing {value}")
        ingress = self.story.triple.ingress
        daemons.tell(self.network, ingress, "smart-routing", value, "--all")

        def arrived() -> bool:
            routes = daemons.ask(self.network, ingress, "route", "list")["routes"]
            ours = [route for route in routes if route["app"] == APP and route["ingress"] == ingress]
            return bool(ours) and all(list(route["path"]) == list(path) for route in ours)

        with contextlib.suppress(LabError):  # the step's own path tells it; `verdict` is the judge
            daemons.wait_until(f"routes over {' > '.join(path)}", arrived, CONVERGE_TIMEOUT_S)

    def _measured_step(self, name: str, client: Client) -> None:
        """Measure open flows for a window, then a download of its own."""
        time.sleep(SETTLE_S)
        paths = self._paths(client)
        start_ns, end_ns, lateness = self._window(WINDOW_S)
        if lateness["p99_us"] > LATE_LIMIT_US:
            self.progress(f"the emulator was {lateness['p99_us'] / 1000:.1f} ms late: measuring once more")
            start_ns, end_ns, lateness = self._window(WINDOW_S)
        step = self._step(name, client, paths, (start_ns, end_ns), lateness)
        step["download"] = self._download()
        self.steps.append(step)
        self.progress(
            f"{name}: {' > '.join(step['path'])}, TCP {step['tcp']['rtt_ms_p50']} ms, UDP {step['udp']['rtt_ms_p50']} ms"
        )

    def _cut_step(self, client: Client) -> None:
        """Cut the first link of the path in use, in both directions, under live flows."""
        wanted = self.steps[-1]["path"]
        with contextlib.suppress(
            LabError
        ):  # a flow that was moved meanwhile may be back in a moment; else its own path is cut
            daemons.wait_until("flows on their path", lambda: self._all_on(client, wanted), RETURN_TIMEOUT_S)
        a, b, *_ = self._paths(client)["tcp"] or wanted
        self.network.stats(reset=True)
        self.progress(f"cutting {a} - {b} under live flows")
        cut_ns = time.monotonic_ns()
        self.network.cut(a, b)
        time.sleep(THROUGH_CUT_S)
        paths = self._paths(client)
        end_ns = time.monotonic_ns()
        time.sleep(GRACE_S)
        lateness = self.network.stats(reset=True)["lateness"]
        step = self._step("cut", client, paths, (cut_ns, end_ns), lateness)
        step["cut"] = [a, b]
        self.steps.append(step)
        self.progress(
            f"cut: {' > '.join(step['path'])}, {step['tcp']['resets']} resets, longest gap TCP"
            f" {step['tcp']['longest_gap_ms']:.0f} ms, UDP {step['udp']['longest_gap_ms']:.0f} ms"
        )

    def _mend_step(self, client: Client) -> None:
        """Repair the link and see whether, and when, the flows return."""
        before, (a, b) = self.steps[1], self.steps[-1]["cut"]
        self.progress(f"mending {a} - {b}")
        self.network.mend(a, b)
        mended_ns = time.monotonic_ns()
        returned_s: dict[str, float] = {}

        def look() -> dict[str, list[str]]:
            paths, since_s = self._paths(client), (time.monotonic_ns() - mended_ns) / 1e9
            for flow in FLOWS:
                if paths[flow] == before[flow]["path"]:
                    returned_s.setdefault(flow, round(since_s, 1))
            return paths

        while len(returned_s) < len(FLOWS) and time.monotonic_ns() - mended_ns < RETURN_TIMEOUT_S * 1e9:
            look()
            time.sleep(1.0)
        start_ns, end_ns, lateness = self._window(WINDOW_S / 2)
        step = self._step("mend", client, look(), (start_ns, end_ns), lateness)
        step["returned_after_s"] = {flow: returned_s.get(flow) for flow in FLOWS}
        step["resets_since_mend"] = sum(
            at >= mended_ns for flow in client.flows().values() for at, _ in flow.ends
        )
        self.steps.append(step)
        self.progress(f"mend: {' > '.join(step['path'])}")

    # -- its parts -----------------------------------------------------------------------------------------------

    def _window(self, seconds: float) -> tuple[int, int, Json]:
        """Let flows run; return when that was, and how late the emulator was meanwhile."""
        self.network.stats(reset=True)
        start_ns = time.monotonic_ns()
        time.sleep(seconds)
        end_ns = time.monotonic_ns()
        time.sleep(GRACE_S)
        return start_ns, end_ns, self.network.stats(reset=True)["lateness"]

    def _step(
        self,
        name: str,
        client: Client,
        paths: Mapping[str, list[str]],
        window: tuple[int, int],
        lateness: Json,
    ) -> Json:
        flows, (start_ns, end_ns) = client.flows(), window
        step: Json = {"name": name, "path": paths["tcp"], "path_rtt_ms": self.story.path_rtt_ms(paths["tcp"])}
        for flow in FLOWS:
            figures = measure.figures(flows.get(flow, measure.FlowRecord()), start_ns, end_ns)
            step[flow] = figures.to_json() | {"path": paths[flow]}
        bulk = flows.get("bulk", measure.FlowRecord())
        step["bulk"] = {
            "bytes": bulk.bytes_received,
            "longest_gap_ms": measure.longest_gap_ms(bulk.arrivals, start_ns, end_ns),
            "resets": len(bulk.ends),
        }
        step["emulator"] = lateness
        return step

    def _all_on(self, client: Client, path: Sequence[str]) -> bool:
        return all(found == list(path) for found in self._paths(client).values())

    def _paths(self, client: Client) -> dict[str, list[str]]:
        """Ask the ingress which PoPs the client's own TCP and UDP flows pass now."""
        flows = daemons.ask(self.network, self.story.triple.ingress, "flow", "list", "--app", APP)["flows"]
        ports = {name: flow.local_port for name, flow in client.flows().items()}
        paths: dict[str, list[str]] = {"tcp": [], "udp": []}
        for flow in flows:
            port = int(str(flow["client"]).rpartition(":")[2])
            if flow["protocol"] in paths and ports.get(flow["protocol"]) == port:
                paths[flow["protocol"]] = list(flow["path"])
        return paths

    def _download(self) -> Json:
        command = programs.module(
            "traffic",
            "download",
            self.story_address,
            str(PORT),
            "--bytes",
            str(DOWNLOAD_BYTES),
            "--seconds",
            str(DOWNLOAD_S),
        )
        done = subprocess.run(
            self.network.command(CLIENT, command), env=self.network.run.environment(),
            capture_output=True, timeout=DOWNLOAD_S + 20, check=True,
        )  # fmt: skip
        answer: Json = json.loads(done.stdout)
        return answer

    @property
    def story_address(self) -> str:
        """Where the client finds the app: the ingress PoP."""
        return self.network.plan.hosts[self.story.triple.ingress].ipv4

    def _links_are_measured(self) -> bool:
        for pop in self.story.pops:
            links = daemons.ask(self.network, pop, "link", "list")["links"]
            own = [link for link in links if link["from"] == pop]
            if len(own) < len(self.story.pops) - 1 or not all(
                link["up"] and link["samples"] >= MIN_SAMPLES for link in own
            ):
                return False
        return True

    @contextlib.contextmanager
    def _client(self, name: str) -> Iterator[Client]:
        folder = self.network.run.folder
        record = folder / f"client-{name}.jsonl"
        record.touch()
        with (folder / "client.log").open("ab") as log:
            command = programs.module(
                "traffic", "client", self.story_address, str(PORT), "--record", str(record)
            )
            process = self.network.start(CLIENT, command, "client", log)
        try:
            yield Client(process, record)
        finally:
            process.terminate()
            process.wait()


def verdict(steps: Sequence[Json], story: Story) -> list[str]:
    """Return what is not as it should be; empty means that the demo showed what it claims."""
    named = {step["name"]: step for step in steps}
    missing = [name for name in ("smart_routing_off", "smart_routing_on", "cut", "mend") if name not in named]
    if missing:
        return [f"{name}: never reached" for name in missing]
    ingress, transit, egress = story.pops
    off, on, cut, mend = (named[name] for name in ("smart_routing_off", "smart_routing_on", "cut", "mend"))
    claims = [
        (f"off goes direct, not {off['path']}", off["path"] == [ingress, egress]),
        (f"on goes over {transit}, not {on['path']}", on["path"] == [ingress, transit, egress]),
        (f"the cut link {cut['cut']} is left, not kept in {cut['path']}", _avoids(cut["path"], cut["cut"])),
    ]
    for flow in FLOWS:
        claims += [
            (f"{flow}: RTT on is lower than off", _lower(on[flow]["rtt_ms_p50"], off[flow]["rtt_ms_p50"])),
            (f"{flow}: path on is shorter than off", on["path_rtt_ms"] < off["path_rtt_ms"]),
            (f"{flow}: goes on through the cut", cut[flow]["received"] > 0 and _went_on(cut[flow])),
            (f"{flow}: goes on after the repair", mend[flow]["received"] > 0),
        ]
        claims += [(f"{flow}: {step['name']} without a reset", step[flow]["resets"] == 0) for step in steps]
    claims += [(f"tcp: {step['name']} complete and in order", step["tcp"]["lost"] == 0) for step in steps]
    claims += [(f"bulk: {step['name']} without a reset", step["bulk"]["resets"] == 0) for step in steps]
    claims.append(("no reset after the repair", mend["resets_since_mend"] == 0))
    return [claim for claim, holds in claims if not holds]


def _avoids(path: Sequence[str], link: Sequence[str]) -> bool:
    """Whether there is a path, and it does not cross the link."""
    return len(path) > 1 and not any({a, b} == set(link) for a, b in pairwise(path))


def _lower(a: float | None, b: float | None) -> bool:
    return a is not None and b is not None and a < b


def _went_on(figures: Json) -> bool:
    """Whether a flow came back within the window, not only finished what was under way when the link was cut."""
    return bool(figures["longest_gap_ms"] < THROUGH_CUT_S * 1000 / 2)


def report(demo: Demo, seconds: float) -> Json:
    """Return the document of `lab demo --once --json`."""
    failed = verdict(demo.steps, demo.story)
    late = [step["emulator"] for step in demo.steps]
    return {
        "topology": demo.story.topology(),
        "steps": demo.steps,
        "emulator": {
            "late_us_p99": max((each["p99_us"] for each in late), default=0),
            "late_us_max": max((each["max_us"] for each in late), default=0),
            "late_packets": sum(each["late_packets"] for each in late),
            "packets": sum(each["packets"] for each in late),
        },
        "seconds": round(seconds, 1),
        "failed": failed,
        "ok": not failed,
    }
