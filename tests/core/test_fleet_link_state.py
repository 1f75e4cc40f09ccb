"""Whole controllers that tell each other: cuts, partitions, wrong clocks, PoPs that left and PoPs that lie, by the routes of others."""

import itertools
from collections import Counter

import pytest

from l4proxy.core import bus
from l4proxy.core.bus import LinkState
from l4proxy.core.controller import Controller, SendBus
from l4proxy.core.estimate import LinkEstimate
from l4proxy.core.ids import LinkName, PopName
from l4proxy.core.topology import Fleet, Link
from tests.core.fleet import S, World, make_app, make_fleet, rtts

NEVER_NS = 1 << 62
EIGHT = "ams fra iad lhr nrt sin syd waw"


def mesh(names: str, rtt_ms: float = 80.0) -> dict[frozenset[str], float]:
    """Return the same round trip between all."""
    return {frozenset(pair): rtt_ms for pair in itertools.combinations(names.split(), 2)}


def unplanned(made: World) -> World:
    """Let none of the controllers make a table before it is asked to: tables take most of a test's time, and are not its subject."""
    for controller in made.controllers.values():
        controller._plan_due_ns = NEVER_NS
    return made


def path(made: World, pop: str) -> tuple[str, ...]:
    """Let one PoP make its table of what it knows now; what its flows take."""
    controller = made.controllers[pop]
    controller._plan_due_ns = made.now_ns
    controller.handle_timeout(made.now_ns)
    made.drain(pop)
    controller._plan_due_ns = NEVER_NS
    return made.path(pop)


def knows(made: World, pop: str, link: str) -> LinkState:
    """Return what a PoP has from the owner of a link."""
    record = made.controllers[pop].store.records[PopName(link.split("/")[0])]
    return next(state for state in record.links if state.link == link)


def join(made: World, one: str, other: str, *, joined: bool) -> None:
    """Cut or join two PoPs, for probes and for messages."""
    pair = frozenset((one, other))
    (made.cut.discard if joined else made.cut.add)(pair)
    for here, there in ((one, other), (other, one)):
        made.controllers[here].handle_peer(made.now_ns, PopName(there), joined)
        made.drain(here)


def versions(made: World) -> set[tuple[tuple[PopName, tuple[int, int]], ...]]:
    """Return what PoPs have: one set of versions if all have the same."""
    stores = [controller.store for controller in made.controllers.values()]
    return {tuple((owner, store.version(owner)) for owner in sorted(store.records)) for store in stores}


def test_a_cut_is_known_everywhere_within_five_seconds_and_routed_around() -> None:
    """Three probes of a second each, then a tenth of a second until all know."""
    rtt_ms = mesh(EIGHT) | {frozenset(("ams", "sin")): 250.0}
    made = unplanned(World(make_fleet(EIGHT), (make_app(egress="sin"),), rtt_ms)).run(12)
    _, via, _ = path(made, "ams")
    made.cut.add(frozenset((via, "sin")))
    made.run(5)
    assert not any(knows(made, pop, f"{via}/a>sin/a").is_up for pop in EIGHT.split() if pop != via)
    assert path(made, "ams")[1] not in (via, "sin")


def test_two_halves_of_eight_route_on_by_themselves_and_together_when_they_meet() -> None:
    made = unplanned(World(make_fleet(EIGHT), (make_app(egress="fra sin"),), mesh(EIGHT))).run(12)
    one, other = EIGHT.split()[:4], EIGHT.split()[4:]
    for a, b in itertools.product(one, other):
        join(made, a, b, joined=False)
    made.run(75)
    assert path(made, "ams") == ("ams", "fra")
    assert path(made, "nrt") == ("nrt", "sin")
    assert set(made.controllers["ams"].store.records) == set(one)

    for a, b in itertools.product(one, other):
        join(made, a, b, joined=True)
    made.run(12)
    assert len(versions(made)) == 1
    assert len(made.controllers["ams"].store.records) == 8


def test_the_record_of_a_pop_whose_clock_is_two_years_ahead_is_refused_and_counted() -> None:
    made = World(
        make_fleet("ams iad sin"), (make_app(egress="sin"),), rtts("ams-sin 250, ams-iad 80, iad-sin 90")
    )
    iad = made.controllers["iad"]
    iad.store.epoch += 2 * 366 * 86_400
    made.run(25)
    assert made.path("ams") == ("ams", "sin"), "nobody knows what iad says of its links"
    assert made.controllers["ams"].store.refused["epoch_ahead"] > 0
    assert PopName("iad") not in made.controllers["ams"].store.records


def test_a_pop_without_a_clock_refuses_the_others_and_counts_it() -> None:
    made = World(make_fleet("ams iad sin"), (make_app(),), mesh("ams iad sin")).run(12)
    late = Controller(PopName("iad"), made.fleet, made.apps, 1_000 * S, lambda: 7, epoch=1_000)
    late.handle_peer(1_000 * S, PopName("ams"), True)
    said = bus.encode(bus.Message(digest=made.controllers["ams"].store.digest(made.now_ns)))
    late.handle_bus(1_001 * S, PopName("ams"), said)
    assert late.store.refused["epoch_ahead"] == 3


