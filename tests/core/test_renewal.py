"""Renewal of certificates in virtual time: one issuer and the PoPs that ask it, over messages that take time, are lost, or are hostile."""

import itertools
from dataclasses import dataclass, field

import pytest

from l4proxy.core import bus
from l4proxy.core.bus import CertificateAnswer, CertificateRequest, Message
from l4proxy.core.ids import PopName
from l4proxy.core.renewal import (
    ANSWER_NS,
    BURST,
    MAX_OUTPUTS,
    MAX_REQUEST_BYTES,
    MAX_SIGNING,
    REFILL_NS,
    REFUSALS,
    RETRY_LEAST_NS,
    RETRY_MAX_NS,
    WORDS,
    MakeRequest,
    Renewal,
    Say,
    SignRequest,
    TakeCertificate,
    Validity,
)

S = 1_000_000_000
DAY = 86_400 * S
START = 1_700_000_000 * S
AMS, IAD, SIN = PopName("ams"), PopName("iad"), PopName("sin")
POPS = frozenset((AMS, IAD, SIN))
ISSUER = IAD


@dataclass
class World:
    """Renewals of a fleet, and a shell that signs in a hundredth of a second and writes what comes."""

    lifetime_ns: int = 90 * DAY
    now_ns: int = START
    connected: frozenset[frozenset[PopName]] = frozenset(
        frozenset(pair) for pair in itertools.combinations(sorted(POPS), 2)
    )
    has_key: bool = True
    can_keep: bool = True
    refuses_to_take: bool = False
    loses_signatures: bool = False
    certified: list[tuple[PopName, PopName]] = field(default_factory=list)
    """For whom, and who has taken it."""
    said: list[tuple[PopName, PopName, Message]] = field(default_factory=list)
    said_ns: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        numbers = itertools.count(1)
        self.pops = {pop: Renewal(pop, lambda: next(numbers)) for pop in sorted(POPS)}
        self.valid = {pop: Validity(START, START + self.lifetime_ns) for pop in POPS}
        for pop, renewal in self.pops.items():
            renewal.handle_fleet(self.now_ns, ISSUER, POPS)
            self.tell(pop)

    def tell(self, pop: PopName) -> None:
        """Say again what a shell says from time to time."""
        has_key = self.has_key and pop == ISSUER
        self.pops[pop].handle_identity(self.now_ns, self.valid[pop], can_keep=self.can_keep, has_key=has_key)
        peers = frozenset(peer for pair in self.connected if pop in pair for peer in pair if peer != pop)
        self.pops[pop].handle_connected(self.now_ns, peers)
        self.drain()

    def drain(self) -> None:
        """Do what all want until nobody wants anything."""
        busy = True
        while busy:
            busy = False
            for pop, renewal in self.pops.items():
                while (output := renewal.poll_output()) is not None:
                    busy = True
                    self.do(pop, renewal, output)

    def do(self, pop: PopName, renewal: Renewal, output: object) -> None:
        match output:
            case MakeRequest(number):
                renewal.handle_request_made(self.now_ns, number, b"request of " + pop.encode())
            case SignRequest(peer, number, request):
                assert request == b"request of " + peer.encode()
                if not self.loses_signatures:
                    renewal.handle_signed(self.now_ns, peer, number, b"for " + peer.encode())
            case TakeCertificate(number, certificate):
                self.take(pop, renewal, number, certificate)
            case Say(peer, message):
                message = bus.decode(bus.encode(message))
                self.said.append((pop, peer, message))
                self.said_ns.append(self.now_ns)
                if frozenset((pop, peer)) in self.connected:
                    self.pops[peer].handle_message(self.now_ns, pop, message)

    def take(self, pop: PopName, renewal: Renewal, number: int, certificate: bytes) -> None:
        named = PopName(certificate.decode().removeprefix("for "))
        if self.refuses_to_take or named != pop:
            renewal.handle_not_taken(self.now_ns, number, "not_taken")
            return
        self.certified.append((named, pop))
        self.valid[pop] = Validity(self.now_ns, self.now_ns + self.lifetime_ns)
        renewal.handle_taken(self.now_ns, number, self.valid[pop])

    def run(self, time_ns: int) -> "World":
        """Let time pass."""
        end_ns = self.now_ns + time_ns
        while True:
            due = [at for renewal in self.pops.values() if (at := renewal.poll_timeout()) is not None]
            if not due or (at_ns := min(due)) > end_ns:
                break
            self.now_ns = max(self.now_ns, at_ns)
            for renewal in self.pops.values():
                renewal.handle_timeout(self.now_ns)
            self.drain()
        self.now_ns = end_ns
        for pop in self.pops:
            self.tell(pop)
        return self


