"""The family `wan`: downloads over a distance that no route makes shorter: what warm windows alone are worth.

Unproxied, client and origin are 180 ms apart. Through PoPs it is 10 ms to the first and 170 ms from there to the second,
which stands beside the origin. Either way 100 Mbit/s, 0.05 % loss on the long part, a queue of one bandwidth-delay product.
"""

import time
from collections.abc import Iterator
from typing import Any

from l4proxy.bench.bars import OURS
from l4proxy.bench.judged import turns
from l4proxy.bench.overlay.context import Context, Found
from l4proxy.bench.overlay.download import CONTROLS
from l4proxy.bench.overlay.emulated import Wan, emulated
from l4proxy.bench.overlay.rows import Load

RTT_MS, NEAR_MS = 180, 10
LOSS = "0.05%"
RATE_MBIT_S = 100
PORT, ORIGIN_PORT = 7000, 7001
SILENCE_S = 60.0
WARM_UP = 3
"""Downloads before those that count: a PoP's tunnels are never cold but after its start."""
REST_S = 2.0
"""Between two downloads: queues are empty then."""


def link(between: list[str], rtt_ms: float, *, is_long: bool) -> dict[str, Any]:
    """Return a link of the lab file with the rate, and on the long part the loss; its queue is one bandwidth-delay product."""
    queue = max(64_000, round(RATE_MBIT_S * 1e6 / 8 * RTT_MS / 1e3))
    found: dict[str, Any] = {
        "between": between,
        "rtt": f"{rtt_ms}ms",
        "rate": f"{RATE_MBIT_S}Mbit/s",
        "queue": f"{queue}B",
    }
    return found | ({"loss": LOSS} if is_long else {})


def document() -> dict[str, Any]:
    """Return the lab file."""
    return {
        "lab": "wan",
        "pops": {"near": {"workers": 1}, "far": {"workers": 1}},
        "hosts": {"client": {}, "origin": {}},
        "links": [
            link(["client", "origin"], RTT_MS, is_long=True),
            link(["client", "near"], NEAR_MS, is_long=False),
            link(["near", "far"], RTT_MS - NEAR_MS, is_long=True),
            {"between": ["far", "origin"], "rtt": "0.2ms"},
        ],
        "apps": [
            {
                "name": "wan",
                "listen": f"tcp/{PORT}",
                "origins": [f"origin:{ORIGIN_PORT}"],
                "pops": ["near"],
                "routing": {"egress": ["far"]},
                "smart_routing": "on",
            }
        ],
    }


def measure(context: Context, loads: list[Load]) -> Iterator[Found]:
    """Take unproxied CUBIC, unproxied BBR and ours in turn, and ours again after a silence."""
    with emulated(document()) as wan:
        wan.serve("origin", "download", "serve", str(ORIGIN_PORT))
        wan.route("near", ["near", "far"])
        for _ in range(WARM_UP):
            _download(wan, OURS, 10_000_000)
        for repeat in range(context.repeats):
            for load in loads:
                size, is_silent = load.options["bytes"], load.options["silent"]
                for arm in turns([OURS, *CONTROLS], repeat):
                    rest = SILENCE_S if is_silent and arm == OURS else REST_S
                    time.sleep(rest)
                    figures = wan.on_time(
                        lambda arm=arm, size=size: _download(wan, arm, size),  # type: ignore[misc]
                        lambda rest=rest: time.sleep(rest),  # type: ignore[misc]
                    )
                    yield load.key, arm, figures


def _download(wan: Wan, arm: str, size: int) -> dict[str, float]:
    control = CONTROLS[0] if arm == OURS else arm
    host, port = ("near", PORT) if arm == OURS else ("origin", ORIGIN_PORT + CONTROLS.index(arm))
    return wan.ask("client", "download", "fetch", wan.address(host), str(port), str(size), control)
