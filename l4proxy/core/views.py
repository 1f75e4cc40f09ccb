"""What the controller knows, as the JSON documents of the outside contract. Pure functions; they change nothing."""

from math import inf
from typing import Any

from l4proxy.core import app_view
from l4proxy.core.app import App, Protocol
from l4proxy.core.controller import Controller
from l4proxy.core.estimate import UNKNOWN, LinkEstimate, LossWindow, OriginEstimator
from l4proxy.core.ids import AppName, LinkName, PopName
from l4proxy.core.paths import Path
from l4proxy.core.route import AppRoute, Choice, HandleRoute, Policy

Json = dict[str, Any]


def links(controller: Controller) -> Json:
    """Return every link: own ones as measured here, others as their owners say."""
    known = controller.knowledge()
    found = []
    for link in controller.fleet.links.values():
        body: Json = {
            "name": link.name,
            "from": link.from_pop,
            "from_transit": link.from_transit,
            "to": link.to_pop,
            "to_transit": link.to_transit,
            "enabled": link.enabled,
            "kind": link.kind,
        }
        own = known.own_links.get(link.name)
        other = known.other_links.get(link.name)
        if own is not None:
            body |= _estimate(own)
        elif other is not None:
            body |= {
                "up": other.is_up,
                "rtt_ms": _ms(other.rtt_ms),
                "rtt_ms_min": _ms(other.rtt_ms_min),
                "rtt_ms_smoothed": None,
                "rtt_ms_p95": None,
                "one_way_ms": None,
                "jitter_ms": _ms(other.jitter_ms),
                "loss_ratio": round(other.loss_ratio, 5),
                "loss_ratio_upper": round(other.loss_ratio, 5),
                "loss": None,
                "samples": None,
                "age_ms": _age_ms(controller, link.from_pop),
            }
        else:
            body |= _estimate(UNKNOWN)
        found.append(body)
    return {"links": found}


def _estimate(estimate: LinkEstimate) -> Json:
    return {
        "up": estimate.is_up,
        "rtt_ms": _ms(estimate.rtt_ms),
        "rtt_ms_min": _ms(estimate.rtt_ms_min),
        "rtt_ms_smoothed": _ms(estimate.rtt_ms_smoothed),
        "rtt_ms_p95": _ms(estimate.rtt_ms_p95),
        "one_way_ms": _ms(estimate.one_way_ms),
        "jitter_ms": _ms(estimate.jitter_ms),
        "loss_ratio": round(estimate.loss_ratio, 5),
        "loss_ratio_upper": round(estimate.route_loss_ratio, 5),
        "loss": [_loss(window) for window in estimate.loss_windows],
        "samples": estimate.samples,
        "age_ms": _ms(estimate.age_ms),
    }


def _loss(window: LossWindow) -> Json:
    return {
        "seconds": window.seconds,
        "sent": window.sent,
        "lost": window.lost,
        "ratio": round(window.ratio, 5),
        "upper": round(window.upper, 5),
    }


def _age_ms(controller: Controller, owner: PopName) -> float | None:
    """How long ago a PoP said that it lives, as far as is known here; None: there is no record of it."""
    age_ns = controller.store.age_ns(controller.now_ns, owner)
    return None if age_ns is None else _ms(age_ns / 1e6)


def _ms(value: float | None) -> float | None:
    return None if value is None else round(value, 3)


def routes(controller: Controller, app: str | None = None) -> Json:
    """Return what new flows of each app and protocol take from this PoP."""
    plan = controller.plan
    of_app = [route for route in plan.routes.values() if app in (None, route.app)] if plan is not None else []
    return {"generation": controller.generation, "routes": [_route(controller, route) for route in of_app]}


def _route(controller: Controller, route: AppRoute) -> Json:
    chosen = route.chosen
    app = _app(controller, route.app)
    direct = route.off.cost_ms if route.off is not None else None
    cost = chosen.cost_ms if chosen is not None else None
    return {
        "app": route.app,
        "protocol": route.protocol,
        "ingress": route.ingress,
        "origin": app.origins[0].name,
        "smart_routing": route.mode,
        "egress": chosen.egress if chosen is not None else None,
        "path": list(chosen.path) if chosen is not None else [],
        "links": list(chosen.links) if chosen is not None else [],
        "cost_ms": _ms(cost),
        "direct_cost_ms": _ms(direct),
        "gain_ms": _ms(direct - cost) if direct is not None and cost is not None else None,
        "backups": [_path(path) for path in chosen.backups] if chosen is not None else [],
        "reason": _reason(controller, route),
    }


def _reason(controller: Controller, route: AppRoute) -> str:
    """Why this egress, and why this path to it."""
    handle = _handle(controller, route.chosen)
    return route.reason if handle is None else f"{route.reason}; path: {handle.reason}"


def _handle(controller: Controller, choice: Choice | None) -> HandleRoute | None:
    if choice is None or choice.policy is None or controller.plan is None:
        return None
    return controller.plan.handles.get((choice.egress, choice.policy))


def _app(controller: Controller, name: AppName) -> App:
    return next(app for app in controller.apps if app.name == name)


def _path(path: Path) -> Json:
    return {"path": list(path.pops), "links": list(path.names), "cost_ms": _ms(path.cost_ms)}


