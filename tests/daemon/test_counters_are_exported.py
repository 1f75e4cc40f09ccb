"""Everything that the engine counts has a metric with a help text, and every reason for a drop stands in the documentation.

The engine's table of counters is read from its source: a counter that is added there and forgotten here fails this test.
"""

import re
from pathlib import Path

import pytest

from l4proxy.daemon.engine_messages import Counters
from l4proxy.daemon.measures import expose
from l4proxy.metrics import BY_NAME
from tests.daemon.test_measures import measurements

ROOT = Path(__file__).parents[2]
SOURCE = (ROOT / "rust_ext/crates/engine/src/counters.rs").read_text()

NEW_FLOWS = re.compile(
    "fd_limit|no_route|draining|accept_aborted|.*_flows_full|sessions_full|(origin|source|egress|tls)_.*"
)
"""Reasons for which a flow is turned away, as the documentation sorts them."""


def names_of(table: str) -> list[str]:
    """Return the names of one `counters!` table of the engine, each of which must say what it means."""
    body = SOURCE.partition(f"    {table};\n")[2].partition("\n}")[0]
    found = re.findall(r"((?:\s*///[^\n]*\n)*)\s*\w+ = \"(\w+)\",", body)
    assert all(doc.strip() for doc, _ in found), "a counter without a word of explanation"
    names = [name for _, name in found]
    assert len(names) == body.count(' = "'), table
    return names


def exported(
    values: dict[str, int], drops: dict[str, int], apps: dict[str, int]
) -> dict[tuple[str, float], str]:
    """Return the metric of each value: every counter here has a value of its own."""
    now = measurements()
    now.counters = Counters(1, 1, values, {"app0": apps}, drops, (), ())
    return {
        (sample.labels.get("name") or sample.labels.get("reason") or "", sample.value): family.name
        for family in expose(now).collect()
        for sample in family.samples
    }


def metric_of(found: dict[tuple[str, float], str], value: float) -> str:
    """Return the one metric that has a value."""
    (metric,) = {name for (_, number), name in found.items() if number == value}
    assert any(spec.full_name.removesuffix("_total") == metric and spec.help for spec in BY_NAME.values())
    return metric


@pytest.mark.parametrize("name", names_of("Value"))
def test_every_value_has_a_metric(name: str) -> None:
    metric = metric_of(exported({name: 777_001}, {}, {}), 777_001)
    assert metric == ("l4proxy_panics" if name == "worker_panics" else "l4proxy_engine_events")


@pytest.mark.parametrize("reason", names_of("Dropped"))
def test_every_reason_has_a_metric(reason: str) -> None:
    metric = metric_of(exported({}, {reason: 777_002}, {}), 777_002)
    if reason in ("control_queue_full", "bus_not_sent"):
        assert metric == "l4proxy_control_messages_dropped"
    elif NEW_FLOWS.fullmatch(reason):
        assert metric == "l4proxy_connections_rejected"
    else:
        assert metric in ("l4proxy_connections_rejected", "l4proxy_datagrams_dropped")


@pytest.mark.parametrize("reason", names_of("Dropped"))
def test_every_reason_is_documented(reason: str) -> None:
    """By its name, or as one of a family that is written with an ellipsis."""
    text = (ROOT / "docs/engine-protocol.md").read_text()
    drops = text.partition("**Drops.**")[2].partition("\n## ")[0]
    families = re.findall(r"`(\w+_)…`", drops)
    assert f"`{reason}`" in drops or reason.startswith(tuple(families))


@pytest.mark.parametrize("name", names_of("AppValue"))
def test_every_value_of_an_app_has_a_metric(name: str) -> None:
    number = 777_003
    metric = metric_of(
        exported(
            {},
            {},
            {name: number, "tcp_opened": number, "udp_opened": number}
            if name.endswith("_closed")
            else {name: number},
        ),
        number,
    )
    assert metric.startswith("l4proxy_")
