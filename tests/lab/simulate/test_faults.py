"""Every kind of fault, a dozen seeds each: no invariant breaks. `bench/reliability/simulated.py` runs a hundred of each."""

from pathlib import Path

import pytest

from l4proxy.lab.simulate.faults import KINDS
from tests.lab.simulate.runs import with_fault

SEEDS = 12


@pytest.mark.parametrize("kind", KINDS)
def test_no_invariant_breaks(kind: str) -> None:
    for seed in range(SEEDS):
        violation = with_fault(kind, seed, pops=3 + seed % 2, links=1 + seed // 2 % 2, lasts_s=25.0).violation
        assert violation is None, f"seed {seed}: {violation}"


def test_there_are_more_than_25_kinds() -> None:
    assert len(KINDS) >= 25


def test_every_kind_stands_on_the_page_with_what_it_does() -> None:
    page = (Path(__file__).parents[3] / "docs" / "lab.md").read_text()
    for name, kind in KINDS.items():
        assert f"| `{name}` | {kind.where} | {kind.words} |" in page
