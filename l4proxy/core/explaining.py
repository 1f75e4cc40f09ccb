"""Why a route is what it is, as JSON: every candidate its terms, what the rules said, why not another path, changes, the gain.

Pure functions of what the controller knows; they change nothing. Everything that is said here was decided elsewhere.
"""

from itertools import pairwise
from math import inf, isfinite

import numpy as np

from l4proxy.core.app import App
from l4proxy.core.controller import Controller
from l4proxy.core.disqualifier import Removal
from l4proxy.core.egress import AppRoute
from l4proxy.core.estimate import light_rtt_ms
from l4proxy.core.guarding import Change
from l4proxy.core.ids import AppName, LinkName, PopName
from l4proxy.core.plan import Plan
from l4proxy.core.route import Policy
from l4proxy.core.routing.choosing import LEAST_INTERVALS
from l4proxy.core.routing.cost import HOP_COST_MS
from l4proxy.core.routing.links import FloatArray, one_more
from l4proxy.core.routing.proof import quantiles
from l4proxy.core.routing.rows import Rows, no_rows
from l4proxy.core.views import Json, age_ms, app_of, handle_of, ms, route_view

MAX_SHOWN = 20
"""Changes of an app that `explain` tells, the newest first."""


def explain(controller: Controller, app: str, why_not: str | None = None) -> Json:
    """Return every candidate of an app's routes with its numbers, and the rules that decided. KeyError: there is no such app.

    `why_not`: a path as `ams>iad>sin`, of which it is said why it is not taken. ValueError: it cannot be one, and why.
    """
    if app not in {known.name for known in controller.apps}:
        raise KeyError(app)
    plan = controller.plan
    found = []
    for route in plan.routes.values() if plan is not None else ():
        if route.app != app:
            continue
        body = route_view(controller, route) | {"candidates": _candidates(controller, route)}
        if why_not is not None:
            body["why_not"] = _why_not(controller, route, why_not)
        found.append(body)
    changes = [_change(controller, change) for change in controller.guarding.changes if change.app == app]
    return {
        "app": app,
        "ingress": controller.pop,
        "generation": controller.generation,
        "routes": found,
        "changes": changes[: -MAX_SHOWN - 1 : -1],
    }


def _change(controller: Controller, change: Change) -> Json:
    return {
        "age_ms": ms((controller.now_ns - change.at_ns) / 1e6),
        "protocol": change.protocol,
        "before": list(change.before),
        "after": list(change.after),
        "links": list(change.links),
        "reason": change.reason,
    }


def _candidates(controller: Controller, route: AppRoute) -> list[Json]:
    found = []
    for place, choice in enumerate(route.choices):
        is_chosen = place == 0 and choice.cost_ms is not None
        handle = handle_of(controller, choice)
        ways = [(choice.path, choice.links, choice.path_cost_ms, "chosen" if is_chosen else "not chosen")]
        ways += [(path.pops, path.names, path.cost_ms, "backup") for path in choice.backups]
        direct = handle.direct if handle is not None else None
        if direct is not None and direct.names not in [links for _, links, _, _ in ways]:
            ways.append((direct.pops, direct.names, direct.cost_ms, "direct"))
        removed = _removed_egress(controller, route.app, choice.egress)
        for path, links_of, path_cost, verdict in ways:
            origin_cost = choice.origin_cost_ms
            total = None if path_cost is None or origin_cost is None else path_cost + origin_cost
            usable = verdict if total is not None else "not usable"
            found.append(
                {
                    "egress": choice.egress,
                    "path": list(path),
                    "links": [_priced(controller, route, name) for name in links_of],
                    "hop_cost_ms": HOP_COST_MS * max(0, len(links_of) - 1),
                    "path_cost_ms": ms(path_cost),
                    "origin_cost_ms": ms(origin_cost),
                    "cost_ms": ms(total),
                    "verdict": "removed" if removed and verdict != "chosen" else usable,
                    "removed": removed,
                    "decided": None if handle is None else handle.reason,
                    "guard": _guard(controller, route, links_of),
                }
            )
    return found


