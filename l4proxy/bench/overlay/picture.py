"""Draws the experiment of a recorded run as an SVG: `python -m l4proxy.bench.overlay.picture bench/overlay.json docs/overlay.svg`."""

from l4proxy.bench.bars import OURS
from l4proxy.bench.overlay.rows import BBR, CITIES, CUBIC, OFF
from l4proxy.bench.picture import Picture, draw_file

_UNIT = "seconds for 10 MB from the Netherlands, 100 Mbit/s, 0.05 % loss"
PICTURE = Picture(
    panels=[(f"experiment-{city}", city.replace("-", " ").title(), _UNIT) for city in CITIES],
    order=(OURS, OFF, BBR, CUBIC),
    names={OFF: "…smart routing off", BBR: "unproxied, BBR", CUBIC: "unproxied, CUBIC"},
)

if __name__ == "__main__":
    draw_file("l4proxy.bench.overlay.picture", PICTURE)
