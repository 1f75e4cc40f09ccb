"""The map that ships with the lab, and the rule that picks the demo's PoPs from it."""

import pytest

from l4proxy.lab import worldmap
from l4proxy.lab.worldmap import Pair, Site, Triple, WorldMap


def made(**pairs: tuple[float, float]) -> WorldMap:
    """`ab=(rtt, loss)` is the pair of sites a and b."""
    names = sorted({name for pair in pairs for name in pair})
    sites = {name: Site(name, name.upper(), 0.0, 0.0) for name in names}
    return WorldMap(sites, {frozenset(pair): Pair(rtt, 0.1, loss) for pair, (rtt, loss) in pairs.items()})


def test_the_shipped_map_gives_delhi_to_sydney_over_singapore() -> None:
    world = worldmap.load()
    assert len(world.sites) == 27
    assert world.choose_triple() == Triple("del", "sgp", "syd")
    direct, first, second = (world.pair(*pair) for pair in (("del", "syd"), ("del", "sgp"), ("sgp", "syd")))
    assert direct is not None
    assert first is not None
    assert second is not None
    assert direct.loss_ratio > 0.04
    assert direct.rtt_ms - first.rtt_ms - second.rtt_ms > 100


def test_the_rule_takes_the_largest_gain_among_lossy_pairs() -> None:
    world = made(ab=(100, 0.05), ac=(30, 0), cb=(30, 0), ad=(20, 0), db=(30, 0), cd=(900, 0))
    assert world.choose_triple() == Triple("a", "d", "b")


def test_a_detour_that_loses_is_no_detour() -> None:
    world = made(ab=(100, 0.05), ac=(10, 0.001), cb=(10, 0), ad=(40, 0), db=(40, 0), cd=(1, 0))
    assert world.choose_triple() == Triple("a", "d", "b")


def test_a_map_without_a_lossy_pair_has_no_story() -> None:
    with pytest.raises(ValueError, match="no pair"):
        made(ab=(100, 0), ac=(10, 0), cb=(10, 0)).choose_triple()
