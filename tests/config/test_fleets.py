"""Fleet files → fleets: PoPs, transits, and the links that every fleet has or that the file says."""

from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from l4proxy.config import fleet_checks, mesh
from l4proxy.config.convert import to_pops
from l4proxy.config.load import check
from l4proxy.config.schema import FleetModel
from l4proxy.core.topology import Link, Pop, Transit
from tests.config.support import PATIENT, THREE, Files


def links(files: Files, text: str) -> str:
    """Return the links of a fleet, one direction of each pair, as a sentence."""
    names = [str(name) for name in files.fleet(text).links]
    for name in names:
        start, _, end = name.partition(">")
        assert f"{end}>{start}" in names, "replies to probes take the reverse link"
    return " ".join(name for name in names if name.partition(">")[0] < name.partition(">")[2])


def test_the_fleet_of_the_contract(files: Files) -> None:
    fleet = files.fleet("""\
fleet: demo
pops:
  ams: {location: [52.31, 4.76], transits: {a: 198.51.100.1:4600}}
  iad: {location: [38.95, -77.45], transits: {a: 198.51.100.2:4600, b: 203.0.113.2:4600}}
  sin: {location: [1.36, 103.99], transits: {a: {address: 198.51.100.3:4600, bind: 10.0.0.3:4600}}}
links:
  - {from: iad/b, to: sin/a, capacity: 1Gbit/s, price: 0.02, kind: backbone}
  - {from: ams/a, to: iad/b, enabled: false}
""")
    assert fleet.name == "demo"
    assert list(fleet.pops) == ["ams", "iad", "sin"]
    assert fleet.pops["iad"] == Pop(
        "iad",
        (
            Transit("a", "198.51.100.2:4600", "198.51.100.2:4600"),
            Transit("b", "203.0.113.2:4600", "203.0.113.2:4600"),
        ),
        (38.95, -77.45),
    )
    assert fleet.pops["sin"].transits == (Transit("a", "198.51.100.3:4600", "10.0.0.3:4600"),)
    assert list(fleet.links) == [
        "ams/a>iad/a", "ams/a>iad/b", "ams/a>sin/a", "iad/a>ams/a", "iad/a>sin/a", "iad/b>ams/a", "iad/b>sin/a",
        "sin/a>ams/a", "sin/a>iad/a", "sin/a>iad/b",
    ]  # fmt: skip
    assert fleet.links["iad/b>sin/a"] == Link("iad", "b", "sin", "a", True, 10**9, 0.02, "backbone")
    assert fleet.links["sin/a>iad/b"] == Link("sin", "a", "iad", "b"), "what is said holds for one direction"
    assert not fleet.links["ams/a>iad/b"].enabled
    assert fleet.links["iad/b>ams/a"].enabled
    assert (fleet.issuer, fleet.pops["ams"].dial_outbound) == (None, False)


def test_the_issuer_is_a_pop_of_the_fleet(files: Files) -> None:
    text = "fleet: f\nissuer: {issuer}\npops: {{ams: {{transits: {{a: 10.0.0.1:1}}}}, iad: {{transits: {{a: 10.0.0.2:1}}}}}}\n"
    assert files.fleet(text.format(issuer="iad")).issuer == "iad"
    (fault,) = files.faults(text.format(issuer="iat"))
    assert fault.startswith("2: issuer: there is no PoP iat")


def test_the_default_mesh_joins_namesakes_and_the_rest_with_the_first(files: Files) -> None:
    text = """\
fleet: f
pops:
  x: {transits: {a: 10.0.0.1:1, b: 10.0.0.1:2, c: 10.0.0.1:3}}
  y: {transits: {b: 10.0.0.2:1, a: 10.0.0.2:2}}
"""
    assert links(files, text) == "x/a>y/a x/b>y/b x/c>y/b", "the first is the first of the file"
    assert links(files, text + "mesh: same\n") == links(files, text)
    assert links(files, text + "mesh: all\n") == "x/a>y/a x/a>y/b x/b>y/a x/b>y/b x/c>y/a x/c>y/b"


def test_links_join_only_one_address_family(files: Files) -> None:
    text = """\
fleet: f
pops:
  x: {transits: {a: 10.0.0.1:1, six: "[2001:db8::1]:1"}}
  y: {transits: {six: "[2001:db8::2]:1", a: 10.0.0.2:1}}
  z: {transits: {only: "[2001:db8::3]:1"}}
"""
    assert links(files, text) == "x/a>y/a x/six>y/six x/six>z/only y/six>z/only"
    assert links(files, text + "mesh: all\n") == "x/a>y/a x/six>y/six x/six>z/only y/six>z/only"


