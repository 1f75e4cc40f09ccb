"""What every family of rows is given, and what it may answer."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from l4proxy.bench.judged import Measurement
from l4proxy.bench.overlay.rows import Load
from l4proxy.bench.testbed import Host, Testbed
from l4proxy.errors import L4ProxyError


class Skipped(L4ProxyError):  # noqa: N818 (no mistake of anybody's: the words say why)
    """A measurement that this machine cannot take. The text says why and, where there is one, what to do."""


@dataclass(frozen=True, slots=True)
class Context:
    """One run."""

    folder: Path
    """For files; a family makes one of its own in it."""
    seconds: float
    """Of one measurement of processor time."""
    repeats: int
    quick: bool
    cuts: int
    """How often paths die in the family of that name."""
    cores: list[int]
    say: Callable[[str], None]
    skipped: dict[str, str] = field(default_factory=dict)
    """By row or load: why it was not measured."""

    @contextmanager
    def testbed(self, name: str) -> Iterator[tuple[Testbed, Path]]:
        """Give namespaces and a folder to a family; both end with it."""
        folder = self.folder / name
        folder.mkdir()
        with Testbed() as bed:
            yield bed, folder

    @property
    def measured_core(self) -> int:
        """The core of what is measured."""
        return self.cores[-1]

    @property
    def other_core(self) -> int:
        """The core of everything else."""
        return self.cores[0]


Found = tuple[str, str, Measurement]
"""A measurement: of which load, which arm, what."""

Family = Callable[[Context, list[Load]], Iterator[Found]]
"""Measures its loads, all arms in turn, `repeats` times; gives each measurement when it is there."""

__all__ = ["Context", "Family", "Found", "Host", "Skipped"]
