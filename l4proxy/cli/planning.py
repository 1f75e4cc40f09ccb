"""`l4proxy route plan`: what if a PoP or link were there, or were not, and where the next PoP gains most."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from l4proxy.cli.client import get
from l4proxy.cli.options import JsonOption, SocketOption, socket_path
from l4proxy.cli.output import clean, console, count, milliseconds, path_text, print_json, print_table

if TYPE_CHECKING:
    from l4proxy.core.routing.links import LinkTable
    from l4proxy.core.rtt_model import Location
    from l4proxy.core.whatif import Change, Paths, Site

SHOWN = 10
"""Pairs that are told one by one, those that change most."""


class TrafficClass(StrEnum):
    """Cost formulas."""

    BULK = "bulk"
    GAME = "game"
    VOIP = "voip"
    RTT = "rtt"


def plan(
    source: Annotated[
        Path | None,
        typer.Argument(
            metavar="[SLICE|HISTORY]",
            help="A slice (CSV), or a recorded history, whose newest moment counts; default: the history of the daemon.",
            show_default=False,
        ),
    ] = None,
    add_pop: Annotated[
        list[str] | None, typer.Option("--add-pop", metavar="NAME=LAT,LON", help="A PoP more, at this place.")
    ] = None,
    drop_pop: Annotated[
        list[str] | None, typer.Option("--drop-pop", metavar="POP", help="A PoP less.")
    ] = None,
    drop_link: Annotated[
        list[str] | None,
        typer.Option(
            "--drop-link",
            metavar="LINK",
            help="A link less: ams-iad (all of a pair), ams/a (a transit), ams/a>iad/b.",
        ),
    ] = None,
    advise: Annotated[
        int,
        typer.Option(
            metavar="N",
            min=0,
            max=50,
            help="The N sites that gain most as transit, one after the other.",
        ),
    ] = 0,
    candidates: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Where PoPs could be: CSV with pop,latitude,longitude; default: the measured sites that ship and are not there.",
        ),
    ] = None,
    locations: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Where the PoPs of a slice are: CSV with pop,latitude,longitude."),
    ] = None,
    traffic: Annotated[TrafficClass, typer.Option("--class", help="The cost formula.")] = TrafficClass.RTT,
    max_transits: Annotated[int, typer.Option(metavar="N", min=0, max=3, help="Transit PoPs of a path.")] = 2,
    socket: SocketOption = None,
    json: JsonOption = False,
) -> None:
    """Show what the best paths would be with PoPs or links more or less, and where the next PoP would gain most.

    Costs are of the newest moment that is recorded. RTTs to a PoP that is not there yet are modelled: a line over the distance,
    bent by what was measured from the PoPs around it; how far off this is for the PoPs that are there is said with the answer.
    What clients gain by a PoP nearer to them is not known here, and not counted.
    """
    from l4proxy.core import whatif
    from l4proxy.core.rtt_model import RttModel

    asked = bool(add_pop or drop_pop or drop_link)
    if not asked and not advise:
        raise typer.BadParameter("what if what? give --add-pop, --drop-pop, --drop-link or --advise")
    new = [_site(text) for text in add_pop or ()]
    table, places = _known(source, locations, socket)
    model = RttModel.of(table, places) if add_pop or advise else None
    before = whatif.Paths.of(table, traffic.value, max_transits + 1)
    after_table = whatif.without(table, drop_pop or (), drop_link or ())
    answer: dict[str, Any] = {"pops": len(table.pops), "class": traffic.value, "max_transits": max_transits}
    if model is not None:
        for site in new:
            after_table = whatif.with_pop(after_table, site.name, site.place, model)
        answer["model"] = _error(model)
    if asked:
        after = whatif.Paths.of(after_table, traffic.value, max_transits + 1)
        answer |= _difference(before, after, set(drop_pop or ()))
    if model is not None and advise:
        sites = _candidates(candidates, places)
        answer["candidates"] = len(sites)
        answer["advice"] = [
            {
                "site": one.site.name,
                "latitude": one.site.place[0],
                "longitude": one.site.place[1],
                "mean_gain_ms": round(one.mean_ms, 3),
                "pairs_gaining": one.pairs,
                "gain_ms_p95": round(one.p95_ms, 2),
            }
            for one in whatif.advise(after_table, model, sites, advise, traffic.value, max_transits + 1)
        ]
    if json:
        print_json(answer)
    else:
        _print(answer)


def _site(text: str) -> "Site":
    from l4proxy.core.whatif import Site

    name, _, place = text.partition("=")
    try:
        latitude, longitude = (float(part) for part in place.split(","))
    except ValueError:
        raise typer.BadParameter(
            f"{text!r}: write NAME=LAT,LON, as lax=33.94,-118.41", param_hint="--add-pop"
        ) from None
    return Site(name, (latitude, longitude))


def _known(
    source: Path | None, locations: Path | None, socket: Path | None
) -> "tuple[LinkTable, dict[str, Location]]":
    """Return all links, and where PoPs are as far as it is known."""
    from l4proxy.config.histories import is_history, read_history, table_of
    from l4proxy.config.slices import read_locations, read_slices, table_of_slice
    from l4proxy.lab import worldmap

    places: dict[str, Location] = {} if locations is None else read_locations(locations)
    if source is None:
        source = Path(get(socket_path(socket), "/v1/history")["directory"])
    if is_history(source):
        history = read_history([source])
        return table_of(*history.newest), history.locations | places
    recorded = read_slices([source], places or None)
    shipped = {site.name: (site.latitude, site.longitude) for site in worldmap.load().sites.values()}
    return table_of_slice(recorded), places or {pop: shipped[pop] for pop in recorded.pops if pop in shipped}


def _candidates(file: Path | None, places: "dict[str, Location]") -> "list[Site]":
    """Return the sites that could be, without those that are there."""
    from l4proxy.config.slices import read_locations
    from l4proxy.core.whatif import Site
    from l4proxy.lab import worldmap

    if file is not None:
        sites = read_locations(file)
    else:
        sites = {site.name: (site.latitude, site.longitude) for site in worldmap.load().sites.values()}
    taken = set(places.values())
    return [Site(name, at) for name, at in sites.items() if name not in places and at not in taken]


def _error(model: Any) -> dict[str, Any]:
    import numpy as np

    errors = model.errors()
    middle, tail = (
        (float(np.quantile(errors, share)) for share in (0.5, 0.9)) if len(errors) else (None, None)
    )
    return {
        "base_ms": round(model.base_ms, 2),
        "times_light": round(model.slope, 3),
        "error_ratio_p50": None if middle is None else round(middle, 3),
        "error_ratio_p90": None if tail is None else round(tail, 3),
    }


def _difference(before: "Paths", after: "Paths", dropped: set[str]) -> dict[str, Any]:
    import numpy as np

    from l4proxy.core.whatif import change

    found = change(before, after)
    kept = np.array([a not in dropped and b not in dropped for a, b in found.pairs], bool)
    had, has = np.isfinite(found.before_ms) & kept, np.isfinite(found.after_ms) & kept
    both = had & has
    delta = np.where(both, found.after_ms - found.before_ms, 0.0)
    order = np.lexsort((np.arange(len(delta)), -np.abs(delta)))
    most = [int(pair) for pair in order[:SHOWN] if abs(delta[pair]) >= 0.05]
    return {
        "pairs": int(kept.sum()),
        "before": _summary(found.before_ms[had]),
        "after": _summary(found.after_ms[has]),
        "better": int((delta <= -1.0).sum()),
        "worse": int((delta >= 1.0).sum()),
        "out_of_reach": _named(found, had & ~has),
        "without_backup": _named(found, found.unprotected & kept),
        "most": [_told(found, before, after, pair) for pair in most],
    }


def _summary(costs: Any) -> dict[str, Any]:
    import numpy as np

    if not len(costs):
        return {"pairs": 0, "mean_ms": None, "ms_p95": None}
    tail = float(np.quantile(costs, 0.95))
    return {"pairs": len(costs), "mean_ms": round(float(costs.mean()), 2), "ms_p95": round(tail, 2)}


def _named(found: "Change", which: Any) -> list[list[str]]:
    return [list(found.pairs[pair]) for pair in which.nonzero()[0].tolist()]


def _told(found: "Change", before: "Paths", after: "Paths", pair: int) -> dict[str, Any]:
    return {
        "from": found.pairs[pair][0],
        "to": found.pairs[pair][1],
        "before_ms": round(float(found.before_ms[pair]), 2),
        "after_ms": round(float(found.after_ms[pair]), 2),
        "before": before.pops_of(int(found.before[pair])),
        "after": after.pops_of(int(found.after[pair])),
    }


def _print(answer: dict[str, Any]) -> None:
    out = console()
    if (model := answer.get("model")) is not None:
        middle, tail = (100 * (model[f"error_ratio_{which}"] or 0) for which in ("p50", "p90"))
        out.print(
            f"modelled RTTs: {model['base_ms']} ms + {model['times_light']} × light, bent by the PoPs around; for the PoPs that are there "
            f"off by {middle:.0f} % in the median, {tail:.0f} % at the 90th percentile",
            markup=False,
        )
    if "pairs" in answer:
        _print_difference(answer)
    if "advice" in answer:
        rows = [
            (
                one["site"],
                f"{one['latitude']:.2f},{one['longitude']:.2f}",
                f"{one['mean_gain_ms']:.2f}",
                one["pairs_gaining"],
                milliseconds(one["gain_ms_p95"]),
            )
            for one in answer["advice"]
        ]
        columns = ("SITE", "PLACE", ">MEAN GAIN MS", ">PAIRS ≥ 1 MS", ">P95 MS")
        print_table(columns, rows, f"none of {answer['candidates']} candidates would gain anything")


def _print_difference(answer: dict[str, Any]) -> None:
    out = console()
    rows = [
        (word, one["pairs"], milliseconds(one["mean_ms"]), milliseconds(one["ms_p95"]))
        for word, one in (("before", answer["before"]), ("after", answer["after"]))
    ]
    print_table(("", ">PAIRS", ">MEAN MS", ">P95 MS"), rows, "")
    out.print(
        f"{count(answer['better'], 'pair')} better by 1 ms or more, {answer['worse']} worse", markup=False
    )
    for key, words in (
        ("out_of_reach", "out of reach"),
        ("without_backup", "without a backup that shares nothing"),
    ):
        pairs = answer[key]
        if pairs:
            some = ", ".join(f"{a}>{b}" for a, b in pairs[:SHOWN])
            more = f" and {len(pairs) - SHOWN} more" if len(pairs) > SHOWN else ""
            out.print(f"{count(len(pairs), 'pair')} {words}: {clean(some)}{more}", markup=False)
    if answer["most"]:
        pairs = [
            (
                f"{one['from']}>{one['to']}",
                milliseconds(one["before_ms"]),
                milliseconds(one["after_ms"]),
                path_text(one["before"]),
                path_text(one["after"]),
            )
            for one in answer["most"]
        ]
        print_table(("PAIR", ">BEFORE MS", ">AFTER MS", "PATH BEFORE", "AFTER"), pairs, "")
