"""Recorded links as bytes: what goes in comes out, torn ends and foreign bytes, and how little a calm fleet costs."""

import zlib
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from l4proxy.core.ids import PopName
from l4proxy.core.link_history import MAGIC, HistoryError, Writer, header_of, read
from l4proxy.core.routing.links import LinkTable, pairs_table

AMS, IAD, SIN = (PopName(name) for name in ("ams", "iad", "sin"))
PLACES: dict[PopName, tuple[float, float] | None] = {AMS: (52.3, 4.8), IAD: (38.9, -77.4), SIN: None}
START = np.array([0, 0, 1, 1, 2, 2], np.int32)
END = np.array([1, 2, 0, 2, 0, 1], np.int32)


def table(*rtt_ms: float, down: tuple[int, ...] = ()) -> LinkTable:
    found = pairs_table((AMS, IAD, SIN), START, END, np.ones(6), np.full(6, 0.5), np.full(6, 0.001))
    usable = np.isfinite(rtt_ms) & ~np.isin(np.arange(6), down)
    return replace(found, rtt_ms=np.array(rtt_ms), rtt_ms_now=np.array(rtt_ms), usable=usable)


def writer(first: LinkTable) -> Writer:
    return Writer(header_of("fleet", AMS, 60, PLACES, first))


@settings(max_examples=50)
@given(
    st.lists(
        st.lists(st.one_of(st.floats(0.01, 5_000), st.just(float("nan"))), min_size=6, max_size=6),
        min_size=1,
        max_size=5,
    )
)
def test_what_is_written_is_read_to_ten_microseconds(moments: list[list[float]]) -> None:
    tables = [table(*values, down=(2,)) for values in moments]
    out = writer(tables[0])
    data = out.begin() + b"".join(out.moment(100 + 60 * n, one) for n, one in enumerate(tables))
    segment = read(data)
    assert segment.header == out.header
    assert segment.times_s == tuple(100 + 60 * n for n in range(len(tables)))
    assert segment.torn == 0
    for one, moment in zip(tables, segment.moments(), strict=True):
        up = one.usable
        assert moment.rtt_ms[up] == pytest.approx(one.rtt_ms[up], abs=0.0051)
        assert np.isinf(moment.rtt_ms[~up & np.isfinite(one.rtt_ms)]).all(), "it was measured, and is down"
        assert np.isnan(moment.rtt_ms[np.isnan(one.rtt_ms)]).all(), "it never was"
        assert moment.jitter_ms == pytest.approx(0.5)
        assert moment.loss_ratio == pytest.approx(0.001)


def test_a_segment_is_read_up_to_where_it_is_torn() -> None:
    first = table(10, 20, 30, 40, 50, 60)
    out = writer(first)
    parts = [out.begin() + out.moment(1, first), out.moment(2, first), out.moment(3, first)]
    whole = b"".join(parts)
    for end in range(len(parts[0]), len(whole) + 1):
        segment = read(whole[:end])
        complete = sum(end >= sum(map(len, parts[: n + 1])) for n in range(3))
        assert len(segment.times_s) == complete
        assert (segment.torn == 0) == (end in {sum(map(len, parts[: n + 1])) for n in range(3)})
        assert len(list(segment.moments())) == complete
    broken = bytearray(whole)
    broken[len(parts[0]) + 12] ^= 1
    assert read(bytes(broken)).times_s == (1,), "a chunk with another sum ends it too"


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "does not begin"),
        (b"from,to,rtt_ms\n", "does not begin"),
        (MAGIC + b"\0\0", "header is torn"),
        (MAGIC + (1).to_bytes(4) + zlib.crc32(b"\x01").to_bytes(4) + b"\x01", "header cannot be read"),
    ],
)
def test_bytes_that_are_none_are_refused(data: bytes, why: str) -> None:
    with pytest.raises(HistoryError, match=why):
        read(data)


def test_a_moment_that_does_not_fit_its_header_is_refused() -> None:
    out, other = (
        writer(table(1, 2, 3, 4, 5, 6)),
        Writer(header_of("fleet", AMS, 60, PLACES, pairs_table((AMS, IAD), START[:1], END[:1], np.ones(1)))),
    )
    short = other.moment(5, pairs_table((AMS, IAD), START[:1], END[:1], np.ones(1)))
    with pytest.raises(HistoryError, match="12 bytes, its header's links need 72"):
        list(read(out.begin() + short).moments())


def test_levels_that_stand_still_cost_next_to_nothing() -> None:
    n = 100
    pops = tuple(PopName(f"p{number:03}") for number in range(n))
    start, end = (one.astype(np.int32) for one in np.nonzero(~np.eye(n, dtype=bool)))
    rtt_ms = np.random.default_rng(1).uniform(1, 300, len(start))
    still = pairs_table(pops, start, end, rtt_ms)
    out = Writer(header_of("fleet", pops[0], 60, {}, still))
    first, second = out.moment(1, still), out.moment(2, still)
    assert len(second) < 1_000 < len(first), f"{len(second)} bytes for {len(start)} links"
