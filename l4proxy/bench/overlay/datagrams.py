"""The family `datagrams`: UDP in → tunnel → UDP out, ours beside QUIC DATAGRAM frames of the same library.

Those go through a loop of the same shape, the reference, and through our own (`datagrams: quic`), which is not judged: it says what the
channel saves and what the loop does.

Client, two PoPs, origin: a row of namespaces. The client sends messages of 160 B over several flows and the origin echoes them, so each end
carries every packet once in each direction. Both ends of an arm are measured in one run after the other.
"""

from collections.abc import Iterator
from functools import partial
from typing import Any

from l4proxy.bench.bars import OURS
from l4proxy.bench.judged import turns
from l4proxy.bench.load_client import LoadClient
from l4proxy.bench.overlay.context import Context, Found
from l4proxy.bench.overlay.fleet import APP_PORT, ORIGIN, ORIGIN_PORT, Fleet
from l4proxy.bench.overlay.rows import OURS_IN_QUIC, QUIC_DATAGRAM, Load
from l4proxy.bench.relay.tls_load import write_certificate
from l4proxy.bench.testbed import PYTHON, BenchmarkError, Program, wait_for

FLOWS, BYTES, WINDOW = 16, 160, 8
FLOOR_PORT, TUNNEL_PORT = 7100, 7101


def measure(context: Context, loads: list[Load]) -> Iterator[Found]:
    """Take every rate, arm and end in turn."""
    core, other = context.measured_core, context.other_core
    with context.testbed("datagrams") as (bed, folder):
        names = ["alpha", "charlie"]
        # Both ends on one core, client and origin on the other: neither end waits for the load.
        cores: dict[str, int | str] = {"alpha": core, "charlie": core, "client": other, "origin": other}
        fleet = Fleet(bed, folder, names, cores)
        fleet.reflect()
        (folder / "quic").mkdir()
        in_quic = Fleet(bed, folder / "quic", names, cores, settings={"datagrams": "quic"})
        in_quic.reflect()
        client, other_client = (
            bed.enter(LoadClient(one.client, one.folder / "load.log")) for one in (fleet, in_quic)
        )
        target, floor_target = (f"10.214.9.2:{port}" for port in (APP_PORT, FLOOR_PORT))
        ways: dict[str, tuple[LoadClient, str, dict[str, Program]]] = {
            OURS: (client, target, _ends(fleet)),
            OURS_IN_QUIC: (other_client, target, _ends(in_quic)),
            QUIC_DATAGRAM: (client, floor_target, _floor(fleet)),
        }
        for arm, (client, target, programs) in ways.items():
            wait_for(
                f"{arm}: a first answer", list(programs.values()), partial(_answers, client, target), 30.0
            )
        for repeat in range(context.repeats):
            for load in loads:
                for arm in turns(list(ways), repeat):
                    client, target, programs = ways[arm]
                    figures: dict[str, float] = {}
                    for end, program in programs.items():
                        found = _load(client, target, program, load.options, context.seconds)
                        figures |= {end: found["cpu"], f"{end}_loss": found["loss"]}
                        figures["loss"] = max(found["loss"], figures.get("loss", 0.0))
                        if "per_second" in found:
                            figures["pps"] = 2 * found["per_second"]
                    yield load.key, arm, figures


def _ends(fleet: Fleet) -> dict[str, Program]:
    return {"ingress": fleet.ingress.program, "egress": fleet.egress.program}


def _load(
    client: LoadClient, target: str, program: Program, options: Any, seconds: float
) -> dict[str, float]:
    if options["rate"]:
        return client.ask(
            "udp_rate", target, program, seconds=seconds, flows=FLOWS, rate=options["rate"], size=BYTES
        )
    return client.ask("udp_flood", target, program, seconds=seconds, flows=FLOWS, window=WINDOW, size=BYTES)


def _floor(fleet: Fleet) -> dict[str, Program]:
    """Start the two ends of the reference beside our daemons."""
    write_certificate(fleet.folder)
    tunnel = f"{fleet.egress.address}:{TUNNEL_PORT}"
    ends = {
        "egress": (fleet.egress.host, "quic-egress", tunnel, f"{ORIGIN}:{ORIGIN_PORT}"),
        "ingress": (fleet.ingress.host, "quic-ingress", f"10.214.9.2:{FLOOR_PORT}", tunnel),
    }
    found = {}
    for end, (host, floor, listen, origin) in ends.items():
        command = [
            *PYTHON,
            "-m",
            "l4proxy.bench.floor",
            "--floor",
            floor,
            "--listen",
            listen,
            "--origin",
            origin,
        ]
        log = fleet.folder / f"{floor}.log"
        found[end] = fleet.bed.enter(host.program(*command, "--identity", str(fleet.folder), log=log))
    return found


def _answers(client: LoadClient, target: str) -> bool:
    try:
        client.ask("probe", target, None, protocol="udp")
    except BenchmarkError:
        return False
    return True