def test_the_record_of_a_pop_that_left_is_refused_and_counted() -> None:
    made = World(make_fleet("ams iad sin"), (make_app(egress="sin"),), mesh("ams iad sin")).run(12)
    made.controllers["ams"].handle_config(made.now_ns, make_fleet("ams sin"), made.apps)
    made.drain("ams")
    made.run(12)
    ams = made.controllers["ams"]
    assert set(ams.store.records) == {"ams", "sin"}
    assert ams.store.refused["left"] > 0


def test_a_message_that_is_played_again_changes_nothing() -> None:
    made = World(make_fleet("ams iad sin"), (make_app(egress="sin"),), mesh("ams iad sin"))
    heard: list[tuple[PopName, bytes]] = []
    deliver = made._deliver

    def record(sender: str, peer: PopName, payload: bytes) -> None:
        if peer == "ams":
            heard.append((PopName(sender), payload))
        deliver(sender, peer, payload)

    made._deliver = record  # type: ignore[method-assign]
    made.run(12)
    made.cut.add(frozenset(("iad", "sin")))
    made.run(10)
    ams = made.controllers["ams"]
    before = dict(ams.store.records), dict(ams.store.alive_ns)
    for sender, payload in heard:
        ams.handle_bus(made.now_ns, sender, payload)
    assert (ams.store.records, ams.store.alive_ns) == before
    assert ams.store.refused["repeated"] > 0


def lie(controller: Controller, rtt_ms: float) -> None:
    """Let a PoP say that it is so near to everybody."""
    true = controller._state

    def state(name: LinkName, now: LinkEstimate) -> LinkState:
        said = true(name, now)
        return LinkState(said.link, True, rtt_ms, rtt_ms, 0.0, 0.0, said.label)

    controller._state = state  # type: ignore[method-assign]


def test_a_pop_that_claims_1_ms_to_everywhere_attracts_nothing_and_is_named_after_a_minute() -> None:
    names = "ams fra iad sin"
    rtt_ms = rtts("ams-sin 140, ams-iad 80, iad-sin 220, ams-fra 8, fra-sin 158, fra-iad 88")
    made = World(make_fleet(names), (make_app(egress="sin"),), rtt_ms)
    lie(made.controllers["iad"], 1.0)
    made.run(30)
    assert made.path("ams") == ("ams", "sin")
    assert not [p for p in made.controllers["ams"].problems() if "iad" in p.what]
    made.run(60)
    assert made.path("ams") == ("ams", "sin")
    for pop in ("ams", "fra", "sin"):
        (found,) = [p for p in made.controllers[pop].problems() if "disagree" in p.what]
        assert found.what.startswith("PoP iad and what ams, fra, sin measure disagree")
        assert len(made.controllers[pop].claims.doubts) == 3

    made.start(PopName("iad"))
    made.run(20)
    assert not made.controllers["ams"].problems()


def test_without_the_second_witness_the_liar_would_have_it_all() -> None:
    """What the test above rests on: with links back that nobody measures, the claim is taken."""
    names = "ams fra iad sin"
    rtt_ms = rtts("ams-sin 140, ams-iad 80, iad-sin 220, ams-fra 8, fra-sin 158, fra-iad 88")
    full = make_fleet(names)
    one_way = {n: link for n, link in full.links.items() if n not in ("sin/a>iad/a",)}
    made = World(Fleet("test", full.pops, one_way), (make_app(egress="sin"),), rtt_ms)
    lie(made.controllers["iad"], 1.0)
    made.run(30)
    assert made.path("ams") == ("ams", "iad", "sin")


@pytest.mark.parametrize("claimed_ms", [1.0, 40.0])
def test_a_claim_below_light_is_worth_nothing_where_coordinates_are_known(claimed_ms: float) -> None:
    names = "ams iad sin"
    places = {"ams": (52.3, 4.8), "iad": (38.9, -77.5), "sin": (1.35, 103.8)}
    full = make_fleet(names)
    pops = {name: type(pop)(pop.name, pop.transits, places[name]) for name, pop in full.pops.items()}
    links: dict[LinkName, Link] = {n: link for n, link in full.links.items() if n != "sin/a>iad/a"}
    made = World(
        Fleet("test", pops, links), (make_app(egress="sin"),), rtts("ams-sin 170, ams-iad 80, iad-sin 220")
    )
    lie(made.controllers["iad"], claimed_ms)
    made.run(90)
    assert made.path("ams") == ("ams", "sin")
    assert "PoP iad claims links that are faster than light in fibre" in [
        p.what for p in made.controllers["ams"].problems()
    ]


def test_thirty_controllers_agree_and_send_a_tenth_of_what_full_records_were() -> None:
    """Thirty whole PoPs, but for their tables. A full record each ten seconds to all was 29 times 29 links of 60 bytes."""
    names = " ".join(f"p{n:02}" for n in range(30))
    made = unplanned(World(make_fleet(names), (), mesh(names)))
    made.run(33)
    sent: Counter[str] = Counter()
    drain = made.drain

    def counted(name: str) -> None:
        outputs = made.controllers[name]._outputs
        sent[name] += sum(len(output.payload) for output in outputs if isinstance(output, SendBus))
        drain(name)

    made.drain = counted  # type: ignore[method-assign]
    made.run(10)
    assert len(versions(made)) == 1
    assert max(sent.values()) < 29 * (29 * 60 + 30) / 10
