"""The worked example of docs/routing.md, recomputed."""

from pathlib import Path

import numpy as np
import pytest

from l4proxy.core.app import TrafficClass
from l4proxy.core.ids import LinkName, PopName
from l4proxy.core.routing.backups import backup_rows
from l4proxy.core.routing.build import best_from
from l4proxy.core.routing.cost import link_costs
from l4proxy.core.routing.links import LinkTable
from l4proxy.core.routing.rows import price
from tests.core.routing.graphs import names_of

PAGE = (Path(__file__).parents[3] / "docs" / "routing.md").read_text()
CLASSES: tuple[TrafficClass, ...] = ("rtt", "game", "voip", "bulk")


def rows_after(header: str) -> list[list[str]]:
    """Return the cells of the table that begins with a header."""
    lines = PAGE[PAGE.index(header) :].split("\n\n")[0].splitlines()[2:]
    return [[cell.strip().replace("`", "") for cell in line.strip("|").split("|")] for line in lines]


def number(text: str) -> float:
    """Read `1.0 %` or `1.0`."""
    return float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)


LINKS = {cells[0]: cells[1:] for cells in rows_after("| link | RTT")}
CHOSEN = {cells[0]: cells[1:] for cells in rows_after("| class | path")}


@pytest.fixture
def example() -> LinkTable:
    """The links of the page as a table."""
    names = sorted(LINKS)
    ends = {name: [side.split("/")[0] for side in name.split(">")] for name in names}
    pops = tuple(sorted({pop for pair in ends.values() for pop in pair}))
    columns = np.array([[number(cell) for cell in LINKS[name][:3]] for name in names]).T
    return LinkTable(
        pops=tuple(map(PopName, pops)),
        names=tuple(map(LinkName, names)),
        start=np.array([pops.index(ends[name][0]) for name in names], np.int32),
        end=np.array([pops.index(ends[name][1]) for name in names], np.int32),
        usable=np.ones(len(names), np.bool_),
        labelled=np.ones(len(names), np.bool_),
        rtt_ms=columns[0],
        rtt_ms_now=columns[0],
        jitter_ms=columns[1],
        loss_ratio=columns[2],
    )


def test_the_page_has_the_links_and_classes_that_are_looked_at() -> None:
    assert len(LINKS) == 6
    assert tuple(CHOSEN) == CLASSES


@pytest.mark.parametrize("place", range(len(CLASSES)))
def test_links_cost_what_the_page_says(example: LinkTable, place: int) -> None:
    costs = dict(zip(example.names, link_costs(example, CLASSES[place]), strict=True))
    assert {name: f"{cost:.1f}" for name, cost in costs.items()} == {
        name: cells[3 + place] for name, cells in LINKS.items()
    }


@pytest.mark.parametrize("traffic", CLASSES)
def test_paths_and_backups_are_those_of_the_page(example: LinkTable, traffic: TrafficClass) -> None:
    costs = link_costs(example, traffic)
    source, end = (example.pop_number(PopName(name)) for name in ("ams", "sin"))
    rows = best_from(example, costs, source)
    ways = [of[end : end + 1] for of in (rows, *backup_rows(example, costs, rows))]
    said = [" ".join(names_of(example, way[0])) + f" {price(way, costs)[0]:.1f}" for way in ways]
    path, cost, *backups = CHOSEN[traffic]
    assert said == [f"{path} {cost}", *backups]
