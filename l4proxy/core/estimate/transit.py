"""Times on the way there of one link, by two clocks that nobody has set alike: jitter, and the steps of either clock.

received − sent = the time on the way + what the peer's clock is ahead of ours. In the difference of two of them the clocks cancel, as
long as neither is set in between; a clock that is set must look like nothing else, and least of all like jitter.
"""

from dataclasses import dataclass

S = 1_000_000_000

JITTER_WEIGHT = 1 / 16
"""RFC 3550 section 6.4.1: J += (|D| - J) / 16."""

STEP_SLACK_MS = 10.0
"""A daemon of NTP sets a clock that is 128 ms off or more and slews the rest (RFC 5905, STEPT); what a scheduler delays is below 10 ms."""

STEP_JITTERS = 4.0
"""A change is no chance beyond four mean deviations, as in the time-out of TCP (RFC 6298: SRTT + 4 RTTVAR)."""

SLEW = 500e-6
"""The fastest that clocks are slewed, or drift: 500 parts in a million (RFC 5905, MAXFREQ)."""


@dataclass(slots=True)
class TransitTracker:
    """Jitter of one link on the way there, in ms, and how often a clock stepped."""

    jitter_ms: float = 0.0
    steps: int = 0
    _last: tuple[int, int, int] | None = None

    def handle_sample(self, now_ns: int, transit_ns: int, rtt_ns: int) -> bool:
        """Take one sample, of which the round trip is sound; whether a clock stepped since the one before.

        A way that becomes longer in one direction by x changes the round trip by x and `transit − rtt / 2` by x / 2. What that
        changes by beyond half of the round trip's change, no way has done but a clock, or both ways at once, opposite: jitter.
        """
        last, self._last = self._last, (now_ns, transit_ns, rtt_ns)
        if last is None:
            return False
        change_ms = (transit_ns - last[1]) / 1e6
        rtt_change_ms = (rtt_ns - last[2]) / 1e6
        slack_ms = STEP_SLACK_MS + STEP_JITTERS * self.jitter_ms + SLEW * (now_ns - last[0]) / 1e6
        if abs(change_ms - rtt_change_ms / 2) > abs(rtt_change_ms) / 2 + slack_ms:
            self.steps += 1
            return True
        self.jitter_ms += JITTER_WEIGHT * (abs(change_ms) - self.jitter_ms)
        return False
