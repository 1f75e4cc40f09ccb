"""What is believed of claims: never below light or what the other end measures; who lies is named, and honest PoPs are not."""

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from l4proxy.core.bus import LinkState, Record
from l4proxy.core.ids import LinkName, PopName
from l4proxy.core.plausible import REPORT_AFTER_NS, Claims, allowed_difference_ms, judged
from l4proxy.core.topology import Fleet, Link, Pop, Transit

S = 1_000_000_000
AMS, IAD, SIN, FRA, LHR = (PopName(name) for name in ("ams", "iad", "sin", "fra", "lhr"))
PLACES = {
    AMS: (52.3, 4.8),
    IAD: (38.9, -77.5),
    SIN: (1.35, 103.8),
    FRA: (50.1, 8.7),
    LHR: (51.5, -0.1),
}


def fleet(located: bool = True) -> Fleet:
    """Return a full mesh of five, with or without coordinates."""
    pops = {
        name: Pop(name, (Transit("a", "10.0.0.1:1", "10.0.0.1:1"),), place if located else None)
        for name, place in sorted(PLACES.items())
    }
    links = [Link(a, "a", b, "a") for a in pops for b in pops if a != b]
    return Fleet("test", pops, {link.name: link for link in links})


def state(a: str, b: str, rtt_ms: float, *, is_up: bool = True, jitter_ms: float = 0.0) -> LinkState:
    """Return what an owner says of a link."""
    return LinkState(LinkName(f"{a}/a>{b}/a"), is_up, rtt_ms, rtt_ms, jitter_ms, 0.0, 1)


def records(rtts: dict[str, float], liar: str | None = None, lie_ms: float = 1.0) -> dict[PopName, Record]:
    """Return the records of all five, in which a liar says the same of every link."""

    def said(a: PopName, b: PopName) -> float:
        return lie_ms if a == liar else rtts["-".join(sorted((a, b)))]

    return {
        a: Record(a, 1, 1, tuple(state(a, b, said(a, b)) for b in sorted(PLACES) if b != a), ())
        for a in PLACES
    }


TRUE = {
    "ams-iad": 80.0,
    "ams-sin": 160.0,
    "ams-fra": 7.0,
    "ams-lhr": 8.0,
    "iad-sin": 220.0,
    "fra-iad": 90.0,
    "iad-lhr": 75.0,
    "fra-sin": 155.0,
    "lhr-sin": 165.0,
    "fra-lhr": 14.0,
}


def follow(
    claims: Claims, said: dict[PopName, Record], own: PopName = AMS, now_ns: int = 0
) -> dict[str, float]:
    """Return the round trips that count of the links of others, as one PoP sees them; it measures its own."""
    measured = {s.link: s for s in said[own].links}
    others = {owner: record for owner, record in said.items() if owner != own}
    return {str(name): s.rtt_ms for name, s in claims.follow(now_ns, own, measured, others).items()}


def test_who_claims_1_ms_to_everywhere_is_taken_at_what_its_neighbours_measure_and_named() -> None:
    claims = Claims(fleet(located=False))
    counted = follow(claims, records(TRUE, liar="iad"))
    for peer in ("ams", "fra", "lhr", "sin"):
        assert counted[f"iad/a>{peer}/a"] == TRUE["-".join(sorted(("iad", peer)))]
    assert claims.suspects(REPORT_AFTER_NS - 1) == []
    follow(claims, records(TRUE, liar="iad"), now_ns=REPORT_AFTER_NS)
    assert claims.suspects(REPORT_AFTER_NS) == [(IAD, (AMS, FRA, LHR, SIN))]


def test_a_claim_below_light_is_worth_nothing_and_its_owner_is_named() -> None:
    claims = Claims(fleet())
    counted = follow(claims, records(TRUE, liar="iad"))
    assert not [name for name in counted if name.startswith("iad/")]
    assert claims.suspects(REPORT_AFTER_NS) == [(IAD, ())]


def test_two_that_lie_together_gain_a_link_between_them_and_no_other() -> None:
    """What both ends of a link say is believed down to the time that light takes: nobody else has measured it."""
    said = records(TRUE, liar="iad", lie_ms=70.0)
    said[FRA] = records(TRUE, liar="fra", lie_ms=70.0)[FRA]
    counted = follow(Claims(fleet()), said)
    assert counted["iad/a>fra/a"] == counted["fra/a>iad/a"] == 70.0
    assert counted["iad/a>ams/a"] == 80.0
    assert "iad/a>sin/a" not in counted, "light takes 155 ms"
    assert counted["fra/a>lhr/a"] == 70.0, "one may always say that it is far"


