"""Each invariant finds what it is for: a fleet in which something is broken by hand."""

from dataclasses import replace

from l4proxy.core.ids import PopName
from l4proxy.lab.simulate import invariants
from l4proxy.lab.simulate.fleet import POLICY
from l4proxy.lab.simulate.invariants import Check, Invariant
from l4proxy.lab.simulate.network import EVERYTHING, Effect
from l4proxy.lab.simulate.running import Simulation
from l4proxy.lab.simulate.scene import make_scene
from l4proxy.lab.simulate.timeline import S
from tests.lab.simulate.runs import WORLD


def settled() -> Simulation:
    """Return a fleet of three that has run for five seconds without a fault."""
    made = Simulation(make_scene(WORLD, 3, 2, 1), 5.0, 1, ())
    assert made.run() is None
    return made


def broken(check: Check, invariant: Invariant) -> list[str]:
    """Return what an invariant finds."""
    return [what for _, _, what in invariant(check)]


def ends(made: Simulation) -> tuple[PopName, PopName]:
    """Return two PoPs."""
    first, second, *_ = made.fleet.fleet.pops
    return first, second


def test_a_healthy_fleet_breaks_none() -> None:
    made = settled()
    for invariant in (*invariants.AT_CHANGES, *invariants.EACH_SECOND):
        assert broken(made.check, invariant) == []


def test_a_loop_is_found() -> None:
    made = settled()
    source, end = ends(made)
    engine = made.fleet.engines[source]
    spec = engine.handles[end, POLICY][0]
    back = made.fleet.fleet.links[spec.links[0]].reverse_name
    engine.handles[end, POLICY] = (replace(spec, links=(spec.links[0], back)),)
    assert "has a loop" in broken(made.check, invariants.no_loop)[0]


def test_a_disabled_link_is_found() -> None:
    made = settled()
    source, end = ends(made)
    name = made.fleet.engines[source].handles[end, POLICY][0].links[0]
    links = dict(made.fleet.fleet.links)
    links[name] = replace(links[name], enabled=False)
    made.fleet.fleet = replace(made.fleet.fleet, links=links)
    assert f"path over {name}" in broken(made.check, invariants.no_removed_link)[0]


def test_a_table_with_a_link_that_has_long_been_dead_is_found() -> None:
    made = settled()
    source, end = ends(made)
    plan = made.fleet.controllers[source].plan
    assert plan is not None
    primary = plan.handles[end, POLICY].primary
    assert primary is not None
    made.check.dead_since[primary.names[0]] = made.timeline.now_ns - invariants.DETECTION_NS - S
    made.fleet.started_ns[source] -= invariants.SETTLED_NS
    assert "dead for 13.0 s" in broken(made.check, invariants.no_dead_link)[0]


def test_an_engine_that_stays_on_a_dead_path_is_found() -> None:
    made = settled()
    source, end = ends(made)
    spec = made.fleet.active(source, end)
    assert spec is not None
    made.fleet.network.put("by hand", [spec.links[0]], Effect(stops=EVERYTHING))
    assert broken(made.check, invariants.engines_leave_dead_paths) == []
    made.timeline.now_ns += invariants.ENGINE_NS + S
    assert "stays on" in broken(made.check, invariants.engines_leave_dead_paths)[0]


def test_who_is_unreachable_for_too_long_is_found() -> None:
    made = settled()
    source, end = ends(made)
    made.flows.pairs[source, end].broken_ns = made.timeline.now_ns
    assert broken(made.check, invariants.reachable) == []
    made.timeline.now_ns += invariants.REPAIR_NS + invariants.SETTLED_NS + S
    assert "although there is a way" in broken(made.check, invariants.reachable)[0]


def test_a_path_that_is_worse_than_direct_for_too_long_is_found() -> None:
    made = settled()
    source, end = ends(made)
    state = made.flows.pairs[source, end]
    state.cost_ms, state.direct_ms, state.worse_ns = 200.0, 100.0, made.timeline.now_ns
    made.timeline.now_ns += invariants.WORSE_NS + S
    assert "direct 100.0 ms" in broken(made.check, invariants.never_worse_than_direct_for_long)[0]


def test_too_many_changes_are_found() -> None:
    made = settled()
    source, end = ends(made)
    made.fleet.moves[source, end] = [made.timeline.now_ns] * (invariants.MOVES_MOST + 1)
    assert "changes of path" in broken(made.check, invariants.changes_bounded)[0]
    made.timeline.now_ns += invariants.MOVES_WITHIN_NS + S
    assert broken(made.check, invariants.changes_bounded) == []
