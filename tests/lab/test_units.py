"""Quantities of lab files and the command line."""

import pytest

from l4proxy.lab import units


@pytest.mark.parametrize(
    ("text", "nanoseconds"),
    [
        ("20ms", 20_000_000),
        ("1.5s", 1_500_000_000),
        ("250us", 250_000),
        ("250µs", 250_000),
        ("0", 0),
        (0, 0),
        ("1m", 60_000_000_000),
    ],
)
def test_durations(text: object, nanoseconds: int) -> None:
    assert units.duration_ns(text) == nanoseconds


@pytest.mark.parametrize("text", ["20", 20, "ms", "-1ms", "1e3ms", "", None, "20ms5s"])
def test_a_duration_without_a_known_unit_is_refused(text: object) -> None:
    with pytest.raises(ValueError, match="is not a duration"):
        units.duration_ns(text)


@pytest.mark.parametrize(
    ("text", "value"), [("2%", 0.02), ("0.5", 0.5), (0.025, 0.025), (0, 0.0), ("100%", 1.0)]
)
def test_ratios(text: object, value: float) -> None:
    assert units.ratio(text) == pytest.approx(value)


@pytest.mark.parametrize("text", ["101%", "1.5", "-0.1", "2ms", "nan", "two"])
def test_a_share_of_more_than_everything_or_of_nothing_is_refused(text: object) -> None:
    with pytest.raises(ValueError, match=r"share|percentage"):
        units.ratio(text)


def test_rates_and_sizes() -> None:
    assert units.rate_bits_s("200Mbit/s") == 200_000_000
    assert units.rate_bits_s("1.5Gbit/s") == 1_500_000_000
    assert units.size_bytes("2MB") == 2_000_000
    assert units.size_bytes("64KiB") == 65_536


@pytest.mark.parametrize("text", ["0bit/s", "200", "200Mbaud"])
def test_a_rate_of_nothing_or_of_unknown_units_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"rate of 0|is not a rate"):
        units.rate_bits_s(text)


@pytest.mark.parametrize("text", ["0B", "5"])
def test_a_size_of_nothing_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"at least a byte|is not a size"):
        units.size_bytes(text)
