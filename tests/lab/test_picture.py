"""Pictures of paths."""

import pytest

from l4proxy.lab.picture import ASCII, UNICODE, Strokes, draw

CITIES = {"del": "Delhi", "sgp": "Singapore", "syd": "Sydney"}
LABELS = {
    frozenset(("del", "syd")): "316 ms",
    frozenset(("del", "sgp")): "69 ms",
    frozenset(("sgp", "syd")): "137 ms",
}


def picture(path: list[str], cut: tuple[str, str] | None = None, strokes: Strokes = ASCII) -> list[str]:
    cuts = [frozenset(cut)] if cut else []
    return draw(tuple(CITIES), CITIES, LABELS, path, cuts, strokes).splitlines()


def test_the_direct_path_is_heavy_above_and_idle_below() -> None:
    above, below = picture(["del", "syd"])
    assert above == "client - Delhi (del) ================ 316 ms =============== Sydney (syd) - origin"
    assert below == "              \\..... 69 ms ..... Singapore (sgp) ..... 137 ms ...../"


def test_the_detour_is_heavy_below_and_idle_above() -> None:
    above, below = picture(["del", "sgp", "syd"], strokes=UNICODE)
    assert "━" not in above
    assert "┄" not in below
    assert below.strip().startswith("┗")
    assert below.endswith("┛")


def test_a_cut_link_is_crossed_out() -> None:
    _, below = picture(["del", "syd"], ("del", "sgp"))
    assert "X 69 ms, cut X" in below


@pytest.mark.parametrize("label", ["1 ms", "316 ms, 4.7 % lost, and a very long story about it all"])
def test_both_lines_end_under_the_same_names_whatever_the_labels(label: str) -> None:
    labels = LABELS | {frozenset(("del", "syd")): label}
    above, below = draw(tuple(CITIES), CITIES, labels, ["del", "syd"], (), ASCII).splitlines()
    start = above.index("Sydney (syd)")
    assert start <= len(below) - 1 <= start + len("Sydney (syd)")
    assert below.index("\\") in range(above.index("Delhi"), above.index(")"))
