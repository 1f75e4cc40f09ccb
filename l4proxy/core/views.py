"""What the controller knows, as the JSON documents of the outside contract. Pure functions; they change nothing."""

from typing import Any

from l4proxy.core import app_view
from l4proxy.core.app import App, Protocol, SmartRouting
from l4proxy.core.controller import Controller
from l4proxy.core.disqualifier import Removal
from l4proxy.core.egress import AppRoute, Choice
from l4proxy.core.estimate import UNKNOWN, LinkEstimate, LossWindow, OriginEstimator
from l4proxy.core.ids import AppName, PopName
from l4proxy.core.paths import Path
from l4proxy.core.route import HandleRoute
from l4proxy.core.routing.proof import Gain

Json = dict[str, Any]


def links(controller: Controller) -> Json:
    """Return every link: own ones as measured here, others as their owners say."""
    known = controller.known()
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
                "rtt_ms": ms(other.rtt_ms),
                "rtt_ms_min": ms(other.rtt_ms_min),
                "rtt_ms_smoothed": None,
                "rtt_ms_p95": None,
                "one_way_ms": None,
                "jitter_ms": ms(other.jitter_ms),
                "loss_ratio": round(other.loss_ratio, 5),
                "loss_ratio_upper": round(other.loss_ratio, 5),
                "loss": None,
                "samples": None,
                "age_ms": age_ms(controller, link.from_pop),
            }
        else:
            body |= _estimate(UNKNOWN)
        found.append(body)
    return {"links": found}


def _estimate(estimate: LinkEstimate) -> Json:
    return {
        "up": estimate.is_up,
        "rtt_ms": ms(estimate.rtt_ms),
        "rtt_ms_min": ms(estimate.rtt_ms_min),
        "rtt_ms_smoothed": ms(estimate.rtt_ms_smoothed),
        "rtt_ms_p95": ms(estimate.rtt_ms_p95),
        "one_way_ms": ms(estimate.one_way_ms),
        "jitter_ms": ms(estimate.jitter_ms),
        "loss_ratio": round(estimate.loss_ratio, 5),
        "loss_ratio_upper": round(estimate.route_loss_ratio, 5),
        "loss": [_loss(window) for window in estimate.loss_windows],
        "samples": estimate.samples,
        "age_ms": ms(estimate.age_ms),
    }


def _loss(window: LossWindow) -> Json:
    return {
        "seconds": window.seconds,
        "sent": window.sent,
        "lost": window.lost,
        "ratio": round(window.ratio, 5),
        "upper": round(window.upper, 5),
    }


def age_ms(controller: Controller, owner: PopName) -> float | None:
    """How long ago a PoP said that it lives, as far as is known here; None: there is no record of it."""
    age_ns = controller.store.age_ns(controller.now_ns, owner)
    return None if age_ns is None else ms(age_ns / 1e6)


def ms(value: float | None) -> float | None:
    """A number of milliseconds to a microsecond."""
    return None if value is None else round(value, 3)


def routes(controller: Controller, app: str | None = None) -> Json:
    """Return what new flows of each app and protocol take from this PoP."""
    plan = controller.plan
    of_app = [route for route in plan.routes.values() if app in (None, route.app)] if plan is not None else []
    return {
        "generation": controller.generation,
        "routes": [route_view(controller, route) for route in of_app],
    }


def route_view(controller: Controller, route: AppRoute) -> Json:
    """One app and protocol of `routes`."""
    chosen = route.chosen
    app = app_of(controller, route.app)
    direct = route.off.cost_ms if route.off is not None else None
    cost = chosen.cost_ms if chosen is not None else None
    return {
        "app": route.app,
        "protocol": route.protocol,
        "ingress": route.ingress,
        "origin": app.origins[0].name,
        "smart_routing": route.mode,
        "moves": route.is_smart,
        "egress": chosen.egress if chosen is not None else None,
        "path": list(chosen.path) if chosen is not None else [],
        "links": list(chosen.links) if chosen is not None else [],
        "cost_ms": ms(cost),
        "direct_cost_ms": ms(direct),
        "gain_ms": ms(direct - cost) if direct is not None and cost is not None else None,
        "backups": [_path(path) for path in chosen.backups] if chosen is not None else [],
        "smart": _smart(controller, route),
        "egress_max": _egress_max(controller, route),
        "reason": _reason(controller, route),
    }


