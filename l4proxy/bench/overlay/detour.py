"""The family `udp-detour`: datagrams from Tokyo to Iowa, 173 ms direct, 143 ms over Seattle: what a detour really saves."""

from collections.abc import Iterator
from typing import Any

from l4proxy.bench.bars import OURS
from l4proxy.bench.judged import turns
from l4proxy.bench.overlay.context import Context, Found
from l4proxy.bench.overlay.emulated import Wan, emulated
from l4proxy.bench.overlay.round_trips import round_trips
from l4proxy.bench.overlay.rows import OFF, UNPROXIED, Load
from l4proxy.bench.testbed import L4PROXY
from l4proxy.lab import daemons

DIRECT_MS, FIRST_MS, SECOND_MS, ACCESS_MS = 173, 95, 48, 1
PORT, ORIGIN_PORT = 7000, 7001
PPS, BYTES, SECONDS = 50, 172, 5
UNPROXIED_MS = FIRST_MS + SECOND_MS + 2 * ACCESS_MS
"""Of a link between client and origin that is as long as the detour: what is measured on it beyond that is the machine's."""
APPS = {OURS: "on", OFF: "off"}
PATHS = {OURS: ["tokyo", "seattle", "iowa"], OFF: ["tokyo", "iowa"]}


def document() -> dict[str, Any]:
    """Return the lab file."""
    return {
        "lab": "detour",
        "pops": {name: {"workers": 1} for name in ("tokyo", "seattle", "iowa")},
        "hosts": {
            "client": {"near": "tokyo", "rtt": f"{ACCESS_MS}ms"},
            "origin": {"near": "iowa", "rtt": f"{ACCESS_MS}ms"},
        },
        "links": [
            {"between": ["client", "origin"], "rtt": f"{UNPROXIED_MS}ms"},
            {"between": ["tokyo", "iowa"], "rtt": f"{DIRECT_MS}ms"},
            {"between": ["tokyo", "seattle"], "rtt": f"{FIRST_MS}ms"},
            {"between": ["seattle", "iowa"], "rtt": f"{SECOND_MS}ms"},
        ],
        "apps": [
            {
                "name": name,
                "listen": f"udp/{PORT + index}",
                "origins": [f"origin:{ORIGIN_PORT}"],
                "pops": ["tokyo"],
                "routing": {"egress": ["iowa"]},
                "smart_routing": name,
            }
            for index, name in enumerate(APPS.values())
        ],
    }


def measure(context: Context, _loads: list[Load]) -> Iterator[Found]:
    """Take smart routing on, off, and a link as long as the detour in turn."""
    with emulated(document()) as wan:
        with (wan.network.run.folder / "reflect.log").open("wb") as log:
            reflect = [*L4PROXY, "bench", "reflect", "--listen", f"{wan.address('origin')}:{ORIGIN_PORT}"]
            wan.network.start("origin", reflect, "origin", log)
        daemons.wait_until("both routes", lambda: _routes(wan) == PATHS, 60.0)
        for repeat in range(context.repeats):
            found = {
                arm: wan.on_time(lambda arm=arm: _round_trips(wan, arm))  # type: ignore[misc]
                for arm in turns([*APPS, UNPROXIED], repeat)
            }
            added = found[OURS]["rtt"] - found[UNPROXIED]["rtt"]
            for arm, figures in found.items():
                yield "udp-detour", arm, {**figures, **({"added": added} if arm == OURS else {})}


def _routes(wan: Wan) -> dict[str, list[str]]:
    routes = daemons.ask(wan.network, "tokyo", "route", "list")["routes"]
    by_app = {route["app"]: list(route["path"]) for route in routes if route["ingress"] == "tokyo"}
    return {arm: by_app.get(name, []) for arm, name in APPS.items()}


def _round_trips(wan: Wan, arm: str) -> dict[str, float]:
    place, port = ("origin", ORIGIN_PORT) if arm == UNPROXIED else ("tokyo", PORT + list(APPS).index(arm))
    target = f"{wan.address(place)}:{port}"
    return round_trips(wan, target, rate=PPS, size=BYTES, seconds=SECONDS)
