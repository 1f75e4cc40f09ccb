"""Whose clock is wrong, as far as replies to probes can tell."""

from l4proxy.core.clocks import FORGET_NS, Clocks
from l4proxy.core.ids import PopName

S = 1_000_000_000
NOW = 1_700_000_000 * S
DAY = 86_400 * S


def clocks(**offsets_s: float) -> Clocks:
    """Return what replies over 80 ms say when clocks are so far ahead of ours."""
    found = Clocks()
    for pop, offset_s in offsets_s.items():
        sent_ns = NOW - 80_000_000
        received_ns = sent_ns + 40_000_000 + round(offset_s * S)
        found.handle_reply(NOW, PopName(pop), sent_ns, received_ns, 80_000_000)
    return found


def test_clocks_that_agree_are_no_problem() -> None:
    assert clocks(iad=0.2, sin=-30).problems(NOW) == {}
    assert Clocks().problems(NOW) == {}


def test_of_two_clocks_either_may_be_wrong() -> None:
    (what,) = clocks(iad=86_400).problems(NOW)
    assert what == "the clock of iad is 1 d 0 h ahead of this PoP's; one of the two is wrong"


def test_one_that_differs_from_all_others_is_wrong() -> None:
    (what,) = clocks(iad=-86_400, sin=0.1, nrt=1).problems(NOW)
    assert (
        what
        == "the clock of iad is 1 d 0 h behind this PoP's; and 2 other PoPs agree with this one's: it is wrong"
    )


def test_ours_is_wrong_when_the_others_agree_on_another_time() -> None:
    ((what, fix),) = clocks(iad=-86_400, sin=-86_401, nrt=0).problems(NOW).items()
    assert what == "this PoP's clock is 1 d 0 h ahead of those of iad, sin, who agree: it is wrong"
    assert fix.startswith("set this machine's clock")


def test_others_that_do_not_agree_prove_nothing_of_ours() -> None:
    assert len(clocks(iad=-86_400, sin=7_200).problems(NOW)) == 2


def test_what_was_seen_long_ago_is_forgotten() -> None:
    found = clocks(iad=86_400)
    assert found.problems(NOW + FORGET_NS) == {}
    assert found.offsets_ns(NOW) == {"iad": DAY}
