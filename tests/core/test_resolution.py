"""Names live by their TTL, fail softly, and never ask too much. Time is a number here."""

from collections.abc import Callable

import pytest

from l4proxy.core import resolution
from l4proxy.core.resolution import (
    MAX_ADDRESSES,
    MAX_AT_ONCE,
    MAX_SERVICES,
    Failed,
    Found,
    Nothing,
    OriginName,
    Outcome,
    Question,
    Resolution,
    Service,
    Target,
    is_localhost,
)

S = 1_000_000_000
GAME = OriginName("name", "mc.example.net", 25565)
SIP = OriginName("srv", "_sip._udp.example.net")
V4, V6 = Question("mc.example.net", "A"), Question("mc.example.net", "AAAA")


def resolved(*names: OriginName) -> Resolution:
    """Return a resolution that wants these names from second 0 on."""
    subject = Resolution()
    subject.set_names(0, names)
    return subject


def answer(
    subject: Resolution, now_s: float, say: Callable[[Question], Outcome], jitter: float = 0.0
) -> list[Question]:
    """Answer everything that is due, and what that asks for in turn; return what was asked."""
    asked = []
    while due := subject.poll_due(round(now_s * S)):
        for question in due:
            asked.append(question)
            subject.handle_outcome(round(now_s * S), question, say(question), jitter)
    return asked


def zone(records: dict[Question, Outcome]) -> Callable[[Question], Outcome]:
    """Answer from a table; what is not in it does not exist."""
    return lambda question: records.get(question, Nothing(30, "no such name"))


def test_both_families_are_asked_for_and_joined() -> None:
    subject = resolved(GAME)
    assert not subject.is_settled()
    asked = answer(subject, 0, zone({V4: Found(60, ("192.0.2.1",)), V6: Found(60, ("2001:DB8::1",))}))
    assert set(asked) == {V4, V6}
    assert subject.targets(GAME) == (Target("2001:db8::1", 25565), Target("192.0.2.1", 25565))
    assert subject.trouble(GAME) is None
    assert subject.is_settled()


def test_order_and_repetition_in_an_answer_change_nothing() -> None:
    """A server that rotates its records must not make a new snapshot of every answer."""
    subject = resolved(GAME)
    answer(subject, 0, zone({V4: Found(10, ("192.0.2.2", "192.0.2.1", "::ffff:192.0.2.1"))}))
    first = subject.targets(GAME)
    answer(subject, 20, zone({V4: Found(10, ("192.0.2.1", "192.0.2.2"))}))
    assert subject.targets(GAME) == first == (Target("192.0.2.1", 25565), Target("192.0.2.2", 25565))


@pytest.mark.parametrize(
    ("ttl_s", "jitter", "again_s"),
    [(60, 0.0, 60.0), (60, 1.0, 66.0), (0, 0.0, 5.0), (0, 1.0, 5.5), (86_400, 0.0, 3_600.0)],
)
def test_an_answer_is_asked_for_again_after_its_ttl(ttl_s: float, jitter: float, again_s: float) -> None:
    subject = resolved(GAME)
    answer(subject, 0, lambda _: Found(ttl_s, ("192.0.2.1",)), jitter)
    assert subject.poll_timeout() == round(again_s * S)
    assert subject.poll_due(round(again_s * S) - 1) == []
    assert set(subject.poll_due(round(again_s * S))) == {V4, V6}
    assert subject.poll_due(round(again_s * S)) == [], "they are under way"


@pytest.mark.parametrize(("ttl_s", "again_s"), [(30, 30), (0, 5), (10_800, 300)])
def test_nothing_is_believed_for_its_ttl_and_not_too_long(ttl_s: float, again_s: float) -> None:
    subject = resolved(GAME)
    answer(subject, 0, lambda _: Nothing(ttl_s, "no such name"))
    assert subject.poll_timeout() == again_s * S
    assert subject.targets(GAME) == ()
    assert subject.trouble(GAME) == "no such name"
    assert subject.is_settled()


