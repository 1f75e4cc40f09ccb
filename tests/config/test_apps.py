"""App files → apps: every field that can be had, its defaults, and what must hold between apps."""

import pytest

from l4proxy.config.load import load_apps
from l4proxy.core.app import App, IdleTimeouts, Listen, Origin, RoutingPolicy
from l4proxy.core.ids import AppName, PopName
from l4proxy.core.policy import Limits
from tests.config.support import APP, THREE, Files, faults_of


def test_the_shortest_useful_app(files: Files) -> None:
    assert files.app(APP) == App(
        name=AppName("app"),
        listen=(Listen("tcp", "::", 25_565, 25_565),),
        origins=(Origin("203.0.113.10", "203.0.113.10", None),),
        smart_routing="on",
        tcp_class="bulk",
        udp_class="game",
        routing=RoutingPolicy(min_gain_ms=1.0, max_transits=3, avoid=frozenset(), egress=None),
        idle=IdleTimeouts(tcp_ms=3_600_000, udp_ms=120_000, half_closed_ms=60_000),
        connect_timeout_ms=5_000,
        limits=Limits(flows=None, flows_per_source=None),
        pops=None,
    )


def test_the_defaults_of_the_schema_are_those_of_the_core(files: Files) -> None:
    """One app without a field and one that spells the default out are equal."""
    app = files.app(APP)
    assert app == App(app.name, app.listen, app.origins)


def test_every_field_that_can_be_had(files: Files) -> None:
    app = files.app("""\
name: my-app-2
listen: [tcp/198.51.100.1:80, "udp/[2001:db8::1]:5000-5010"]
origins: [203.0.113.10:8080, "[2001:db8::2]", {address: 10.0.0.1}]
smart_routing: off
class: voip
routing: {min_gain: 2.5ms, max_transits: 0, avoid: [ams, iad/b], egress: [sin, ams]}
idle_timeout: {tcp: 2h, udp: 5m, half_closed: 1s}
connect_timeout: 1500ms
limits: {flows: 10k, flows_per_source: 7}
pops: [ams, iad]
record_client: hash
""")
    assert app == App(
        name=AppName("my-app-2"),
        listen=(Listen("tcp", "198.51.100.1", 80, 80), Listen("udp", "2001:db8::1", 5_000, 5_010)),
        origins=(
            Origin("203.0.113.10:8080", "203.0.113.10", 8_080),
            Origin("[2001:db8::2]", "2001:db8::2", None),
            Origin("10.0.0.1", "10.0.0.1", None),
        ),
        smart_routing="off",
        tcp_class="voip",
        udp_class="voip",
        routing=RoutingPolicy(
            min_gain_ms=2.5,
            max_transits=0,
            avoid=frozenset({"ams", "iad/b"}),
            egress=frozenset({PopName("sin"), PopName("ams")}),
        ),
        idle=IdleTimeouts(tcp_ms=7_200_000, udp_ms=300_000, half_closed_ms=1_000),
        connect_timeout_ms=1_500,
        limits=Limits(flows=10_000, flows_per_source=7),
        pops=frozenset({PopName("ams"), PopName("iad")}),
        record_client="hash",
    )


def test_words_for_everything(files: Files) -> None:
    assert files.app(APP + "pops: all\nrouting: {egress: any}\n") == files.app(APP)


@pytest.mark.parametrize(
    ("first", "second", "overlap"),
    [
        ("tcp/80", "tcp/80", True),
        ("tcp/80", "udp/80", False),
        ("tcp/80", "tcp/81", False),
        ("tcp/80-90", "tcp/90-100", True),
        ("tcp/80-90", "tcp/91-100", False),
        ("udp/1-1000", "udp/500", True),
        ("udp/500", "udp/1-1000", True),
        ("tcp/198.51.100.1:80", "tcp/198.51.100.2:80", False),
        ("tcp/198.51.100.1:80", "tcp/198.51.100.1:80", True),
        ("tcp/198.51.100.1:80", "tcp/80", True),
        ("tcp/80", "tcp/[2001:db8::1]:80", True),
        ("tcp/198.51.100.1:80", "tcp/[2001:db8::1]:80", False),
    ],
)
def test_listeners_of_two_apps_do_not_overlap(files: Files, first: str, second: str, overlap: bool) -> None:
    apps = [
        f"name: one\nlisten: '{first}'\norigins: [10.0.0.1]\n",
        f"name: two\nlisten: '{second}'\norigins: [10.0.0.1]\n",
    ]
    assert len(files.faults(*apps)) == overlap


@pytest.mark.parametrize(
    ("first", "second", "overlap"),
    [
        ("all", "all", True),
        ("all", "[ams]", True),
        ("[ams]", "[ams, iad]", True),
        ("[ams]", "[iad]", False),
    ],
)
def test_listeners_overlap_only_where_both_apps_listen(
    files: Files, first: str, second: str, overlap: bool
) -> None:
    apps = [
        f"name: one\nlisten: udp/7\norigins: [10.0.0.1]\npops: {first}\n",
        f"name: two\nlisten: udp/7\norigins: [10.0.0.1]\npops: {second}\n",
    ]
    assert len(files.faults(*apps)) == overlap


