"""Every metric of the table is really emitted, within a budget, and with labels that are bounded."""

import pytest

from l4proxy.core.ids import LinkName, PopName
from l4proxy.core.passive import PathQuality
from l4proxy.daemon.checker import UNKNOWN, CheckResult, Target
from l4proxy.daemon.engine_messages import Counters, PeerState, TransitState
from l4proxy.daemon.measures import Descriptors, Measurements, expose
from l4proxy.metrics import METRICS, PREFIX, Exposition

APP_COUNTERS = {
    "tcp_opened": 10,
    "tcp_closed": 7,
    "udp_opened": 2,
    "udp_closed": 2,
    "tcp_bytes_to_origin": 1,
    "tcp_bytes_to_client": 2,
    "udp_bytes_to_origin": 3,
    "udp_bytes_to_client": 4,
    "datagrams_to_origin": 5,
    "datagrams_to_client": 6,
    "datagrams_dropped": 7,
    "flows_refused": 8,
    "refused_access_denied": 3,
    "origin_errors": 9,
}


def measurements(apps: int = 1, links: int = 1) -> Measurements:
    names = [f"app{number}" for number in range(apps)]
    return Measurements(
        pop="ams",
        started_s=1.5e9,
        is_ready=True,
        problems=2,
        is_connected=True,
        engine_starts=1,
        internal_errors=0,
        generation=4,
        is_reload_good=True,
        reload_good_s=1.6e9,
        bus_dropped={"daemon_queue_full": 3, "malformed": 2},
        flow_log_dropped=4,
        moments_recorded=60,
        moments_lost=2,
        history_bytes=4096,
        flow_capacity={"tcp": 65_536, "udp": 131_072},
        counters=Counters(
            at_ns=1,
            workers=2,
            values={"worker_panics": 1, "wakeups": 99, "tcp_flows": 3}
            | {"overlay_packets_in": 11, "overlay_bytes_forwarded": 12, "overlay_packets_repaired": 16}
            | {"overlay_memory_granted": 17, "overlay_memory_full": 18, "overlay_epochs_rolled": 19}
            | {"overlay_link_downs_heard": 20, "overlay_retries": 21}
            | {"overlay_handshakes_failed": 3, "overlay_handshakes_failed_revoked": 2},
            apps=dict.fromkeys(names, APP_COUNTERS),
            drops={"fd_limit": 5, "udp_truncated": 6, "bus_not_sent": 7},
            handles=(),
            peers=(PeerState("iad", True, 1),),
            transit={"iad": TransitState(13, 14, {"transit_rate": 15})},
        ),
        closed={(name, "tcp", 200): 7 for name in names},
        path_changes={"engine": 2},
        checks=[CheckResult(Target(name, "192.0.2.1:1", "192.0.2.1", 1), 12_000_000) for name in names],
        links=[
            {
                "name": f"ams/a>iad/{n}",
                "up": True,
                "rtt_ms": 80.5,
                "rtt_ms_min": 80.0,
                "jitter_ms": 1.0,
                "loss_ratio": 0.01,
            }
            for n in range(links)
        ],
        routes=[
            {
                "app": name,
                "protocol": "tcp",
                "ingress": "ams",
                "smart_routing": "on",
                "moves": True,
                "links": ["ams/a>iad/a"],
            }
            | {"cost_ms": 80.5, "direct_cost_ms": 90.5}
            for name in names
        ],
        descriptors={"daemon": Descriptors(20, 1024), "engine": Descriptors(30, 2048)},
        certificates={"pop": 1.8e9},
        renewals={"renewed": 3, "no_answer": 1},
        certificate_requests={"signed": 5, "other_name": 1},
        records_refused={"left": 4},
        record_events={"held_back": 6},
        links_doubted=1,
        probes={(f"ams/a>iad/{n}", "answered"): 60 for n in range(links)},
        link_loads={LinkName(f"ams/a>iad/{n}"): 1e6 for n in range(links)},
        paths={
            (PopName("iad"), (LinkName(f"ams/a>iad/{n}"),)): PathQuality(80.0, 0.01, 1e6, 1e5, 100, 0)
            for n in range(links)
        },
        removed={"egress": 1, "link": 0},
        outcomes_full={"judged": 0, "paths": 2},
        samples_refused={(f"ams/a>iad/{n}", "below_light"): 3 for n in range(links)},
    )


def text_of(exposition: Exposition) -> str:
    return exposition.render("")[1].decode()


def test_every_metric_of_the_table_is_emitted() -> None:
    """A metric in the table that nobody sets is a promise broken on a dashboard."""
    exposition = expose(measurements())
    assert set(exposition.names()) == {spec.name for spec in METRICS}
    text = text_of(exposition)
    for spec in METRICS:
        assert f"# TYPE {spec.full_name} {spec.kind}" in text
        assert f"# HELP {spec.full_name} {spec.help}" in text