def test_failures_are_asked_again_ever_more_slowly_and_success_forgets_them() -> None:
    subject = resolved(GAME)
    now_s, waits = 0.0, []
    for _ in range(6):
        answer(subject, now_s, lambda _: Failed("timed out"))
        timeout = subject.poll_timeout()
        assert timeout is not None
        waits.append(timeout / S - now_s)
        now_s = timeout / S
    assert waits == [5, 10, 20, 40, 60, 60]
    answer(subject, now_s, lambda _: Found(30, ("192.0.2.1",)))
    assert subject.poll_timeout() == (now_s + 30) * S
    answer(subject, now_s + 30, lambda _: Failed("timed out"))
    assert subject.poll_timeout() == (now_s + 35) * S


@pytest.mark.parametrize("bad", [Failed("timed out"), Nothing(30, "no such name"), Found(30)])
def test_the_last_good_addresses_stay_when_dns_has_none(bad: Outcome) -> None:
    subject = resolved(GAME)
    answer(subject, 0, zone({V4: Found(10, ("192.0.2.1",)), V6: Nothing(10, "no records of this type")}))
    answer(subject, 10, lambda _: bad)
    assert subject.targets(GAME) == (Target("192.0.2.1", 25565),)
    expected = {Failed: "timed out", Nothing: "no such name", Found: None}[type(bad)]
    found = subject.trouble(GAME)
    assert found is None if expected is None else expected in (found or "")


def test_one_family_that_fails_is_told_and_the_other_goes_on() -> None:
    subject = resolved(GAME)
    answer(subject, 0, zone({V4: Found(10, ("192.0.2.1",)), V6: Found(10, ("2001:db8::1",))}))
    answer(subject, 10, zone({V4: Found(10, ("192.0.2.9",)), V6: Failed("timed out")}))
    assert subject.targets(GAME) == (Target("2001:db8::1", 25565), Target("192.0.2.9", 25565))
    assert subject.trouble(GAME) == "AAAA of mc.example.net: timed out"


def test_a_name_without_a_family_is_well() -> None:
    """Most names have no AAAA record; that is no problem to show."""
    subject = resolved(GAME)
    answer(subject, 0, zone({V4: Found(10, ("192.0.2.1",)), V6: Nothing(10, "no records of this type")}))
    assert subject.trouble(GAME) is None


def test_services_lead_to_the_addresses_of_their_targets() -> None:
    subject = resolved(SIP)
    records: dict[Question, Outcome] = {
        Question("_sip._udp.example.net", "SRV"): Found(
            60, services=(Service(20, 0, 5061, "b.example.net"), Service(10, 5, 5060, "a.example.net"))
        ),
        Question("a.example.net", "A"): Found(30, ("192.0.2.1",)),
        Question("a.example.net", "AAAA"): Found(30, ("2001:db8::1",)),
        Question("b.example.net", "A"): Found(30, ("192.0.2.2",)),
    }
    asked = answer(subject, 0, zone(records))
    assert len(asked) == 5
    assert subject.targets(SIP) == (
        Target("2001:db8::1", 5060, 0, 10, 5),
        Target("192.0.2.1", 5060, 0, 10, 5),
        Target("192.0.2.2", 5061, 1, 20, 0),
    )


def test_a_service_that_left_takes_its_questions_with_it() -> None:
    subject = resolved(SIP)
    srv = Question("_sip._udp.example.net", "SRV")

    def say(*hosts: str) -> Callable[[Question], Outcome]:
        services = tuple(Service(1, 1, 5060, host) for host in hosts)
        return lambda q: Found(10, services=services) if q == srv else Found(100, (f"192.0.2.{len(q.name)}",))

    answer(subject, 0, say("a.example.net", "bb.example.net"))
    answer(subject, 10, say("bb.example.net"))
    assert subject.targets(SIP) == (Target("192.0.2.14", 5060, 0, 1, 1),)
    asked = answer(subject, 3_000, say("bb.example.net"))
    assert {question.name for question in asked} == {"_sip._udp.example.net", "bb.example.net"}


