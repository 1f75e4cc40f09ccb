"""PoPs that tell each other: how soon all know, what is lost is found, the dead are forgotten, halves heal, and every bound holds."""

import pytest

from l4proxy.core import bus, flooding
from l4proxy.core.bus import Delta, Heard, LinkChange, Message, OriginState, ToggleState
from l4proxy.core.flooding import Flooding
from l4proxy.core.ids import AppName, PopName
from l4proxy.core.records import EXPIRY_NS, RecordStore
from l4proxy.core.toggles import Toggles
from l4proxy.lab.simulate.timeline import START_NS
from tests.core.talk import S, Talk, link, names

AMS, IAD, SIN = (PopName(name) for name in ("ams", "iad", "sin"))


def settled(count: int, **how: float) -> Talk:
    """Return a fleet in which all know all."""
    talk = Talk(names(count), **how).run(8)  # type: ignore[arg-type]
    talk.until(talk.agree, 40)
    return talk


@pytest.mark.parametrize(("count", "within_s"), [(8, 0.3), (30, 0.6)])
def test_a_link_that_went_down_is_known_everywhere_in_less_than_a_second(count: int, within_s: float) -> None:
    """One hop takes 50 ms of waiting and at most 60 of way here; 30 PoPs are 3 hops apart."""
    talk = settled(count)
    talk.change(talk.pops[1], talk.pops[0], is_up=False)
    assert talk.until(talk.agree, within_s) > 0


@pytest.mark.parametrize(("count", "within_s"), [(8, 2.0), (30, 3.5)])
def test_a_round_trip_that_moved_is_known_everywhere_within_seconds(count: int, within_s: float) -> None:
    """A second until the owner says so, then half a second and the way for each hop."""
    talk = settled(count)
    talk.change(talk.pops[1], talk.pops[0], rtt_ms=95.0)
    talk.run(1)
    talk.until(talk.agree, within_s - 1)


def test_what_does_not_matter_is_not_told() -> None:
    talk = settled(8)
    sequence = talk.speakers[talk.pops[1]].store.version(talk.pops[1])
    talk.change(talk.pops[1], talk.pops[0], rtt_ms=83.9, loss_ratio=0.0009, jitter_ms=2.4)
    talk.run(5)
    assert talk.speakers[talk.pops[1]].store.version(talk.pops[1]) == sequence


def test_while_nothing_changes_only_digests_go_out() -> None:
    """Eight PoPs, seven neighbours each, a digest of eight lines each ten seconds: no full record is among them."""
    talk = settled(8)
    talk.run(10)
    talk.sent.clear()
    talk.messages = 0
    talk.run(100)
    assert talk.messages == 8 * 7 * 10
    assert max(talk.sent.values()) <= 7 * 10 * (8 * 24 + 60)