def request_of(world: World, peer: PopName, number: int = 7, body: bytes = b"") -> None:
    """Have the issuer get a request over the connection of `peer`."""
    body = body or b"request of " + peer.encode()
    message = Message(certificate_request=CertificateRequest(number, body))
    world.pops[ISSUER].handle_message(world.now_ns, peer, message)


def answers(world: World) -> list[CertificateAnswer]:
    """Return what the issuer has answered."""
    return [m.certificate_answer for sender, _, m in world.said if sender == ISSUER and m.certificate_answer]


def test_everybody_renews_when_a_third_of_the_lifetime_is_left_the_issuer_too() -> None:
    world = World().run(60 * DAY - S)
    assert world.certified == []
    world.run(2 * S)
    assert sorted(world.certified) == [(pop, pop) for pop in sorted(POPS)]
    assert all(renewal.outcomes == {"renewed": 1} for renewal in world.pops.values())
    assert world.pops[ISSUER].requests == {"signed": 3}


def test_a_year_of_certificates_of_two_minutes_never_ends_one() -> None:
    world = World(lifetime_ns=120 * S)
    for _ in range(200):
        world.run(31 * S)
        assert all(validity.not_after_ns > world.now_ns + 5 * S for validity in world.valid.values())
    assert all(not renewal.problems(world.now_ns) for renewal in world.pops.values())


def test_without_an_issuer_nobody_asks() -> None:
    world = World()
    for pop in POPS:
        world.pops[pop].handle_fleet(world.now_ns, None, POPS)
    world.run(89 * DAY)
    assert (world.certified, world.said) == ([], [])
    assert all(renewal.poll_timeout() is None for renewal in world.pops.values())


def test_a_pop_that_could_not_keep_a_certificate_does_not_ask_for_one() -> None:
    world = World(can_keep=False).run(70 * DAY)
    assert world.said == []


