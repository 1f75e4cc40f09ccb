"""The table as data: every row has a load, every bar somebody to be held against, and names choose rows."""

import inspect

import pytest

from l4proxy.bench.relay import load, rows
from l4proxy.bench.relay.arms import ARMS, peers_of
from l4proxy.bench.relay.rows import PEERS


def test_every_row_has_a_load_and_every_bar_somebody_to_be_held_against() -> None:
    for row in rows.ROWS.values():
        arms = rows.LOADS[row.load].arms
        for bar in row.bars:
            reference = bar.of.removeprefix("row:")
            assert bar.of in ("", "best") or reference in (rows.ROWS if bar.of.startswith("row:") else arms)
        if row.added:
            assert rows.ROUTED in arms, row.key


def test_every_load_is_something_that_the_load_process_can_do() -> None:
    for one in rows.LOADS.values():
        parameters = inspect.signature(load.KINDS[one.kind]).parameters
        required = {
            name
            for name, parameter in parameters.items()
            if parameter.kind is parameter.KEYWORD_ONLY and parameter.default is parameter.empty
        }
        assert required <= {*one.options, "seconds"} <= set(parameters), one.key


def test_arms_speak_what_they_are_asked() -> None:
    for one in rows.LOADS.values():
        for name in one.arms:
            assert name == rows.ROUTED or one.protocol in ARMS[name].protocols, (one.key, name)


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (["connect"], ["connect"]),
        (["udp-20k", "connect"], ["connect", "udp-20k"]),
        (["bulk-8"], ["bulk-8-up", "bulk-8-down"]),
        (["udp-2000"], ["udp-2000", "udp-2000-loss"]),
        (["workers"], ["workers"]),
        ([], [*rows.ROWS, "workers"]),
    ],
)
def test_rows_are_chosen_by_name_or_by_what_names_begin_with(names: list[str], found: list[str]) -> None:
    assert rows.chosen(names) == found


def test_a_name_of_nothing_is_refused_and_the_names_are_told() -> None:
    with pytest.raises(ValueError, match="no rows nowhere, udp-2; there are bulk-1-up, "):
        rows.chosen(["nowhere", "connect", "udp-2"])


def test_a_load_is_done_once_for_all_its_rows_and_for_those_that_lean_on_it() -> None:
    keys = [one.key for one in rows.loads_of(["udp-2000", "udp-2000-loss", "udp-10000", "workers"])]
    assert keys == ["udp-20k", "udp-2000", "udp-10000"]


def test_only_peers_that_were_asked_for_take_part() -> None:
    assert rows.arms_of(rows.LOADS["connect"], ["nginx", "quilkin"]) == [
        "l4proxy", "nginx", "floor-copy", "routed",
    ]  # fmt: skip
    assert rows.arms_of(rows.LOADS["udp-max"], []) == ["l4proxy", "floor-udp", "routed"]


def test_names_of_programs_are_arms() -> None:
    assert peers_of(["nginx", "haproxy"]) == ["haproxy-splice", "haproxy", "nginx"]
    assert set(peers_of(["haproxy", "nginx", "sozu", "realm", "quilkin"])) == set(PEERS)
    with pytest.raises(ValueError, match="no peers l4proxy; there are haproxy, "):
        peers_of(["l4proxy"])
