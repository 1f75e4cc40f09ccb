"""Text with units → numbers: durations, counts, sizes, rates. A bad text raises ValueError that says what would be right."""

import re

_NUMBER = r"(\d+(?:\.\d+)?)"
_DURATION_MS = {"ms": 1, "s": 1_000, "m": 60_000, "min": 60_000, "h": 3_600_000, "d": 86_400_000}
_MULTIPLES = {"": 1, "k": 10**3, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}


def duration_ms(text: object) -> float:
    """Return a duration such as `500ms`, `120s` or `1h` in milliseconds."""
    match = re.fullmatch(_NUMBER + r"\s*(ms|s|min|m|h|d)", text) if isinstance(text, str) else None
    if match is None:
        raise ValueError("is not a duration; write a number with a unit: 500ms, 120s, 5m, 1h")
    return float(match[1]) * _DURATION_MS[match[2]]


def count(text: object) -> int:
    """Return a count such as `500` or `10k`."""
    if isinstance(text, int) and not isinstance(text, bool):
        if text < 0:
            raise ValueError("must not be negative")
        return text
    match = re.fullmatch(_NUMBER + r"([kKMG]?)", text) if isinstance(text, str) else None
    if match is None:
        raise ValueError("is not a count; write a number, with k or M if you like: 500, 10k, 2M")
    return round(float(match[1]) * _MULTIPLES[match[2]])


def bits_per_second(text: object) -> int:
    """Return a rate such as `5MB/s` or `1Gbit/s` in bits per second."""
    match = (
        re.fullmatch(_NUMBER + r"\s*([kKMGT]?)(bit|b|B)(?:/s|ps)", text) if isinstance(text, str) else None
    )
    if match is None:
        raise ValueError("is not a rate; write a number with a unit: 1Gbit/s, 100Mbit/s, 5MB/s")
    return round(float(match[1]) * _MULTIPLES[match[2]] * (8 if match[3] == "B" else 1))


def percentage(text: object) -> float:
    """Return a share such as `2%` as a ratio from 0 to 1."""
    match = re.fullmatch(_NUMBER + r"\s*%", text) if isinstance(text, str) else None
    if match is None or float(match[1]) > 100:
        raise ValueError("is not a percentage; write 0% to 100%")
    return float(match[1]) / 100
