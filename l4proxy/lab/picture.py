"""Three PoPs as text, the path in use in heavy lines. Pure.

client ─ Delhi (del) ┄┄┄┄┄ 316 ms, 4.7 % lost ┄┄┄┄┄ Sydney (syd) ─ origin
              ┗━━━━━ 69 ms ━━━━━ Singapore (sgp) ━━━━━ 137 ms ━━━━━┛
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

MIN_STROKE = 5
"""Shortest stretch of line on either side of a label, characters."""


@dataclass(frozen=True, slots=True)
class Strokes:
    """The characters of one look of the picture."""

    used: str
    idle: str
    cut: str
    left: tuple[str, str]
    """Lower left corner: used, idle."""
    right: tuple[str, str]
    local: str


UNICODE = Strokes("━", "┄", "╳", ("┗", "└"), ("┛", "┘"), "─")
ASCII = Strokes("=", ".", "X", ("\\", "\\"), ("/", "/"), "-")


def draw(
    triple: Sequence[str],
    cities: Mapping[str, str],
    labels: Mapping[frozenset[str], str],
    path: Sequence[str],
    cut: Collection[frozenset[str]] = (),
    strokes: Strokes = UNICODE,
) -> str:
    """Return the picture of (ingress, transit, egress), their links' labels, the path in use and the links cut."""
    ingress, transit, egress = triple
    used = {frozenset(hop) for hop in pairwise(path)}

    def name(pop: str) -> str:
        return f"{cities[pop]} ({pop})"

    def line(a: str, b: str, length: int) -> str:
        link = frozenset((a, b))
        stroke = strokes.used if link in used else strokes.idle
        text = f" {labels[link]}{', cut' if link in cut else ''} "
        if link in cut:
            text = f" {strokes.cut}{text}{strokes.cut} "
        return text.center(length, stroke)

    def shortest(a: str, b: str) -> int:
        return len(line(a, b, 0)) + 2 * MIN_STROKE

    first, last = shortest(ingress, transit), shortest(transit, egress)
    below = first + len(name(transit)) + 2 + last
    left, right = f"client {strokes.local} {name(ingress)}", f"{name(egress)} {strokes.local} origin"
    margin = len(left) - len(name(ingress)) // 2 - 1
    # The lower line runs from under the middle of one name to under the middle of the other.
    reach = len(left) - margin + len(name(egress)) // 2 + 1
    above = max(shortest(ingress, egress), below + 2 - reach - 2)
    spare = above + 2 + reach - 2 - below
    first, last = first + spare // 2, last + spare - spare // 2
    corners = (
        strokes.left[frozenset((ingress, transit)) not in used],
        strokes.right[frozenset((transit, egress)) not in used],
    )
    return "\n".join(
        (
            f"{left} {line(ingress, egress, above)} {right}",
            " " * margin
            + corners[0]
            + line(ingress, transit, first)
            + f" {name(transit)} "
            + line(transit, egress, last)
            + corners[1],
        )
    )
