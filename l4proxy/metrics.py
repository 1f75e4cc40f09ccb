"""The one table of every exported metric, and how the numbers become an exposition.

`METRICS` says name, kind, unit, labels and help; nothing is exported that does not stand there. `Exposition` takes
values by these names and refuses others. Names of the engine's counters are turned into metrics in one place,
`l4proxy/daemon/measures.py`. Labels never hold a client's address, a flow or anything else without a bound.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

PREFIX = "l4proxy_"

Kind = Literal["counter", "gauge"]


@dataclass(frozen=True, slots=True)
class MetricSpec:
    """One metric: `name` without the prefix, in base units; a counter's name ends in `_total`."""

    name: str
    kind: Kind
    labels: tuple[str, ...]
    help: str

    @property
    def full_name(self) -> str:
        """Return the name as scraped."""
        return PREFIX + self.name


_FLOW = ("app", "pop", "transport")

METRICS: tuple[MetricSpec, ...] = (
    # The daemon and its engine.
    MetricSpec("build_info", "gauge", ("version", "python", "pop"), "Always 1; what runs here."),
    MetricSpec("up_since_timestamp_seconds", "gauge", ("pop",), "When the daemon started, Unix time."),
    MetricSpec("ready", "gauge", ("pop",), "1 while clients are served, 0 before and while draining."),
    MetricSpec("problems", "gauge", ("pop",), "Problems that `l4proxy status` shows now."),
    MetricSpec("engine_connected", "gauge", ("pop",), "1 while the daemon speaks to its engine."),
    MetricSpec("engine_starts_total", "counter", ("pop",), "Engines that this daemon has started."),
    MetricSpec(
        "engine_events_total", "counter", ("pop", "name"), "What the engine counts, by its own names."
    ),
    MetricSpec("engine_level", "gauge", ("pop", "name"), "What the engine has now, by its own names."),
    MetricSpec("panics_total", "counter", ("pop",), "Panics of the engine's workers that were caught."),
    MetricSpec(
        "internal_errors_total", "counter", ("pop",), "Inputs that the control plane could not digest."
    ),
    MetricSpec("fds_used", "gauge", ("pop", "process"), "Open file descriptors."),
    MetricSpec("fds_limit", "gauge", ("pop", "process"), "Most file descriptors that may be open."),
    # Configuration.
    MetricSpec("config_generation", "gauge", ("pop",), "Number of the snapshot in force."),
    MetricSpec(
        "config_last_reload_successful", "gauge", ("pop",), "1 when the last reload or start was accepted."
    ),
    MetricSpec("config_last_reload_success_timestamp_seconds", "gauge", ("pop",), "When one was, Unix time."),
    MetricSpec(
        "certificate_expiry_timestamp_seconds", "gauge", ("pop", "role"), "When it expires, Unix time."
    ),
    MetricSpec(
        "certificate_renewals_total",
        "counter",
        ("pop", "result"),
        "Attempts to renew this PoP's certificate over the tunnel: renewed, or what they failed for.",
    ),
    MetricSpec(
        "certificate_requests_total",
        "counter",
        ("pop", "result"),
        "Requests that came to this PoP as the issuer: signed, or why not.",
    ),
    MetricSpec(
        "certificate_answers_unasked_total",
        "counter",
        ("pop",),
        "Certificates that came and nobody had asked for.",
    ),
    MetricSpec(
        "certificate_outputs_full_total",
        "counter",
        ("pop",),
        "Steps of renewals that were left out because too many waited.",
    ),
    MetricSpec(
        "revoked_entries", "gauge", ("pop",), "PoPs and certificates on the revocation list in force."
    ),
    MetricSpec(
        "records_refused_total",
        "counter",
        ("pop", "reason"),
        "What other PoPs said of links and owners and was not taken, by reason (docs/protocol.md section 8).",
    ),
    MetricSpec(
        "record_events_total",
        "counter",
        ("pop", "name"),
        "Link state that was held back, lost or asked for in vain, by its bound.",
    ),
    MetricSpec(
        "links_doubted",
        "gauge",
        ("pop",),
        "Links of others whose round trip is not believed: light or the PoP at the other end says more.",
    ),
    # Flows.
    MetricSpec(
        "connections_active", "gauge", _FLOW, "Flows that are open at this PoP, as ingress or egress."
    ),
    MetricSpec("connections_total", "counter", _FLOW, "Flows that were opened."),
    MetricSpec(
        "connections_closed_total", "counter", (*_FLOW, "code"), "Flows that ended, by their record's code."
    ),
    MetricSpec("connections_rejected_total", "counter", ("pop", "reason"), "Flows that were turned away."),
    MetricSpec("app_connections_rejected_total", "counter", ("app", "pop"), "Flows of an app turned away."),
    MetricSpec(
        "app_events_total",
        "counter",
        ("app", "pop", "name"),
        "What the engine counts of an app, by its names.",
    ),
    MetricSpec("bytes_total", "counter", (*_FLOW, "direction"), "Payload, bytes, to_origin or to_client."),
    MetricSpec("datagrams_total", "counter", ("app", "pop", "direction"), "Datagrams carried."),
    MetricSpec(
        "datagrams_dropped_total", "counter", ("pop", "reason"), "Datagrams and packets dropped, by reason."
    ),
    MetricSpec(
        "app_datagrams_dropped_total", "counter", ("app", "pop"), "Datagrams of an app that did not pass."
    ),
    MetricSpec("flow_table_entries", "gauge", ("pop", "transport"), "Flows in the engine's tables."),
    MetricSpec("flow_table_capacity", "gauge", ("pop", "transport"), "Most flows that the tables take."),
    MetricSpec("history_moments_total", "counter", ("pop",), "Moments of all links that were recorded."),
    MetricSpec("history_moments_lost_total", "counter", ("pop",), "Those that the disk did not take."),
    MetricSpec("history_bytes", "gauge", ("pop",), "Size of the recorded history of links on disk."),
    MetricSpec("flow_log_dropped_total", "counter", ("pop",), "Ended flows whose line could not be written."),
    # Origins.
    MetricSpec(
        "origin_up", "gauge", ("app", "pop", "origin"), "1 when the last check succeeded, 0 when it failed."
    ),
    MetricSpec(
        "origin_rtt_seconds", "gauge", ("app", "pop", "origin"), "Time of the last check that succeeded."
    ),
    MetricSpec("origin_errors_total", "counter", ("app", "pop"), "Flows that ended because of their origin."),
    # Links, paths and routes.
    MetricSpec("tunnel_up", "gauge", ("pop", "peer"), "1 while the tunnel to a PoP stands."),
    MetricSpec(
        "tunnel_handshakes_failed_total",
        "counter",
        ("pop", "reason"),
        "Handshakes between PoPs that failed, refusals among them.",
    ),
    MetricSpec("link_up", "gauge", ("link",), "1 while probes of the link are answered."),
    MetricSpec("link_rtt_seconds", "gauge", ("link",), "Smoothed round-trip time of the link."),
    MetricSpec("link_rtt_seconds_min", "gauge", ("link",), "Least round-trip time in the window."),
    MetricSpec("link_jitter_seconds", "gauge", ("link",), "One-way jitter of the link."),
    MetricSpec("link_loss_ratio", "gauge", ("link",), "One-way loss of the link, 0 to 1."),
    MetricSpec("link_probes_total", "counter", ("link", "result"), "Probes, answered or lost."),
    MetricSpec(
        "link_samples_refused_total",
        "counter",
        ("link", "reason"),
        "Results of probes that cannot be (negative, below_light, too_long), what began anew (clock_step, count_restart), "
        "what had no room (window_full).",
    ),
    MetricSpec(
        "link_load_bits_per_second",
        "gauge",
        ("link",),
        "What leaves over an own link, without IP and UDP headers.",
    ),
    MetricSpec(
        "path_rtt_seconds",
        "gauge",
        ("peer", "path"),
        "Round trip that tunnel connections saw of a path in use.",
    ),
    MetricSpec(
        "path_loss_ratio", "gauge", ("peer", "path"), "Packets that QUIC lost on a path in use, 0 to 1."
    ),
    MetricSpec(
        "removed", "gauge", ("kind",), "Egresses of apps, and links, that the disqualifier has removed."
    ),
    MetricSpec(
        "outcomes_full_total",
        "counter",
        ("table",),
        "What found no room, by table: judged ways of apps, paths, links of the guard, changes that are told.",
    ),
    MetricSpec("path_cost_seconds", "gauge", (*_FLOW, "kind"), "Cost of the direct and the chosen path."),
    MetricSpec("path_hops", "gauge", _FLOW, "Links on the chosen path; 0 is local."),
    MetricSpec("path_changes_total", "counter", ("pop", "reason"), "Times that a path of traffic changed."),
    MetricSpec("smart_routing_enabled", "gauge", ("app", "pop"), "1 where smart routing is on."),
    MetricSpec(
        "overlay_packets_total",
        "counter",
        ("pop", "direction"),
        "Overlay packets: in, out, forwarded; of out, resent after a loss of path, copied, unkept (too many), split (too long), "
        "repairs (of others that may be lost); repaired (made of one); of in, stray (came to another worker).",
    ),
    MetricSpec("overlay_bytes_total", "counter", ("pop", "direction"), "Their bytes, headers included."),
    MetricSpec(
        "transit_packets_total",
        "counter",
        ("pop", "previous_hop"),
        "Packets that a PoP sent through this one.",
    ),
    MetricSpec("transit_bytes_total", "counter", ("pop", "previous_hop"), "Their bytes, headers included."),
    MetricSpec(
        "transit_dropped_total",
        "counter",
        ("pop", "previous_hop", "reason"),
        "Packets that came from a PoP's address and were not let through.",
    ),
    MetricSpec(
        "control_messages_dropped_total", "counter", ("pop", "reason"), "Messages between daemons, dropped."
    ),
)

