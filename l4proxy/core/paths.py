"""A path as an object with names: what rules, snapshots and views speak of. `routing` finds which there are, as rows of numbers."""

from dataclasses import dataclass, field

from l4proxy.core.ids import LinkName, PopName
from l4proxy.core.topology import Link


@dataclass(frozen=True, slots=True)
class Path:
    """Links from one PoP to another, with the sum of their costs and of the hops."""

    links: tuple[Link, ...]
    cost_ms: float
    names: tuple[LinkName, ...] = field(init=False, repr=False, compare=False)
    """Names of its links. Made once: rules compare paths by them."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "names", tuple([link.name for link in self.links]))

    @property
    def pops(self) -> tuple[PopName, ...]:
        """The PoPs it passes, first and last included."""
        return (self.links[0].from_pop, *(link.to_pop for link in self.links))

    @property
    def transits(self) -> tuple[PopName, ...]:
        """The PoPs between."""
        return self.pops[1:-1]

    @property
    def is_direct(self) -> bool:
        """Whether it is one link."""
        return len(self.links) == 1
