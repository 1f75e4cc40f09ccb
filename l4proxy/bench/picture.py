"""Draws bars of a recorded run as an SVG. Pure but for `draw_file`.

Colours follow the reader's light or dark page; a viewer that knows neither gets some that are readable on both.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

from l4proxy.bench.bars import OURS

COLUMNS, PANEL_WIDTH, GAP, MARGIN = 2, 400, 40, 20
LABEL_WIDTH, VALUE_WIDTH = 124, 56
BAR_HEIGHT, BAR_STEP, HEAD = 14, 19, 44
BAR_SPACE = PANEL_WIDTH - LABEL_WIDTH - VALUE_WIDTH

STYLE = """
  text { font: 12px system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', sans-serif; fill: #767f8a }
  .title { font-size: 14px; font-weight: 600 } .ours { font-weight: 600 }
  .bar { fill: #8b95a1 } .bar.ours { fill: #229a74 } .bar.floor { fill: none; stroke: #8b95a1 }
  @media (prefers-color-scheme: light) { text { fill: #57606a } .title, text.ours { fill: #32383f } }
  @media (prefers-color-scheme: dark) { text { fill: #9ea7b3 } .title, text.ours { fill: #d5dbe3 } }
"""


@dataclass(frozen=True, slots=True)
class Picture:
    """What is drawn of a run."""

    panels: Sequence[tuple[str, str, str]]
    """Row, title, unit."""
    order: Sequence[str]
    """Arms, from above."""
    names: Mapping[str, str]
    """What arms are called in it, where that is not their name."""


def drawn(document: Mapping[str, Any], picture: Picture) -> str:
    """Return the picture of a run: a panel for each of the chosen rows that it has."""
    rows = {row["key"]: row for row in document["rows"] if row["arms"]}
    panels = [(rows[key], title, unit) for key, title, unit in picture.panels if key in rows]
    tops = [MARGIN]
    parts = []
    for start in range(0, len(panels), COLUMNS):
        line = panels[start : start + COLUMNS]
        for column, (row, title, unit) in enumerate(line):
            parts.append(_panel(picture, row, title, unit, MARGIN + column * (PANEL_WIDTH + GAP), tops[-1]))
        tops.append(tops[-1] + HEAD + BAR_STEP * max(len(_arms(picture, row)) for row, _, _ in line) + 14)
    width = 2 * MARGIN + COLUMNS * PANEL_WIDTH + (COLUMNS - 1) * GAP
    foot = f"Shorter is better. {document['date']} · {document['machine']}"
    height = tops[-1] + 24
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" '
        f'aria-label="{escape(_words(picture, panels))}">\n<style>{STYLE}</style>\n'
        + "".join(parts)
        + f'<text x="{MARGIN}" y="{height - 10}">{escape(foot)}</text>\n</svg>\n'
    )


def _arms(picture: Picture, row: Mapping[str, Any]) -> Sequence[str]:
    return [name for name in picture.order if name in row["arms"] and name != "routed"]


def _words(picture: Picture, panels: Sequence[tuple[Mapping[str, Any], str, str]]) -> str:
    """Return the same for those who cannot see it."""
    return "; ".join(
        f"{title}, {unit}: "
        + ", ".join(f"{picture.names.get(name, name)} {_value(row, name)}" for name in _arms(picture, row))
        for row, title, unit in panels
    )


def _value(row: Mapping[str, Any], name: str) -> str:
    arm = row["arms"][name]
    lost = f" −{arm['loss']:.0%}" if arm.get("loss", 0.0) >= 0.01 else ""
    return f"{arm['median']:.{row['digits']}f}{lost}"


def _panel(picture: Picture, row: Mapping[str, Any], title: str, unit: str, left: int, top: int) -> str:
    most = max(row["arms"][name]["median"] for name in _arms(picture, row)) or 1.0
    lines = [
        f'<text class="title" x="{left}" y="{top + 14}">{escape(title)}</text>\n',
        f'<text x="{left}" y="{top + 31}">{escape(unit)}</text>\n',
    ]
    for place, name in enumerate(_arms(picture, row)):
        y = top + HEAD + place * BAR_STEP
        width = max(1.0, BAR_SPACE * max(0.0, row["arms"][name]["median"]) / most)
        kind = "ours" if name == OURS else "floor" if name.startswith("floor-") else "peer"
        x = left + LABEL_WIDTH
        lines.append(
            f'<text class="{kind}" x="{x - 8}" y="{y + 11}" text-anchor="end">{escape(picture.names.get(name, name))}</text>'
            f'<rect class="bar {kind}" x="{x}" y="{y}" width="{width:.1f}" height="{BAR_HEIGHT}" rx="2"/>'
            f'<text class="{kind}" x="{x + width + 6:.1f}" y="{y + 11}">{escape(_value(row, name))}</text>\n'
        )
    return "".join(lines)


def draw_file(program: str, picture: Picture) -> None:
    """Draw a recorded run into a file, both named on the command line."""
    parser = argparse.ArgumentParser(prog=program)
    parser.add_argument("document", type=Path, help="what `l4proxy bench … --record` has written")
    parser.add_argument("picture", type=Path, help="the SVG to write")
    options = parser.parse_args()
    options.picture.write_text(drawn(json.loads(options.document.read_text()), picture))
