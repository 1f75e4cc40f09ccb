"""Lab files: what they may say, and what becomes of it."""

from pathlib import Path

import pytest
import yaml

from l4proxy.errors import ConfigError
from l4proxy.lab.load import load
from l4proxy.lab.plan import Plan, make_plan
from l4proxy.lab.spec import LabSpec

FULL = """
lab: three
defaults: {rate: 100Mbit/s, jitter: 1ms}
pops:
  ams: {location: [52.31, 4.76]}
  iad: {transits: [a, b]}
hosts:
  player: {near: ams, rtt: 6ms}
  server: {near: iad, rtt: 2ms, address: 198.51.100.7}
links:
  - {between: [ams, iad], rtt: 80ms, loss: 2%}
  - {between: [ams, iad/b], rtt: 70ms, jitter: "0"}
  - {from: player, to: server, delay: 45ms, burst_loss: 1%, burst: 4, rate: 1Gbit/s}
apps:
  - {name: echo, listen: tcp/7, origins: ["server:7", "203.0.113.9", {address: "player:9", weight: 2}]}
"""


def plan(text: str) -> Plan:
    return make_plan(LabSpec.model_validate(yaml.safe_load(text)))


def test_every_attachment_gets_addresses_of_both_families() -> None:
    made = plan(FULL)
    assert [(h.name, h.is_pop, [a.transit for a in h.addresses]) for h in made.hosts.values()] == [
        ("ams", True, ["a"]),
        ("iad", True, ["a", "b"]),
        ("player", False, [None]),
        ("server", False, [None]),
    ]
    assert [a.ipv4 for a in made.hosts["iad"].addresses] == ["10.77.2.1", "10.77.2.2"]
    assert made.hosts["iad"].ipv6 == "fd77::2:1"
    assert made.hosts["server"].ipv4 == "198.51.100.7"


def test_links_are_directed_and_named_as_the_daemons_name_them() -> None:
    made = plan(FULL)
    assert sorted(made.links) == [
        "ams/a>iad/a", "ams/a>iad/b", "ams/a>player", "iad/a>ams/a", "iad/a>server", "iad/b>ams/a", "iad/b>server",
        "player>ams/a", "player>server", "server>iad/a", "server>iad/b",
    ]  # fmt: skip
    assert made.links["ams/a>iad/b"].pairs == (("10.77.1.1", "10.77.2.2"), ("fd77::1:1", "fd77::2:2"))


def test_own_values_come_before_defaults_and_later_links_before_earlier_ones() -> None:
    links = plan(FULL).links
    first, second, third = links["ams/a>iad/a"], links["iad/b>ams/a"], links["player>server"]
    assert (first.properties.delay_ns, first.properties.loss_ratio, first.properties.jitter_ns) == (
        40_000_000,
        0.02,
        1_000_000,
    )
    assert (second.properties.delay_ns, second.properties.loss_ratio, second.properties.jitter_ns) == (
        35_000_000,
        0.0,
        0,
    )
    assert (third.properties.delay_ns, third.properties.burst_packets, third.properties.rate_bits_s) == (
        45_000_000,
        4,
        10**9,
    )
    assert links["player>ams/a"].properties.delay_ns == 3_000_000
    assert links["player>ams/a"].properties.rate_bits_s == 100_000_000


def test_ends_mean_links() -> None:
    made = plan(FULL)
    assert set(made.find_links("ams", "iad")) == {"ams/a>iad/a", "iad/a>ams/a", "ams/a>iad/b", "iad/b>ams/a"}
    assert set(made.find_links("iad/b", "ams", one_way=True)) == {"iad/b>ams/a"}
    assert made.find_links("ams/a>iad/b") == ("ams/a>iad/b",)
    with pytest.raises(LookupError, match="no link joins ams and server"):
        made.find_links("ams", "server")
    with pytest.raises(LookupError, match="no link nowhere"):
        made.find_links("nowhere")


def test_the_fleet_file_has_the_pops_alone() -> None:
    assert plan(FULL).fleet == {
        "fleet": "three",
        "pops": {
            "ams": {"transits": {"a": "10.77.1.1:4600"}, "location": [52.31, 4.76]},
            "iad": {"transits": {"a": "10.77.2.1:4600", "b": "10.77.2.2:4600"}},
        },
    }


