"""The family `idle`: what thousands of silent TCP flows of one tunnel keep in memory at each end."""

from collections.abc import Iterator

from l4proxy.bench.bars import OURS
from l4proxy.bench.load_client import LoadClient
from l4proxy.bench.overlay.context import Context, Found
from l4proxy.bench.overlay.fleet import APP_PORT, Fleet
from l4proxy.bench.overlay.rows import Load

SETTLE_S = 2.0
"""Before memory is read, each time."""


def measure(context: Context, loads: list[Load]) -> Iterator[Found]:
    """Open the flows through fresh PoPs, one end in each measurement."""
    for repeat in range(context.repeats):
        for load in loads:
            end = load.options["end"]
            with context.testbed(f"idle{repeat}{end[0]}") as (bed, folder):
                names = ["alpha", "charlie"]
                cores = dict.fromkeys(
                    (*names, "client", "origin"), f"{context.other_core},{context.measured_core}"
                )
                fleet = Fleet(bed, folder, names, cores)
                fleet.reflect()
                client: LoadClient = bed.enter(LoadClient(fleet.client, folder / "load.log"))
                pop = fleet.ingress if end == "ingress" else fleet.egress
                figures = client.ask(
                    "idle", f"10.214.9.2:{APP_PORT}", pop.program,
                    seconds=SETTLE_S, protocol="tcp", flows=load.options["flows"],
                )  # fmt: skip
                yield load.key, OURS, {"user_kb": figures["user_kb"]}