BY_NAME: Mapping[str, MetricSpec] = {spec.name: spec for spec in METRICS}


class Exposition(Collector):
    """Values for one scrape."""

    def __init__(self) -> None:
        self._values: dict[str, dict[tuple[str, ...], float]] = {}

    def set(self, name: str, value: float | None, /, **labels: str) -> None:
        """Give a value; None is left out. KeyError for a metric that is not in the table, or labels that are not its own."""
        spec = BY_NAME[name]
        if labels.keys() != set(spec.labels):
            raise KeyError(f"{name} has the labels {spec.labels}, not {tuple(labels)}")
        if value is not None:
            self._values.setdefault(name, {})[tuple(labels[label] for label in spec.labels)] = value

    def names(self) -> Iterable[str]:
        """Return the metrics that have a value."""
        return self._values.keys()

    def collect(self) -> Iterator[Metric]:
        """Yield what prometheus-client renders."""
        for spec in METRICS:
            values = self._values.get(spec.name)
            if not values:
                continue
            family: CounterMetricFamily | GaugeMetricFamily
            if spec.kind == "counter":
                family = CounterMetricFamily(spec.full_name, spec.help, labels=spec.labels)
            else:
                family = GaugeMetricFamily(spec.full_name, spec.help, labels=spec.labels)
            for labels, value in values.items():
                family.add_metric(list(labels), value)
            yield family

    def render(self, accept: str) -> tuple[str, bytes]:
        """Return content type and body in the format that an Accept header asks for."""
        registry = CollectorRegistry(auto_describe=False)
        registry.register(self)
        encoder, content_type = choose_encoder(accept)
        return content_type, encoder(registry)