def _priced(controller: Controller, route: AppRoute, name: LinkName) -> Json:
    """A link's terms; null where it was not measured."""
    plan = controller.plan
    traffic = Policy.of(app_of(controller, route.app), route.protocol).traffic
    number = plan.table.number(name) if plan is not None else None
    if plan is None or number is None:
        terms = ("cost_ms", "rtt_ms", "jitter_ms", "loss_ratio", "age_ms")
        return dict.fromkeys(terms) | {"name": name, "removed": _removed_link(controller, name)}
    table, link = plan.table, controller.fleet.links[name]
    cost, rtt_ms = float(plan.costs[traffic][number]), float(table.rtt_ms[number])
    own = controller.estimators.get(name)
    age = age_ms(controller, link.from_pop) if own is None else ms(own.estimate(controller.now_ns).age_ms)
    return {
        "name": name,
        "cost_ms": ms(cost) if cost < inf else None,
        "rtt_ms": ms(rtt_ms) if isfinite(rtt_ms) else None,
        "jitter_ms": ms(float(table.jitter_ms[number])),
        "loss_ratio": round(float(table.loss_ratio[number]), 5),
        "age_ms": age,
        "removed": _removed_link(controller, name),
    }


def _removed_egress(controller: Controller, app: AppName, egress: PopName) -> str | None:
    """What the disqualifier says of an egress; None: nothing."""
    removal = controller.disqualifier.egresses.get((app, egress))
    return None if removal is None else _said(controller, removal)


def _removed_link(controller: Controller, name: LinkName) -> str | None:
    removal = controller.disqualifier.links.get(name)
    return None if removal is None else _said(controller, removal)


def _said(controller: Controller, removal: Removal) -> str:
    age_s = (controller.now_ns - removal.since_ns) / 1e9
    trial = ", on trial with one flow in 32" if removal.on_trial else ""
    return f"{removal.reason}; since {age_s:.0f} s{trial}"


def _guard(controller: Controller, route: AppRoute, links: tuple[LinkName, ...]) -> Json | None:
    """Median and tail of a path's raw costs; None: it is local, or the guard has not seen enough of it."""
    plan, raw = controller.plan, controller.guarding.raw
    if plan is None or not links or not raw.intervals:
        return None
    numbers = [plan.table.number(name) for name in links]
    if None in numbers:
        return None
    row = no_rows(1)
    row[0, : len(numbers)] = np.array(numbers, np.int32)
    traffic = Policy.of(app_of(controller, route.app), route.protocol).traffic
    return _figures(raw.costs(row, plan.table, traffic)[:, 0])


def _figures(values: FloatArray) -> Json | None:
    known = values[np.isfinite(values)]
    if len(known) < LEAST_INTERVALS:
        return None
    middle, tail = quantiles(known).tolist()
    return {"intervals": len(known), "ms_p50": ms(middle), "ms_p95": ms(tail)}


def _why_not(controller: Controller, route: AppRoute, text: str) -> Json:
    """Say why a path is not taken."""
    pops = tuple(PopName(name.strip()) for name in text.replace("›", ">").split(">"))
    unknown = [pop for pop in pops if pop not in controller.fleet.pops]
    if unknown:
        raise ValueError(f"there is no PoP {unknown[0]!r}: write a path as ams>iad>sin")
    if pops[0] != controller.pop:
        raise ValueError(f"a path from here begins with {controller.pop}, not with {pops[0]}")
    if len(set(pops)) < len(pops):
        raise ValueError("a path passes no PoP twice")
    app = app_of(controller, route.app)
    body: Json = {"path": list(pops), "cost_ms": None}
    because = _not_allowed(app, pops)
    if because is not None or controller.plan is None:
        return body | {"because": because or "there is no table yet"}
    cost_ms, because = _cost_of(controller, controller.plan, Policy.of(app, route.protocol), pops)
    if cost_ms is None:
        return body | {"because": because}
    if (removed := _removed_egress(controller, route.app, pops[-1])) is not None:
        return body | {"because": f"egress {pops[-1]} is removed: {removed}"}
    origin = next((c.origin_cost_ms for c in route.choices if c.egress == pops[-1]), None)
    if origin is None:
        return body | {"because": f"the origin does not answer {pops[-1]}"}
    total = cost_ms + origin
    return body | {"cost_ms": ms(total), "because": _compared(controller, route, pops, total)}


def _not_allowed(app: App, pops: tuple[PopName, ...]) -> str | None:
    """What the app's file has against a path."""
    routing = app.routing
    if not app.admits_egress(pops[-1]):
        return f"{pops[-1]} may not be an egress of {app.name} (routing.egress)"
    if len(pops) - 2 > routing.max_transits:
        return f"it has {len(pops) - 2} transits, more than routing.max_transits {routing.max_transits}"
    avoided = [pop for pop in pops[1:] if pop in routing.avoid]
    return f"{avoided[0]} is in routing.avoid" if avoided else None


