"""Turns what the daemon knows into metric values: the one place that maps the engine's counter names. Pure.

The lists of links and routes come in as the API's JSON documents, so that a metric and a list never disagree.
"""

import platform
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import l4proxy
from l4proxy.core.ids import LinkName, PopName
from l4proxy.core.passive import PathQuality
from l4proxy.daemon.checker import UNKNOWN, CheckResult
from l4proxy.daemon.engine_messages import Counters
from l4proxy.metrics import Exposition

FLOW_REFUSALS = frozenset(
    {
        "fd_limit",
        "tcp_flows_full",
        "sessions_full",
        "app_flows_full",
        "no_route",
        "draining",
        "accept_aborted",
        "new_flow_rate",
        "memory_short",
    }
)
"""Drops of the engine that turn a flow away; every other one is a datagram or packet."""

FLOW_REFUSAL_PREFIXES = ("origin_", "source_", "egress_", "access_", "rate_", "proxy_", "bad_proxy_", "tls_")
"""The same, for whole families of reasons."""

CONTROL_DROPS = frozenset({"control_queue_full", "bus_not_sent"})
"""Drops of the engine that concern messages of daemons."""

ENGINE_LEVELS = frozenset(
    {
        "descriptor_limit",
        "tcp_flows",
        "udp_sessions",
        "udp_sessions_assured",
        "overlay_connections",
        "overlay_memory_granted",
        "overlay_memory_sending",
        "overlay_memory_limit",
        "memory_short",
    }
)
"""Values of the engine that go up and down; every other one is a total."""

HANDSHAKE_FAILURES = "overlay_handshakes_failed_"
"""Totals by reason; their sum, without a reason, is an event as others."""

APP_EVENTS = (
    "refused_",
    "bandwidth_",
    "flows_denied",
    "source_rates_full",
    "lost_",
    "rehomed",
    "first_datagrams_",
)
"""Values of an app, or families of them, that have no metric of their own. Most stay 0, and then they are not exported."""

TRANSPORTS = ("tcp", "udp")
DIRECTIONS = ("to_origin", "to_client")


@dataclass(frozen=True, slots=True)
class Descriptors:
    """Open file descriptors of a process, and their limit."""

    used: int
    limit: int


@dataclass(slots=True)
class Measurements:
    """Everything that a scrape is made of."""

    pop: str
    started_s: float
    is_ready: bool
    problems: int
    is_connected: bool
    engine_starts: int
    internal_errors: int
    generation: int
    is_reload_good: bool
    reload_good_s: float
    bus_dropped: Mapping[str, int]
    """Control messages that were not taken or not sent, by reason."""
    flow_log_dropped: int
    moments_recorded: int
    moments_lost: int
    history_bytes: int
    flow_capacity: Mapping[str, int] = field(default_factory=dict)
    counters: Counters | None = None
    closed: Mapping[tuple[str, str, int], int] = field(default_factory=dict)
    """Ended flows by app, transport and code."""
    path_changes: Mapping[str, int] = field(default_factory=dict)
    checks: Iterable[CheckResult] = ()
    links: Iterable[Mapping[str, Any]] = ()
    routes: Iterable[Mapping[str, Any]] = ()
    descriptors: Mapping[str, Descriptors] = field(default_factory=dict)
    certificates: Mapping[str, float] = field(default_factory=dict)
    """When each expires, Unix time, by role: `pop` or `ca`."""
    renewals: Mapping[str, int] = field(default_factory=dict)
    """Attempts to renew this PoP's certificate, by result."""
    certificate_requests: Mapping[str, int] = field(default_factory=dict)
    """Requests of other PoPs to this one as the issuer, by result."""
    certificate_answers_unasked: int = 0
    certificate_outputs_full: int = 0
    records_refused: Mapping[str, int] = field(default_factory=dict)
    record_events: Mapping[str, int] = field(default_factory=dict)
    links_doubted: int = 0
    revoked: int = 0
    probes: Mapping[tuple[str, str], int] = field(default_factory=dict)
    """Probes by link and result."""
    samples_refused: Mapping[tuple[str, str], int] = field(default_factory=dict)
    """Results of probes that could not be, and what began anew, by link and reason."""
    link_loads: Mapping[LinkName, float] = field(default_factory=dict)
    """Bits a second of the own links that carry anything."""
    paths: Mapping[tuple[PopName, tuple[LinkName, ...]], PathQuality] = field(default_factory=dict)
    """What connections saw of the paths in use."""
    removed: Mapping[str, int] = field(default_factory=dict)
    """What the disqualifier has removed, by kind."""
    outcomes_full: Mapping[str, int] = field(default_factory=dict)
    """What found no room in a table of what flows got, of the guard, or of the history of changes."""


