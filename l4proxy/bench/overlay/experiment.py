"""The family `experiment`: the published download experiment, laid out on measured round trips (`sites`).

One lab: a client in each of four places, an origin in the Netherlands, a PoP near each client, one beside the origin, and those that
make a way shorter. Every access line has 100 Mbit/s, every long link 0.05 % loss and a queue of one bandwidth-delay product.
"""

import statistics
import time
from collections.abc import Iterator, Sequence
from typing import Any

from l4proxy.bench.bars import OURS
from l4proxy.bench.judged import turns
from l4proxy.bench.overlay.context import Context, Found
from l4proxy.bench.overlay.download import CONTROLS
from l4proxy.bench.overlay.emulated import Wan, emulated
from l4proxy.bench.overlay.rows import CUBIC, OFF, Load
from l4proxy.bench.overlay.sites import ORIGIN, Journey, floors_s, journeys
from l4proxy.lab import daemons

BYTES, RATE_BITS_S = 10_000_000, 100_000_000
LOSS = "0.05%"
APP_PORT, ORIGIN_PORT = 7000, 7001
WARM_UP = 1
REST_S = 0.3
ARMS = (OURS, OFF, *CONTROLS)


def document(found: Sequence[Journey]) -> dict[str, Any]:
    """Return the lab file."""
    pops = dict.fromkeys(pop for journey in found for pop in journey.best)
    links: dict[frozenset[str], dict[str, Any]] = {}
    for journey in found:
        client = f"client-{journey.city}"
        links[frozenset((client, "origin"))] = _link(client, "origin", journey.unproxied_ms, is_long=True)
        links[frozenset((client, journey.ingress))] = _link(
            client, journey.ingress, journey.to_ingress_ms, is_long=False
        )
        links[frozenset((journey.ingress, ORIGIN))] = _link(
            journey.ingress, ORIGIN, journey.direct_ms, is_long=True
        )
        if len(journey.best) == 3:
            middle, whole = journey.best[1], journey.best_ms
            first = journey.middle_ms
            links[frozenset((journey.ingress, middle))] = _link(journey.ingress, middle, first, is_long=True)
            links[frozenset((middle, ORIGIN))] = _link(middle, ORIGIN, whole - first, is_long=True)
    joined = set(links)
    return {
        "lab": "experiment",
        "pops": {name: {"workers": 1} for name in pops},
        "hosts": {f"client-{journey.city}": {} for journey in found} | {"origin": {}},
        "links": [*links.values(), {"between": [ORIGIN, "origin"], "rtt": "0.2ms"}],
        # PoPs that the emulator does not join are no neighbours.
        "fleet_links": [
            {"from": f"{a}/a", "to": f"{b}/a", "enabled": False}
            for a in pops
            for b in pops
            if a != b and frozenset((a, b)) not in joined
        ],
        "apps": [_app(name, port) for name, port in (("on", APP_PORT), ("off", APP_PORT + 1))],
    }


def _app(name: str, port: int) -> dict[str, Any]:
    return {
        "name": name,
        "listen": f"tcp/{port}",
        "origins": [f"origin:{ORIGIN_PORT}"],
        "routing": {"egress": [ORIGIN]},
        "smart_routing": name,
    }


def _link(a: str, b: str, rtt_ms: float, *, is_long: bool) -> dict[str, Any]:
    queue = max(100_000, round(RATE_BITS_S / 8 * rtt_ms / 1e3))
    found: dict[str, Any] = {"between": [a, b], "rtt": f"{rtt_ms:.1f}ms", "queue": f"{queue}B"}
    return found | {"rate": f"{RATE_BITS_S // 1_000_000}Mbit/s"} | ({"loss": LOSS} if is_long else {})


def measure(context: Context, loads: list[Load]) -> Iterator[Found]:
    """Take every place and arm in turn; `experiment` is the mean over the places, repeat by repeat."""
    wanted = {load.key for load in loads}
    found = [journey for journey in journeys() if wanted & {"experiment", f"experiment-{journey.city}"}]
    with emulated(document(found)) as wan:
        wan.serve("origin", "download", "serve", str(ORIGIN_PORT))
        for journey in found:
            _wait_for_routes(wan, journey)
            for arm in (OURS, OFF) * WARM_UP:
                _download(wan, journey, arm)
        for repeat in range(context.repeats):
            gains = []
            for journey in found:
                took = {}
                for arm in turns(ARMS, repeat):
                    time.sleep(REST_S)
                    took[arm] = wan.on_time(lambda journey=journey, arm=arm: _download(wan, journey, arm))  # type: ignore[misc]
                gains.append(took[CUBIC]["s"] / took[OURS]["s"] - 1)
                # Held against the floor of the very way that the bytes could have gone best, ours or unproxied.
                floor = min(floors_s(journey, BYTES, RATE_BITS_S).values())
                if f"experiment-{journey.city}" in wanted:
                    for arm in ARMS:
                        yield (
                            f"experiment-{journey.city}",
                            arm,
                            {**took[arm], "floor": took[arm]["s"] / floor},
                        )
            if "experiment" in wanted:
                yield "experiment", OURS, {"gain": statistics.mean(gains)}


def _wait_for_routes(wan: Wan, journey: Journey) -> None:
    """Wait until both apps have a route; which one smart routing takes is its own choice, loss counts as well as distance."""

    def arrived() -> bool:
        routes = daemons.ask(wan.network, journey.ingress, "route", "list")["routes"]
        paths = {route["app"]: list(route["path"]) for route in routes if route["ingress"] == journey.ingress}
        return set(paths) == {"on", "off"} and paths["off"] == [journey.ingress, ORIGIN] and bool(paths["on"])

    daemons.wait_until(f"{journey.city}: routes", arrived, 60.0)


def _download(wan: Wan, journey: Journey, arm: str) -> dict[str, float]:
    if arm in (OURS, OFF):
        host, port, control = journey.ingress, APP_PORT + (arm == OFF), CONTROLS[0]
    else:
        host, port, control = "origin", ORIGIN_PORT + CONTROLS.index(arm), arm
    client = f"client-{journey.city}"
    return wan.ask(client, "download", "fetch", wan.address(host), str(port), str(BYTES), control)
