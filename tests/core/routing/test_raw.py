"""Raw values of watched links: which are kept, for how long, and what paths cost by them."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from l4proxy.core.ids import LinkName, PopName
from l4proxy.core.routing import raw
from l4proxy.core.routing.links import LinkTable, pairs_table
from l4proxy.core.routing.raw import EVERY_NS, INTERVALS, RawWindows
from l4proxy.core.routing.rows import Rows

A, B, C = (PopName(name) for name in "abc")


def table(**rtts: float) -> LinkTable:
    """Return a table of a full mesh of a, b and c; every round trip is 10 ms unless `ab=…` says another."""
    pairs = [(0, 1), (0, 2), (1, 0), (1, 2), (2, 0), (2, 1)]
    names = ("ab", "ac", "ba", "bc", "ca", "cb")
    rtt_ms = np.array([rtts.get(name, 10.0) for name in names])
    return pairs_table((A, B, C), np.array([a for a, _ in pairs]), np.array([b for _, b in pairs]), rtt_ms)


def rows(known: LinkTable, *paths: str) -> Rows:
    """Return paths such as `abc` as rows."""
    found = np.full((len(paths), 4), -1, np.int32)
    for row, path in enumerate(paths):
        for place, (start, end) in enumerate(pairwise(path)):
            found[row, place] = known.number(LinkName(f"{start}/a>{end}/a"))
    return found


def take(windows: RawWindows, known: LinkTable, watched: Rows, **own: float) -> None:
    """Take one interval; `own`: the newest probes."""
    newest = {LinkName(f"{name[0]}/a>{name[1]}/a"): ms for name, ms in own.items()}
    windows.handle_time(windows.intervals * EVERY_NS, A, known, [watched], newest)


def test_own_links_count_by_their_newest_probe_and_others_by_what_their_owner_says() -> None:
    known, windows = table(bc=20.0), RawWindows()
    watched = rows(known, "abc", "ac")
    take(windows, known, watched, ab=13.0, ac=70.0)
    assert windows.newest_costs(watched, known, "rtt").tolist() == [13 + 20 + 1, 70]
    take(windows, known, watched, ab=14.0)
    assert np.isnan(windows.newest_costs(watched, known, "rtt")[1]), "no probe came back"
    costs = windows.costs(watched, known, "rtt")
    assert costs.shape == (INTERVALS, 2)
    assert np.isfinite(costs).sum(axis=0).tolist() == [2, 1]


def test_jitter_and_loss_cost_what_they_cost_the_class() -> None:
    known = replace(table(), loss_ratio=np.full(6, 0.01))
    windows, watched = RawWindows(), rows(known, "ac")
    take(windows, known, watched, ac=70.0)
    assert windows.newest_costs(watched, known, "game").tolist() == [80.0]


def test_a_link_that_is_down_has_no_value_and_no_path_has_no_cost() -> None:
    known = table()
    down = replace(known, usable=np.array([name != "b/a>c/a" for name in known.names]))
    windows, watched = RawWindows(), rows(known, "abc", "")
    take(windows, down, watched, ab=10.0)
    assert np.isnan(windows.newest_costs(watched, down, "rtt")).all()


def test_a_link_that_nobody_wants_any_more_is_forgotten_with_its_last_value() -> None:
    known, windows = table(), RawWindows()
    take(windows, known, rows(known, "abc"), ab=10.0)
    for _ in range(INTERVALS - 1):
        take(windows, known, rows(known, "ac"), ac=10.0)
    assert len(windows.watched) == 3
    take(windows, known, rows(known, "ac"), ac=10.0)
    assert windows.watched == ("a/a>c/a",)


def test_more_links_than_can_be_watched_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(raw, "MAX_WATCHED", 1)
    known, windows = table(), RawWindows()
    watched = rows(known, "abc")
    take(windows, known, watched, ab=10.0)
    assert (len(windows.watched), windows.full) == (1, 1)
    assert np.isnan(windows.newest_costs(watched, known, "rtt")).all(), "nothing is said of the others"


def test_the_next_values_are_due_after_ten_seconds_and_when_a_clock_was_set_back() -> None:
    known, windows = table(), RawWindows()
    assert windows.is_due(5)
    windows.handle_time(5 * EVERY_NS, A, known, [], {})
    assert not windows.is_due(6 * EVERY_NS - 1)
    assert windows.is_due(6 * EVERY_NS)
    assert windows.is_due(4 * EVERY_NS)