def expose(now: Measurements) -> Exposition:
    """Return the values of one scrape."""
    out = Exposition()
    _daemon(out, now)
    if now.counters is not None:
        _engine(out, now, now.counters)
    for (app, transport, code), count in now.closed.items():
        labels = {"app": app, "pop": now.pop, "transport": transport, "code": str(code)}
        out.set("connections_closed_total", count, **labels)
    _origins(out, now)
    _links(out, now)
    _routes(out, now)
    return out


def _daemon(out: Exposition, now: Measurements) -> None:
    pop = now.pop
    out.set("build_info", 1, version=l4proxy.__version__, python=platform.python_version(), pop=pop)
    for name, value in (
        ("up_since_timestamp_seconds", now.started_s),
        ("ready", now.is_ready),
        ("problems", now.problems),
        ("engine_connected", now.is_connected),
        ("engine_starts_total", now.engine_starts),
        ("internal_errors_total", now.internal_errors),
        ("config_generation", now.generation),
        ("config_last_reload_successful", now.is_reload_good),
        ("config_last_reload_success_timestamp_seconds", now.reload_good_s),
        ("flow_log_dropped_total", now.flow_log_dropped),
        ("history_moments_total", now.moments_recorded),
        ("history_moments_lost_total", now.moments_lost),
        ("history_bytes", now.history_bytes),
    ):
        out.set(name, float(value), pop=pop)
    for reason, count in now.bus_dropped.items():
        out.set("control_messages_dropped_total", count, pop=pop, reason=reason)
    for reason, count in now.records_refused.items():
        out.set("records_refused_total", count, pop=pop, reason=reason)
    for name, count in now.record_events.items():
        out.set("record_events_total", count, pop=pop, name=name)
    out.set("links_doubted", now.links_doubted, pop=pop)
    for process, descriptors in now.descriptors.items():
        out.set("fds_used", descriptors.used, pop=pop, process=process)
        out.set("fds_limit", descriptors.limit, pop=pop, process=process)
    for role, expires_s in now.certificates.items():
        out.set("certificate_expiry_timestamp_seconds", expires_s, pop=pop, role=role)
    for result, count in now.renewals.items():
        out.set("certificate_renewals_total", count, pop=pop, result=result)
    for result, count in now.certificate_requests.items():
        out.set("certificate_requests_total", count, pop=pop, result=result)
    out.set("certificate_answers_unasked_total", now.certificate_answers_unasked, pop=pop)
    out.set("certificate_outputs_full_total", now.certificate_outputs_full, pop=pop)
    out.set("revoked_entries", now.revoked, pop=pop)
    for reason, count in now.path_changes.items():
        out.set("path_changes_total", count, pop=pop, reason=reason)


