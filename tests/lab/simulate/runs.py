"""One short simulation with one fault, small enough that hundreds run in a minute."""

from random import Random

from l4proxy.lab import worldmap
from l4proxy.lab.simulate.faults import Fault, random_fault
from l4proxy.lab.simulate.running import Simulation
from l4proxy.lab.simulate.scene import make_scene

WORLD = worldmap.load()


def one_fault(kind: str, seed: int, pops: int, links: int, at_s: float, for_s: float) -> Fault:
    """Return a fault of a kind somewhere that the seed chooses."""
    fleet = make_scene(WORLD, pops, links, seed).fleet
    return random_fault(fleet, kind, at_s, for_s, Random(f"{seed} {kind}"))


def with_fault(kind: str, seed: int, pops: int = 4, links: int = 2, lasts_s: float = 35.0) -> Simulation:
    """Run a fleet through one fault of a kind, which begins after 3 s and ends while there is time for all to be repaired."""
    fault = one_fault(kind, seed, pops, links, 3.0, lasts_s / 2)
    simulation = Simulation(make_scene(WORLD, pops, links, seed), lasts_s, seed, (fault,))
    simulation.run()
    return simulation
