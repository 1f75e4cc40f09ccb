"""Loss of one link on the way there, over four windows, each with its bounds, and the one number that routes are made of.

The peer counts the requests that it receives, so what answers say of the way there holds whatever is lost on the way back. Between two
answers the requests are those that the sequence numbers say; no clock is looked at, so a clock that steps changes nothing.
"""

from dataclasses import dataclass, field

from l4proxy.core.confidence import wilson
from l4proxy.core.estimate.windows import CountWindow

S = 1_000_000_000

WINDOWS_S = (1, 10, 60, 300)
"""Seconds. The longest: at one probe a second 300 s miss 2.5 % loss once in 2,000 windows, 60 s once in 5 (docs/decisions/0003)."""

PROVEN_LOST = 3
"""A short window says something by itself from so many losses on: one is chance, two are a burst."""

ACQUITS_S = 60
"""A shorter window may accuse but not acquit: loss comes in bursts, and ten seconds between two of them prove nothing."""

MAX_UNSEEN = 64
"""Requests between two answers of which no sample has come yet: the prober remembers no more. Beyond it, somebody has begun anew."""

CIRCLE = 1 << 32
"""Sequences and counts are modulo this."""


@dataclass(frozen=True, slots=True)
class LossWindow:
    """Loss of the last `seconds`. Its bounds are worked out when they are asked for: most links lose nothing."""

    seconds: int
    sent: int
    lost: int

    @property
    def ratio(self) -> float:
        """What was seen, 0 to 1; 0 of nothing sent."""
        return self.lost / self.sent if self.sent else 0.0

    @property
    def lower(self) -> float:
        """One-sided 95 % bound (Wilson), 0 to 1."""
        return wilson(self.lost, self.sent)[0]

    @property
    def upper(self) -> float:
        """One-sided 95 % bound (Wilson), 0 to 1; 1 of nothing sent."""
        return wilson(self.lost, self.sent)[1]


@dataclass(slots=True)
class LossCounter:
    """What was sent and lost on one link."""

    restarts: int = 0
    """Times that a sequence or a count began anew: ours or the peer's process did."""
    _windows: tuple[CountWindow, ...] = field(
        default_factory=lambda: tuple(CountWindow(seconds * S) for seconds in WINDOWS_S)
    )
    _base: tuple[int, int] | None = None
    """Sequence and the peer's count of the newest answer."""
    _unanswered: int = 0
    """Lost samples since then: which way they were lost is not known yet."""

    def handle_lost(self, now_ns: int, sequence: int) -> None:
        """A request stayed without an answer. One that is older than the newest answer is in the peer's count already."""
        if self._base is None:
            self._count(now_ns, 1, 1)
        elif 0 < (sequence - self._base[0]) % CIRCLE < CIRCLE // 2:
            self._unanswered += 1

    def handle_answer(self, now_ns: int, sequence: int, peer_received: int | None) -> None:
        """An answer came; `peer_received` is what the peer has received on this link so far, modulo 2³²."""
        if peer_received is None:
            self._count(now_ns, 1 + self._unanswered, self._unanswered)
            self._unanswered = 0
            return
        sequence, peer_received = sequence % CIRCLE, peer_received % CIRCLE
        if self._base is None:
            self._count(now_ns, 1, 0)
            self._base = (sequence, peer_received)
            return
        sent = (sequence - self._base[0]) % CIRCLE
        got = (peer_received - self._base[1]) % CIRCLE
        if sent >= CIRCLE - MAX_UNSEEN or sent == 0:
            self._on_late(got)
            return
        is_sound = 0 < got <= sent <= self._unanswered + 1 + MAX_UNSEEN
        if is_sound:
            self._count(now_ns, sent, sent - got)
        else:
            self.restarts += 1
            self._count(now_ns, 1 + self._unanswered, self._unanswered)
        self._base, self._unanswered = (sequence, peer_received), 0

    def _on_late(self, got: int) -> None:
        """An answer to an older request: it was overtaken on the way back, or, if the peer counted it last, on the way there."""
        if self._base is not None and 0 < got <= MAX_UNSEEN:
            self._base = (self._base[0], (self._base[1] + got) % CIRCLE)
            for window in self._windows:
                window.take_back_one_lost()

    def _count(self, now_ns: int, sent: int, lost: int) -> None:
        for window in self._windows:
            window.add(now_ns, sent, lost)

    def forget(self, now_ns: int) -> None:
        """Let go of what is older than each window."""
        for window in self._windows:
            window.forget(now_ns)

    def forget_outage(self, now_ns: int, answered: int) -> None:
        """Forget what was lost while the link was down: routes have avoided it then. It is up again since so many answers."""
        for window in self._windows:
            window.clear()
        self._count(now_ns, answered, 0)

    def windows(self, now_ns: int) -> tuple[LossWindow, ...]:
        """Return every window, the shortest first. Requests without an answer yet count as lost until the peer's count says otherwise."""
        self.forget(now_ns)
        return tuple(
            LossWindow(seconds, window.sent + self._unanswered, window.lost + self._unanswered)
            for seconds, window in zip(WINDOWS_S, self._windows, strict=True)
        )


def for_routes(windows: tuple[LossWindow, ...]) -> float:
    """Return the loss, 0 to 1, that a link is charged with: an upper bound, less what a link without loss would show as well.

    With u(k, n) the upper and l(k, n) the lower bound of a window with k of n lost: the longest window's [l, u] is where loss lies. Each
    shorter one either narrows that, or, where the two have no point in common, takes its place, because loss has changed since. What
    begins (the lower bound above, three lost or more) takes its place at once, what has ended only from `ACQUITS_S` on. The charge is the
    upper end, less u(0, n) of the longest window that still counts: so a link that is probed seldom is not charged for that, and one
    without loss nothing.
    """
    longest = windows[-1]
    if not any(window.lost for window in windows):
        return 0.0
    low, high, base = longest.lower, longest.upper, wilson(0, longest.sent)[1]
    for window in windows[-2::-1]:
        is_proven = window.lost >= PROVEN_LOST
        has_begun = is_proven and window.lower > high
        has_ended = window.seconds >= ACQUITS_S and window.upper < low
        if has_begun or has_ended:
            low, high, base = window.lower, window.upper, wilson(0, window.sent)[1]
            continue
        high = min(high, window.upper) if window.upper > low else high
        low = max(low, window.lower) if is_proven else low
    return max(0.0, high - base)
