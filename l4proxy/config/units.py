"""Text with units → numbers: durations, counts, rates, shares. A bad text raises WrongValue, which says what would be right."""

import re
from decimal import Decimal

_NUMBER = r"([0-9]{1,15}(?:\.[0-9]{1,9})?)"
_DURATION = re.compile(_NUMBER + r"\s?(ms|s|min|m|h|d)")
_COUNT = re.compile(_NUMBER + r"([kKMG]?)")
_RATE = re.compile(_NUMBER + r"\s?([kKMGT]?)(bit|b|B)(?:/s|ps)")
_SHARE = re.compile(_NUMBER + r"\s?%")

_DURATION_MS = {"ms": 1, "s": 1_000, "m": 60_000, "min": 60_000, "h": 3_600_000, "d": 86_400_000}
_MULTIPLES = {"": 1, "k": 10**3, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}


class WrongValue(ValueError):  # noqa: N818 (an operator's slip, said by its name)
    """A value that is not what its field wants; `hint` is what to write instead."""

    def __init__(self, reason: str, hint: str | None = None) -> None:
        super().__init__(reason)
        self.hint = hint


def _match(pattern: re.Pattern[str], value: object, reason: str, *units: str) -> re.Match[str]:
    found = pattern.fullmatch(value) if isinstance(value, str) else None
    if found is None:
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        right = " or ".join(f"{value}{unit}" for unit in units)
        raise WrongValue(reason, f"write {right}" if is_number and units else None)
    return found


def duration_ms(text: object) -> float:
    """Return a duration such as `500ms`, `120s` or `1h` in milliseconds."""
    reason = "is not a duration; write a number with a unit: 500ms, 120s, 5m, 1h"
    found = _match(_DURATION, text, reason, "s", "ms")
    return float(found[1]) * _DURATION_MS[found[2]]


def count(text: object) -> int:
    """Return a whole number such as `500` or `10k`."""
    if isinstance(text, int) and not isinstance(text, bool):
        if text < 0:
            raise WrongValue("must not be negative")
        return text
    reason = "is not a count; write a whole number, with k or M if you like: 500, 10k, 2M"
    found = _match(_COUNT, text, reason)
    value = Decimal(found[1]) * _MULTIPLES[found[2]]
    if value != int(value):
        raise WrongValue(reason)
    return int(value)


def bits_per_second(text: object) -> int:
    """Return a rate such as `5MB/s` or `1Gbit/s` in bits per second."""
    reason = "is not a rate; write a number with a unit: 1Gbit/s, 100Mbit/s, 5MB/s"
    found = _match(_RATE, text, reason, "Mbit/s")
    return round(float(found[1]) * _MULTIPLES[found[2]] * (8 if found[3] == "B" else 1))


def percentage(text: object) -> float:
    """Return a share such as `2%` as a ratio from 0 to 1."""
    reason = "is not a percentage; write 0% to 100%"
    found = _match(_SHARE, text, reason, "%")
    if float(found[1]) > 100:
        raise WrongValue(reason)
    return float(found[1]) / 100
