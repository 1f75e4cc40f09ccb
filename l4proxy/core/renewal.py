"""Renewal of certificates over the tunnel, sans-IO: when a PoP asks its issuer, whom an issuer answers, and what becomes of it.

Both sides are here, and an issuer that renews its own certificate is both. It sees neither keys nor certificates: what they say is judged
by the shell (`l4proxy.pki_renewal`), which does what `poll_output` says and tells what came of it. Time is wall-clock nanoseconds.

    asker   MakeRequest → handle_request_made → (the tunnel) → handle_answer → TakeCertificate → handle_taken or handle_not_taken
    issuer  handle_request → SignRequest → handle_signed → (the tunnel)
"""

from collections import Counter, deque
from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal, get_args

from l4proxy.core.bus import CertificateAnswer, CertificateRequest, Message
from l4proxy.core.ids import PopName

S = 1_000_000_000

MAX_REQUEST_BYTES = 4_096
"""A request has 300 bytes; names of the longest kind still fit."""

ANSWER_NS = 30 * S
"""After this an answer is not waited for any more; signing takes milliseconds, the way there and back a second."""

RETRY_FIRST_NS = 60 * S
"""Wait after the first failure; doubled with each further one."""

RETRY_MAX_NS = 86_400 * S
"""At least one attempt a day, of 30 that a certificate of 90 days has."""

RETRY_SHARE = 8
"""Never wait longer than this part of what is left: attempts come closer together as the end comes nearer."""

RETRY_LEAST_NS = 5 * S

BURST = 5
"""Requests of one PoP that are signed at once; a PoP that is well has one in 60 days."""

REFILL_NS = 10 * S
"""For each of these a PoP has one request more."""

MAX_SIGNING = 16
"""Requests that are being signed at one time."""

MAX_OUTPUTS = 256
"""Things to do that wait; each answers one input, and a shell that takes them after every input has a few."""

Refusal = Literal[
    "not_issuer", "no_key", "revoked", "rate", "busy", "malformed", "unproved", "wrong_key", "other_name"
]
"""Why an issuer does not sign; it stands in the answer."""

REFUSALS: frozenset[str] = frozenset(get_args(Refusal))

Failure = Refusal | Literal["no_answer", "not_made", "not_taken", "not_written"]
"""Why an attempt came to nothing."""

WORDS: dict[str, tuple[str, str]] = {
    "not_issuer": ("it says that it is not the issuer", "have the same fleet file at every PoP"),
    "no_key": ("it cannot use the CA's key", "look at `l4proxy status` there"),
    "revoked": (
        "it has this PoP on its list of what is revoked",
        "take it from the list there, or this PoP from the fleet",
    ),
    "rate": ("it was asked too often", "it is asked again by itself"),
    "busy": ("it has too many requests at one time", "it is asked again by itself"),
    "malformed": ("it cannot read the request", "run the same version at both"),
    "unproved": ("it finds the request's proof wrong", "run the same version at both"),
    "wrong_key": ("it wants a key of another kind", "run the same version at both"),
    "other_name": ("it finds another name in the request", "have the same fleet file at every PoP"),
    "no_answer": ("it does not answer", "look at `l4proxy status` there"),
    "not_made": ("no request could be made here", "see the daemon's log"),
    "not_taken": (
        "what it sent is not usable here",
        "see the daemon's log; does ca.pem have the CA that it signs with?",
    ),
    "not_written": ("the new one could not be written", "let the daemon's user write the identity's folder"),
}
"""Each failure for people, and what to do."""


@dataclass(frozen=True, slots=True)
class Validity:
    """From when until when a certificate is valid."""

    not_before_ns: int
    not_after_ns: int

    @property
    def due_ns(self) -> int:
        """When it is to be renewed: with a third of its lifetime left."""
        return self.not_after_ns - (self.not_after_ns - self.not_before_ns) // 3


@dataclass(frozen=True, slots=True)
class MakeRequest:
    """Make a key and a request for it."""

    number: int


@dataclass(frozen=True, slots=True)
class SignRequest:
    """Sign this for `peer` and for nobody else, if it is in order."""

    peer: PopName
    number: int
    request: bytes


@dataclass(frozen=True, slots=True)
class TakeCertificate:
    """Judge this, and take it into use."""

    number: int
    certificate: bytes


@dataclass(frozen=True, slots=True)
class Say:
    """Tell a peer."""

    peer: PopName
    message: Message


Act = MakeRequest | SignRequest | TakeCertificate
Output = Act | Say


@dataclass(slots=True)
class _Asked:
    """The one attempt that is under way."""

    number: int
    stage: Literal["making", "asking", "taking"]
    deadline_ns: int


@dataclass(slots=True)
class _Allowance:
    """What a PoP may still ask for."""

    requests: float
    at_ns: int


