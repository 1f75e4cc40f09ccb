"""A backend that answers from a script and notes what it was asked to do."""

from typing import Any

from l4proxy.api.backend import Json, RequestRefused, Toggle
from l4proxy.core.app import App, Listen
from l4proxy.core.app_view import settings
from l4proxy.core.ids import AppName
from l4proxy.core.policy import ClientAddress, Limits

STATUS: Json = {
    "version": "1.2.3",
    "pop": "ams",
    "generation": 4,
    "state": "ok",
    "ready": True,
    "uptime_s": 61.5,
    "apps": 1,
    "flows": {"tcp": 2, "udp": 3},
    "drops": {"fd_limit": 0, "tcp_flows_full": 7},
    "problems": [],
}

MINECRAFT = App(
    AppName("minecraft"),
    (Listen("tcp", "::", 25565, 25565),),
    (),
    limits=Limits(flows_per_source=8, bandwidth_per_flow=5_000_000),
    client_address=ClientAddress(tcp="proxy-v2"),
    source_pool=("203.0.113.16/28",),
)

APPS: Json = {
    "apps": [
        {
            "name": "minecraft",
            "listen": ["tcp/25565"],
            "listens_here": True,
            "origins": [
                {"origin": "203.0.113.10:25565", "health": "unhealthy", "rtt_ms": None, "failure": "refused"}
            ],
            "smart_routing": "on",
            "configured": "on",
            "override": None,
            "class": {"tcp": "bulk"},
            "flows": {"tcp": 2, "udp": 0},
            "counters": {"flows_refused": 9, "refused_source_flows_full": 9, "udp_opened": 0},
        }
        | settings(MINECRAFT)
    ]
}

FLOW: Json = {
    "id": "00ff",
    "app": "minecraft",
    "protocol": "tcp",
    "client": "198.51.100.7:50000",
    "ingress": "ams",
    "egress": "sin",
    "path": ["ams", "iad", "sin"],
    "origin": "203.0.113.10:25565",
    "source": "203.0.113.1:41234",
    "bytes_to_origin": 1500,
    "bytes_to_client": 2_000_000,
    "datagrams_to_origin": 0,
    "datagrams_to_client": 0,
    "dropped": 0,
    "age_s": 75.0,
    "idle_s": 0.5,
    "path_changes": 1,
}