def test_datagrams_go_in_their_channel_unless_the_file_says_quic(files: Files) -> None:
    assert files.fleet(THREE).datagrams == "channel"
    assert files.fleet(THREE + "datagrams: channel\n").datagrams == "channel"
    assert files.fleet(THREE + "datagrams: quic\n").datagrams == "quic"
    (fault,) = files.faults(THREE + "datagrams: tcp\n")
    assert fault.startswith("6: datagrams: ")
    assert "channel" in fault
    assert "quic" in fault


def test_what_others_send_through_a_pop_may_have_a_bound(files: Files) -> None:
    text = (
        "fleet: f\npops:\n  x: {{transits: {{a: 10.0.0.1:1}}{rate}}}\n  y: {{transits: {{a: 10.0.0.2:1}}}}\n"
    )
    assert files.fleet(text.format(rate="")).pops["x"].transit_rate_bits_s is None
    fleet = files.fleet(text.format(rate=", transit_rate: 200Mbit/s"))
    assert [pop.transit_rate_bits_s for pop in fleet.pops.values()] == [200_000_000, None]
    for wrong, reason in (("200", "is not a rate"), ("0Mbit/s", "a rate of 0 passes nothing")):
        (fault,) = files.faults(text.format(rate=f", transit_rate: {wrong}"))
        assert fault.startswith("3: pops.x.transit_rate: ")
        assert reason in fault


def test_what_probes_may_cost_is_a_setting(files: Files) -> None:
    assert files.fleet(THREE).probe_budget_bytes_s == 60_000
    assert files.fleet(THREE + "probe_budget: 100kB/s\n").probe_budget_bytes_s == 100_000
    assert files.fleet(THREE + "probe_budget: 1Mbit/s\n").probe_budget_bytes_s == 125_000
    for wrong, reason in (("100", "is not a rate"), ("0kB/s", "a rate of 0 passes nothing")):
        (fault,) = files.faults(THREE + f"probe_budget: {wrong}\n")
        assert fault.startswith("6: probe_budget: ")
        assert reason in fault


def test_a_budget_that_cannot_be_kept_is_an_error_that_says_what_could(files: Files) -> None:
    """Four links in five minutes are 2.6 bytes a second; behind NAT each is probed every 15 s, 12.8 bytes a second."""
    assert files.fleet(THREE + "probe_budget: 24bit/s\n").probe_budget_bytes_s == 3
    (fault,) = check([files.write(THREE + "probe_budget: 8bit/s\n")]).faults
    assert (fault.line, fault.path) == (6, "probe_budget")
    assert fault.reason == "does not pay for the probes of iad, which has 4 links"
    assert fault.hint == "write probe_budget: 1kB/s or more"
    behind = THREE.replace("ams: {", "ams: {dial: outbound, ")
    assert files.fleet(behind + "probe_budget: 320bit/s\n").probe_budget_bytes_s == 40
    assert files.faults(behind + "probe_budget: 200bit/s\n") == [
        "6: probe_budget: does not pay for the probes of ams, which has 3 links"
    ]


