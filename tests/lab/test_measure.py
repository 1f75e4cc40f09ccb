"""Records of the demo's client become figures."""

import json

from hypothesis import given
from hypothesis import strategies as st

from l4proxy.lab import measure
from l4proxy.lab.measure import Figures, FlowRecord, figures, longest_gap_ms, percentile

MS = 1_000_000


def flow(*messages: tuple[int, int | None]) -> FlowRecord:
    """Messages as (sent, received) in ms; None was lost."""
    record = FlowRecord()
    for number, (sent, received) in enumerate(messages):
        record.sent[number] = sent * MS
        if received is not None:
            record.received[number] = received * MS
            record.arrivals.append(received * MS)
    record.arrivals.sort()
    return record


def test_messages_count_by_when_they_were_sent() -> None:
    record = flow((0, 10), (20, 40), (40, None), (60, 160), (100, 110))
    assert figures(record, 20 * MS, 100 * MS) == Figures(
        sent=3, received=2, rtt_ms_p50=20.0, rtt_ms_p99=100.0, longest_gap_ms=60.0, resets=0
    )
    assert figures(record, 20 * MS, 100 * MS).lost == 1


def test_silence_up_to_the_ends_of_the_window_is_a_gap() -> None:
    assert longest_gap_ms([50 * MS], 0, 200 * MS) == 150.0
    assert longest_gap_ms([], 0, 200 * MS) == 200.0
    assert longest_gap_ms([150 * MS, 250 * MS], 0, 200 * MS) == 150.0


def test_nothing_sent_gives_no_figures_and_no_division_by_zero() -> None:
    nothing = figures(FlowRecord(), 0, 100 * MS)
    assert (nothing.sent, nothing.rtt_ms_p50, nothing.loss_ratio) == (0, None, 0.0)
    assert nothing.to_json()["rtt_ms_p99"] is None


def test_ends_within_the_window_are_resets() -> None:
    record = flow((0, 1))
    record.ends = [(5 * MS, "reset"), (50 * MS, "closed")]
    assert figures(record, 0, 10 * MS).resets == 1


def test_percentiles_are_nearest_ranks() -> None:
    ordered = [float(n) for n in range(1, 101)]
    assert (percentile(ordered, 0.5), percentile(ordered, 0.99), percentile(ordered, 1.0)) == (
        50.0,
        99.0,
        100.0,
    )
    assert percentile([7.0], 0.5) == 7.0
    assert percentile([], 0.5) is None


@given(st.lists(st.integers(0, 1000), max_size=50), st.integers(0, 500), st.integers(501, 1000))
def test_a_gap_is_never_longer_than_the_window_nor_shorter_than_its_share(
    arrivals: list[int], start: int, end: int
) -> None:
    gap = longest_gap_ms([at * MS for at in sorted(arrivals)], start * MS, end * MS)
    inside = sum(start <= at < end for at in arrivals)
    assert (end - start) / (inside + 1) - 0.1 <= gap <= end - start


def line(**event: object) -> str:
    return json.dumps(event) + "\n"


def test_a_record_is_read_by_flow_and_a_cut_line_is_left_for_later() -> None:
    lines = [
        line(event="open", flow="tcp", at_ns=1, local_port=4000),
        line(event="sent", flow="tcp", at_ns=2, number=0, sent_ns=2),
        line(event="received", flow="tcp", at_ns=9, number=0, sent_ns=2),
        line(event="received", flow="tcp", at_ns=11, number=0, sent_ns=2),
        line(event="corrupt", flow="tcp", at_ns=12, number=5, expected=1),
        line(event="bytes", flow="bulk", at_ns=13, received=77),
        line(event="ended", flow="bulk", at_ns=14, reason="OSError: reset"),
        '{"event": "sent", "flow": "udp"',
    ]
    flows = measure.read(lines)
    assert set(flows) == {"tcp", "bulk"}
    tcp, bulk = flows["tcp"], flows["bulk"]
    assert (tcp.local_port, tcp.sent, tcp.received, tcp.duplicates) == (4000, {0: 2}, {0: 9}, 1)
    assert tcp.ends == [(12, "message 5 came instead of 1")]
    assert (bulk.bytes_received, bulk.arrivals, bulk.ends) == (77, [13], [(14, "OSError: reset")])