def _egress_max(controller: Controller, route: AppRoute) -> Json | None:
    """Which few egresses the fleet uses, and what that costs in the mean and the flows from here; None: there is no limit."""
    limit = None if controller.plan is None else controller.plan.egress_sets.get(route.app)
    if limit is None:
        return None
    cheapest = min((c.whole_ms for c in route.choices if c.whole_ms is not None), default=None)
    chosen = route.chosen.whole_ms if route.chosen is not None else None
    lost = chosen - cheapest if chosen is not None and cheapest is not None else None
    return {
        "egresses": list(limit.pops),
        "decided_by": limit.decider,
        "mean_lost_ms": ms(limit.lost_ms),
        "lost_ms": ms(lost),
    }


def _smart(controller: Controller, route: AppRoute) -> Json:
    """What smart routing takes, or would take if it moved anything, and the guard's figures of the last quarter of an hour."""
    choice, off = route.smart, route.off
    proof = controller.guarding.proofs.get((route.app, route.protocol))
    cost = None if choice is None else choice.cost_ms
    direct = None if off is None else off.cost_ms
    return {
        "egress": None if choice is None else choice.egress,
        "path": [] if choice is None else list(choice.path),
        "links": [] if choice is None else list(choice.links),
        "cost_ms": ms(cost),
        "gain_ms": ms(direct - cost) if direct is not None and cost is not None else None,
        "reason": route.smart_reason,
        "proved": proof is not None and proof.is_proved,
        "seen": _seen(Gain(0) if proof is None else proof.gain()),
    }


def _seen(gain: Gain) -> Json:
    return {
        "intervals": gain.intervals,
        "smart_ms_p50": ms(gain.smart_ms_p50),
        "smart_ms_p95": ms(gain.smart_ms_p95),
        "off_ms_p50": ms(gain.off_ms_p50),
        "off_ms_p95": ms(gain.off_ms_p95),
    }


def is_smart(controller: Controller, app: AppName, configured: SmartRouting) -> bool:
    """Whether new flows of an app take what smart routing chose: of any of its protocols, or by the toggle while there is no table."""
    routes_of = [] if controller.plan is None else controller.plan.routes.values()
    found = [route.is_smart for route in routes_of if route.app == app]
    return any(found) if found else controller.toggles.effective(app, controller.pop, configured) == "on"


def _reason(controller: Controller, route: AppRoute) -> str:
    """Why this egress, and why this path to it."""
    handle = handle_of(controller, route.chosen)
    said = [route.reason] if handle is None else [route.reason, f"path: {handle.reason}"]
    said += [f"not {choice.egress}, {choice.barred}" for choice in route.choices if choice.barred]
    return "; ".join(said)


def handle_of(controller: Controller, choice: Choice | None) -> HandleRoute | None:
    """The handle that a choice takes; None: it is local, or there is none."""
    if choice is None or choice.policy is None or controller.plan is None:
        return None
    return controller.plan.handles.get((choice.egress, choice.policy))


def app_of(controller: Controller, name: AppName) -> App:
    """The app of this name, which there is."""
    return next(app for app in controller.apps if app.name == name)


def _path(path: Path) -> Json:
    return {"path": list(path.pops), "links": list(path.names), "cost_ms": ms(path.cost_ms)}


def removed(controller: Controller) -> list[Json]:
    """Return what the disqualifier has removed, with the reason and since when."""
    found: list[Json] = [
        {"app": app, "egress": egress, "link": None, **_removal(controller, removal)}
        for (app, egress), removal in controller.disqualifier.egresses.items()
    ]
    return found + [
        {"app": None, "egress": None, "link": name, **_removal(controller, removal)}
        for name, removal in controller.disqualifier.links.items()
    ]


def _removal(controller: Controller, removal: Removal) -> Json:
    return {
        "reason": removal.reason,
        "since_s": round((controller.now_ns - removal.since_ns) / 1e9, 1),
        "on_trial": removal.on_trial,
    }


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
        "rtt_ms": ms(measured.rtt_ms) if measured is not None else None,
        "failure": measured.failure if measured is not None else None,
        "checks": {} if measured is None else _checks(controller, measured),
    }


def _checks(controller: Controller, measured: OriginEstimator) -> Json:
    """What each kind of check says of an origin."""
    return {
        kind: {
            "rtt_ms": ms(known.rtt_ms),
            "rtt_ms_min": ms(known.rtt_ms_min),
            "rtt_ms_smoothed": ms(known.rtt_ms_smoothed),
            "rtt_ms_p95": ms(known.rtt_ms_p95),
            "jitter_ms": ms(known.jitter_ms),
            "failure_ratio": round(known.failure_ratio, 5),
            "failure_ratio_upper": round(known.failure_ratio_upper, 5),
            "checks": known.checks,
            "age_ms": ms(known.age_ms),
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
                "record_age_ms": age_ms(controller, pop.name),
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
