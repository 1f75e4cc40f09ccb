"""The family `duplication`: datagrams over two paths that lose one packet in a hundred each on its own; `duplication: always`, and off.

The two paths share no link and are nearly as long as each other. They lose packets on the way to the egress only: a datagram that is not
answered was lost once. What is left of one packet in a hundred is one in ten thousand.
"""

from collections.abc import Iterator
from typing import Any

from l4proxy.bench.bars import OURS
from l4proxy.bench.judged import turns
from l4proxy.bench.overlay.context import Context, Found
from l4proxy.bench.overlay.emulated import Wan, emulated
from l4proxy.bench.overlay.round_trips import round_trips
from l4proxy.bench.overlay.rows import OFF, Load
from l4proxy.bench.testbed import L4PROXY
from l4proxy.lab import daemons

PORT, ORIGIN_PORT = 7000, 7001
LOSS = "1%"
DIRECT_MS, DETOUR_MS = 30.0, (15.0, 15.5)
"""One way."""
PPS, BYTES, DATAGRAMS = 400, 160, 50_000
"""Of all repeats together: 5 lost are expected, 10 are the bar."""
MODES = {OURS: "always", OFF: "off"}


def document() -> dict[str, Any]:
    """Return the lab file."""
    ways = [("near", "far", DIRECT_MS), ("near", "mid", DETOUR_MS[0]), ("mid", "far", DETOUR_MS[1])]
    links: list[dict[str, Any]] = []
    for start, end, delay_ms in ways:
        loss = {"loss": LOSS} if start == "near" else {}
        links.append({"from": start, "to": end, "delay": f"{delay_ms}ms", **loss})
        links.append({"from": end, "to": start, "delay": f"{delay_ms}ms"})
    return {
        "lab": "duplication",
        "pops": {name: {"workers": 1} for name in ("near", "mid", "far")},
        "hosts": {"client": {"near": "near", "rtt": "2ms"}, "origin": {"near": "far", "rtt": "2ms"}},
        "links": links,
        "apps": [
            {
                "name": mode,
                "listen": f"udp/{PORT + index}",
                "origins": [f"origin:{ORIGIN_PORT}"],
                "pops": ["near"],
                "routing": {"egress": ["far"]},
                "smart_routing": "on",
                "duplication": mode,
            }
            for index, mode in enumerate(MODES.values())
        ],
    }


def measure(context: Context, _loads: list[Load]) -> Iterator[Found]:
    """Take both modes in turn; what is left is told of all datagrams together."""
    seconds = DATAGRAMS / PPS / context.repeats
    sent, lost = dict.fromkeys(MODES, 0.0), dict.fromkeys(MODES, 0.0)
    with emulated(document()) as wan:
        with (wan.network.run.folder / "reflect.log").open("wb") as log:
            reflect = [*L4PROXY, "bench", "reflect", "--listen", f"{wan.address('origin')}:{ORIGIN_PORT}"]
            wan.network.start("origin", reflect, "origin", log)
        daemons.wait_until("a backup of the direct path", lambda: _has_backup(wan), 60.0)
        for repeat in range(context.repeats):
            for arm in turns(list(MODES), repeat):
                target = f"{wan.address('near')}:{PORT + list(MODES).index(arm)}"
                # The handle is watched from its first datagram on, and copied once both paths are known to live.
                round_trips(wan, target, rate=PPS, size=BYTES, seconds=2.0)
                figures = wan.on_time(
                    lambda target=target: round_trips(wan, target, rate=PPS, size=BYTES, seconds=seconds)  # type: ignore[misc]
                )
                sent[arm] += figures["sent"]
                lost[arm] += figures["sent"] * figures["loss"]
                yield "duplication", arm, figures | {"spread": figures["p99"] - figures["rtt"]}
    for arm in MODES:
        yield "duplication", arm, {"left": lost[arm] / sent[arm], "datagrams": sent[arm]}


def _has_backup(wan: Wan) -> bool:
    routes = daemons.ask(wan.network, "near", "route", "list")["routes"]
    ours = [route for route in routes if route["ingress"] == "near"]
    return len(ours) == len(MODES) and all(route["backups"] for route in ours)
