"""`bench table`: how long the table of a large fleet takes, whole, after a change, and for one PoP. Figures are medians."""

import resource
from collections.abc import Callable, Sequence
from functools import partial
from statistics import median
from time import perf_counter, process_time
from typing import Any, Final

from l4proxy.bench.model_fleet import changed, model_table
from l4proxy.core.app import TrafficClass
from l4proxy.core.routing.allpairs import AllPairs, build, follow
from l4proxy.core.routing.backups import backups_on
from l4proxy.core.routing.build import best_all, best_from_on
from l4proxy.core.routing.cost import link_costs
from l4proxy.core.routing.ground import ground_of
from l4proxy.core.routing.links import LinkTable
from l4proxy.core.routing.memory import keep_freed_memory
from l4proxy.core.routing.rows import MAX_LINKS, Rows

CHANGED_SHARE: Final = 0.01
"""Of the links, between one table and the next."""


def measure_table(
    pops: int, links: int, *, traffic: TrafficClass = "game", seed: int = 1, repeats: int = 7
) -> dict[str, Any]:
    """Return the figures for a full mesh of `pops` with `links` a pair and direction; paths of at most four links.

    Every time begins with what was measured and ends with rows of paths and their backups, but those of one and two transits, which are
    paths alone. `peak_mb` is the most memory that this process has had, the model included.
    """
    keep_freed_memory()
    table = model_table(pops, links, seed)
    before = _whole(table, traffic)
    later = [changed(table, CHANGED_SHARE, seed + number) for number in range(1, repeats + 1)]
    follows = [partial(_followed, before, now, traffic) for now in later]
    sources = [number * pops // repeats for number in range(repeats)]
    figures = {
        **_median_ms("full", [partial(_whole, table, traffic)] * repeats),
        **_median_ms("incremental", follows),
        **_median_ms("one_ingress", [partial(_one_ingress, table, traffic, source) for source in sources]),
        **_median_ms("one_transit", [partial(_paths, table, traffic, 2)] * repeats),
        **_median_ms("two_transits", [partial(_paths, table, traffic, 3)] * repeats),
    }
    figures["peak_mb"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1)
    whole = _whole(later[0], traffic)
    return {
        "pops": pops,
        "links": links,
        "directed_links": len(table.names),
        "class": traffic,
        "max_links": MAX_LINKS,
        "changed_share": CHANGED_SHARE,
        "repeats": repeats,
        **figures,
        "incremental_is_full": _is_same(follows[0](), whole),
    }


def _whole(table: LinkTable, traffic: TrafficClass) -> AllPairs:
    return build(table, link_costs(table, traffic))


def _paths(table: LinkTable, traffic: TrafficClass, max_links: int) -> Rows:
    return best_all(table, link_costs(table, traffic), max_links)


def _followed(before: AllPairs, now: LinkTable, traffic: TrafficClass) -> AllPairs:
    return follow(before, now, link_costs(now, traffic))


def _one_ingress(table: LinkTable, traffic: TrafficClass, source: int) -> None:
    ground = ground_of(table, link_costs(table, traffic))
    backups_on(ground, best_from_on(ground, source))


def _is_same(one: AllPairs, other: AllPairs) -> bool:
    pairs = [(one.rows, other.rows), *zip(one.backups, other.backups, strict=True)]
    return all(bool((a == b).all()) for a, b in pairs)


def _median_ms(name: str, what: Sequence[Callable[[], object]]) -> dict[str, float]:
    """Return the medians of what the clock says, and of what the processor did: on a busy machine the first says little."""
    wall, cpu = [], []
    for run in what:
        begun, busy = perf_counter(), process_time()
        run()
        wall.append(perf_counter() - begun)
        cpu.append(process_time() - busy)
    return {f"{name}_ms": round(1_000 * median(wall), 2), f"{name}_cpu_ms": round(1_000 * median(cpu), 2)}
