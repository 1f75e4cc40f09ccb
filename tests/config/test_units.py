"""Texts with units."""

import pytest

from l4proxy.config import units
from l4proxy.config.units import WrongValue


@pytest.mark.parametrize(
    ("text", "ms"),
    [
        ("0ms", 0), ("500ms", 500), ("0.5ms", 0.5), ("1s", 1_000), ("120s", 120_000), ("1.5s", 1_500), ("5m", 300_000),
        ("5min", 300_000), ("1h", 3_600_000), ("2d", 172_800_000), ("10 s", 10_000),
    ],
)  # fmt: skip
def test_durations(text: str, ms: float) -> None:
    assert units.duration_ms(text) == ms


@pytest.mark.parametrize(
    "text",
    [
        "", "s", "5", "-1s", "+1s", "1 0s", "1s ", " 1s", "1S", "1h30m", "1,5s", "1e3s", ".5s", "5.s", "5us", "٣s",
        "9" * 16 + "s", None, 5, 1.5, True, [], {},
    ],
)  # fmt: skip
def test_what_is_no_duration(text: object) -> None:
    with pytest.raises(WrongValue, match="is not a duration"):
        units.duration_ms(text)


@pytest.mark.parametrize(
    ("number", "hint"), [(5, "write 5s or 5ms"), (1.5, "write 1.5s or 1.5ms"), (True, None), ("5x", None)]
)
def test_a_bare_number_is_told_its_units(number: object, hint: str | None) -> None:
    with pytest.raises(WrongValue) as caught:
        units.duration_ms(number)
    assert caught.value.hint == hint


@pytest.mark.parametrize(
    ("text", "number"),
    [
        (0, 0),
        (7, 7),
        ("7", 7),
        ("10k", 10_000),
        ("10K", 10_000),
        ("1.5k", 1_500),
        ("1.001k", 1_001),
        ("2M", 2_000_000),
        ("1G", 10**9),
    ],
)
def test_counts(text: object, number: int) -> None:
    assert units.count(text) == number


@pytest.mark.parametrize("text", ["", "k", "1.5", "1.2345k", "-1", "1kk", "1 k", 1.5, True, None, [], "٣"])
def test_what_is_no_count(text: object) -> None:
    with pytest.raises(WrongValue, match="is not a count"):
        units.count(text)


def test_a_count_is_not_negative() -> None:
    with pytest.raises(WrongValue, match="must not be negative"):
        units.count(-1)


@pytest.mark.parametrize(
    ("text", "bits_s"),
    [
        ("1bit/s", 1), ("64kbit/s", 64_000), ("1Gbit/s", 10**9), ("2.5Gbit/s", 2_500_000_000), ("100Mbps", 10**8),
        ("5MB/s", 40_000_000), ("1 MB/s", 8_000_000), ("1Tb/s", 10**12), ("0bit/s", 0),
    ],
)  # fmt: skip
def test_rates(text: str, bits_s: int) -> None:
    assert units.bits_per_second(text) == bits_s


@pytest.mark.parametrize(
    "text", ["", "5MB", "5/s", "5Mbit", "MB/s", "-5MB/s", "5mb/s", "5MiB/s", 5, None, [], "5MB/s\n"]
)
def test_what_is_no_rate(text: object) -> None:
    with pytest.raises(WrongValue, match="is not a rate"):
        units.bits_per_second(text)


@pytest.mark.parametrize(
    ("text", "ratio"), [("0%", 0.0), ("2%", 0.02), ("0.5%", 0.005), ("100%", 1.0), ("2 %", 0.02)]
)
def test_shares(text: str, ratio: float) -> None:
    assert units.percentage(text) == pytest.approx(ratio)


@pytest.mark.parametrize("text", ["", "%", "100.1%", "-1%", "2", 2, 0.02, None, "2%%"])
def test_what_is_no_share(text: object) -> None:
    with pytest.raises(WrongValue, match="is not a percentage"):
        units.percentage(text)
