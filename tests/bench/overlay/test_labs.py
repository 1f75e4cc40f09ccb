"""The labs of the emulated rows: what they are made of holds before anything is started."""

import random

import pytest

from l4proxy.bench.overlay import cuts, detour, duplication, experiment, rows, sites, wan
from l4proxy.lab.plan import make_plan
from l4proxy.lab.spec import LabSpec
from l4proxy.lab.worldmap import load


@pytest.mark.parametrize(
    "document",
    [
        wan.document(),
        cuts.document(),
        detour.document(),
        duplication.document(),
        experiment.document(sites.journeys()),
    ],
    ids=lambda document: str(document["lab"]),
)
def test_every_lab_can_be_made(document: dict[str, object]) -> None:
    plan = make_plan(LabSpec.model_validate(document))
    assert len(plan.links) >= 8
    assert all(link.properties.delay_ns > 0 for link in plan.links.values())


def test_no_route_makes_the_downloads_of_wan_shorter() -> None:
    links = make_plan(LabSpec.model_validate(wan.document())).links
    way = links["client>near/a"].properties, links["near/a>far/a"].properties
    assert sum(one.delay_ns for one in way) == links["client>origin"].properties.delay_ns
    assert way[1].loss_ratio == links["client>origin"].properties.loss_ratio == 0.0005
    assert {one.rate_bits_s for one in (*way, links["client>origin"].properties)} == {100_000_000}
    assert way[1].queue_bytes == 2_250_000, "one bandwidth-delay product of 100 Mbit/s and 180 ms"


def test_the_two_paths_of_duplication_lose_one_packet_in_a_hundred_each_and_share_no_link() -> None:
    links = make_plan(LabSpec.model_validate(duplication.document())).links
    lossy = {name for name, link in links.items() if link.properties.loss_ratio}
    assert lossy == {"near/a>far/a", "near/a>mid/a"}
    assert {links[name].properties.loss_ratio for name in lossy} == {0.01}
    direct, *detour = (
        links[f"{one}/a>{two}/a"].properties.delay_ns
        for one, two in (("near", "far"), ("near", "mid"), ("mid", "far"))
    )
    assert 0 < sum(detour) - direct < 1_000_000, "a copy that is needed is no later than what the bar allows"


def test_the_experiments_places_are_as_far_as_measured_or_estimated() -> None:
    world = load()
    found = {journey.city: journey for journey in sites.journeys(world)}
    assert tuple(found) == rows.CITIES
    tokyo = found["tokyo"]
    pair = world.pair("nrt", "ams")
    assert pair is not None
    assert tokyo.unproxied_ms == round(pair.rtt_ms + sites.ACCESS_MS, 1)
    assert tokyo.best_rtt_ms < tokyo.unproxied_ms
    assert len(tokyo.best) == 3
    assert all(journey.best_ms <= journey.direct_ms for journey in found.values())
    assert 30 < found["rabat"].unproxied_ms < 60, "2,245 km"
    assert sites.distance_km((34.02, -6.84), (52.37, 4.90)) == pytest.approx(2245, abs=5)
    floors = sites.floors_s(tokyo, 10_000_000, 1e8)
    assert floors["best"] == pytest.approx(0.8 + 1.5 * tokyo.best_rtt_ms / 1e3)


def test_a_tally_of_cuts_tells_resets_from_wrong_bytes() -> None:
    tally = cuts.Tally()
    dice = random.Random(1)
    for gap in dice.sample(range(1, 101), 100):
        for gaps in tally.gaps_ms.values():
            gaps.append(float(gap))
    tally.gaps_ms["udp"][-1] = 999.0
    figures = tally.figures()
    assert (figures["tcp_p50"], figures["tcp_p99"], figures["udp_p99"] >= 99.0) == (50.0, 99.0, True)
    assert figures["cuts"] == 100
    assert cuts.is_wrong("ValueError: wrong bytes after 17")
    assert cuts.is_wrong("message 4 came instead of 3")
    assert not cuts.is_wrong("ConnectionResetError: [Errno 104] Connection reset by peer")
