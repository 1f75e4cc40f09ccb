"""The picture of a run: bars as long as their figures, and words for those who cannot see it."""

import xml.etree.ElementTree as ElementTree
from typing import Any

from l4proxy.bench.overlay.picture import PICTURE as OVERLAY
from l4proxy.bench.picture import BAR_SPACE, drawn
from l4proxy.bench.relay.picture import PICTURE

SVG = "{http://www.w3.org/2000/svg}"


def arm(median: float, **more: float) -> dict[str, float]:
    return {"median": median, **more}


DOCUMENT: dict[str, Any] = {
    "date": "today",
    "machine": "2 × <fast>",
    "rows": [
        {"key": "connect", "digits": 1,
         "arms": {"l4proxy": arm(10.0), "nginx": arm(40.0), "floor-copy": arm(20.0), "routed": arm(1.0)}},
        {"key": "udp-20k", "digits": 2, "arms": {"l4proxy": arm(5.0), "quilkin": arm(10.0, loss=0.64)}},
        {"key": "udp-50k", "digits": 2, "arms": {}},
    ],
}  # fmt: skip


def test_bars_are_as_long_as_their_figures() -> None:
    root = ElementTree.fromstring(drawn(DOCUMENT, PICTURE))
    bars = [(bar.get("class"), float(bar.get("width", ""))) for bar in root.iter(f"{SVG}rect")]
    assert bars == [
        ("bar ours", BAR_SPACE / 4), ("bar floor", BAR_SPACE / 2), ("bar peer", BAR_SPACE),
        ("bar ours", BAR_SPACE / 2), ("bar peer", BAR_SPACE),
    ]  # fmt: skip


def test_every_figure_is_written_and_what_was_lost_beside_it() -> None:
    root = ElementTree.fromstring(drawn(DOCUMENT, PICTURE))
    texts = ["".join(text.itertext()) for text in root.iter(f"{SVG}text")]
    assert {"l4proxy", "10.0", "nginx", "40.0", "minimal relay", "Quilkin", "10.00 −64%"} <= set(texts)
    assert texts[-1] == "Shorter is better. today · 2 × <fast>"
    assert (
        "connect, one byte each way, close, CPU µs per connection: l4proxy 10.0, minimal relay 20.0, nginx 40.0"
        in (root.get("aria-label") or "")
    )


def test_rows_without_figures_have_no_panel() -> None:
    assert "50,000" not in drawn(DOCUMENT, PICTURE)
    assert "Shorter" in drawn({**DOCUMENT, "rows": []}, PICTURE)


def test_nothing_leaves_the_frame() -> None:
    root = ElementTree.fromstring(drawn(DOCUMENT, PICTURE))
    _, _, width, height = map(float, (root.get("viewBox") or "").split())
    for element in root.iter():
        assert float(element.get("x", 0)) < width
        assert float(element.get("y", 0)) < height


def test_the_overlays_experiment_has_a_panel_a_place() -> None:
    arms = {"l4proxy": arm(1.2), "l4proxy-off": arm(1.4), "cubic": arm(3.6), "bbr": arm(2.4)}
    rows = [{"key": f"experiment-{city}", "digits": 2, "arms": arms} for city in ("tokyo", "lima")]
    words = ElementTree.fromstring(drawn({**DOCUMENT, "rows": rows}, OVERLAY)).get("aria-label") or ""
    assert "Tokyo, seconds for 10 MB" in words
    assert "l4proxy 1.20, …smart routing off 1.40, unproxied, BBR 2.40, unproxied, CUBIC 3.60" in words