class Renewal:
    """The renewal of one PoP's certificate, and its part as issuer if it is one."""

    def __init__(self, pop: PopName, random: Callable[[], int]) -> None:
        self._pop = pop
        self._random = random
        self._issuer: PopName | None = None
        self._pops: Collection[PopName] = ()
        self._validity: Validity | None = None
        self._can_keep = self._has_key = False
        self._revoked: Collection[PopName] = frozenset()
        self._connected: Collection[PopName] = ()
        self._asked: _Asked | None = None
        self._retry_ns = 0
        self._failures = 0
        self.last_failure: Failure | None = None
        self._signing: dict[tuple[PopName, int], int] = {}
        """Deadlines."""
        self._allowances: dict[PopName, _Allowance] = {}
        self._outputs: deque[Output] = deque()
        self.outcomes: Counter[str] = Counter()
        """Attempts of this PoP that have ended: `renewed`, or a failure."""
        self.requests: Counter[str] = Counter()
        """Requests that came to this PoP: `signed`, or a refusal."""
        self.unasked = 0
        """Answers that nobody had asked for."""
        self.outputs_full = 0
        """Things that were not done because `MAX_OUTPUTS` waited."""

    # Inputs

    def handle_fleet(self, now_ns: int, issuer: PopName | None, pops: Collection[PopName]) -> None:
        """Take who is the issuer, and who there is."""
        if issuer != self._issuer:
            self._asked, self._failures, self.last_failure, self._retry_ns = None, 0, None, now_ns
        self._issuer, self._pops = issuer, pops
        self._allowances = {pop: left for pop, left in self._allowances.items() if pop in pops}
        self._work(now_ns)

    def handle_identity(
        self, now_ns: int, validity: Validity | None, *, can_keep: bool, has_key: bool
    ) -> None:
        """Take what is in use. `can_keep`: a new one could be written down; `has_key`: the CA's key is here."""
        if validity != self._validity and self._asked is None:
            self._failures, self.last_failure, self._retry_ns = 0, None, now_ns
        self._validity, self._can_keep, self._has_key = validity, can_keep, has_key
        self._work(now_ns)

    def handle_revoked(self, pops: Collection[PopName]) -> None:
        """Take the names of the PoPs for which nothing is signed."""
        self._revoked = pops

    def handle_connected(self, now_ns: int, peers: Collection[PopName]) -> None:
        """Take whom messages reach now."""
        self._connected = peers
        self._work(now_ns)

    def handle_message(self, now_ns: int, peer: PopName, message: Message) -> None:
        """Take a control message of a peer, whose name the connection has proved."""
        if message.certificate_request is not None:
            self._on_request(now_ns, peer, message.certificate_request)
        if message.certificate_answer is not None:
            self._on_answer(now_ns, peer, message.certificate_answer)
        self._work(now_ns)

    def handle_request_made(self, now_ns: int, number: int, request: bytes | None) -> None:
        """Take what came of MakeRequest; None: nothing."""
        asked = self._pending(number, "making")
        if asked is None or self._issuer is None:
            return
        if request is None:
            self._fail(now_ns, "not_made")
            return
        asked.stage, asked.deadline_ns = "asking", now_ns + ANSWER_NS
        made = CertificateRequest(number, request)
        if self._issuer == self._pop:
            self._on_request(now_ns, self._pop, made)
        else:
            self._push(Say(self._issuer, Message(certificate_request=made)))

    def handle_signed(
        self, now_ns: int, peer: PopName, number: int, certificate: bytes | None, refusal: Refusal = "no_key"
    ) -> None:
        """Take what came of SignRequest; None: it was not signed, for `refusal`."""
        if self._signing.pop((peer, number), None) is not None:
            self._answer(
                now_ns, peer, CertificateAnswer(number, certificate, None if certificate else refusal)
            )

    def handle_taken(self, now_ns: int, number: int, validity: Validity) -> None:
        """Take that the certificate is written and in use."""
        if self._pending(number, "taking") is not None:
            self.outcomes["renewed"] += 1
            self._asked, self._failures, self.last_failure = None, 0, None
            self._validity, self._retry_ns = validity, now_ns + RETRY_LEAST_NS

    def handle_not_taken(self, now_ns: int, number: int, failure: Failure) -> None:
        """Take that the certificate is not in use, and why."""
        if self._pending(number, "taking") is not None:
            self._fail(now_ns, failure)

    def handle_timeout(self, now_ns: int) -> None:
        """A deadline of `poll_timeout` has come."""
        self._work(now_ns)

    # Outputs

    def poll_output(self) -> Output | None:
        """Return the next thing to do."""
        return self._outputs.popleft() if self._outputs else None

    def poll_timeout(self) -> int | None:
        """Return when `handle_timeout` is due."""
        if self._asked is not None:
            return self._asked.deadline_ns
        return (
            max(self._validity.due_ns, self._retry_ns)
            if self._validity is not None and self._may_ask()
            else None
        )

    def problems(self, now_ns: int) -> dict[str, str]:
        """Return what an operator should know, each with what to do."""
        validity, issuer = self._validity, self._issuer
        if validity is None or issuer is None or now_ns < validity.due_ns or not self._can_keep:
            return {}
        ends = datetime.fromtimestamp(validity.not_after_ns // S, UTC).isoformat()
        left = f"this PoP's certificate, which ends at {ends}, is not renewed"
        by_hand = f"or by hand: l4proxy pki issue {self._pop}"
        if self.last_failure is not None:
            why, fix = WORDS[self.last_failure]
            return {f"{left} by {issuer}: {why}": f"{fix}; {by_hand}"}
        overdue_ns = now_ns - validity.due_ns
        if issuer != self._pop and issuer not in self._connected and overdue_ns > self._patience_ns(validity):
            return {
                f"{left}: no tunnel with the issuer {issuer}": f"see to that PoP and the links to it; {by_hand}"
            }
        return {}

    # Inside

    @staticmethod
    def _patience_ns(validity: Validity) -> int:
        """How long an issuer may be away before it is worth a word: a day of 90."""
        return (validity.not_after_ns - validity.not_before_ns) // 90

    def _may_ask(self) -> bool:
        if self._issuer is None or not self._can_keep:
            return False
        return self._has_key if self._issuer == self._pop else self._issuer in self._connected

    def _work(self, now_ns: int) -> None:
        if self._asked is not None and now_ns >= self._asked.deadline_ns:
            self._fail(now_ns, "no_answer")
        due_ns = self.poll_timeout()
        if self._asked is None and due_ns is not None and now_ns >= due_ns:
            number = self._random() & ((1 << 63) - 1)
            self._asked = _Asked(number, "making", now_ns + ANSWER_NS)
            self._push(MakeRequest(number))

    def _pending(self, number: int, stage: str) -> _Asked | None:
        asked = self._asked
        return asked if asked is not None and (asked.number, asked.stage) == (number, stage) else None

    def _fail(self, now_ns: int, failure: Failure) -> None:
        self.outcomes[failure] += 1
        self._asked, self.last_failure = None, failure
        self._failures += 1
        left_ns = 0 if self._validity is None else max(0, self._validity.not_after_ns - now_ns)
        wait_ns = min(RETRY_FIRST_NS << min(self._failures - 1, 16), RETRY_MAX_NS, left_ns // RETRY_SHARE)
        self._retry_ns = now_ns + max(wait_ns, RETRY_LEAST_NS)

    def _on_answer(self, now_ns: int, peer: PopName, answer: CertificateAnswer) -> None:
        asked = self._pending(answer.number, "asking")
        if asked is None or peer != self._issuer:
            self.unasked += 1
        elif answer.certificate is None:
            # A word that is not known is no reason to believe it less.
            self._fail(now_ns, answer.refusal if answer.refusal in WORDS else "malformed")  # type: ignore[arg-type]
        else:
            asked.stage, asked.deadline_ns = "taking", now_ns + ANSWER_NS
            self._push(TakeCertificate(answer.number, answer.certificate))

    def _on_request(self, now_ns: int, peer: PopName, request: CertificateRequest) -> None:
        self._signing = {key: deadline for key, deadline in self._signing.items() if deadline > now_ns}
        refusal = self._refusal(now_ns, peer, request)
        if refusal is not None:
            self._answer(now_ns, peer, CertificateAnswer(request.number, None, refusal))
            return
        self._signing[peer, request.number] = now_ns + ANSWER_NS
        self._push(SignRequest(peer, request.number, request.request))

    def _refusal(self, now_ns: int, peer: PopName, request: CertificateRequest) -> Refusal | None:
        if self._issuer != self._pop or peer not in self._pops:
            return "not_issuer"
        if not self._allow(now_ns, peer):
            return "rate"
        if peer in self._revoked:
            return "revoked"
        if not self._has_key:
            return "no_key"
        if len(request.request) > MAX_REQUEST_BYTES:
            return "malformed"
        is_busy = len(self._signing) >= MAX_SIGNING or any(asker == peer for asker, _ in self._signing)
        return "busy" if is_busy else None

    def _allow(self, now_ns: int, peer: PopName) -> bool:
        left = self._allowances.setdefault(peer, _Allowance(BURST, now_ns))
        gained = max(0, now_ns - left.at_ns) / REFILL_NS
        left.requests, left.at_ns = min(BURST, left.requests + gained), now_ns
        if left.requests < 1:
            return False
        left.requests -= 1
        return True

    def _answer(self, now_ns: int, peer: PopName, answer: CertificateAnswer) -> None:
        self.requests["signed" if answer.certificate is not None else answer.refusal or "no_key"] += 1
        if peer == self._pop:
            self._on_answer(now_ns, peer, answer)
        else:
            self._push(Say(peer, Message(certificate_answer=answer)))

    def _push(self, output: Output) -> None:
        if len(self._outputs) < MAX_OUTPUTS:
            self._outputs.append(output)
        else:
            self.outputs_full += 1