def _engine(out: Exposition, now: Measurements, counters: Counters) -> None:
    pop = now.pop
    for name, value in counters.values.items():
        direction = name.rpartition("_")[2]
        if name == "worker_panics":
            out.set("panics_total", value, pop=pop)
        elif name in ENGINE_LEVELS:
            out.set("engine_level", value, pop=pop, name=name)
        elif name.startswith(HANDSHAKE_FAILURES):
            reason = name.removeprefix(HANDSHAKE_FAILURES)
            out.set("tunnel_handshakes_failed_total", value, pop=pop, reason=reason)
        elif name.startswith("overlay_packets_"):
            out.set("overlay_packets_total", value, pop=pop, direction=direction)
        elif name.startswith("overlay_bytes_"):
            out.set("overlay_bytes_total", value, pop=pop, direction=direction)
        else:
            out.set("engine_events_total", value, pop=pop, name=name)
    for reason, value in counters.drops.items():
        if reason in FLOW_REFUSALS or reason.startswith(FLOW_REFUSAL_PREFIXES):
            out.set("connections_rejected_total", value, pop=pop, reason=reason)
        elif reason in CONTROL_DROPS:
            out.set("control_messages_dropped_total", value, pop=pop, reason=reason)
        else:
            out.set("datagrams_dropped_total", value, pop=pop, reason=reason)
    for previous, passed in counters.transit.items():
        out.set("transit_packets_total", passed.packets, pop=pop, previous_hop=previous)
        out.set("transit_bytes_total", passed.bytes, pop=pop, previous_hop=previous)
        for reason, value in passed.drops.items():
            out.set("transit_dropped_total", value, pop=pop, previous_hop=previous, reason=reason)
    entries = dict.fromkeys(TRANSPORTS, 0)
    for app, values in counters.apps.items():
        for transport in TRANSPORTS:
            labels = {"app": app, "pop": pop, "transport": transport}
            opened, closed = values.get(f"{transport}_opened", 0), values.get(f"{transport}_closed", 0)
            entries[transport] += max(0, opened - closed)
            out.set("connections_total", opened, **labels)
            out.set("connections_active", max(0, opened - closed), **labels)
            for direction in DIRECTIONS:
                carried = values.get(f"{transport}_bytes_{direction}", 0)
                out.set("bytes_total", carried, **labels, direction=direction)
        for direction in DIRECTIONS:
            out.set(
                "datagrams_total",
                values.get(f"datagrams_{direction}", 0),
                app=app,
                pop=pop,
                direction=direction,
            )
        out.set("app_connections_rejected_total", values.get("flows_refused", 0), app=app, pop=pop)
        out.set("app_datagrams_dropped_total", values.get("datagrams_dropped", 0), app=app, pop=pop)
        for name, value in values.items():
            if value and name.startswith(APP_EVENTS):
                out.set("app_events_total", value, app=app, pop=pop, name=name)
        out.set("origin_errors_total", values.get("origin_errors", 0), app=app, pop=pop)
    for transport, capacity in now.flow_capacity.items():
        out.set("flow_table_entries", entries[transport], pop=pop, transport=transport)
        out.set("flow_table_capacity", capacity, pop=pop, transport=transport)
    for peer in counters.peers:
        out.set("tunnel_up", peer.connected, pop=pop, peer=peer.name)


def _origins(out: Exposition, now: Measurements) -> None:
    for result in now.checks:
        if result.reason == UNKNOWN:
            continue
        labels = {"app": result.target.app, "pop": now.pop, "origin": result.target.origin}
        out.set("origin_up", result.rtt_ns is not None, **labels)
        out.set("origin_rtt_seconds", None if result.rtt_ns is None else result.rtt_ns / 1e9, **labels)


def _links(out: Exposition, now: Measurements) -> None:
    for link in now.links:
        name = str(link["name"])
        out.set("link_up", bool(link["up"]), link=name)
        for metric, key, scale in (
            ("link_rtt_seconds", "rtt_ms", 1e-3),
            ("link_rtt_seconds_min", "rtt_ms_min", 1e-3),
            ("link_jitter_seconds", "jitter_ms", 1e-3),
            ("link_loss_ratio", "loss_ratio", 1.0),
        ):
            value = link[key]
            out.set(metric, None if value is None else value * scale, link=name)
    for (link_name, result), count in now.probes.items():
        out.set("link_probes_total", count, link=link_name, result=result)
    for link_name, bits_s in now.link_loads.items():
        out.set("link_load_bits_per_second", bits_s, link=link_name)
    for (peer, links), quality in now.paths.items():
        path = ",".join(links)
        out.set("path_rtt_seconds", quality.rtt_ms / 1e3, peer=peer, path=path)
        out.set("path_loss_ratio", quality.loss_ratio, peer=peer, path=path)
    for kind, count in now.removed.items():
        out.set("removed", count, kind=kind)
    for table, count in now.outcomes_full.items():
        out.set("outcomes_full_total", count, table=table)
    for (link_name, reason), count in now.samples_refused.items():
        out.set("link_samples_refused_total", count, link=link_name, reason=reason)


def _routes(out: Exposition, now: Measurements) -> None:
    for route in now.routes:
        if route["ingress"] != now.pop:
            continue  # a PoP exports only its own series
        app, labels = str(route["app"]), {"pop": now.pop, "transport": str(route["protocol"])}
        out.set("smart_routing_enabled", route["moves"], app=app, pop=now.pop)
        out.set("path_hops", len(route["links"]), app=app, **labels)
        for kind, key in (("direct", "direct_cost_ms"), ("chosen", "cost_ms")):
            value = route[key]
            out.set("path_cost_seconds", None if value is None else value / 1e3, app=app, **labels, kind=kind)