def explain(controller: Controller, app: str) -> Json:
    """Return every candidate of an app's routes with its numbers, and the rule that decided. KeyError: there is no such app."""
    if app not in {known.name for known in controller.apps}:
        raise KeyError(app)
    plan = controller.plan
    of_app = [route for route in plan.routes.values() if route.app == app] if plan is not None else []
    found = [_route(controller, route) | {"candidates": _candidates(controller, route)} for route in of_app]
    return {"app": app, "ingress": controller.pop, "generation": controller.generation, "routes": found}


def _candidates(controller: Controller, route: AppRoute) -> list[Json]:
    found = []
    for place, choice in enumerate(route.choices):
        is_chosen = place == 0 and choice.cost_ms is not None
        handle = _handle(controller, choice)
        ways = [(choice.path, choice.links, choice.path_cost_ms, "chosen" if is_chosen else "not chosen")]
        ways += [(path.pops, path.names, path.cost_ms, "backup") for path in choice.backups]
        direct = handle.direct if handle is not None else None
        if direct is not None and direct.names not in [links for _, links, _, _ in ways]:
            ways.append((direct.pops, direct.names, direct.cost_ms, "direct"))
        for path, links_of, path_cost, verdict in ways:
            origin_cost = choice.origin_cost_ms
            total = None if path_cost is None or origin_cost is None else path_cost + origin_cost
            found.append(
                {
                    "egress": choice.egress,
                    "path": list(path),
                    "links": [_priced(controller, route, name) for name in links_of],
                    "path_cost_ms": _ms(path_cost),
                    "origin_cost_ms": _ms(origin_cost),
                    "cost_ms": _ms(total),
                    "verdict": verdict if total is not None else "not usable",
                }
            )
    return found


def _priced(controller: Controller, route: AppRoute, name: LinkName) -> Json:
    plan = controller.plan
    traffic = Policy.of(_app(controller, route.app), route.protocol).traffic
    number = plan.table.number(name) if plan is not None else None
    cost = float(plan.costs[traffic][number]) if plan is not None and number is not None else inf
    return {"name": name, "cost_ms": _ms(cost) if cost < inf else None}


def apps(controller: Controller) -> Json:
    """Return every app as it is configured and in force here."""
    return {
        "apps": [
            {
                "name": app.name,
                "listen": [str(listen) for listen in app.listen],
                "listens_here": app.listens_at(controller.pop),
                "origins": [_origin(controller, app, index) for index in range(len(app.origins))],
                "smart_routing": controller.toggles.effective(app.name, controller.pop, app.smart_routing),
                "configured": app.smart_routing,
                "override": controller.toggles.override(app.name, controller.pop),
                "class": {protocol: _class(app, protocol) for protocol in app.protocols},
            }
            | app_view.settings(app)
            for app in controller.apps
        ]
    }


def _class(app: App, protocol: Protocol) -> str:
    return app.tcp_class if protocol == "tcp" else app.udp_class


def _origin(controller: Controller, app: App, index: int) -> Json:
    origin = app.origins[index]
    measured = controller.origins.get((app.name, origin.name))
    return {
        "origin": origin.name,
        "health": "unknown" if measured is None else "healthy" if measured.is_up else "unhealthy",
        "rtt_ms": _ms(measured.rtt_ms) if measured is not None else None,
        "failure": measured.failure if measured is not None else None,
        "checks": {} if measured is None else _checks(controller, measured),
    }


def _checks(controller: Controller, measured: OriginEstimator) -> Json:
    """What each kind of check says of an origin."""
    return {
        kind: {
            "rtt_ms": _ms(known.rtt_ms),
            "rtt_ms_min": _ms(known.rtt_ms_min),
            "rtt_ms_smoothed": _ms(known.rtt_ms_smoothed),
            "rtt_ms_p95": _ms(known.rtt_ms_p95),
            "jitter_ms": _ms(known.jitter_ms),
            "failure_ratio": round(known.failure_ratio, 5),
            "failure_ratio_upper": round(known.failure_ratio_upper, 5),
            "checks": known.checks,
            "age_ms": _ms(known.age_ms),
        }
        for kind, known in measured.estimates(controller.now_ns).items()
    }


def pops(controller: Controller) -> Json:
    """Return every PoP of the fleet as seen from here."""
    return {
        "pops": [
            {
                "name": pop.name,
                "self": pop.name == controller.pop,
                "connected": pop.name == controller.pop or pop.name in controller.connected,
                "location": list(pop.location) if pop.location is not None else None,
                "transits": {transit.name: transit.address for transit in pop.transits},
                "record_age_ms": _age_ms(controller, pop.name),
            }
            for pop in controller.fleet.pops.values()
        ]
    }


def smart_routing(controller: Controller) -> Json:
    """Return the toggle of every app: the file's word, the overrides, and what is in force here."""
    return {
        "apps": [
            {
                "app": app.name,
                "configured": app.smart_routing,
                "in_force": controller.toggles.effective(app.name, controller.pop, app.smart_routing),
                "overrides": [
                    {"pop": state.pop or "all", "value": state.value, "writer": state.writer}
                    for state in controller.toggles.all()
                    if state.app == app.name and state.value != "default"
                ],
            }
            for app in controller.apps
        ]
    }
