"""The table of links: its numbers, what it refuses, and that the order in which records come changes nothing."""

import random
from dataclasses import replace

import numpy as np
import pytest

from l4proxy.core.bus import LinkState
from l4proxy.core.estimate import LinkEstimate
from l4proxy.core.ids import LinkName, PopName
from l4proxy.core.routing.build import best_all
from l4proxy.core.routing.cost import link_costs
from l4proxy.core.routing.declared import DeclaredLinks
from l4proxy.core.routing.links import MAX_LINKS_OF_A_POP, MAX_POPS, PairIndex, TableError, pairs_table
from l4proxy.core.topology import Fleet, Link
from tests.core.fleet import make_fleet
from tests.core.routing.graphs import Edge, costs_of, edges_of, graph_of, names_of, table_of

TRIANGLE = graph_of("a-b 10, b-c 5, a-c 30")


@pytest.mark.parametrize(
    ("column", "wrong"),
    [
        ("rtt_ms", -1.0), ("rtt_ms", float("nan")), ("rtt_ms", float("inf")), ("rtt_ms_now", float("nan")),
        ("jitter_ms", -0.1), ("jitter_ms", float("inf")), ("loss_ratio", -0.1), ("loss_ratio", 1.1),
        ("loss_ratio", float("nan")), ("load_bits_s", -1.0), ("load_bits_s", float("nan")),
        ("capacity_bits_s", 0.0), ("capacity_bits_s", float("nan")), ("price", -1.0), ("price", float("inf")),
    ],
)  # fmt: skip
def test_a_number_that_cannot_be_is_refused_with_the_links_name(column: str, wrong: float) -> None:
    numbers = getattr(TRIANGLE, column).copy()
    numbers[3] = wrong
    with pytest.raises(TableError, match=f"link {TRIANGLE.names[3]}: "):
        replace(TRIANGLE, **{column: numbers})


def test_of_a_link_that_is_not_usable_nothing_need_be_known() -> None:
    numbers, usable = TRIANGLE.rtt_ms.copy(), TRIANGLE.usable.copy()
    numbers[3], usable[3] = float("nan"), False
    table = replace(TRIANGLE, rtt_ms=numbers, usable=usable)
    assert link_costs(table, "game")[3] == np.inf


def test_links_out_of_order_twice_or_between_nobody_are_refused() -> None:
    with pytest.raises(TableError, match="links are not sorted"):
        replace(TRIANGLE, names=TRIANGLE.names[::-1], index=None)
    with pytest.raises(TableError, match="PoPs are not sorted"):
        replace(TRIANGLE, pops=TRIANGLE.pops[::-1], index=None)
    with pytest.raises(TableError, match="or one stands twice"):
        table_of(edges_of("a-b 1, a-b 2"))
    for end in (0, 3, -1):
        ends = TRIANGLE.end.copy()
        ends[0] = end
        with pytest.raises(TableError, match=r"link a/a>b/a does not join two of the 3 PoPs"):
            replace(TRIANGLE, end=ends, index=None)


def test_arrays_of_another_length_are_refused() -> None:
    with pytest.raises(TableError, match=r"rtt_ms has shape \(5,\), there are 6 links"):
        replace(TRIANGLE, rtt_ms=TRIANGLE.rtt_ms[:5])


def test_more_pops_or_links_than_a_table_holds_are_refused() -> None:
    pops = tuple(PopName(f"p{number:05d}") for number in range(MAX_POPS + 1))
    with pytest.raises(TableError, match="2049 PoPs, at most 2048"):
        pairs_table(pops, np.array([0]), np.array([1]), np.ones(1))
    start = np.zeros(MAX_LINKS_OF_A_POP, np.int32)
    PairIndex.of(2, start, start + 1)
    start = np.zeros(MAX_LINKS_OF_A_POP + 1, np.int32)
    with pytest.raises(TableError, match="16384 links leave one PoP"):
        PairIndex.of(2, start, start + 1)


def test_a_table_of_pairs_names_and_sorts_its_links() -> None:
    """`a` stands before `a-b`, and `a-b/a` before `a/a`."""
    pops = (PopName("a"), PopName("a-b"), PopName("c"))
    start, end = np.array([0, 0, 1]), np.array([2, 1, 0])
    table = pairs_table(pops, start, end, np.array([1.0, 2.0, 3.0]))
    assert table.names == ("a-b/a>a/a", "a/a>a-b/a", "a/a>c/a")
    assert table.rtt_ms.tolist() == [3.0, 2.0, 1.0]
    assert table.start.tolist() == [1, 0, 0]


def test_a_pop_or_link_that_is_not_there_is_told() -> None:
    assert TRIANGLE.number(LinkName("b/a>c/a")) == 3
    assert TRIANGLE.number(LinkName("b/a>d/a")) is None
    with pytest.raises(TableError, match="no PoP 'd'"):
        TRIANGLE.pop_number(PopName("d"))


def test_a_table_of_no_links_has_no_paths() -> None:
    table = table_of([], "abc")
    assert (best_all(table, costs_of(table)) == -1).all()
    assert (best_all(table_of([], "a"), np.zeros(0)) == -1).all()


# -- from what a daemon knows -----------------------------------------------------------------------------------------


def estimate(rtt_ms: float, is_up: bool = True) -> LinkEstimate:
    """What was measured of an own link."""
    return LinkEstimate(is_up, rtt_ms, rtt_ms, rtt_ms + 9, 0.5, 0.01, 10, 0.0, rtt_ms_smoothed=rtt_ms + 1)


def told(name: str, rtt_ms: float, is_up: bool = True, label: int = 1) -> LinkState:
    """What its owner says of another's link."""
    return LinkState(LinkName(name), is_up, rtt_ms, rtt_ms, 0.25, 0.02, label)


