"""How often something may happen: so many at once, then so many a second. Pure: time is an argument."""

from dataclasses import dataclass


@dataclass(slots=True)
class TokenBucket:
    """Full at first. `burst` is what may come at once, `rate_per_s` what is added each second."""

    burst: float
    rate_per_s: float
    level: float = -1.0
    _at_ns: int = 0

    def take(self, now_ns: int, amount: float = 1.0) -> bool:
        """Take so much if it is there; whether it was. A clock that went back adds nothing."""
        if self.level < 0:
            self.level = self.burst
        else:
            added = max(0, now_ns - self._at_ns) / 1e9 * self.rate_per_s
            self.level = min(self.burst, self.level + added)
        self._at_ns = now_ns
        if self.level < amount:
            return False
        self.level -= amount
        return True
