"""Quantities of lab files and the lab's commands: those of `config.units`, and what only an emulator needs."""

import re

from l4proxy.config import units

_NUMBER = r"(\d+(?:\.\d+)?)"
_BYTES = {"B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}


def duration_ns(text: object) -> int:
    """Return nanoseconds for `68.8ms`, `250us`, `0`. ValueError for anything else."""
    if text in (0, "0"):
        return 0
    fine = re.fullmatch(_NUMBER + r"\s*(?:us|µs)", text) if isinstance(text, str) else None
    return round(float(fine[1]) * 1e3 if fine else units.duration_ms(text) * 1e6)


def ratio(text: object) -> float:
    """Return 0 to 1 for `2.5%` or `0.025`. ValueError for anything else."""
    if isinstance(text, str) and "%" in text:
        return units.percentage(text)
    try:
        value = float(str(text))
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise ValueError("is not a share; write 2% or 0.02")
    return value


def rate_bits_s(text: object) -> int:
    """Return bits a second for `100Mbit/s`. ValueError for anything else, and for 0."""
    value = units.bits_per_second(text)
    if value == 0:
        raise ValueError("a rate of 0 passes nothing: use `lab cut`")
    return value


def size_bytes(text: object) -> int:
    """Return bytes for `2MB` or `64KiB`. ValueError for anything else, and for 0."""
    match = re.fullmatch(_NUMBER + r"\s*([kKMG]i?B|B)", text) if isinstance(text, str) else None
    if match is None or match[2] not in _BYTES:
        raise ValueError("is not a size; write a number with a unit: 64KiB, 2MB")
    value = round(float(match[1]) * _BYTES[match[2]])
    if value == 0:
        raise ValueError("must hold at least a byte")
    return value
