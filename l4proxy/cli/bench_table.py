"""`l4proxy bench table`: how long the table of a large fleet takes. Options and output; what is measured: l4proxy/bench/table."""

from enum import StrEnum
from typing import Annotated

import typer

from l4proxy.cli.options import JsonOption
from l4proxy.cli.output import print_json, print_table


class Traffic(StrEnum):
    """Whose cost formula is used."""

    GAME = "game"
    VOIP = "voip"
    BULK = "bulk"
    RTT = "rtt"


def table(
    pops: Annotated[int, typer.Option(metavar="N", help="PoPs of the fleet.", min=2, max=2_048)] = 330,
    links: Annotated[
        int, typer.Option(metavar="L", help="Links from each PoP to each other one.", min=1, max=8)
    ] = 3,
    traffic: Annotated[Traffic, typer.Option("--class", help="The cost formula.")] = Traffic.GAME,
    seed: Annotated[int, typer.Option(metavar="S", help="Of the model network.", min=0)] = 1,
    repeats: Annotated[
        int, typer.Option(metavar="N", help="Figures are medians of so many.", min=5, max=1_000)
    ] = 7,
    json: JsonOption = False,
) -> None:
    """Measure how long a routing table takes on a model network: paths of at most four links, with two backups each.

    `full_ms`: all pairs from nothing. `incremental_ms`: all pairs after 1 % of the links changed. `one_ingress_ms`: what a daemon builds,
    the paths from one PoP. `one_transit_ms`, `two_transits_ms`: all pairs without backups. `…_cpu_ms`: what the processor did of each;
    where the machine has other work that says more.
    """
    from l4proxy.bench.table import measure_table

    answer = measure_table(pops, links, traffic=traffic.value, seed=seed, repeats=repeats)
    if json:
        print_json(answer)
        return
    names = ("full_ms", "incremental_ms", "one_ingress_ms", "one_transit_ms", "two_transits_ms", "peak_mb")
    print_table(
        (">POPS", ">LINKS", *(f">{name.upper().replace('_', ' ')}" for name in names)),
        [(answer["pops"], answer["directed_links"], *(f"{answer[name]:.1f}" for name in names))],
        "nothing",
    )
