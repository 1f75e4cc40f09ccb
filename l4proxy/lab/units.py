"""Quantities as people write them in lab files and on the command line: `68.8ms`, `2%`, `100Mbit/s`, `2MB`."""

import re

_NUMBER = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([A-Za-zµ%/]*)\s*")

_DURATION_NS = {"ns": 1, "us": 1_000, "µs": 1_000, "ms": 1_000_000, "s": 1_000_000_000, "m": 60_000_000_000}
_RATE_BITS_S = {"bit/s": 1, "kbit/s": 10**3, "Mbit/s": 10**6, "Gbit/s": 10**9}
_BYTES = {"B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}


def _split(text: object, units: dict[str, int], example: str) -> float:
    match = _NUMBER.fullmatch(str(text))
    if match is None or match[2] not in units:
        raise ValueError(f"not a number with a unit of {', '.join(units)} (such as {example})")
    return float(match[1]) * units[match[2]]


def duration_ns(text: object) -> int:
    """Return nanoseconds for `1.5s`, `20ms`, `0`. ValueError for anything else."""
    return 0 if str(text) == "0" else round(_split(text, _DURATION_NS, "20ms"))


def ratio(text: object) -> float:
    """Return 0 to 1 for `2.5%` or `0.025`. ValueError for anything else."""
    match = _NUMBER.fullmatch(str(text))
    if match is None or match[2] not in ("", "%"):
        raise ValueError("not a share (such as 2% or 0.02)")
    value = float(match[1]) / (100 if match[2] else 1)
    if value > 1:
        raise ValueError("more than everything: a share is at most 1, or 100%")
    return value


def rate_bits_s(text: object) -> int:
    """Return bits a second for `100Mbit/s`. ValueError for anything else, and for 0."""
    value = round(_split(text, _RATE_BITS_S, "100Mbit/s"))
    if value == 0:
        raise ValueError("a rate of 0 passes nothing: use `lab cut`")
    return value


def size_bytes(text: object) -> int:
    """Return bytes for `2MB` or `64KiB`. ValueError for anything else, and for 0."""
    value = round(_split(text, _BYTES, "2MB"))
    if value == 0:
        raise ValueError("must hold at least a byte")
    return value
