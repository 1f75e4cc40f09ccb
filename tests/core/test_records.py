"""Records: what a delta is made of and makes, and that what others tell of a dead PoP never makes it young."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from l4proxy.core.bus import Delta, Heard, LinkState, OriginState, Record
from l4proxy.core.ids import AppName, LinkName, PopName
from l4proxy.core.records import EXPIRY_NS, RecordStore, apply, difference, is_urgent

S = 1_000_000_000
NOW_NS = 1_700_000_000 * S
AMS, IAD, SIN = (PopName(name) for name in ("ams", "iad", "sin"))

states = st.builds(
    LinkState,
    st.sampled_from([LinkName(f"ams/a>p{n}/a") for n in range(6)]),
    st.booleans(),
    st.integers(1, 50_000).map(lambda n: n / 100),
    st.integers(1, 50_000).map(lambda n: n / 100),
    st.integers(0, 5_000).map(lambda n: n / 100),
    st.integers(0, 100_000).map(lambda n: n / 100_000),
    st.integers(0, 2**32 - 1),
)
origin_states = st.builds(
    OriginState,
    st.just(AppName("mc")),
    st.sampled_from(["a:1", "b:2", "c:3"]),
    st.booleans(),
    st.integers(0, 9_000).map(lambda n: n / 100),
)
links = st.lists(states, unique_by=lambda s: s.link).map(
    lambda found: tuple(sorted(found, key=lambda s: s.link))
)
origins = st.lists(origin_states, unique_by=lambda s: s.key).map(
    lambda found: tuple(sorted(found, key=lambda s: s.key))
)


@given(links, origins, links, origins)
def test_a_delta_on_its_base_says_what_the_owner_found_up_to_what_does_not_matter(
    old_links: tuple[LinkState, ...],
    old_origins: tuple[OriginState, ...],
    new_links: tuple[LinkState, ...],
    new_origins: tuple[OriginState, ...],
) -> None:
    old = Record(AMS, 1, 1, old_links, old_origins)
    delta = difference(old, new_links, new_origins)
    made = old if delta is None else apply(old, replace(delta, sequence=2))
    assert difference(made, new_links, new_origins) is None
    assert [s.link for s in made.links] == [s.link for s in new_links]
    assert [s.key for s in made.origins] == [s.key for s in new_origins]
    assert [(s.is_up, s.label) for s in made.links] == [(s.is_up, s.label) for s in new_links]
    assert made.links == tuple(sorted(made.links, key=lambda s: s.link))


def test_a_delta_says_all_egresses_when_one_differs_at_once_and_else_none() -> None:
    mc, web = AppName("mc"), AppName("web")
    old = Record(AMS, 1, 1, (), (), ((mc, (AMS, SIN)),))
    assert difference(old, (), (), ((mc, (AMS, SIN)),)) is None
    for egresses in ((), ((mc, (IAD,)),), ((mc, (AMS, SIN)), (web, (IAD,)))):
        delta = difference(old, (), (), egresses)
        assert delta is not None
        assert is_urgent(old, delta)
        assert apply(old, delta).egresses == egresses
    other = difference(old, (UP,), (), old.egresses)
    assert other is not None
    assert other.egresses is None
    assert apply(old, other).egresses == old.egresses


UP = LinkState(LinkName("ams/a>p0/a"), True, 80.0, 80.0, 0.5, 0.0, 7)


@pytest.mark.parametrize(
    ("new", "is_told", "is_at_once"),
    [
        (replace(UP, rtt_ms=83.9), False, False),
        (replace(UP, rtt_ms=84.1), True, False),
        (replace(UP, rtt_ms=75.9), True, False),
        (replace(UP, jitter_ms=2.6), True, False),
        (replace(UP, loss_ratio=0.0009), False, False),
        (replace(UP, loss_ratio=0.001), True, False),
        (replace(UP, rtt_ms_min=20.0), False, False),
        (replace(UP, label=8), True, True),
        (replace(UP, is_up=False), True, True),
    ],
)
def test_what_is_told_and_what_at_once(new: LinkState, is_told: bool, is_at_once: bool) -> None:
    old = Record(AMS, 1, 1, (UP,), ())
    delta = difference(old, (new,), ())
    assert (delta is not None) == is_told
    assert delta is None or is_urgent(old, delta) == is_at_once


def test_a_delta_that_was_not_made_of_this_record_is_refused() -> None:
    old = Record(AMS, 1, 1, (UP,), ())
    other = Record(AMS, 1, 1, tuple(replace(UP, link=LinkName(f"ams/a>p{n}/a")) for n in range(3)), ())
    changes = difference(other, tuple(replace(s, rtt_ms=200.0) for s in other.links), ())
    assert changes is not None
    for unfit in (
        changes,
        Delta(AMS, 1, 2, added=(UP,)),
        Delta(AMS, 1, 2, removed_links=(LinkName("ams/a>p9/a"),)),
        Delta(AMS, 1, 2, removed_origins=((AppName("mc"), "a:1"),)),
        Delta(AMS, 1, 2, added=tuple(replace(UP, link=LinkName(f"ams/a>q{n}/a")) for n in range(10_000))),
    ):
        with pytest.raises(ValueError, match=r"link|origins"):
            apply(old, unfit)


def store_with(owner: PopName, heard: Heard, now_ns: int = NOW_NS, own: PopName = AMS) -> RecordStore:
    """Return the store of a PoP that has heard of an owner and has its record."""
    store = RecordStore(own, 1)
    store.handle_heard(now_ns, owner, heard, (AMS, IAD, SIN))
    store.handle_record(now_ns, Record(owner, heard.epoch, heard.sequence, (), ()), (AMS, IAD, SIN))
    return store


def test_a_record_without_any_word_that_its_owner_lives_is_refused() -> None:
    store = RecordStore(AMS, 1)
    assert not store.handle_record(NOW_NS, Record(IAD, 5, 1, (), ()), (AMS, IAD))
    store.handle_heard(NOW_NS, IAD, Heard(5, 1, 9, 61), (AMS, IAD))
    assert not store.handle_record(NOW_NS, Record(IAD, 5, 1, (), ()), (AMS, IAD))
    assert store.refused == {"silent": 2}


def test_what_was_void_comes_back_with_a_new_beat_and_never_in_an_older_version() -> None:
    store = store_with(IAD, Heard(5, 7, 1, 0))
    later = NOW_NS + EXPIRY_NS + 1
    assert store.handle_time(later, (AMS, IAD, SIN))
    assert store.handle_heard(later, IAD, Heard(5, 7, 2, 0), (AMS, IAD, SIN))
    assert not store.handle_record(later, Record(IAD, 5, 6, (), ()), (AMS, IAD, SIN))
    assert store.refused == {"repeated": 1}
    assert store.handle_record(later, Record(IAD, 5, 7, (), ()), (AMS, IAD, SIN))


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        (Record(PopName("gone"), 5, 1, (), ()), "left"),
        (Record(IAD, NOW_NS // S + 367 * 86_400, 1, (), ()), "epoch_ahead"),
        (Record(IAD, 5, (1 << 62) + 1, (), ()), "sequence_ahead"),
        (Record(IAD, 5, 8, (UP,), ()), "foreign_link"),
        (Record(IAD, 5, 7, (), ()), "repeated"),
        (Record(IAD, 4, 99, (), ()), "repeated"),
        (Record(SIN, 5, 1, (), ()), "silent"),
    ],
)
def test_what_is_refused_is_counted_by_its_reason(record: Record, reason: str) -> None:
    store = store_with(IAD, Heard(5, 7, 1, 0))
    before = dict(store.records)
    assert not store.handle_record(NOW_NS, record, (AMS, IAD, SIN))
    assert store.refused == {reason: 1}
    assert store.records == before


def test_deltas_are_taken_in_their_order_only() -> None:
    store = store_with(IAD, Heard(5, 7, 1, 0))
    known = (AMS, IAD, SIN)
    assert store.handle_delta(NOW_NS, Delta(IAD, 5, 9), known) == "gap"
    assert store.handle_delta(NOW_NS, Delta(IAD, 6, 8), known) == "gap"
    assert store.handle_delta(NOW_NS, Delta(SIN, 5, 1), known) == "gap"
    assert store.handle_delta(NOW_NS, Delta(IAD, 5, 8), known) == "new"
    assert store.handle_delta(NOW_NS, Delta(IAD, 5, 8), known) == "known"
    assert store.handle_delta(NOW_NS, Delta(PopName("gone"), 5, 8), known) == "refused"
    assert store.handle_delta(NOW_NS, Delta(IAD, 5, 9, removed_links=(UP.link,)), known) == "gap"
    assert store.refused == {"repeated": 1, "left": 1, "unfit": 1}
    assert store.version(IAD) == (5, 8)


def test_who_left_the_fleet_is_forgotten_wholly() -> None:
    store = store_with(IAD, Heard(5, 7, 1, 0))
    assert store.handle_time(NOW_NS, (AMS, SIN))
    assert not store.records
    assert not store.alive_ns
    assert not store._newest


DEAD = PopName("dead")
FIVE = tuple(PopName(f"p{n}") for n in range(5))


def told_of(store: RecordStore, now_ns: int, heard: Heard) -> None:
    """Let a PoP hear of the dead one, and get its record if it may."""
    store.handle_heard(now_ns, DEAD, heard, (*FIVE, DEAD))
    if store.is_alive(now_ns, DEAD):
        store.handle_record(now_ns, Record(DEAD, 9, 1, (), ()), (*FIVE, DEAD))


echoes = st.lists(
    st.tuples(st.integers(0, 4), st.integers(0, 4), st.integers(0, 3_000), st.integers(0, 9_000)),
    max_size=120,
)


@settings(max_examples=200)
@given(echoes)
def test_no_echo_makes_a_dead_pop_young(told: list[tuple[int, int, int, int]]) -> None:
    """Five PoPs tell each other of a sixth that is dead, as often and as late as they like, messages overtaking each other.

    However long that goes on: nobody takes it to have lived later than when its last word first arrived there, nor earlier than it said it
    but for the rounding of ages; and a minute after that its record is void.
    """
    ms = S // 1_000
    stores = [RecordStore(name, 1) for name in FIVE]
    first_ns: list[dict[int, int]] = [{5: NOW_NS + 100 * ms}, {4: NOW_NS - 9_000 * ms}, {}, {}, {}]
    for store, words in zip(stores, first_ns, strict=True):
        for beat, at_ns in words.items():
            told_of(store, at_ns, Heard(9, 1, beat, 0))
    now_ns = NOW_NS + 100 * ms
    way: list[tuple[int, int, Heard]] = []
    for sender, receiver, wait_ms, delay_ms in told:
        if DEAD in stores[sender].records:
            way.append((now_ns + delay_ms * ms, receiver, stores[sender].heard(now_ns, DEAD)))
        now_ns += wait_ms * ms
        for at_ns, there, heard in sorted(m for m in way if m[0] <= now_ns):
            first_ns[there].setdefault(heard.beat, at_ns)
            told_of(stores[there], at_ns, heard)
        way = [m for m in way if m[0] > now_ns]
        for store in stores:
            store.handle_time(now_ns, (*FIVE, DEAD))
    for store, words in zip(stores, first_ns, strict=True):
        if words:
            assert NOW_NS - (9_000 + 5_000) * ms <= store.alive_ns[DEAD] <= max(words.values())
            store.handle_time(max(words.values()) + EXPIRY_NS + 1, (*FIVE, DEAD))
            assert DEAD not in store.records


def test_two_that_answer_each_other_at_once_hold_nobody_alive() -> None:
    """Ages alone would be made younger by the way of each message: these two would believe for ever that it lived a second ago."""
    stores = [RecordStore(name, 1) for name in FIVE[:2]]
    told_of(stores[0], NOW_NS, Heard(9, 1, 5, 0))
    for step in range(200):
        now_ns = NOW_NS + step * 950 * S // 1_000
        here, there = stores[step % 2], stores[(step + 1) % 2]
        here.handle_time(now_ns, (*FIVE, DEAD))
        if DEAD in here.records:
            told_of(there, now_ns + 950 * S // 1_000, here.heard(now_ns, DEAD))
    assert not any(DEAD in store.records for store in stores)


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), max_size=200))
def test_told_without_delay_the_age_of_a_dead_pop_is_the_time_since_its_death(
    told: list[tuple[int, int]],
) -> None:
    pops = [PopName(f"p{n}") for n in range(5)]
    dead = PopName("dead")
    stores = [RecordStore(name, 1) for name in pops]
    stores[0].handle_heard(NOW_NS, dead, Heard(9, 1, 5, 0), (*pops, dead))
    stores[0].handle_record(NOW_NS, Record(dead, 9, 1, (), ()), (*pops, dead))
    for step, (sender, receiver) in enumerate(told):
        now_ns = NOW_NS + step * S // 4
        if dead in stores[sender].records:
            stores[receiver].handle_heard(now_ns, dead, stores[sender].heard(now_ns, dead), (*pops, dead))
            stores[receiver].handle_record(now_ns, Record(dead, 9, 1, (), ()), (*pops, dead))
    for store in stores:
        if dead in store.alive_ns:
            assert NOW_NS - 4 * S <= store.alive_ns[dead] <= NOW_NS, (
                "rounded up at each of four hops, and never down"
            )
