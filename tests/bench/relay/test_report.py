"""From measurements to the document and its table."""

import json
from typing import Any

from l4proxy.bench.judged import turns
from l4proxy.bench.relay import report, rows

ABOUT = {
    "date": "today", "machine": "this", "command": "l4proxy bench relay", "seconds": 1.0, "repeats": 3,
    "versions": {"nginx": "1.22.1"}, "not_installed": ["sozu"], "failed": {"realm udp-20k": "ended"},
}  # fmt: skip

PING = {
    "l4proxy": [{"p50": 20.0, "p99": 40.0}, {"p50": 22.0, "p99": 40.0}, {"p50": 90.0, "p99": 40.0}],
    "nginx": [{"p50": 31.0, "p99": 39.0}] * 3,
    "routed": [{"p50": 1.0, "p99": 2.0}, {"p50": 2.0, "p99": 2.0}, {"p50": 1.0, "p99": 2.0}],
    "floor-copy": [{"p50": 25.0, "p99": 39.0}] * 3,
}
UDP = {
    "l4proxy": [{"cpu": 1.0, "machine": 4.0, "loss": 0.0}] * 3,
    "nginx": [{"cpu": 4.0, "machine": 6.0, "loss": 0.002}] * 3,
    "routed": [{"machine": 2.0, "loss": 0.0}] * 3,
}


def run(keys: list[str], workers: dict[str, Any] | None = None) -> dict[str, Any]:
    return report.document(keys, {"ping-tcp": PING, "udp-20k": UDP}, workers, ABOUT)


def row(key: str) -> dict[str, Any]:
    [found] = run([key])["rows"]
    assert isinstance(found, dict)
    return found


def test_what_routing_takes_is_taken_away_in_each_repeat() -> None:
    found = row("ping-tcp-p50")
    assert found["arms"]["l4proxy"]["values"] == [19.0, 20.0, 89.0]
    assert (found["arms"]["l4proxy"]["median"], found["arms"]["nginx"]["median"]) == (20.0, 30.0)
    assert "routed" not in found["arms"]
    assert (found["met"], found["stretch_met"], found["best_peer"]) == (True, True, "nginx")
    assert found["ratios"] == {"nginx": 0.667, "floor-copy": 0.833}


def test_a_row_that_misses_a_bar_is_not_met() -> None:
    found = row("ping-tcp-p99")
    assert [(bar["bar"], bar["ratio"], bar["met"]) for bar in found["bars"]] == [
        ("≤ 1.00 × the best peer", round(38 / 37, 4), False)
    ]
    assert found["met"] is False


def test_the_machines_share_and_losses_stand_beside_the_figure() -> None:
    found = row("udp-20k")
    assert found["arms"]["l4proxy"]["machine"] == 4.0
    assert found["arms"]["nginx"]["also"] == {"cpu": 4.0, "machine": 6.0, "loss": 0.002}
    assert report.cell(found, "l4proxy") == "1.00 (4.00)"
    assert report.cell(found, "nginx") == "4.00 (6.00) −0.2%"
    assert report.cell(found, "haproxy") == "–"
    assert "routed" not in found["arms"], "no process has that cost"


def test_rows_that_were_not_measured_are_there_and_not_judged() -> None:
    document = run(["ping-tcp-p50", "connect", "workers"], {"why": "not measurable on 2 cores"})
    assert [one["met"] for one in document["rows"]] == [True, None, None]
    assert document["summary"] == {"met": 1, "not_met": 0, "not_judged": 2}
    assert report.notes(document["rows"])[-1].endswith("not measurable on 2 cores")


def test_workers_are_judged_where_they_could_be_measured() -> None:
    for ratio, met in ((1.7, True), (1.6, False)):
        [found] = run(["workers"], {"ratio": ratio, "values": [ratio]})["rows"]
        assert (found["met"], found["arms"]["l4proxy"]["median"]) == (met, ratio)


def test_the_document_is_plain_data_and_the_table_has_a_column_an_arm() -> None:
    document = run(["ping-tcp-p50", "ping-tcp-p99", "udp-20k", "workers"], {"why": "not measurable"})
    assert json.loads(json.dumps(document)) == document
    header, body = report.table(document["rows"])
    assert header == ["what", "l4proxy", "floor", "nginx", "bars", "met"]
    assert [line[-1] for line in body] == ["met, stretch too", "NOT MET", "met", "not measurable"]
    assert all(len(line) == len(header) for line in body)


def test_a_record_is_brought_up_to_date_in_pieces() -> None:
    first = report.merged(None, run(["udp-20k", "ping-tcp-p50"]))
    assert [one["key"] for one in first["rows"]] == ["ping-tcp-p50", "udp-20k"], "in the table's order"
    later = {**run(["ping-tcp-p99", "udp-20k"]), "date": "tomorrow", "versions": {"sozu": "2"}, "failed": {}}
    record = report.merged(json.loads(json.dumps(first)), later)
    assert [(one["key"], one["date"]) for one in record["rows"]] == [
        ("ping-tcp-p50", "today"), ("ping-tcp-p99", "tomorrow"), ("udp-20k", "tomorrow"),
    ]  # fmt: skip
    assert record["summary"] == {"met": 2, "not_met": 1, "not_judged": 0}
    assert record["versions"] == {"nginx": "1.22.1", "sozu": "2"}
    assert record["not_installed"] == [], "it was, in one of the runs"
    text = report.markdown(record)
    assert text.count("\n|") == 5
    assert "- today, 3 × 1 s, `l4proxy bench relay`: ping-tcp-p50\n" in text
    assert "- tomorrow, 3 × 1 s, `l4proxy bench relay`: ping-tcp-p99, udp-20k\n" in text
    assert "nginx 1.22.1, sozu 2." in text
    assert "- Left out: realm udp-20k: ended" in text


def test_the_order_of_arms_is_the_same_in_every_run_and_another_in_every_repeat() -> None:
    arms = list(rows.LOADS["connect"].arms)
    orders = [turns(arms, repeat) for repeat in range(5)]
    assert orders == [turns(arms, repeat) for repeat in range(5)]
    assert len({tuple(order) for order in orders}) == 5
    assert all(sorted(order) == sorted(arms) for order in orders)


def test_what_could_not_be_read_here_is_not_judged_and_breaks_nothing() -> None:
    """Kernel memory is root's to read: in a user namespace its row is empty, and the rest stands."""
    idle = {name: [{"user_kb": 1.0}] for name in ("l4proxy", "haproxy", "floor-copy")} | {"routed": [{}]}
    document = report.document(["idle-tcp", "idle-tcp-kernel"], {"idle-tcp": idle}, None, ABOUT)
    user, kernel = document["rows"]
    assert user["arms"]["l4proxy"]["median"] == 1.0
    assert (kernel["arms"], kernel["met"]) == ({}, None)