def test_the_overlay_goes_over_the_family_that_the_lab_or_an_address_says() -> None:
    mixed = "{underlay: ipv6, pops: {ams: {}, iad: {transits: {a: 198.51.100.2}}, sin: {transits: {a: 2001:db8::3}}}}"
    transits = {name: pop["transits"]["a"] for name, pop in plan(mixed).fleet["pops"].items()}

    assert transits == {"ams": "[fd77::1:1]:4600", "iad": "198.51.100.2:4600", "sin": "[2001:db8::3]:4600"}


def test_hosts_among_the_origins_become_addresses() -> None:
    (app,) = plan(FULL).apps
    assert app["origins"] == ["198.51.100.7:7", "203.0.113.9", {"address": "10.77.3.1:9", "weight": 2}]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("links: [{between: [a, b], rtt: 1ms}]", r":1:20: links\[0\].between\[0\]: there is no host a"),
        ("{pops: {a: {}, b: {}}, links: [{between: [a, b]}]}", r"links\[0\]: give either"),
        ("{pops: {a: {}, b: {}}, links: [{between: [a, b], rtt: 1ms, delay: 1ms}]}", "give either"),
        ("{pops: {a: {}, b: {}}, links: [{from: a, to: b}]}", "give either"),
        ("{pops: {a: {}}, links: [{from: a, to: a/x, delay: 1ms}]}", r"links\[0\].to: a has no transit x"),
        ("{pops: {a: {}}, links: [{between: [a, a/a], rtt: 1ms}]}", "both ends are a"),
        ("{pops: {a: {}}, hosts: {a: {}}}", "hosts.a: a is both a PoP and a host"),
        ("{hosts: {h: {near: x}}}", ":1:20: hosts.h.near: there is no PoP x"),
        ("{hosts: {h: {address: 8.8.8.8}}}", "private or documentation address"),
        ("{hosts: {h: {address: 127.0.0.1}}}", "private or documentation address"),
        ("{hosts: {h: {address: 10.77.3.1}}}", "the lab gives out itself"),
        (
            "{hosts: {a: {address: 10.1.1.1}, b: {address: 10.1.1.1}}}",
            "hosts.b.address: a has the address 10.1.1.1 as well",
        ),
        ("{hosts: {h: {adress: 10.1.1.1}}}", "unknown field; did you mean address"),
        ("{hosts: {h: {}}, link: []}", "link: unknown field; did you mean links"),
        ("{pops: {A: {}}}", "pops.A: string should match pattern"),
        (
            "{pops: {a: {}, b: {}}, links: [{between: [a, b], rtt: 1ms, loss: 120%}]}",
            "loss: is not a percentage",
        ),
        (
            "pops: {a: {}, b: {}}\nlinks: [{between: [a, b], rtt: 5}]",
            r":2:32: links\[0\].rtt: is not a duration",
        ),
        ("mtu: 100", "mtu: input should be greater than or equal to 1280"),
        ("- 1", "a lab file is one mapping"),
        ("a: 1\n---\nb: 2", "a lab file is one mapping"),
        ("a: [", "is not YAML"),
        ("a: &x 1", "anchors and aliases"),
    ],
)
def test_what_cannot_be_is_refused_with_its_place_and_reason(text: str, why: str, tmp_path: Path) -> None:
    file = tmp_path / "lab.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=why):
        load(file)


def test_every_fault_is_told_at_once(tmp_path: Path) -> None:
    file = tmp_path / "lab.yaml"
    file.write_text("hosts:\n  h: {near: x}\n  i: {near: y}\n")
    with pytest.raises(ConfigError) as caught:
        load(file)
    assert [(fault.line, fault.path) for fault in caught.value.faults] == [
        (2, "hosts.h.near"),
        (3, "hosts.i.near"),
    ]


def test_a_document_that_contradicts_itself_makes_no_plan() -> None:
    with pytest.raises(ValueError, match="there is no host a; there is no host b"):
        plan("links: [{between: [a, b], rtt: 1ms}]")


def test_paths_of_app_files_are_taken_from_the_lab_files_folder(tmp_path: Path) -> None:
    file = tmp_path / "lab.yaml"
    file.write_text("pops: {a: {}}\napps: [apps/echo.yaml]\n")
    assert load(file)["apps"] == [str(tmp_path / "apps" / "echo.yaml")]
    with pytest.raises(ConfigError, match="cannot be read"):
        load(tmp_path / "none.yaml")


@pytest.mark.parametrize(
    "file", sorted((Path(__file__).parents[2] / "configs" / "lab").glob("*.yaml")), ids=lambda file: file.name
)
def test_every_lab_file_that_ships_is_valid(file: Path) -> None:
    made = make_plan(LabSpec.model_validate(load(file)))
    assert made.pops
    assert made.apps