class FakeBackend:
    """Implements `l4proxy.api.backend.Backend`."""

    def __init__(self) -> None:
        self.ready = True
        self.status_answer = dict(STATUS)
        self.done: list[Any] = []
        self.history_answer: Json = {
            "pop": "ams", "directory": "/nowhere", "interval_s": 60, "bytes": 0, "max_bytes": 1 << 26, "segments": 0,
            "moments_written": 0, "moments_lost": 0, "segments_pruned": 0, "problem": None,
        }  # fmt: skip
        self.refuse: RequestRefused | None = None

    def is_ready(self) -> bool:
        return self.ready

    def status(self) -> Json:
        return self.status_answer

    def apps(self) -> Json:
        return APPS

    def pops(self) -> Json:
        transits = {"a": "198.51.100.2:4600"}
        return {
            "pops": [
                {"name": "ams", "self": True, "transits": {"a": "198.51.100.1:4600"}},
                {
                    "name": "iad",
                    "self": False,
                    "transits": transits,
                    "connected": True,
                    "record_age_ms": 9000.0,
                    "forwarded": {"packets": 3, "bytes": 4000, "drops": {"transit_rate": 1}},
                },
            ]
        }

    def links(self) -> Json:
        link = {
            "name": "ams/a>iad/a",
            "from": "ams",
            "from_transit": "a",
            "to": "iad",
            "to_transit": "a",
            "up": True,
        }
        return {
            "links": [
                link
                | {
                    "rtt_ms": 80.25,
                    "rtt_ms_min": 79.0,
                    "jitter_ms": 0.31,
                    "loss_ratio": 0.002,
                    "samples": 60,
                    "age_ms": 812.0,
                }
            ]
        }

    def routes(self, app: str | None) -> Json:
        if app not in (None, "minecraft"):
            raise RequestRefused(404, "unknown_app", f"no app is called {app!r}")
        route = {
            "app": "minecraft",
            "protocol": "tcp",
            "ingress": "ams",
            "origin": "203.0.113.10:25565",
            "smart_routing": "on",
            "egress": "sin",
            "path": ["ams", "iad", "sin"],
            "links": ["ams/a>iad/a", "iad/a>sin/a"],
            "cost_ms": 161.0,
            "direct_cost_ms": 190.0,
            "gain_ms": 29.0,
            "backups": [{"path": ["ams", "sin"], "links": ["ams/a>sin/a"], "cost_ms": 190.0}],
            "reason": "lowest cost",
        }
        return {"generation": 4, "routes": [route]}

    def history(self) -> Json:
        return self.history_answer

    def gain(self) -> Json:
        direct = {"rtt_ms_p50": 190.0, "rtt_ms_p95": 230.0, "loss_ratio": 0.02, "times_light": 1.9}
        chosen = {"rtt_ms_p50": 161.0, "rtt_ms_p95": 163.0, "loss_ratio": 0.0, "times_light": 1.61}
        pair = {"to": "sin", "policy": "rtt", "path": ["ams", "iad", "sin"], "gain_ms": 29.0}
        return {"pop": "ams", "pairs": [pair | {"direct": direct, "chosen": chosen}]}

    def explain(self, app: str, ingress: str | None, why_not: str | None) -> Json:
        candidate = {
            "egress": "sin",
            "path": ["ams", "iad", "sin"],
            "links": [{"name": "ams/a>iad/a", "cost_ms": 80.5}, {"name": "iad/a>sin/a", "cost_ms": 80.5}],
            "path_cost_ms": 161.0,
            "origin_cost_ms": 0.5,
            "cost_ms": 161.5,
            "verdict": "chosen",
        }
        route = self.routes(app)["routes"][0] | {"candidates": [candidate]}
        if why_not is not None:
            route["why_not"] = {
                "path": why_not.split(">"),
                "cost_ms": 190.0,
                "because": "it costs 29.0 ms more",
            }
        return {"app": app, "ingress": ingress or "ams", "generation": 4, "routes": [route]}

    def smart_routing(self) -> Json:
        override = {"pop": "all", "value": "off", "writer": "sin"}
        return {
            "apps": [{"app": "minecraft", "configured": "on", "in_force": "off", "overrides": [override]}]
        }

    async def flows(self, app: str | None, limit: int) -> Json:
        flows = [FLOW] if app in (None, "minecraft") else []
        return {"flows": flows[:limit], "total": len(flows)}

    async def whois(self, address: str) -> Json:
        found = [FLOW | {"is": which} for which in ("client", "source") if FLOW[which] == address]
        return {"address": address, "flows": found, "total": len(found)}

    async def set_smart_routing(self, toggle: Toggle) -> Json:
        self._refuse_if_told()
        self.done.append(toggle)
        return {
            "mode": toggle.mode,
            "pop": toggle.pop,
            "apps": [{"app": app} for app in toggle.apps or ["minecraft"]],
        }

    async def reload(self) -> Json:
        self._refuse_if_told()
        self.done.append("reload")
        return {"generation": 5, "added": ["ssh"], "changed": [], "removed": []}

    async def drain(self, timeout_s: float | None) -> Json:
        self.done.append(("drain", timeout_s))
        return {"flows": 5, "timeout_s": 30.0 if timeout_s is None else timeout_s}

    def metrics(self, accept: str) -> tuple[str, bytes]:
        kind = "application/openmetrics-text" if "openmetrics" in accept else "text/plain"
        return f"{kind}; charset=utf-8", b"l4proxy_up 1\n"

    def _refuse_if_told(self) -> None:
        if self.refuse is not None:
            raise self.refuse
