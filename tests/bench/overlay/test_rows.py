"""The table as data: every row has a load, every load a family, and names choose rows."""

import pytest

from l4proxy.bench.overlay import rows
from l4proxy.bench.overlay.programme import FAMILIES


def test_every_row_has_a_load_and_every_load_a_family_and_a_row() -> None:
    for row in rows.ROWS.values():
        assert row.load in rows.LOADS, row.key
    assert {load.family for load in rows.LOADS.values()} == set(FAMILIES)
    assert {row.load for row in rows.ROWS.values()} == set(rows.LOADS)


def test_names_choose_rows_and_rows_their_loads() -> None:
    assert rows.chosen([]) == [*rows.ROWS]
    assert rows.chosen(["transit"]) == ["transit-160", "transit-1200", "transit-rate", "transit-wireguard"]
    assert [load.key for load in rows.loads_of(["transit-wireguard", "interop"])] == [
        "transit-1200",
        "interop",
    ]
    with pytest.raises(ValueError, match="no rows nowhere; there are transit-160"):
        rows.chosen(["nowhere"])
