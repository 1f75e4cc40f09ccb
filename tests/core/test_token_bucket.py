"""A bucket of tokens: what may come at once, then so many a second, and never more for having waited long."""

from l4proxy.core.token_bucket import TokenBucket

S = 1_000_000_000


def test_a_burst_then_the_rate() -> None:
    bucket = TokenBucket(3, 2)
    assert [bucket.take(10 * S) for _ in range(5)] == [True] * 3 + [False] * 2
    assert bucket.take(10 * S + S // 2)
    assert not bucket.take(10 * S + S // 2)
    assert sum(bucket.take(1_000 * S) for _ in range(10)) == 3


def test_a_clock_that_goes_back_fills_nothing() -> None:
    bucket = TokenBucket(1, 1)
    assert bucket.take(10 * S)
    assert not bucket.take(5 * S)
    assert bucket.take(6 * S)