@pytest.mark.parametrize(
    "line",
    [
        'l4proxy_connections_active{app="app0",pop="ams",transport="tcp"} 3.0',
        'l4proxy_connections_closed_total{app="app0",code="200",pop="ams",transport="tcp"} 7.0',
        'l4proxy_connections_rejected_total{pop="ams",reason="fd_limit"} 5.0',
        'l4proxy_datagrams_dropped_total{pop="ams",reason="udp_truncated"} 6.0',
        'l4proxy_bytes_total{app="app0",direction="to_client",pop="ams",transport="udp"} 4.0',
        'l4proxy_flow_table_entries{pop="ams",transport="tcp"} 3.0',
        'l4proxy_link_rtt_seconds{link="ams/a>iad/0"} 0.0805',
        'l4proxy_link_loss_ratio{link="ams/a>iad/0"} 0.01',
        'l4proxy_path_cost_seconds{app="app0",kind="direct",pop="ams",transport="tcp"} 0.0905',
        'l4proxy_origin_up{app="app0",origin="192.0.2.1:1",pop="ams"} 1.0',
        'l4proxy_origin_rtt_seconds{app="app0",origin="192.0.2.1:1",pop="ams"} 0.012',
        'l4proxy_fds_limit{pop="ams",process="engine"} 2048.0',
        'l4proxy_tunnel_up{peer="iad",pop="ams"} 1.0',
        'l4proxy_panics_total{pop="ams"} 1.0',
        'l4proxy_engine_level{name="tcp_flows",pop="ams"} 3.0',
        'l4proxy_overlay_packets_total{direction="in",pop="ams"} 11.0',
        'l4proxy_overlay_bytes_total{direction="forwarded",pop="ams"} 12.0',
        'l4proxy_overlay_packets_total{direction="repaired",pop="ams"} 16.0',
        'l4proxy_engine_level{name="overlay_memory_granted",pop="ams"} 17.0',
        'l4proxy_engine_events_total{name="overlay_memory_full",pop="ams"} 18.0',
        'l4proxy_engine_events_total{name="overlay_epochs_rolled",pop="ams"} 19.0',
        'l4proxy_engine_events_total{name="overlay_link_downs_heard",pop="ams"} 20.0',
        'l4proxy_engine_events_total{name="overlay_retries",pop="ams"} 21.0',
        'l4proxy_transit_packets_total{pop="ams",previous_hop="iad"} 13.0',
        'l4proxy_transit_bytes_total{pop="ams",previous_hop="iad"} 14.0',
        'l4proxy_transit_dropped_total{pop="ams",previous_hop="iad",reason="transit_rate"} 15.0',
        'l4proxy_control_messages_dropped_total{pop="ams",reason="bus_not_sent"} 7.0',
        'l4proxy_control_messages_dropped_total{pop="ams",reason="daemon_queue_full"} 3.0',
    ],
)
def test_values_are_in_base_units_under_their_labels(line: str) -> None:
    assert line in text_of(expose(measurements()))


def test_what_is_not_known_is_left_out() -> None:
    """A gauge that says 0 for "unknown" wakes somebody up."""
    now = measurements()
    now.counters = None
    now.checks = [CheckResult(Target("a", "x", "192.0.2.1", None), None, UNKNOWN)]
    now.links = [
        {"name": "l", "up": False, "rtt_ms": None, "rtt_ms_min": None, "jitter_ms": 0.0, "loss_ratio": 0.0}
    ]
    text = text_of(expose(now))
    assert "origin_up" not in text
    assert "l4proxy_link_rtt_seconds{" not in text
    assert 'l4proxy_link_up{link="l"} 0.0' in text
    assert "l4proxy_connections_active" not in text


def test_fifty_apps_stay_within_the_budget() -> None:
    """50 apps and 90 links at most 5,000 series a PoP, rendered in a moment."""
    text = text_of(expose(measurements(apps=50, links=90)))
    series = [line for line in text.splitlines() if not line.startswith("#")]
    assert len(series) <= 5000
    assert all(line.startswith(PREFIX) for line in series)


def test_counters_end_in_total_and_names_are_unique() -> None:
    assert len({spec.name for spec in METRICS}) == len(METRICS)
    for spec in METRICS:
        assert spec.name.endswith("_total") == (spec.kind == "counter")
        assert not {"client", "flow", "address", "asn"} & set(spec.labels)


def test_openmetrics_by_content_negotiation() -> None:
    content_type, body = expose(measurements()).render("application/openmetrics-text; version=1.0.0")
    assert content_type.startswith("application/openmetrics-text")
    assert body.endswith(b"# EOF\n")


def test_only_what_is_in_the_table_can_be_set() -> None:
    exposition = Exposition()
    with pytest.raises(KeyError):
        exposition.set("nonsense", 1)
    with pytest.raises(KeyError, match="has the labels"):
        exposition.set("ready", 1, app="x")