def test_an_issuer_that_is_away_is_asked_when_it_comes_back_and_meanwhile_that_is_a_problem() -> None:
    everybody = World().connected
    world = World(connected=frozenset()).run(60 * DAY + DAY // 2)
    assert world.pops[AMS].problems(world.now_ns) == {}, "half a day of thirty is no news"
    world.run(DAY)
    (what,) = world.pops[AMS].problems(world.now_ns)
    assert "no tunnel with the issuer iad" in what
    world.connected = everybody
    world.run(S)
    assert (AMS, AMS) in world.certified
    assert world.pops[AMS].problems(world.now_ns) == {}


def test_an_issuer_that_never_answers_is_asked_ever_less_often_but_once_a_day_and_more_often_near_the_end() -> (
    None
):
    world = World(loses_signatures=True).run(90 * DAY - S)
    asked = [at_ns for at_ns, (sender, _, _) in zip(world.said_ns, world.said, strict=True) if sender == AMS]
    gaps = [later - earlier for earlier, later in itertools.pairwise(asked)]
    assert max(gaps) <= RETRY_MAX_NS + ANSWER_NS
    assert gaps[0] < 3 * 60 * S, "the first again after a minute"
    assert gaps[:8] == sorted(gaps[:8])
    assert gaps[-1] < 5 * 60 * S
    assert len(asked) < 200
    assert world.pops[AMS].last_failure == "no_answer"
    (what,) = world.pops[AMS].problems(world.now_ns)
    assert "it does not answer" in what


def test_an_answer_that_cannot_be_taken_is_a_failure_with_words_and_is_tried_again() -> None:
    world = World(refuses_to_take=True).run(60 * DAY + S)
    assert world.pops[AMS].last_failure == "not_taken"
    world.refuses_to_take = False
    world.run(120 * S)
    assert (AMS, AMS) in world.certified
    assert world.pops[AMS].outcomes == {"not_taken": 1, "renewed": 1}


def test_an_issuer_without_the_key_says_so() -> None:
    world = World(has_key=False).run(60 * DAY + S)
    assert world.pops[ISSUER].requests == {"no_key": 2}
    (what,) = world.pops[AMS].problems(world.now_ns)
    assert "cannot use the CA's key" in what


def test_an_issuer_that_signs_for_another_name_gets_nothing_into_use() -> None:
    """What it sent is judged by the shell; the core only never takes it for a success."""
    world = World().run(60 * DAY - S)
    world.do = wrong_name(world)  # type: ignore[method-assign]
    world.run(2 * S)
    assert (SIN, SIN) not in world.certified
    assert world.pops[SIN].last_failure == "not_taken"


def wrong_name(world: World):  # type: ignore[no-untyped-def]  # noqa: ANN201 (stands for a method)
    """Return a shell in which the issuer signs everything for ams."""
    do = world.do

    def changed(pop: PopName, renewal: Renewal, output: object) -> None:
        if isinstance(output, SignRequest):
            renewal.handle_signed(world.now_ns, output.peer, output.number, b"for ams")
        else:
            do(pop, renewal, output)

    return changed


def test_an_answer_that_nobody_asked_for_is_counted_and_nothing_else() -> None:
    world = World()
    answer = Message(certificate_answer=CertificateAnswer(1, b"for ams"))
    world.pops[AMS].handle_message(world.now_ns, ISSUER, answer)
    world.drain()
    assert (world.certified, world.pops[AMS].unasked) == ([], 1)


@pytest.mark.parametrize(("sender", "shift"), [(SIN, 0), (ISSUER, 1)])
def test_an_answer_of_another_pop_or_with_another_number_is_not_taken(sender: PopName, shift: int) -> None:
    asker = Renewal(AMS, lambda: 41)
    asker.handle_fleet(START, ISSUER, POPS)
    asker.handle_identity(START, Validity(START - 3 * S, START), can_keep=True, has_key=False)
    asker.handle_connected(START, POPS)
    assert asker.poll_output() == MakeRequest(41)
    asker.handle_request_made(START, 41, b"request")
    assert isinstance(asker.poll_output(), Say)
    asker.handle_message(START, sender, Message(certificate_answer=CertificateAnswer(41 + shift, b"x")))
    assert asker.poll_output() is None
    assert asker.unasked == 1
    asker.handle_message(START, ISSUER, Message(certificate_answer=CertificateAnswer(41, b"x")))
    assert asker.poll_output() == TakeCertificate(41, b"x")
    asker.handle_message(START, ISSUER, Message(certificate_answer=CertificateAnswer(41, b"x")))
    assert asker.poll_output() is None, "an answer is taken once"


def test_a_pop_that_is_revoked_gets_no_certificate() -> None:
    world = World()
    world.pops[ISSUER].handle_revoked(frozenset((AMS,)))
    request_of(world, AMS)
    world.drain()
    assert [answer.refusal for answer in answers(world)] == ["revoked"]
    assert world.pops[ISSUER].requests == {"revoked": 1}


def test_a_stranger_gets_no_certificate_and_a_pop_that_is_no_issuer_signs_none() -> None:
    world = World()
    request_of(world, PopName("mallory"))
    assert world.pops[ISSUER].requests == {"not_issuer": 1}
    message = Message(certificate_request=CertificateRequest(7, b"request of ams"))
    world.pops[SIN].handle_message(world.now_ns, AMS, message)
    assert world.pops[SIN].requests == {"not_issuer": 1}


def test_a_flood_of_requests_costs_a_few_signatures_and_nobody_elses() -> None:
    world = World()
    for number in range(10_000):
        request_of(world, AMS, number)
        world.drain()
    assert world.pops[ISSUER].requests == {"signed": BURST, "rate": 10_000 - BURST}
    request_of(world, SIN)
    world.drain()
    assert world.pops[ISSUER].requests["signed"] == BURST + 1
    world.now_ns += REFILL_NS
    request_of(world, AMS, 1)
    world.drain()
    assert world.pops[ISSUER].requests["signed"] == BURST + 2


def test_a_request_that_is_too_long_is_not_even_signed() -> None:
    world = World()
    request_of(world, AMS, body=bytes(MAX_REQUEST_BYTES + 1))
    world.drain()
    assert world.pops[ISSUER].requests == {"malformed": 1}


def test_one_request_of_a_pop_and_so_many_in_all_are_signed_at_one_time() -> None:
    pops = frozenset(PopName(f"p{number}") for number in range(MAX_SIGNING + 2)) | {ISSUER}
    issuer = Renewal(ISSUER, lambda: 1)
    issuer.handle_fleet(START, ISSUER, pops)
    issuer.handle_identity(START, None, can_keep=True, has_key=True)

    def ask(peer: str, number: int, now_ns: int = START) -> None:
        request = CertificateRequest(number, b"request")
        issuer.handle_message(now_ns, PopName(peer), Message(certificate_request=request))

    ask("p0", 1)
    ask("p0", 2)
    assert issuer.requests == {"busy": 1}
    for number in range(1, MAX_SIGNING):
        ask(f"p{number}", 3)
    ask(f"p{MAX_SIGNING}", 4)
    assert issuer.requests == {"busy": 2}
    issuer.handle_signed(START, PopName("p0"), 1, b"certificate")
    ask(f"p{MAX_SIGNING}", 5)
    assert issuer.requests == {"busy": 2, "signed": 1}
    # A shell that never says what came of a request does not take its place for ever.
    ask(f"p{MAX_SIGNING + 1}", 6, START + ANSWER_NS)
    assert issuer.requests == {"busy": 2, "signed": 1}


def test_what_was_signed_for_nobody_goes_nowhere() -> None:
    world = World()
    world.pops[ISSUER].handle_signed(world.now_ns, AMS, 99, b"for ams")
    assert world.pops[ISSUER].poll_output() is None


def test_a_refusal_that_is_not_known_is_a_failure_like_others() -> None:
    asker = Renewal(AMS, lambda: 41)
    asker.handle_fleet(START, ISSUER, POPS)
    asker.handle_identity(START, Validity(START - 3 * S, START), can_keep=True, has_key=False)
    asker.handle_connected(START, POPS)
    asker.poll_output()
    asker.handle_request_made(START, 41, b"request")
    refused = Message(certificate_answer=CertificateAnswer(41, None, "whim"))
    asker.handle_message(START, ISSUER, refused)
    assert asker.last_failure == "malformed"
    assert asker.poll_timeout() == START + RETRY_LEAST_NS


def test_there_are_words_for_every_refusal() -> None:
    assert WORDS.keys() > REFUSALS


def test_a_clock_that_is_set_back_asks_for_nothing_twice() -> None:
    world = World().run(60 * DAY + S)
    signed = world.pops[ISSUER].requests["signed"]
    for renewal in world.pops.values():
        renewal.handle_timeout(START)
    world.drain()
    assert world.pops[ISSUER].requests["signed"] == signed


def test_outputs_that_nobody_takes_are_bounded_and_counted() -> None:
    """A shell that stands still costs no memory, and the answers that it misses are not lost silently."""
    issuer = Renewal(IAD, lambda: 1)
    issuer.handle_fleet(START, None, POPS)

    for number in range(MAX_OUTPUTS + 3):
        asked = CertificateRequest(number, b"a request")
        issuer.handle_message(START, AMS, Message(certificate_request=asked))

    assert issuer.outputs_full == 3
    answers = list(iter(issuer.poll_output, None))
    assert len(answers) == MAX_OUTPUTS
    assert all(isinstance(answer, Say) for answer in answers)