AMS = PopName("ams")


def test_own_links_are_as_measured_here_and_others_as_their_owners_say() -> None:
    declared = DeclaredLinks.of(make_fleet("ams iad sin", disabled=("sin>iad",)))
    own = {LinkName("ams/a>iad/a"): estimate(80), LinkName("ams/a>sin/a"): estimate(250, is_up=False)}
    states = (told("iad/a>sin/a", 90), told("sin/a>iad/a", 91), told("iad/a>ams/a", 81, label=0))
    others = {state.link: state for state in states}
    table = declared.measured(AMS, own, {LinkName("ams/a>iad/a"): 7}, others).table

    known = {name: table.number(LinkName(name)) for name in ("ams/a>iad/a", "ams/a>sin/a", "iad/a>sin/a")}
    own_link, dead, other = known["ams/a>iad/a"], known["ams/a>sin/a"], known["iad/a>sin/a"]
    assert table.usable.nonzero()[0].tolist() == [own_link, table.number(LinkName("iad/a>ams/a")), other]
    assert (table.rtt_ms[own_link], table.rtt_ms_now[own_link], table.jitter_ms[own_link]) == (80, 81, 0.5)
    assert (table.rtt_ms[other], table.jitter_ms[other], table.loss_ratio[other]) == (90, 0.25, 0.02)
    assert table.labelled[own_link]
    assert not table.labelled[table.number(LinkName("iad/a>ams/a"))]
    revived = table.with_dead().usable
    assert revived[dead]
    assert not revived[table.number(LinkName("sin/a>iad/a"))], "it is disabled"
    assert not revived[table.number(LinkName("sin/a>ams/a"))], "nobody has measured it"


def test_the_order_of_records_and_of_the_fleet_changes_nothing() -> None:
    fleet = make_fleet("ams fra iad lhr sin syd")
    dice = random.Random(5)
    states = [told(name, dice.randrange(10, 20)) for name in fleet.links if not name.startswith("ams/")]
    own = {name: estimate(dice.randrange(10, 20)) for name in fleet.links if name.startswith("ams/")}
    answers = []
    for _ in range(5):
        links, pops, said, mine = list(fleet.links.values()), list(fleet.pops.values()), states[:], list(own)
        for order in (links, pops, said, mine):
            dice.shuffle(order)
        again = Fleet("test", {pop.name: pop for pop in pops}, {link.name: link for link in links})
        known = DeclaredLinks.of(again).measured(
            AMS, {name: own[name] for name in mine}, {}, {state.link: state for state in said}
        )
        table = known.table
        rows = best_all(table, link_costs(table, "rtt"))
        answers.append([names_of(table, row) for row in rows])
    assert all(answer == answers[0] for answer in answers)


def test_a_table_made_from_the_one_before_is_what_it_would_be_without() -> None:
    declared = DeclaredLinks.of(make_fleet("ams iad sin syd", disabled=("sin>syd",)))
    dice = random.Random(7)
    said: dict[LinkName, LinkState] = {}
    before = None
    for _ in range(50):
        for name in dice.sample(declared.names, 3):
            if dice.random() < 0.3:
                said.pop(name, None)
            else:
                said[name] = told(name, dice.randrange(1, 300), dice.random() < 0.8, dice.randrange(2))
        own = {name: estimate(dice.randrange(1, 300)) for name in declared.names if name.startswith("ams/")}
        before = declared.measured(AMS, own, {}, said, before)
        anew = declared.measured(AMS, own, {}, said)
        assert before.columns.tobytes() == anew.columns.tobytes()
        assert before.table.usable.tolist() == anew.table.usable.tolist()


def test_capacity_and_price_are_those_of_the_fleet_file() -> None:
    fleet = make_fleet("ams iad")
    link = Link(AMS, "a", PopName("iad"), "a", capacity_bits_s=1_000, price=0.02)
    declared = DeclaredLinks.of(replace(fleet, links={**fleet.links, link.name: link}))
    table = declared.measured(AMS, {}, {}, {}).table
    assert table.capacity_bits_s.tolist() == [1_000, np.inf]
    assert table.price.tolist() == [0.02, 0]


def test_an_own_link_is_full_above_its_share_and_until_it_has_room_again() -> None:
    fleet = make_fleet("ams iad")
    link = Link(AMS, "a", PopName("iad"), "a", capacity_bits_s=1_000)
    declared = DeclaredLinks.of(replace(fleet, links={**fleet.links, link.name: link}))
    known, full = None, []
    for load in (0, 800, 801, 799, 601, 600, 599, 700, 801, 0):
        known = declared.measured(AMS, {}, {}, {}, known, {link.name: float(load)})
        full.append(bool(known.table.full[0]))
        assert not known.table.full[1], "nothing is declared of it"
    assert full == [False, False, True, True, True, True, False, False, True, False]


def test_what_a_policy_avoids_is_banned_and_the_source_may_still_be_left() -> None:
    fleet = make_fleet("ams iad sin")
    declared = DeclaredLinks.of(fleet)

    def banned(*avoid: str) -> set[str]:
        mask = declared.avoided(frozenset(avoid), 0)
        return set() if mask is None else {declared.names[number] for number in mask.nonzero()[0]}

    assert banned() == set()
    assert banned("iad") == {name for name in fleet.links if "iad" in name}
    assert banned("ams") == {"iad/a>ams/a", "sin/a>ams/a"}
    assert banned("iad/a") == banned("iad")
    assert banned("nobody") == set()
    assert banned("ams/a") == {name for name in fleet.links if "ams" in name}


def test_edges_of_tests_read_as_they_are_written() -> None:
    assert edges_of("a-b/x 3!") == [Edge("a", "b", 3.0, "x", False), Edge("b", "a", 3.0, "x", False)]