@pytest.mark.parametrize("seed", range(4))
def test_of_every_three_messages_one_is_lost_and_all_know_all_in_the_end(seed: int) -> None:
    talk = Talk(names(12), lost=0.33, seed=seed).run(60)
    for step in range(40):
        talk.change(talk.pops[step % 12], talk.pops[(step + 1 + step // 12) % 12], rtt_ms=100.0 + 10 * step)
        talk.run(0.7)
    talk.until(talk.agree, 90)


def test_one_lost_message_is_found_within_fifteen_seconds() -> None:
    """Ten seconds at most until the next digest, four in which the delta might be on its way still, and the question."""
    talk = settled(8)
    talk.lost = 1.0
    talk.change(talk.pops[1], talk.pops[0], is_up=False)
    talk.run(0.2)
    talk.lost = 0.0
    assert talk.until(talk.agree, 15) > 0


def test_a_pop_that_starts_again_without_its_state_gets_everything_once() -> None:
    talk = settled(30)
    talk.run(15)
    for name in talk.pops:
        talk.speakers[name].flooding.counters.clear()
    talk.sent.clear()
    talk.kill(talk.pops[3])
    talk.run(2)
    talk.start(talk.pops[3])
    talk.until(talk.agree, 10)
    record = len(bus.encode(Message(records=(talk.speakers[talk.pops[5]].store.records[talk.pops[5]],))))
    # What it is told is 29 records, what the others are told is its own new base; the rest is digests.
    digest = 30 * 24 + 60
    assert sum(talk.sent.values()) <= (29 + 29) * record * 1.2 + 12 / 10 * 30 * 7 * digest + 60 * digest


def test_an_owner_goes_on_after_the_number_that_it_had_before_it_forgot() -> None:
    """Its clock went back as well, so that its epoch is older than the one that all know."""
    talk = settled(8)
    talk.change(talk.pops[1], talk.pops[0], is_up=False)
    talk.run(5)
    before = talk.speakers[talk.pops[1]].store.version(talk.pops[1])
    talk.kill(talk.pops[1])
    talk.run(1)
    talk.start(talk.pops[1])
    talk.speakers[talk.pops[1]].store.epoch = 5
    talk.until(talk.agree, 30)
    assert talk.speakers[talk.pops[0]].store.version(talk.pops[1]) > before


def test_the_record_of_a_dead_pop_is_void_a_minute_after_it_was_last_heard_of() -> None:
    talk = settled(30)
    talk.run(30)
    talk.kill(talk.pops[7])
    talk.run(EXPIRY_NS / S - 12)
    others = [talk.speakers[name].store for name in talk.pops if name != talk.pops[7]]
    assert all(talk.pops[7] in store.records for store in others)
    talk.run(14)
    assert not any(talk.pops[7] in store.records for store in others)
    talk.run(120)
    assert not any(talk.pops[7] in store.records for store in others), "and no echo brings it back"


def test_a_pop_that_starts_late_does_not_take_a_dead_one_for_young() -> None:
    talk = settled(30)
    talk.run(30)
    talk.kill(talk.pops[7])
    talk.run(40)
    talk.kill(talk.pops[3])
    talk.start(talk.pops[3])
    talk.run(5)
    assert talk.pops[7] in talk.speakers[talk.pops[3]].store.records
    talk.run(20)
    assert talk.pops[7] not in talk.speakers[talk.pops[3]].store.records


def test_two_halves_go_on_with_what_they_have_and_heal_without_a_storm() -> None:
    talk = settled(30)
    talk.run(20)
    one, other = talk.pops[:15], talk.pops[15:]
    talk.part(one)
    for a in talk.pops:
        for b in talk.pops:
            if (a in one) != (b in one):
                talk.change(a, b, is_up=False)
    talk.change(one[0], one[1], rtt_ms=120.0)
    talk.change(other[0], other[1], rtt_ms=130.0)
    talk.run(90)
    assert talk.agree(one)
    assert talk.agree(other)
    assert set(talk.speakers[one[0]].store.records) == set(one)
    assert set(talk.speakers[other[3]].store.records) == set(other)

    talk.run(10)
    talk.sent.clear()
    talk.heal()
    talk.run(1)
    talk.until(talk.agree, 20)
    talk.run(5)
    record = len(bus.encode(Message(records=(talk.speakers[one[0]].store.records[one[0]],))))
    whole_exchange = 30 * 15 * record
    assert sum(talk.sent.values()) <= 3 * whole_exchange, "each PoP gets the other half's records about once"
    assert max(talk.sent.values()) <= 12 * 15 * record, "and nobody has to send them to many"


def test_halves_that_no_edge_of_the_graph_joins_come_together_all_the_same() -> None:
    """Of all connections between the halves only one stands, and it is no edge: the digest in turn and `follow` are what is left."""
    talk = Talk(names(20))
    one, other = talk.pops[:10], talk.pops[10:]
    talk.cut = {frozenset((a, b)) for a in one for b in other} - {frozenset((one[0], other[0]))}
    talk.run(60)
    talk.until(talk.agree, 60)


def test_toggles_travel_along_the_same_graph() -> None:
    talk = settled(30)
    speaker = talk.speakers[talk.pops[4]].flooding
    speaker.tell_toggles((speaker.toggles.write(AppName("mc"), None, "off"),), without=None)
    talk.drain(talk.pops[4])
    talk.run(1)
    assert all(s.flooding.toggles.override(AppName("mc"), AMS) == "off" for s in talk.speakers.values())


def test_origins_are_told_as_they_change() -> None:
    talk = settled(8)
    talk.speakers[talk.pops[2]].origins = (OriginState(AppName("mc"), "o:1", True, 3.0),)
    talk.run(2)
    talk.until(talk.agree, 2)
    talk.speakers[talk.pops[2]].origins = (OriginState(AppName("mc"), "o:1", False, 3.0),)
    talk.run(2)
    talk.until(talk.agree, 2)
    talk.speakers[talk.pops[2]].origins = ()
    talk.run(2)
    talk.until(talk.agree, 2)
    assert not talk.speakers[talk.pops[0]].store.records[talk.pops[2]].origins


# Bounds, each filled.


def pair(own: PopName = AMS) -> Flooding:
    """Return the part of one of three PoPs, connected with both others."""
    made = Flooding(RecordStore(own, START_NS // S), Toggles(own), (AMS, IAD, SIN), START_NS)
    made.handle_connected(START_NS, frozenset((AMS, IAD, SIN)) - {own})
    said(made)
    return made


def said(made: Flooding) -> list[tuple[PopName, Message]]:
    """Return what waits to be sent."""
    found = []
    while (output := made.poll_output()) is not None:
        found.append(output)
    return found


def with_base(made: Flooding, owner: PopName, now_ns: int = START_NS, links: int = 2) -> None:
    """Tell a record of an owner, which lives."""
    base = bus.Record(owner, 5, 1, tuple(link(owner, f"x{n:04}") for n in range(links)), ())
    made.handle_message(now_ns, owner, Message(news={owner: Heard(5, 1, 1, 0)}))
    made.handle_message(now_ns, owner, Message(records=(base,)))
    said(made)


def delta(owner: PopName, sequence: int, rtt_ms: float = 50.0) -> Delta:
    """Return a delta about the first link."""
    return Delta(owner, 5, sequence, (LinkChange(0, True, rtt_ms, rtt_ms, 0.0, 0.0),))


def test_an_owner_says_five_things_at_once_then_one_a_second_with_all_the_rest() -> None:
    made = pair()
    links = {peer: link(AMS, peer) for peer in (IAD, SIN)}
    written = []
    for step in range(100):
        links[IAD] = link(AMS, IAD, 50.0 * 1.06**step)
        written.append(made.publish(START_NS + step * S // 10, tuple(links.values()), ()))
    assert sum(written) == 1 + flooding.OWN_BURST + 9
    assert made.counters["held_back"] == 100 - sum(written)
    links[IAD] = link(AMS, IAD, 9_000.0)
    assert made.publish(START_NS + 11 * S, tuple(links.values()), ())
    assert made.store.records[AMS].links[0].rtt_ms == 9_000.0


def test_who_claims_to_have_our_newest_record_makes_us_write_a_base_each_ten_seconds_and_not_oftener() -> (
    None
):
    made = pair()
    links = (link(AMS, IAD),)
    written = 0
    for step in range(1_000):
        now_ns = START_NS + step * S // 10
        lie = Heard(START_NS // S, 10 + 10 * step, 0, 0)
        made.handle_message(now_ns, IAD, Message(news={AMS: lie}))
        written += made.publish(now_ns, links, ())
    assert written == flooding.REWRITE_BURST + 9
    assert made.store.records[AMS].version > (START_NS // S, 5_000)


def test_an_owner_that_says_more_than_its_share_is_cut_and_asked_each_ten_seconds() -> None:
    made = pair()
    with_base(made, IAD)
    for step in range(200):
        made.handle_message(START_NS + step * S // 100, IAD, Message(deltas=(delta(IAD, 2 + step),)))
    taken = made.store.version(IAD)[1] - 1
    assert taken == flooding.OWNER_BURST
    assert made.counters["owner_limited"] >= 1
    assert made.counters["gaps"] > 100
    asked = [message.want for _, message in said(made) if message.want]
    assert len(asked) <= 3


def test_one_neighbour_may_send_so_many_bytes() -> None:
    made = pair()
    size = (1 << 20) - flooding.MESSAGE_BYTES
    admitted = sum(made.admits(START_NS, IAD, size) for _ in range(40))
    assert admitted == flooding.PEER_BURST // (1 << 20)
    assert made.counters["neighbour_limited"] == 40 - admitted
    assert made.admits(START_NS, SIN, size), "the other is not held to it"
    assert made.admits(START_NS + 2 * S, IAD, size)


def test_one_neighbour_may_ask_for_so_many_links() -> None:
    made = pair()
    with_base(made, SIN, links=9_000)
    for _ in range(100):
        made.handle_message(START_NS, IAD, Message(want={SIN: (0, 0)}))
    answers = [message for peer, message in said(made) if message.records and peer == IAD]
    assert len(answers) == flooding.SERVE_BURST // 9_001
    assert made.counters["serve_limited"] == 100 - len(answers)


def test_a_short_question_has_no_long_answer_for_ever() -> None:
    made = pair()
    with_base(made, SIN)
    made.toggles.merge(ToggleState(AppName(f"a{n}"), None, "on", 1, SIN) for n in range(5_000))
    for _ in range(200):
        made.handle_message(START_NS, IAD, Message(digest={}, toggles_hash=bytes(16)))
    answers = [message for peer, message in said(made) if peer == IAD and message.toggles]
    assert sum(len(message.toggles) for message in answers) == flooding.SERVE_BURST // 5_001 * 5_000
    assert made.counters["serve_limited"] > 0
    made.handle_message(START_NS + S, IAD, Message(digest={}, toggles_hash=bytes(16)))
    assert [message for peer, message in said(made) if peer == IAD and message.toggles]


def test_a_message_that_is_short_counts_as_a_kilobyte() -> None:
    made = pair()
    assert sum(made.admits(START_NS, IAD, 10) for _ in range(20_000)) == flooding.PEER_BURST // 1_010


def test_what_waits_for_one_neighbour_is_bounded() -> None:
    made = pair()
    with_base(made, IAD)
    made.handle_time(START_NS + S)
    said(made)
    for step in range(flooding.MAX_PENDING + 5):
        made._pass_on(START_NS + S, delta(IAD, 2 + step), False, without=IAD)
    assert made.counters["pending_full"] == 5
    made.handle_time(START_NS + 2 * S)
    told = said(made)
    assert {peer for peer, _ in told} == {SIN}
    assert sum(len(message.deltas) for _, message in told) == flooding.MAX_PENDING
    assert max(len(bus.encode(message)) for _, message in told) < 100_000


def test_as_many_may_ask_to_be_told_and_no_more() -> None:
    pops = names(40)
    made = Flooding(RecordStore(pops[0], START_NS // S), Toggles(pops[0]), pops, START_NS)
    made.handle_connected(START_NS, frozenset(pops[1:]))
    strangers = [pop for pop in pops[1:] if pop not in made.neighbours]
    for pop in strangers:
        made.handle_message(START_NS, pop, Message(follow=True))
    assert made.counters["followers_full"] == len(strangers) - flooding.MAX_FOLLOWERS
    said(made)
    made.publish(START_NS, (link(pops[0], pops[1]),), ())
    made.handle_time(START_NS + S)
    assert len(said(made)) == len(made.neighbours) + flooding.MAX_FOLLOWERS
    made.handle_message(START_NS + 31 * S, strangers[-1], Message(follow=True))
    assert list(made._followers) == [strangers[-1]], "who has not asked again is told no more"


def test_a_delta_goes_to_no_neighbour_that_told_it() -> None:
    made = pair()
    with_base(made, IAD)
    made.handle_message(START_NS, IAD, Message(deltas=(delta(IAD, 2),)))
    made.handle_message(START_NS, SIN, Message(deltas=(delta(IAD, 2),)))
    made.handle_time(START_NS + S)
    assert not [message for _, message in said(made) if message.deltas]


def test_records_go_out_in_parts() -> None:
    made = pair()
    pops = [PopName(f"q{n}") for n in range(9)]
    made.handle_fleet(START_NS, (AMS, IAD, SIN, *pops))
    for pop in pops:
        with_base(made, pop, links=900)
    made.handle_message(START_NS, IAD, Message(want=dict.fromkeys(pops, (0, 0))))
    answers = [message for peer, message in said(made) if message.records]
    assert [len(message.records) for message in answers] == [2, 2, 2, 2, 1]
    assert max(len(bus.encode(message)) for message in answers) < 100_000


def test_a_register_that_is_known_goes_no_further() -> None:
    made = pair()
    state = ToggleState(AppName("mc"), None, "on", 3, IAD)
    assert made.handle_message(START_NS, IAD, Message(toggles=(state,))) == (False, True)
    assert [peer for peer, message in said(made)] == [SIN]
    assert not made.handle_message(START_NS, SIN, Message(toggles=(state,))).toggles
    assert not said(made)