def test_a_service_that_is_decidedly_not_there() -> None:
    """RFC 2782: a target of "." means that the service is not available at this domain."""
    subject = resolved(SIP)
    answer(subject, 0, lambda _: Found(60, services=(Service(0, 0, 0, "."),)))
    assert subject.targets(SIP) == ()


def test_a_service_may_name_an_address() -> None:
    subject = resolved(SIP)
    asked = answer(subject, 0, lambda _: Found(60, services=(Service(0, 0, 5060, "192.0.2.7"),)))
    assert len(asked) == 1
    assert subject.targets(SIP) == (Target("192.0.2.7", 5060),)


def test_a_name_that_is_not_wanted_any_more_is_forgotten() -> None:
    subject = resolved(GAME, SIP)
    due = subject.poll_due(0)
    subject.set_names(0, [SIP])
    for question in due:
        subject.handle_outcome(0, question, Found(60, ("192.0.2.1",)), 0.0)
    assert subject.targets(GAME) == ()
    assert GAME not in subject.good()


def test_what_was_good_before_a_restart_serves_until_there_is_an_answer() -> None:
    before = resolved(GAME)
    answer(before, 0, lambda _: Found(60, ("192.0.2.1",)))
    after = resolved(GAME)
    after.restore(before.good())
    assert after.is_settled()
    assert after.targets(GAME) == before.targets(GAME)
    answer(after, 0, zone({V4: Found(60, ("192.0.2.5",))}))
    assert after.targets(GAME) == (Target("192.0.2.5", 25565),)
    stranger = resolved(SIP)
    stranger.restore(before.good())
    assert stranger.good() == {}


def test_questions_under_way_are_bounded() -> None:
    names = [OriginName("name", f"h{number}.example.net") for number in range(MAX_AT_ONCE)]
    subject = resolved(*names)
    first = subject.poll_due(0)
    assert len(first) == MAX_AT_ONCE
    assert subject.poll_due(0) == []
    assert subject.poll_timeout() is None, "nothing can be asked before an outcome comes"
    subject.handle_outcome(0, first[0], Failed("timed out"), 0.0)
    assert len(subject.poll_due(0)) == 1


def test_questions_altogether_are_bounded_and_the_rest_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resolution, "MAX_QUESTIONS", 4)
    names = [OriginName("name", f"h{number}.example.net", 1) for number in range(3)]
    subject = resolved(*names)
    answer(subject, 0, lambda _: Found(60, ("192.0.2.1",)))
    assert [len(subject.targets(name)) for name in names] == [1, 1, 0]
    assert subject.trouble(names[2]) == "more than 4 questions: it is not asked for"
    assert subject.counters.questions_full == 2
    answer(subject, 600, lambda _: Found(60, ("192.0.2.1",)))
    assert subject.counters.questions_full == 2, "counted once, not at every turn"


def test_records_of_an_answer_are_bounded() -> None:
    subject = resolved(GAME, SIP)
    services = tuple(Service(n, 0, 5060, f"h{n}.example.net") for n in range(MAX_SERVICES + 5))
    addresses = tuple(f"192.0.2.{n}" for n in range(MAX_ADDRESSES + 9))
    answer(subject, 0, lambda q: Found(60, services=services) if q.kind == "SRV" else Found(60, addresses))
    assert len(subject.targets(GAME)) == MAX_ADDRESSES
    assert {target.priority for target in subject.targets(SIP)} == set(range(MAX_SERVICES))
    assert subject.counters.records_cut >= 5 + 9


def test_localhost_is_no_question() -> None:
    assert all(is_localhost(host) for host in ("localhost", "LocalHost.", "db.localhost"))
    assert not any(is_localhost(host) for host in ("localhost.example.net", "notlocalhost", ""))
