"""What a daemon says of itself: `status`, the values of a scrape, the line of an ended flow. Reads, changes nothing."""

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import l4proxy
from l4proxy.core import views
from l4proxy.core.ids import AppName
from l4proxy.daemon.flow_log import to_line
from l4proxy.daemon.flow_views import path_pops
from l4proxy.daemon.measures import Measurements
from l4proxy.daemon.processes import descriptors_of

if TYPE_CHECKING:
    from l4proxy.daemon.daemon import Daemon

PROTOCOLS = ("tcp", "udp")


class Reporter:
    """Speaks for one daemon."""

    def __init__(self, daemon: "Daemon") -> None:
        self._daemon = daemon
        self._started_s = time.time()
        self._started_monotonic_s = time.monotonic()

    def flows_of(self, app: str) -> dict[str, int]:
        """Return how many flows of an app are open, by protocol."""
        counters = self._daemon.control.counters
        values = {} if counters is None else counters.apps.get(app, {})
        return {
            protocol: max(0, values.get(f"{protocol}_opened", 0) - values.get(f"{protocol}_closed", 0))
            for protocol in PROTOCOLS
        }

    def counters_of(self, app: str) -> dict[str, int]:
        """Return what was counted for an app since the engine's start, refusals among it."""
        counters = self._daemon.control.counters
        return {} if counters is None else dict(sorted(counters.apps.get(app, {}).items()))

    def flows(self) -> dict[str, int]:
        """Return how many flows are open, by protocol."""
        counters = self._daemon.control.counters
        found = [] if counters is None else [self.flows_of(app) for app in counters.apps]
        return {protocol: sum(flows[protocol] for flows in found) for protocol in PROTOCOLS}

    def status(self) -> dict[str, Any]:
        """Return the body of `/v1/status`."""
        daemon = self._daemon
        controller = daemon.control.controller
        if controller is not None:
            found = {problem.what: problem.fix for problem in controller.problems()}
            daemon.problems.follow("controller", found, time.time_ns())
            daemon.overload.look(daemon.control.counters, time.monotonic())
            overload = daemon.overload.problems(time.monotonic())
            daemon.problems.follow("overload", overload, time.time_ns())
            daemon.problems.follow("denied", daemon.control.denied(), time.time_ns())
            daemon.problems.follow("access", daemon.access.problems(), time.time_ns())
            daemon.problems.follow(
                "identity", daemon.identity.problems() | daemon.control.identity_problems(), time.time_ns()
            )
            daemon.problems.follow("origins", daemon.origins.problems(), time.time_ns())
        is_well = daemon.is_ready and not daemon.problems
        return {
            "version": l4proxy.__version__,
            "pop": daemon.config.pop,
            "fleet": daemon.config.fleet.name,
            "generation": 0 if controller is None else controller.generation,
            "state": "draining" if daemon.is_draining else "ok" if is_well else "degraded",
            "ready": daemon.is_ready,
            "uptime_s": round(time.monotonic() - self._started_monotonic_s, 3),
            "apps": len(daemon.config.apps),
            "flows": self.flows(),
            "workers": daemon.session.workers,
            "engine_pid": daemon.supervisor.pid,
            "drops": {}
            if daemon.control.counters is None
            else dict(sorted(daemon.control.counters.drops.items())),
            "removed": [] if controller is None else views.removed(controller),
            "problems": daemon.problems.to_json(time.time_ns()),
        }

    def measure(self) -> Measurements:
        """Return everything that a scrape is made of."""
        daemon = self._daemon
        control = daemon.control
        controller, in_force, identity = control.controller, daemon.session.in_force, daemon.config.identity
        status = self.status()
        descriptors = {"daemon": descriptors_of(None)}
        if daemon.supervisor.pid is not None:
            descriptors["engine"] = descriptors_of(daemon.supervisor.pid)
        history = daemon.recorder.state()
        capacity = {}
        if in_force is not None:
            capacity = {"tcp": in_force.options.max_tcp_flows, "udp": in_force.options.max_sessions}
        return Measurements(
            pop=daemon.config.pop,
            started_s=self._started_s,
            is_ready=daemon.is_ready,
            problems=len(status["problems"]),
            is_connected=daemon.session.client is not None,
            engine_starts=daemon.supervisor.starts,
            internal_errors=control.internal_errors,
            generation=int(status["generation"]),
            is_reload_good=daemon.reloader.is_last_good,
            reload_good_s=daemon.reloader.last_good_s,
            bus_dropped={"daemon_queue_full": daemon.session.total_dropped_bus}
            | ({} if controller is None else controller.messages_dropped()),
            flow_log_dropped=0 if daemon.flow_log is None else daemon.flow_log.dropped,
            moments_recorded=history.moments_written,
            moments_lost=history.moments_lost,
            history_bytes=history.bytes,
            flow_capacity=capacity,
            counters=control.counters,
            closed={} if control.counters is None else control.counters.ended,
            path_changes=control.path_changes,
            checks=tuple(control.checks.values()),
            links=() if controller is None else views.links(controller)["links"],
            routes=() if controller is None else views.routes(controller)["routes"],
            descriptors={name: value for name, value in descriptors.items() if value is not None},
            certificates={}
            if identity is None
            else {"pop": identity.not_after.timestamp(), "ca": identity.ca_not_after.timestamp()},
            renewals={} if controller is None else controller.renewal.outcomes,
            certificate_requests={} if controller is None else controller.renewal.requests,
            certificate_answers_unasked=0 if controller is None else controller.renewal.unasked,
            certificate_outputs_full=0 if controller is None else controller.renewal.outputs_full,
            records_refused={} if controller is None else controller.store.refused,
            record_events={} if controller is None else controller.flooding.events(),
            links_doubted=0 if controller is None else len(controller.claims.doubts),
            revoked=len(daemon.config.revoked),
            probes=control.probes,
            samples_refused={} if controller is None else controller.links.refusals(),
            link_loads={} if controller is None else controller.link_load_bits_s,
            paths={} if controller is None else controller.path_quality,
            removed={}
            if controller is None
            else {
                "egress": len(controller.disqualifier.egresses),
                "link": len(controller.disqualifier.links),
            },
            outcomes_full={}
            if controller is None
            else {
                "judged": controller.disqualifier.full,
                "paths": controller.passive.full,
                "guard_links": controller.guarding.raw.full,
                "changes": controller.guarding.changes_forgotten,
            },
        )

    def line_of(self, record: Mapping[str, Any]) -> str:
        """Return the flow log's line of an ended flow."""
        daemon = self._daemon
        controller = daemon.control.controller
        name = AppName(str(record["app"]))
        configured = {app.name: app.smart_routing for app in daemon.config.apps}.get(name, "off")
        is_smart, generation = configured == "on", 0
        if controller is not None:
            is_smart = views.is_smart(controller, name, configured)
            generation = controller.generation
        pops = path_pops(record, daemon.config.pop)
        return to_line(
            record,
            pops,
            daemon.config.pop,
            generation,
            is_smart=is_smart,
            client_key=daemon.state.client_key,
        )
