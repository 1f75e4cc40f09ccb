"""Time that nobody watched is not silence, and a wall clock that steps moves nothing."""

from l4proxy.daemon.clock import MAX_GAP_NS, Clock


class Readings:
    """Both clocks of a machine, moved by hand."""

    def __init__(self) -> None:
        self.wall_ns = 1_700_000_000_000_000_000
        self.monotonic_ns = 5_000_000_000

    def clock(self) -> Clock:
        return Clock(lambda: self.wall_ns, lambda: self.monotonic_ns)


def test_it_starts_at_the_wall_clock_and_follows_the_monotonic_one() -> None:
    readings = Readings()
    clock = readings.clock()
    assert clock.now_ns() == 1_700_000_000_000_000_000
    readings.monotonic_ns += 1_500_000_000
    readings.wall_ns -= 3_600_000_000_000  # somebody set the clock back by an hour
    assert clock.now_ns() == 1_700_000_001_500_000_000


def test_thirty_seconds_under_sigstop_are_a_moment() -> None:
    """Else every link would have been silent for 30 s, and every route would flee."""
    readings = Readings()
    clock = readings.clock()
    before = clock.now_ns()
    readings.monotonic_ns += 30_000_000_000
    assert clock.now_ns() - before == MAX_GAP_NS
    assert clock.unwatched_ns == 30_000_000_000 - MAX_GAP_NS
    readings.monotonic_ns += 500_000_000
    assert clock.now_ns() - before == MAX_GAP_NS + 500_000_000
