"""The table of what a name may not resolve to says the same as the engine's, by the same vectors."""

from pathlib import Path

import pytest

from l4proxy.core.origin_guard import denied

VECTORS = [
    line.split()
    for line in (Path(__file__).parents[1] / "vectors" / "origin_guard.txt").read_text().splitlines()
    if line and not line.startswith("#")
]


@pytest.mark.parametrize(("address", "strict", "private"), VECTORS)
def test_every_vector_has_its_verdict(address: str, strict: str, private: str) -> None:
    found = [denied(address, allow_private=allow) or "ok" for allow in (False, True)]
    assert found == [strict, private]


def test_there_are_vectors() -> None:
    assert len(VECTORS) > 130
