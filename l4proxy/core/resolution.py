"""Names of origins: what was asked of DNS, what it said, when it is asked again. Sans-IO; time and jitter are arguments.

One question is a name and a record type; an SRV answer asks for the addresses of its targets in turn. `poll_due` says what to ask now,
`handle_outcome` takes what came of it, `targets` gives where a named origin may be reached. An answer lives for its TTL. Where DNS
fails or says that nothing is there, the last addresses stay: a name server that is down must not take the origin with it.
Whether an address may be dialled is not decided here (`origin_guard`, and the engine).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address
from typing import Literal

RecordType = Literal["A", "AAAA", "SRV"]

SECOND_NS = 1_000_000_000

MIN_TTL_S = 5.0
"""An answer is used for at least this long, whatever it says: a TTL of 0 must not become a query a flow."""

MAX_TTL_S = 3_600.0
"""And for at most this long: after a move nobody should have to restart a proxy."""

MAX_NEGATIVE_S = 300.0
"""Longest time that "there is nothing" is believed (RFC 2308 section 5 suggests one to three hours; a server that is being
set up is waited for with less patience)."""

RETRY_S = 5.0
MAX_RETRY_S = 60.0
"""After a failure: doubled each time, up to this."""

JITTER = 0.1
"""Share of a waiting time that is added at random, so that PoPs do not ask in step. Added: a cache has then let go of the answer."""

MAX_AT_ONCE = 16
"""Questions under way at one time."""

MAX_QUESTIONS = 4_096
"""Questions altogether; what does not fit is not asked, counted, and told."""

MAX_SERVICES = 16
MAX_ADDRESSES = 16
"""Records of one answer that are used, the most preferred ones: an answer is other people's data."""


@dataclass(frozen=True, slots=True, order=True)
class Question:
    """What DNS is asked."""

    name: str
    kind: RecordType


@dataclass(frozen=True, slots=True, order=True)
class Service:
    """One SRV record."""

    priority: int
    weight: int
    port: int
    target: str


@dataclass(frozen=True, slots=True)
class Found:
    """Records, and for how long they hold. Addresses for A and AAAA, services for SRV."""

    ttl_s: float
    addresses: tuple[str, ...] = ()
    services: tuple[Service, ...] = ()


@dataclass(frozen=True, slots=True)
class Nothing:
    """DNS says that the name, or the type at it, does not exist."""

    ttl_s: float
    reason: str


@dataclass(frozen=True, slots=True)
class Failed:
    """Nobody answered, or not usefully."""

    reason: str


Outcome = Found | Nothing | Failed


@dataclass(frozen=True, slots=True, order=True)
class OriginName:
    """A name in the place of an origin's address."""

    kind: Literal["name", "srv"]
    host: str
    port: int | None = None

    @property
    def questions(self) -> tuple[Question, ...]:
        """What is asked for it first."""
        if self.kind == "srv":
            return (Question(self.host, "SRV"),)
        return _address_questions(self.host)


@dataclass(frozen=True, slots=True, order=True)
class Target:
    """Where a flow may be dialled. Targets with one `host` number are addresses of one machine."""

    address: str
    port: int | None
    host: int = 0
    priority: int = 0
    weight: int = 0


@dataclass(slots=True)
class _State:
    """One question."""

    due_ns: int
    answer: Found | None = None
    """The last useful answer; an empty one when there is nothing."""
    trouble: str | None = None
    """Why the last answer was not useful."""
    failures: int = 0
    is_running: bool = False
    was_answered: bool = False


@dataclass(slots=True)
class Counters:
    """What did not fit, and how often each outcome came."""

    found: int = 0
    nothing: int = 0
    failed: int = 0
    questions_full: int = 0
    records_cut: int = 0


LOCALHOST = ("127.0.0.1", "::1")
"""What `localhost` means without asking anybody."""


def is_localhost(host: str) -> bool:
    """Whether a name means this host by itself (RFC 6761 section 6.3): as plain a word as 127.0.0.1, and nothing to ask DNS."""
    name = host.lower().removesuffix(".")
    return name == "localhost" or name.endswith(".localhost")


def _address_questions(host: str) -> tuple[Question, ...]:
    return (Question(host, "AAAA"), Question(host, "A"))


