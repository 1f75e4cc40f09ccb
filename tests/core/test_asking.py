"""Which record is asked of whom: once, of one neighbour; of another when no answer comes; few at a time."""

from l4proxy.core.asking import ASK_BURST, GRACE_NS, MAX_OFFERS, MAX_OPEN, TIMEOUT_NS, Asking
from l4proxy.core.ids import PopName

OWNER, ONE, TWO = PopName("owner"), PopName("one"), PopName("two")
S = 1_000_000_000


def test_a_record_is_asked_of_one_neighbour_until_it_is_there() -> None:
    asking = Asking()
    asking.handle_offer(OWNER, ONE, (1, 5), 0)
    asking.handle_offer(OWNER, TWO, (1, 5), 0)
    assert asking.poll_questions(0) == {ONE: [OWNER]}
    assert asking.poll_questions(S) == {}
    asking.handle_version(OWNER, (1, 5))
    assert asking.poll_timeout() is None
    assert not asking.offers


def test_who_does_not_answer_is_not_asked_again() -> None:
    asking = Asking()
    asking.handle_offer(OWNER, ONE, (1, 5), 0)
    asking.handle_offer(OWNER, TWO, (1, 5), 0)
    asking.poll_questions(0)
    assert asking.poll_timeout() == TIMEOUT_NS
    assert asking.poll_questions(TIMEOUT_NS) == {TWO: [OWNER]}
    assert asking.poll_questions(2 * TIMEOUT_NS) == {}
    assert asking.unanswered == 2
    assert asking.poll_timeout() is None


def test_what_may_be_on_its_way_is_not_asked_for_yet() -> None:
    asking = Asking()
    asking.handle_offer(OWNER, ONE, (1, 5), GRACE_NS)
    assert asking.poll_questions(GRACE_NS - 1) == {}
    assert asking.poll_timeout() == GRACE_NS
    asking.handle_version(OWNER, (1, 5))
    assert asking.poll_questions(GRACE_NS) == {}


def test_the_newest_offer_is_taken() -> None:
    asking = Asking()
    asking.handle_offer(OWNER, ONE, (1, 5), 0)
    asking.handle_offer(OWNER, TWO, (2, 1), 0)
    assert asking.poll_questions(0) == {TWO: [OWNER]}


def test_questions_are_spread_over_neighbours_and_few_at_a_time() -> None:
    asking = Asking()
    owners = [PopName(f"o{n:03}") for n in range(100)]
    for owner in owners:
        asking.handle_offer(owner, ONE, (1, 1), 0)
        asking.handle_offer(owner, TWO, (1, 1), 0)
    asked = asking.poll_questions(0)
    assert len(asked[ONE]) == len(asked[TWO]) == MAX_OPEN // 2
    asking.handle_version(owners[0], (1, 1))
    assert sum(map(len, asking.poll_questions(1).values())) == 1


def test_offers_beyond_the_bound_are_counted() -> None:
    asking = Asking()
    for number in range(MAX_OFFERS + 3):
        asking.handle_offer(OWNER, PopName(f"n{number}"), (1, 1), 0)
    assert asking.offers_full == 3
    assert len(asking.offers[OWNER]) == MAX_OFFERS


def test_an_owner_is_asked_for_three_times_and_then_each_ten_seconds() -> None:
    asking = Asking()
    asked = 0
    for step in range(600):
        now_ns = step * S // 10
        asking.handle_offer(OWNER, ONE, (1, step + 1), now_ns)
        if asking.poll_questions(now_ns):
            asked += 1
            asking.handle_version(OWNER, (1, step + 1))
    assert ASK_BURST + 3 <= asked <= ASK_BURST + 6
    assert asking.limited > 0


def test_who_is_gone_is_not_asked() -> None:
    asking = Asking()
    asking.handle_offer(OWNER, ONE, (1, 5), 0)
    asking.poll_questions(0)
    asking.handle_offer(OWNER, TWO, (1, 5), 0)
    asking.handle_peers({TWO}, {OWNER})
    assert asking.poll_questions(1) == {TWO: [OWNER]}
    asking.handle_peers({TWO}, set())
    assert not asking.offers