def test_who_claims_to_be_far_makes_nobody_else_a_suspect_for_long() -> None:
    claims = Claims(fleet(located=False))
    follow(claims, records(TRUE, liar="iad", lie_ms=900.0))
    assert claims.suspects(REPORT_AFTER_NS)[0] == (IAD, (FRA, LHR, SIN))
    assert len(claims.suspects(REPORT_AFTER_NS)) == 1


def test_of_two_that_disagree_the_one_that_says_less_is_named() -> None:
    said = records(TRUE)
    said[IAD] = Record(
        IAD,
        1,
        2,
        tuple(
            state("iad", b, 1.0 if b == "sin" else TRUE["-".join(sorted(("iad", b)))])
            for b in ("ams", "fra", "lhr", "sin")
        ),
        (),
    )
    claims = Claims(fleet(located=False))
    assert follow(claims, said)["iad/a>sin/a"] == 220.0
    assert claims.suspects(REPORT_AFTER_NS) == [(IAD, (SIN,))]


def test_a_link_into_this_pop_is_held_against_what_it_measures_itself() -> None:
    said = records(TRUE, liar="sin", lie_ms=20.0)
    assert follow(Claims(fleet(located=False)), said)["sin/a>ams/a"] == 160.0


def test_a_doubt_is_over_when_both_agree_again_and_when_the_record_is_void() -> None:
    claims = Claims(fleet(located=False))
    follow(claims, records(TRUE, liar="iad"))
    assert claims.doubts
    assert follow(claims, records(TRUE), now_ns=S)["iad/a>sin/a"] == 220.0
    assert not claims.doubts
    said = records(TRUE)
    del said[IAD]
    counted = follow(claims, said, now_ns=2 * S)
    assert not [name for name in counted if name.startswith("iad/")]
    assert counted["sin/a>iad/a"] == 220.0


@given(st.floats(0.3, 400), st.floats(-1, 1), st.floats(-1, 1), st.floats(0, 20))
def test_two_honest_ends_are_believed(rtt_ms: float, one: float, other: float, jitter_ms: float) -> None:
    """Each may be the threshold of records away from what it measures, either way."""
    margin = max(2.0, 0.05 * rtt_ms) * 0.95
    a, b = (max(0.01, rtt_ms + side * margin) for side in (one, other))
    for claim, back in ((a, b), (b, a)):
        counted, reason = judged(state("a", "b", claim), 0.0, state("b", "a", back, jitter_ms=jitter_ms))
        assert reason is None
        assert counted is not None
        assert counted.rtt_ms == claim


@given(st.floats(0.01, 400), st.floats(0, 400), st.floats(0.01, 400), st.floats(0, 30))
def test_whatever_is_claimed_counts_no_less_than_light_and_the_other_end_allow(
    claim_ms: float, floor_ms: float, back_ms: float, jitter_ms: float
) -> None:
    back = state("b", "a", back_ms, jitter_ms=jitter_ms)
    counted, _ = judged(state("a", "b", claim_ms), floor_ms, back)
    if counted is not None:
        assert counted.rtt_ms >= floor_ms - 1.0
        assert counted.rtt_ms >= back_ms - allowed_difference_ms(back_ms, jitter_ms) - 1e-9


@pytest.mark.parametrize("is_up", [True, False])
def test_a_round_trip_of_nothing_is_a_claim_only_while_the_link_is_up(is_up: bool) -> None:
    counted, reason = judged(state("a", "b", 0.0, is_up=is_up), 0.0, None)
    assert (counted is None) == is_up
    assert reason == ("below_light" if is_up else None)


def test_only_what_changed_is_judged_anew_and_the_result_is_that_of_judging_all() -> None:
    random = Random(3)
    claims = Claims(fleet())
    said = records(TRUE)
    for step in range(200):
        owner = random.choice(sorted(said))
        links = list(said[owner].links)
        at = random.randrange(len(links))
        a, b = str(owner), links[at].link.split(">")[1].split("/")[0]
        links[at] = state(a, b, random.choice([1.0, 50.0, 100.0, 200.0]), is_up=random.random() < 0.8)
        said[owner] = Record(owner, 1, 2 + step, tuple(links), ())
        if step % 17 == 0 and owner != AMS:
            del said[owner]
            said = records(TRUE) | said
        assert follow(claims, said) == follow(Claims(fleet()), said)