class Resolution:
    """All names of one PoP. After each input ask `poll_due`, then wait until `poll_timeout`."""

    def __init__(self) -> None:
        self.counters = Counters()
        self._names: frozenset[OriginName] = frozenset()
        self._states: dict[Question, _State] = {}
        self._good: dict[OriginName, tuple[Target, ...]] = {}
        self._left_out: set[Question] = set()

    # Inputs

    def set_names(self, now_ns: int, names: Iterable[OriginName]) -> None:
        """Keep exactly these resolved from now on; new ones are due at once."""
        self._names = frozenset(names)
        self._good = {name: targets for name, targets in self._good.items() if name in self._names}
        self._follow(now_ns)

    def restore(self, good: Mapping[OriginName, tuple[Target, ...]]) -> None:
        """Take what was good before a restart, for names that have no answer yet."""
        for name, targets in good.items():
            if name in self._names and targets:
                self._good.setdefault(name, targets)

    def handle_outcome(self, now_ns: int, question: Question, outcome: Outcome, jitter: float) -> None:
        """Take what came of a question; `jitter` is a random number from 0 to 1."""
        state = self._states.get(question)
        if state is None:
            return  # nobody wants to know any more
        state.is_running, state.was_answered = False, True
        match outcome:
            case Found():
                self.counters.found += 1
                state.answer, state.trouble, state.failures = self._cut(outcome), None, 0
                wait_s = min(max(outcome.ttl_s, MIN_TTL_S), MAX_TTL_S)
            case Nothing():
                self.counters.nothing += 1
                state.answer, state.trouble, state.failures = Found(0.0), outcome.reason, 0
                wait_s = min(max(outcome.ttl_s, MIN_TTL_S), MAX_NEGATIVE_S)
            case Failed():
                self.counters.failed += 1
                state.trouble = outcome.reason
                wait_s = min(RETRY_S * 2.0 ** min(state.failures, 16), MAX_RETRY_S)
                state.failures += 1
        state.due_ns = now_ns + round(wait_s * (1 + JITTER * jitter) * SECOND_NS)
        self._follow(now_ns)
        for name in self._names:
            if targets := self._current(name):
                self._good[name] = targets

    def _cut(self, found: Found) -> Found:
        """Keep what is used of an answer, in an order of its own: servers rotate theirs, and that is no change."""
        services = tuple(sorted({service for service in found.services if service.target not in ("", ".")}))
        plain = sorted({_plain(address) for address in found.addresses})
        cut = max(0, len(services) - MAX_SERVICES) + max(0, len(plain) - MAX_ADDRESSES)
        self.counters.records_cut += cut
        return Found(found.ttl_s, tuple(plain[:MAX_ADDRESSES]), services[:MAX_SERVICES])

    def _follow(self, now_ns: int) -> None:
        """Have a state for exactly the questions that the names and their SRV answers ask."""
        wanted: dict[Question, None] = {}
        for name in sorted(self._names):
            for question in name.questions:
                wanted[question] = None
        for question in list(wanted):
            state = self._states.get(question)
            for service in state.answer.services if state is not None and state.answer is not None else ():
                if not _is_address(service.target):
                    wanted.update(dict.fromkeys(_address_questions(service.target)))
        kept = list(wanted)[:MAX_QUESTIONS]
        left_out = set(list(wanted)[MAX_QUESTIONS:])
        self.counters.questions_full += len(left_out - self._left_out)
        self._left_out = left_out
        self._states = {question: self._states.get(question) or _State(now_ns) for question in kept}

    # Outputs

    def poll_due(self, now_ns: int) -> list[Question]:
        """Return what is to be asked now, longest overdue first; each is under way until its outcome comes."""
        running = sum(state.is_running for state in self._states.values())
        due = [(s.due_ns, q) for q, s in self._states.items() if s.due_ns <= now_ns and not s.is_running]
        asked = [question for _, question in sorted(due)[: max(0, MAX_AT_ONCE - running)]]
        for question in asked:
            self._states[question].is_running = True
        return asked

    def poll_timeout(self) -> int | None:
        """Return when `poll_due` has something next; None: an outcome, or new names, must come first."""
        idle = [state.due_ns for state in self._states.values() if not state.is_running]
        is_full = len(self._states) - len(idle) >= MAX_AT_ONCE
        return None if is_full else min(idle, default=None)

    def targets(self, name: OriginName) -> tuple[Target, ...]:
        """Return where an origin may be reached, as far as is known: the latest answer, else the last good one."""
        return self._current(name) or self._good.get(name, ())

    def good(self) -> Mapping[OriginName, tuple[Target, ...]]:
        """Return the last good answer of every name that has one."""
        return dict(self._good)

    def is_settled(self) -> bool:
        """Whether every name has targets or was asked for once, in vain."""
        return all(
            self._good.get(name) or all(self._was_answered(question) for question in self._asked_for(name))
            for name in self._names
        )

    def trouble(self, name: OriginName) -> str | None:
        """Return what is wrong with a name; None: nothing, or nothing is known yet."""
        asked = self._asked_for(name)
        if any(question in self._left_out for question in asked):
            return f"more than {MAX_QUESTIONS} questions: it is not asked for"
        if self._current(name):
            failing = [
                f"{q.kind} of {q.name}: {s.trouble}"
                for q in asked
                if (s := self._states.get(q)) is not None and s.failures and s.trouble
            ]
            return "; ".join(failing) or None
        reasons = [
            s.trouble for q in asked if (s := self._states.get(q)) is not None and s.trouble is not None
        ]
        return "; ".join(dict.fromkeys(reasons)) or None

    def _was_answered(self, question: Question) -> bool:
        state = self._states.get(question)
        return state is None or state.was_answered

    def _answer(self, question: Question) -> Found:
        state = self._states.get(question)
        return Found(0.0) if state is None or state.answer is None else state.answer

    def _asked_for(self, name: OriginName) -> tuple[Question, ...]:
        first = name.questions
        services = self._answer(first[0]).services if name.kind == "srv" else ()
        found = [q for s in services if not _is_address(s.target) for q in _address_questions(s.target)]
        return tuple(dict.fromkeys((*first, *found)))

    def _current(self, name: OriginName) -> tuple[Target, ...]:
        if name.kind == "name":
            return tuple(Target(address, name.port) for address in self._addresses(name.host))
        services = self._answer(name.questions[0]).services
        return tuple(
            Target(address, service.port, host, service.priority, service.weight)
            for host, service in enumerate(services)
            for address in self._addresses(service.target)
        )

    def _addresses(self, host: str) -> tuple[str, ...]:
        if _is_address(host):
            return (host,)
        found = [a for question in _address_questions(host) for a in self._answer(question).addresses]
        return tuple(dict.fromkeys(found))


def _is_address(text: str) -> bool:
    """Whether an SRV target is an address: RFC 2782 wants a name, and some servers are set up otherwise."""
    try:
        ip_address(text)
    except ValueError:
        return False
    return True


def _plain(address: str) -> str:
    """Return the one spelling of an address; IPv4 inside IPv6 (an AAAA of `::ffff:…`) is IPv4."""
    ip = ip_address(address)
    if isinstance(ip, IPv6Address) and ip.ipv4_mapped is not None:
        return str(ip.ipv4_mapped)
    return str(ip)