def test_each_listener_is_named_once_however_many_it_overlaps(files: Files) -> None:
    many = "---\n".join(f"name: a{n}\nlisten: udp/{n}\norigins: [10.0.0.1]\n" for n in range(100, 200))
    wide = "name: wide\nlisten: udp/100-199\norigins: [10.0.0.1]\n"
    assert files.faults(many, wide) == ["2: listen: overlaps app a100's udp/100"]
    assert len(files.faults(wide, many)) == 100


@pytest.mark.parametrize(
    ("listen", "origin", "more", "is_loop"),
    [
        ("tcp/80", "127.0.0.1:80", "", True),
        ("tcp/80", "127.0.0.1", "", True),
        ("tcp/80", "127.0.0.1:81", "", False),
        ("tcp/80", "127.9.9.9:80", "", True),
        ("tcp/80", "'[::1]:80'", "", True),
        ("tcp/80", "10.0.0.1:80", "", False),
        ("tcp/10.0.0.1:80", "10.0.0.1:80", "", True),
        ("tcp/10.0.0.1:80", "10.0.0.2:80", "", False),
        ("tcp/10.0.0.1:80", "127.0.0.1:80", "", False),
        ("[tcp/80, udp/81]", "127.0.0.1:81", "", True),
        ("[tcp/80, tcp/81]", "127.0.0.1:81", "", True),
        ("udp/100-199", "127.0.0.1:200", "", False),
        ("udp/100-199", "127.0.0.1:199", "", True),
        ("udp/100-199", "127.0.0.1:1", "", True),
        ("tcp/80", "127.0.0.1:80", "pops: [ams]\nrouting: {egress: [iad]}\n", False),
        ("tcp/80", "127.0.0.1:80", "pops: [ams, iad]\nrouting: {egress: [iad]}\n", True),
        ("tcp/80", "127.0.0.1:80", "pops: [ams]\n", True),
    ],
)
def test_an_origin_is_not_the_apps_own_listener(
    files: Files, listen: str, origin: str, more: str, is_loop: bool
) -> None:
    faults = files.faults(f"name: app\nlisten: {listen}\norigins: [{origin}]\n{more}")
    assert ["go round in a circle" in fault for fault in faults] == [True] * is_loop


@pytest.mark.parametrize(
    ("origin", "pops", "is_loop"),
    [
        ("198.51.100.1", "[ams]", True),
        ("198.51.100.2", "[ams]", False),  # another PoP's address, and nothing listens there
        ("198.51.100.2", "[ams, iad]", True),
        ("198.51.100.9", "all", False),
    ],
)
def test_the_addresses_of_the_fleet_are_its_own(files: Files, origin: str, pops: str, is_loop: bool) -> None:
    faults = files.faults(THREE, f"name: app\nlisten: tcp/80\norigins: [{origin}]\npops: {pops}\n")
    assert len(faults) == is_loop


def test_pops_are_known_only_with_a_fleet(files: Files) -> None:
    text = APP + "pops: [ams, lhr]\nrouting: {egress: [fra], avoid: [iad/c, iad/b, sin]}\n"
    assert files.app(text).pops == frozenset({"ams", "lhr"})
    fleet = files.fleet(THREE)
    assert faults_of(lambda: load_apps([files.write(text)], fleet)) == [
        "pops[1]: the fleet three has no PoP lhr",
        "routing.egress[0]: the fleet three has no PoP fra",
        "routing.avoid[0]: the fleet three has no transit iad/c",
    ]


def test_ports_of_an_origin_end_with_the_last_port(files: Files) -> None:
    fits = "name: app\nlisten: udp/100-199\norigins: [10.0.0.1:65436]\n"
    assert files.faults(fits) == []
    assert files.faults(fits.replace("65436", "65437")) == [
        "3: origins[0]: udp/100-199 goes up to port 65536 from there, and 65535 is the last"
    ]


def test_bounds_are_inclusive(files: Files) -> None:
    good = (
        "routing: {min_gain: 10s, max_transits: 3}\nidle_timeout: {tcp: 30d, udp: 1s}\n"
        "connect_timeout: 60s\nlimits: {flows: 16M, flows_per_source: 1}\n"
    )
    assert files.faults(APP + good) == []
    bad = (
        "routing: {min_gain: 10001ms, max_transits: -1}\nidle_timeout: {tcp: 31d, udp: 999ms}\n"
        "connect_timeout: 99ms\nlimits: {flows: 17M, flows_per_source: 0}\n"
    )
    assert [fault.split(": ")[1] for fault in files.faults(APP + bad)] == [
        "routing.min_gain", "routing.max_transits", "idle_timeout.tcp", "idle_timeout.udp", "connect_timeout",
        "limits.flows", "limits.flows_per_source",
    ]  # fmt: skip
