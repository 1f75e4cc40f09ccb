"""The family `bulk`: TCP through the tunnel, beside the QUIC library's own bulk over its async API.

Client, two PoPs, origin on plain cables; both PoPs on one core, client and origin on the other. The reference runs between
the same two PoPs' namespaces on the same core and carries only the inner half: no TCP at either end. What counts is
gigabits a second that one core could carry at the end that works harder.
"""

import json
from collections.abc import Iterator
from pathlib import Path

from l4proxy.bench.bars import OURS
from l4proxy.bench.judged import turns
from l4proxy.bench.load_client import LoadClient
from l4proxy.bench.overlay import cargo
from l4proxy.bench.overlay.context import Context, Found, Skipped
from l4proxy.bench.overlay.fleet import APP_PORT, Fleet
from l4proxy.bench.overlay.rows import NOQ, Load
from l4proxy.bench.relay.tls_load import write_certificate
from l4proxy.bench.testbed import BenchmarkError, Program, wait_for

SOURCE = Path("rust_ext/peers/noq-bulk")
"""Below the current directory: it is part of a checkout, and no part of what is installed."""
PORT = 7200


def measure(context: Context, loads: list[Load]) -> Iterator[Found]:
    """Take ours and the library's in turn."""
    core, other = context.measured_core, context.other_core
    with context.testbed("bulk") as (bed, folder):
        names = ["alpha", "charlie"]
        cores: dict[str, int | str] = {"alpha": core, "charlie": core, "client": other, "origin": other}
        fleet = Fleet(bed, folder, names, cores)
        fleet.reflect()
        client: LoadClient = bed.enter(LoadClient(fleet.client, folder / "load.log"))
        arms = [OURS]
        try:
            peer = _Peer(fleet)
            arms.append(NOQ)
        except (Skipped, BenchmarkError) as error:
            context.skipped.update(dict.fromkeys((load.key for load in loads), str(error)))
        for repeat in range(context.repeats):
            for load in loads:
                for arm in turns(arms, repeat):
                    flows = load.options["flows"]
                    figures = (
                        _ours(fleet, client, flows, context.seconds)
                        if arm == OURS
                        else peer.measure(flows, context.seconds)
                    )
                    yield load.key, arm, figures


def _ours(fleet: Fleet, client: LoadClient, flows: int, seconds: float) -> dict[str, float]:
    cpu, gb_s = {}, 0.0
    for end, pop in (("ingress", fleet.ingress), ("egress", fleet.egress)):
        found = client.ask(
            "bulk", f"10.214.9.2:{APP_PORT}", pop.program, seconds=seconds, flows=flows, reverse=False
        )
        cpu[end], gb_s = found["cpu"], found["gb_s"]
    return figures(cpu["ingress"], cpu["egress"], gb_s)


def figures(sender: float, receiver: float, gb_s: float) -> dict[str, float]:
    """Return what the two ends' processor time, s/GB each, means: Gbit/s of a core at the end that works harder."""
    return {
        "gbit_core": 8 / max(sender, receiver),
        "sender_s_gb": sender,
        "receiver_s_gb": receiver,
        "gbit_s": 8 * gb_s,
    }


class _Peer:
    """The library's sender and receiver between two PoPs' namespaces."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._program = build()
        write_certificate(fleet.folder)
        self._log = fleet.folder / "noq-bulk.log"
        self._target = f"{fleet.egress.address}:{PORT}"
        command = [self._program, "receive", self._target, str(fleet.folder)]
        self._receiver: Program = fleet.bed.enter(fleet.egress.host.program(*command, log=self._log))
        wait_for("noq-bulk is ready", [self._receiver], lambda: "ready" in self._log.read_text(), 20.0)

    def measure(self, flows: int, seconds: float) -> dict[str, float]:
        """Move bulk for so long."""
        ended = len(self._reports())
        command = [self._program, "send", self._target, str(self._fleet.folder), str(flows), str(seconds)]
        sent = json.loads(self._fleet.ingress.host.run(*command))
        wait_for("noq-bulk's receiver", [self._receiver], lambda: len(self._reports()) > ended, 20.0)
        received = self._reports()[-1]
        return figures(
            sent["cpu_ns"] / sent["bytes"],
            received["cpu_ns"] / received["bytes"],
            sent["bytes"] / 1e9 / sent["seconds"],
        )

    def _reports(self) -> list[dict[str, float]]:
        return [json.loads(line) for line in self._log.read_text().splitlines() if line.startswith("{")]


def build() -> str:
    """Build the peer's program, once; return its path. Skipped when that cannot be done here."""
    return cargo.build("the library's own benchmark", SOURCE, "noq-bulk")