def _cost_of(
    controller: Controller, plan: Plan, policy: Policy, pops: tuple[PopName, ...]
) -> tuple[float | None, str]:
    """The cost of the cheapest links along these PoPs, or what stands against them."""
    table, total = plan.table, HOP_COST_MS * max(0, len(pops) - 2)
    banned = plan.declared.avoided(policy.avoid, table.pop_number(controller.pop))
    for place, (start, end) in enumerate(pairwise(pops)):
        pair = (table.start == table.pop_number(start)) & (table.end == table.pop_number(end))
        if not pair.any():
            return None, f"no link leads from {start} to {end}"
        if not (pair & table.usable).any():
            if said := _removed_between(controller, start, end):
                return None, said
            return None, f"no link from {start} to {end} is up: down, disabled or not measured"
        if place > 0:
            pair &= table.labelled
            if not (pair & table.usable).any():
                return None, f"{start} forwards to {end} for nobody (its links there have no label)"
        if banned is not None:
            pair &= ~banned
        cost_ms = float(plan.costs[policy.traffic][pair].min(initial=inf))
        if not isfinite(cost_ms):
            return None, f"every link from {start} to {end} is in routing.avoid"
        total += cost_ms
    return total, ""


def _removed_between(controller: Controller, start: PopName, end: PopName) -> str:
    """What the disqualifier says of the links between two PoPs; empty: it removed none."""
    links, taken = controller.fleet.links, controller.disqualifier.links
    said = [
        f"link {name} is removed: {_said(controller, removal)}"
        for name, removal in sorted(taken.items())
        if name in links and (links[name].from_pop, links[name].to_pop) == (start, end)
    ]
    return "; ".join(said)


def _compared(controller: Controller, route: AppRoute, pops: tuple[PopName, ...], total_ms: float) -> str:
    chosen = route.chosen
    if chosen is None or chosen.cost_ms is None:
        return "nothing is taken at all: " + route.reason
    if chosen.path == pops:
        return "it is taken"
    more_ms = total_ms - chosen.cost_ms
    if more_ms >= 0:
        return f"it costs {total_ms:.1f} ms, {more_ms:.1f} ms more than {'>'.join(chosen.path)}"
    handle = handle_of(controller, chosen)
    words = route.reason if handle is None else f"{route.reason}; path: {handle.reason}"
    return f"it costs {-more_ms:.1f} ms less than {'>'.join(chosen.path)}, but: {words}"


def gain(controller: Controller) -> Json:
    """Return direct against chosen for each other PoP and policy in use: raw round trips, loss, and how many times the speed of light."""
    plan = controller.plan
    pairs = [] if plan is None else [pair for text in plan.rounds for pair in _pairs(controller, plan, text)]
    return {"pop": controller.pop, "pairs": pairs}


def _pairs(controller: Controller, plan: Plan, text: str) -> list[Json]:
    found, here = plan.rounds[text], controller.fleet.pops[controller.pop].location
    direct, chosen = (_measured(controller, plan, rows) for rows in (found.offer.direct, found.rows))
    pairs = []
    for number, peer in enumerate(plan.table.pops):
        if peer == controller.pop:
            continue
        there = controller.fleet.pops[peer].location
        light_ms = light_rtt_ms(here, there) if here and there else None
        handle = plan.handles.get((peer, text))
        path = [] if handle is None or handle.primary is None else list(handle.primary.pops)
        one, other = _against_light(direct[number], light_ms), _against_light(chosen[number], light_ms)
        both = (one["rtt_ms_p50"], other["rtt_ms_p50"])
        pairs.append(
            {
                "to": peer,
                "policy": text,
                "path": path,
                "direct": one,
                "chosen": other,
                "gain_ms": None if None in both else ms(both[0] - both[1]),
            }
        )
    return pairs


def _measured(controller: Controller, plan: Plan, rows: Rows) -> list[Json]:
    """Raw round trips and loss of each row."""
    raw, table = controller.guarding.raw, plan.table
    hops_ms = HOP_COST_MS * (rows[:, 1:] >= 0).sum(axis=1)
    values = raw.costs(rows, table, "rtt") - hops_ms
    kept = 1.0 - np.nan_to_num(one_more(table.loss_ratio, 0.0)[rows])
    loss = 1.0 - kept.prod(axis=1)
    found: list[Json] = []
    for number, row in enumerate(rows.tolist()):
        figures = _figures(values[:, number]) or {}
        found.append(
            {
                "rtt_ms_p50": figures.get("ms_p50"),
                "rtt_ms_p95": figures.get("ms_p95"),
                "loss_ratio": round(float(loss[number]), 5) if row[0] >= 0 else None,
            }
        )
    return found


def _against_light(measured: Json, light_ms: float | None) -> Json:
    middle = measured["rtt_ms_p50"]
    times = None if middle is None or not light_ms else round(middle / light_ms, 2)
    return measured | {"times_light": times}
