"""Bars and verdicts: a wrong one would call a slow relay fast, or the other way round."""

import pytest

from l4proxy.bench.bars import Bar, Figures, best_peer, judge

PEERS = ("nginx", "haproxy", "realm", "quilkin")


def arms(**medians: float) -> dict[str, Figures]:
    return {name.replace("_", "-"): Figures([value]) for name, value in medians.items()}


@pytest.mark.parametrize(
    ("bar", "met", "ratio", "against"),
    [
        (Bar(1.05, "floor-splice"), True, 1.0, "floor-splice"),
        (Bar(0.99, "floor-splice"), False, 1.0, "floor-splice"),
        (Bar(0.50, "best"), True, 0.5, "nginx"),
        (Bar(0.49, "best"), False, 0.5, "nginx"),
        (Bar(0.25, "haproxy"), True, 0.25, "haproxy"),
        (Bar(1.20, "row:other"), True, 1.0, "row:other"),
        (Bar(0.99, "row:other"), False, 1.0, "row:other"),
        (Bar(2.0, ""), True, None, ""),
        (Bar(1.9, ""), False, None, ""),
        (Bar(2.0, "", at_least=True), True, None, ""),
        (Bar(2.1, "", at_least=True), False, None, ""),
    ],
)
def test_a_bar_is_a_multiple_of_somebodys_median_or_absolute(
    bar: Bar, met: bool, ratio: float | None, against: str
) -> None:
    found = arms(l4proxy=2.0, floor_splice=2.0, nginx=4.0, haproxy=8.0)
    judged = judge([bar], found, {"other": 2.0}, PEERS)
    [verdict] = judged.verdicts
    assert (verdict.met, verdict.ratio, verdict.against) == (met, ratio, against)
    assert judged.met is met


def test_a_median_is_judged_and_not_a_single_repeat() -> None:
    found = {"l4proxy": Figures([9.0, 1.0, 1.1]), "nginx": Figures([2.0, 0.1, 2.0])}
    assert judge([Bar(0.6, "nginx")], found, {}, PEERS).met is True


def test_stretch_bars_say_nothing_about_met() -> None:
    judged = judge(
        [Bar(1.0, "nginx"), Bar(0.5, "nginx", stretch=True)], arms(l4proxy=3.0, nginx=4.0), {}, PEERS
    )
    assert (judged.met, judged.stretch_met) == (True, False)


def test_every_bar_counts_and_those_without_a_measure_are_named() -> None:
    judged = judge([Bar(1.0, "nginx"), Bar(1.0, "realm")], arms(l4proxy=3.0, nginx=4.0), {}, PEERS)
    assert (judged.met, judged.why) == (True, "realm was not measured here")
    assert [verdict.met for verdict in judged.verdicts] == [True, None]
    judged = judge([Bar(1.0, "nginx"), Bar(1.0, "realm")], arms(l4proxy=5.0, nginx=4.0), {}, PEERS)
    assert judged.met is False


def test_without_peers_without_us_or_without_a_cost_nothing_is_judged() -> None:
    assert judge([Bar(1.0, "best")], arms(l4proxy=1.0, floor_copy=1.0), {}, PEERS).met is None
    assert judge([Bar(1.0, "best")], arms(nginx=1.0), {}, PEERS).why == "l4proxy was not measured here"
    judged = judge([Bar(1.0, "nginx")], arms(l4proxy=1.0, nginx=-0.1), {}, PEERS)
    assert (judged.met, judged.why) == (None, "nginx costs nothing that can be measured here")
    assert judge([Bar(1.0, "row:other")], arms(l4proxy=1.0), {}, PEERS).met is None


def test_a_peer_that_loses_what_it_is_given_is_not_the_best() -> None:
    found = {
        "quilkin": Figures([1.0], loss=[0.64]),
        "nginx": Figures([3.0], loss=[0.0]),
        "realm": Figures([2.0], loss=[0.01]),
        "floor-udp": Figures([0.5]),
    }
    assert best_peer(found, PEERS) == "realm"
    assert best_peer({"quilkin": found["quilkin"]}, PEERS) is None


def test_a_bar_reads_as_it_is_meant() -> None:
    texts = [Bar(1.05, "floor-splice").text, Bar(0.7, "best").text, Bar(1.7, "", at_least=True).text]
    assert texts == ["≤ 1.05 × floor-splice", "≤ 0.70 × the best peer", "≥ 1.7"]
