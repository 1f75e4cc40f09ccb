"""Every kind of fault, a dozen seeds each: no invariant breaks. `bench/reliability/simulated.py` runs a hundred of each."""

from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from multiprocessing import get_context
from os import sched_getaffinity
from pathlib import Path

import pytest

from l4proxy.lab.simulate.faults import KINDS
from tests.lab.simulate.runs import with_fault

SEEDS = 12

Found = list[tuple[int, str]]
"""Seeds, and what broke."""


def broken(kind: str) -> Found:
    """Run a dozen fleets through this kind of fault."""
    found = []
    for seed in range(SEEDS):
        violation = with_fault(kind, seed, pops=3 + seed % 2, links=1 + seed // 2 % 2, lasts_s=25.0).violation
        if violation is not None:
            found.append((seed, str(violation)))
    return found


@pytest.fixture(scope="module")
def running() -> Iterator[dict[str, Future[Found]]]:
    """All kinds at once, on as many cores as there are: they are a fifth of all processor time that tests take."""
    with ProcessPoolExecutor(len(sched_getaffinity(0)), mp_context=get_context("spawn")) as pool:
        yield {kind: pool.submit(broken, kind) for kind in KINDS}


@pytest.mark.parametrize("kind", KINDS)
def test_no_invariant_breaks(running: dict[str, Future[Found]], kind: str) -> None:
    assert running[kind].result() == []


def test_there_are_more_than_25_kinds() -> None:
    assert len(KINDS) >= 25


def test_every_kind_stands_on_the_page_with_what_it_does() -> None:
    page = (Path(__file__).parents[3] / "docs" / "lab.md").read_text()
    for name, kind in KINDS.items():
        assert f"| `{name}` | {kind.where} | {kind.words} |" in page