def test_so_many_links_behind_nat_that_the_default_budget_is_too_small_are_told_where_the_pop_stands(
    files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("l4proxy.config.fleet_checks.least_budget_bytes_s", lambda links, _: links * 20_000)
    (fault,) = check([files.write(THREE)]).faults
    assert (fault.line, fault.path) == (4, "pops.iad")
    assert fault.hint == "write probe_budget: 80kB/s or more"


def test_a_link_beside_the_mesh_comes_with_its_reverse(files: Files) -> None:
    fleet = files.fleet(
        THREE + "links: [{from: iad/a, to: sin/a, price: 1}, {from: iad/b, to: ams/a, price: 2}]\n"
    )
    assert fleet.links["iad/a>sin/a"].price == 1
    text = THREE.replace("b: 198", "b: 198").replace(
        "sin: {transits: {a: ", "sin: {transits: {c: 198.51.100.5:4600, a: "
    )
    extra = files.fleet(text + "links: [{from: ams/a, to: sin/c, kind: extra}]\n")
    assert extra.links["ams/a>sin/c"].kind == "extra"
    assert extra.links["sin/c>ams/a"].kind == "transit"


def test_addresses_are_kept_in_their_usual_form(files: Files) -> None:
    fleet = files.fleet('fleet: f\npops: {x: {transits: {a: "[2001:DB8:0::0:1]:4600"}}}\n')
    assert fleet.pops["x"].transits[0].address == "[2001:db8::1]:4600"
    assert fleet.links == {}


def test_one_machine_may_be_a_whole_fleet(files: Files) -> None:
    """Equal addresses with other ports, as on loopback."""
    text = "fleet: f\npops:\n" + "".join(f"  p{n}: {{transits: {{a: 127.0.0.1:460{n}}}}}\n" for n in range(3))
    assert len(files.fleet(text).links) == 6


def test_the_number_of_links_is_bounded_before_any_is_made(
    files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("l4proxy.config.fleet_checks.MAX_LINKS", 9)
    assert files.faults(THREE) == ["2: pops: makes up to 10 links, and 9 are possible"]
    assert files.faults(THREE + "mesh: all\n") == ["6: mesh: makes up to 10 links, and 9 are possible"]
    monkeypatch.setattr("l4proxy.config.fleet_checks.MAX_LINKS", 10)
    assert files.faults(THREE) == []


names = st.text("abc", min_size=1, max_size=1)


@PATIENT
@given(
    st.dictionaries(
        st.text("pqrs", min_size=1, max_size=3),
        st.lists(names, min_size=1, max_size=3, unique=True),
        min_size=2,
        max_size=6,
    ),
    st.sampled_from(["same", "all"]),
)
def test_links_are_counted_without_making_them(shape: dict[str, list[str]], mesh_name: str) -> None:
    """With one address family the count is what is made, but that two transits may share the other's first."""
    pops = {
        name: {"transits": {transit: f"10.0.{i}.{j + 1}:1" for j, transit in enumerate(transits)}}
        for i, (name, transits) in enumerate(shape.items())
    }
    model = FleetModel.model_validate({"fleet": "f", "pops": pops, "mesh": mesh_name}, strict=True)
    made = mesh.make_links(to_pops(model), model.mesh, ())
    assert len(made) <= mesh.count_links(model)
    if mesh_name == "all" or all(len(transits) == 1 for transits in shape.values()):
        assert mesh_name == "same" or len(made) == mesh.count_links(model)
    for pair in combinations(shape, 2):
        assert any((link.from_pop, link.to_pop) == pair for link in made.values()), "nobody is left alone"
    for name, link in made.items():
        assert link.reverse_name in made
        assert name == link.name


def test_the_largest_fleets_are_counted_at_once(files: Files) -> None:
    pops = "".join(f"  p{n}: {{transits: {{a: 10.{n // 250}.{n % 250}.1:4600}}}}\n" for n in range(4_000))
    (fault,) = files.faults("fleet: big\npops:\n" + pops)
    assert fault == "2: pops: makes up to 15996000 links, and 100000 are possible"


def test_a_large_fleet_loads(files: Files) -> None:
    pops = "".join(f"  p{n}: {{transits: {{a: 10.{n // 250}.{n % 250}.1:4600}}}}\n" for n in range(150))
    assert len(files.fleet("fleet: big\npops:\n" + pops).links) == 150 * 149


def test_a_pop_that_can_only_dial_out_is_dialled_by_nobody(files: Files) -> None:
    text = """\
fleet: f
pops:
  attic: {transits: {a: 192.168.1.2:4600}, dial: outbound}
  barn: {transits: {a: 192.168.1.2:4600}, dial: outbound}
  core: {transits: {a: 198.51.100.1:4600}}
"""
    fleet = files.fleet(text)
    assert [pop.dial_outbound for pop in fleet.pops.values()] == [True, True, False]
    assert links(files, text) == "attic/a>core/a barn/a>core/a", "no link joins two that can only dial out"
    attic, barn, core = fleet.pops.values()
    assert (attic.dials(core), core.dials(attic)) == (True, False)
    assert (barn.dials(core), core.dials(barn)) == (True, False)
    assert (attic.dials(barn), barn.dials(attic)) == (True, False), "through others, by name"
    assert Pop("zoo", (), dial_outbound=True).dials(core), "whatever its name"


def test_two_pops_that_can_only_dial_out_are_not_joined_by_name(files: Files) -> None:
    text = """\
fleet: f
pops:
  attic: {transits: {a: 192.168.1.2:4600}, dial: outbound}
  barn: {transits: {a: 192.168.1.3:4600}, dial: outbound}
"""
    nobody = "no link joins this PoP with another: all of them can only dial out, and nobody can be dialled"
    assert files.faults(text) == [f"3: pops.attic: {nobody}", f"4: pops.barn: {nobody}"]
    (fault,) = files.faults(text + "links:\n  - {from: attic/a, to: barn/a}\n")
    assert fault == "6: links[0].to: attic and barn can both only dial out, and nobody can be dialled"


def test_a_name_whose_id_means_nobody_is_refused(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fleet_checks, "id32", lambda name: 0 if name == "x" else hash(name))
    text = "fleet: f\npops:\n  x: {transits: {a: 10.0.0.1:1}}\n  y: {transits: {a: 10.0.0.2:1}}\n"
    assert files.faults(text) == ["3: pops.x: nothing at all and x have the same id on the wire"]
