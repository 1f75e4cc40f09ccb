"""What the load of own links does to routes, in virtual time."""

from dataclasses import replace

from l4proxy.core.ids import LinkName, PopName
from l4proxy.core.outcomes import Outcomes
from tests.core.fleet import World, make_app, make_fleet

IAD = PopName("iad")
DIRECT, TO_SIN = LinkName("ams/a>iad/a"), LinkName("ams/a>sin/a")
CAPACITY_BITS_S = 1_000_000


def triangle(direct_ms: float, to_sin_ms: float, sin_ms: float) -> World:
    fleet = make_fleet("ams iad sin")
    limited = {name: replace(fleet.links[name], capacity_bits_s=CAPACITY_BITS_S) for name in (DIRECT, TO_SIN)}
    return World(
        replace(fleet, links={**fleet.links, **limited}),
        (make_app("echo", "iad"),),
        {
            frozenset(("ams", "iad")): direct_ms,
            frozenset(("ams", "sin")): to_sin_ms,
            frozenset(("iad", "sin")): sin_ms,
        },
        origin_ms={"iad": 1},
    )


def seconds(
    world: World, count: int, link: LinkName, shares: tuple[float, ...]
) -> list[tuple[LinkName, ...]]:
    """Run with a link that carries these shares of its capacity in turn; return the smart path of every second."""
    paths = []
    controller = world.controllers["ams"]
    for second in range(count):
        carried = int(shares[second % len(shares)] * CAPACITY_BITS_S / 8)
        controller.handle_outcomes(world.now_ns, Outcomes(1_000, {link: carried}))
        world.run(1)
        plan = controller.plan
        assert plan is not None
        found = [r for (peer, text), r in plan.handles.items() if peer == IAD and text != "off"]
        paths += [route.primary.names for route in found if route.primary is not None]
    return paths


def test_a_path_whose_link_fills_stays_and_does_not_flap() -> None:
    world = triangle(80, 60, 60).run(30)
    paths = seconds(world, 120, DIRECT, (0.95, 0.95, 0.1, 0.7))
    assert set(paths) == {(DIRECT,)}


def test_no_path_moves_onto_a_full_link_until_it_has_room() -> None:
    world = triangle(300, 60, 60)
    full = seconds(world, 120, TO_SIN, (0.9, 0.7))
    assert TO_SIN not in {name for path in full[5:] for name in path}
    assert TO_SIN in seconds(world, 300, TO_SIN, (0.3,))[-1]
