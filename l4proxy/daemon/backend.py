"""What the API asks, answered from the daemon: the bridge between `l4proxy.api` and the controller's views."""

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from l4proxy.api.backend import Json, RequestRefused, Toggle
from l4proxy.core import explaining, views
from l4proxy.core.controller import Controller
from l4proxy.core.ids import AppName, PopName
from l4proxy.daemon.engine_client import EngineClient, EngineGone
from l4proxy.daemon.engine_messages import FlowPage
from l4proxy.daemon.flow_views import flow_view
from l4proxy.daemon.measures import expose
from l4proxy.daemon.recorder import INTERVAL_S
from l4proxy.errors import ConfigError, L4ProxyError

if TYPE_CHECKING:
    from l4proxy.daemon.daemon import Daemon

MAX_WHOIS = 100
"""Flows of one address: a client may come from one port to several listeners."""


class DaemonBackend:
    """Implements `l4proxy.api.backend.Backend` for one daemon."""

    def __init__(self, daemon: "Daemon") -> None:
        self._daemon = daemon

    def _controller(self) -> Controller:
        controller = self._daemon.control.controller
        if controller is None:
            raise RequestRefused(503, "starting", "the daemon waits for its engine")
        return controller

    def _require_app(self, app: str | None) -> None:
        if app is not None and app not in {known.name for known in self._controller().apps}:
            raise RequestRefused(404, "unknown_app", f"there is no app {app!r}")

    def is_ready(self) -> bool:
        """Whether clients are served."""
        return self._daemon.is_ready

    def status(self) -> Json:
        """Return the body of `/v1/status`."""
        return self._daemon.reporter.status()

    def apps(self) -> Json:
        """Return the body of `/v1/apps`."""
        answer = views.apps(self._controller())
        for app in answer["apps"]:
            app["flows"] = self._daemon.reporter.flows_of(app["name"])
            app["counters"] = self._daemon.reporter.counters_of(app["name"])
        return answer

    def pops(self) -> Json:
        """Return the body of `/v1/pops`."""
        body = views.pops(self._controller())
        counters = self._daemon.control.counters
        passed = {} if counters is None else counters.transit
        for pop in body["pops"]:
            if (state := passed.get(pop["name"])) is not None:
                drops = dict(sorted(state.drops.items()))
                pop["forwarded"] = {"packets": state.packets, "bytes": state.bytes, "drops": drops}
        return body

    def links(self) -> Json:
        """Return the body of `/v1/links`."""
        return views.links(self._controller())

    def routes(self, app: str | None) -> Json:
        """Return the body of `/v1/routes`."""
        self._require_app(app)
        return views.routes(self._controller(), None if app is None else AppName(app))

    def explain(self, app: str, ingress: str | None, why_not: str | None) -> Json:
        """Return the body of `/v1/explain`."""
        self._require_app(app)
        controller = self._controller()
        if ingress is not None and ingress != controller.pop:
            if ingress not in controller.fleet.pops:
                raise RequestRefused(404, "unknown_pop", f"there is no PoP {ingress!r}")
            message = (
                f"each PoP decides its own routes: ask the daemon of {ingress} (this is {controller.pop})"
            )
            raise RequestRefused(400, "not_supported", message)
        try:
            return explaining.explain(controller, app, why_not)
        except ValueError as error:
            raise RequestRefused(400, "usage", str(error)) from error

    def gain(self) -> Json:
        """Return the body of `/v1/gain`."""
        return explaining.gain(self._controller())

    def history(self) -> Json:
        """Return the body of `/v1/history`."""
        state = self._daemon.recorder.state()
        return {
            "pop": self._daemon.config.pop,
            "directory": str(state.directory),
            "interval_s": INTERVAL_S,
            "bytes": state.bytes,
            "max_bytes": state.max_bytes,
            "segments": state.segments,
            "moments_written": state.moments_written,
            "moments_lost": state.moments_lost,
            "segments_pruned": state.segments_pruned,
            "problem": state.problem,
        }

    def smart_routing(self) -> Json:
        """Return the body of GET `/v1/smart-routing`."""
        return views.smart_routing(self._controller())

    async def flows(self, app: str | None, limit: int) -> Json:
        """Return the body of `/v1/flows`."""
        self._require_app(app)
        page = await self._ask(lambda client: client.list_flows(app, limit))
        pop = self._daemon.config.pop
        return {"flows": [flow_view(flow, pop) for flow in page.flows], "total": page.total}

    async def whois(self, address: str) -> Json:
        """Return the body of `/v1/whois`."""
        page = await self._ask(lambda client: client.whois(address, MAX_WHOIS))
        pop = self._daemon.config.pop
        flows = [
            flow_view(flow, pop) | {"is": "source" if flow.get("source") == address else "client"}
            for flow in page.flows
        ]
        return {"address": address, "flows": flows, "total": page.total}

    async def _ask(self, question: Callable[[EngineClient], Awaitable[FlowPage]]) -> FlowPage:
        client = self._daemon.session.client
        if client is None:
            raise RequestRefused(503, "no_engine", "the engine is being started again")
        try:
            return await question(client)
        except (EngineGone, TimeoutError) as error:
            raise RequestRefused(503, "no_engine", f"the engine does not answer: {error}") from error

    async def set_smart_routing(self, toggle: Toggle) -> Json:
        """Set or remove an override for apps; all of them or none."""
        controller = self._controller()
        for app in toggle.apps or ():
            self._require_app(app)
        if toggle.pop is not None and toggle.pop not in controller.fleet.pops:
            raise RequestRefused(404, "unknown_pop", f"there is no PoP {toggle.pop!r}")
        pop = None if toggle.pop is None else PopName(toggle.pop)
        names: list[AppName | None] = [None] if toggle.apps is None else [AppName(app) for app in toggle.apps]
        for name in names:
            self._daemon.control.set_toggle(name, pop, toggle.mode)
        await self._daemon.look_after()
        chosen = None if toggle.apps is None else set(toggle.apps)
        states = views.smart_routing(controller)["apps"]
        return {
            "mode": toggle.mode,
            "pop": toggle.pop,
            "apps": [state for state in states if chosen is None or state["app"] in chosen],
        }

    async def reload(self) -> Json:
        """Read the files again and apply the difference."""
        try:
            done = await self._daemon.reload()
        except ConfigError as error:
            faults = [
                {"file": f.file, "line": f.line, "column": f.column, "path": f.path, "reason": f.reason}
                for f in error.faults
            ]
            raise RequestRefused(422, "config_invalid", str(error), {"faults": faults}) from error
        except L4ProxyError as error:
            raise RequestRefused(409, "reload_failed", str(error)) from error
        return {
            "generation": done.generation,
            "added": list(done.difference.added),
            "changed": list(done.difference.changed),
            "removed": list(done.difference.removed),
        }

    async def drain(self, timeout_s: float | None) -> Json:
        """Begin to drain."""
        chosen_s = self._daemon.options.drain_timeout_s if timeout_s is None else timeout_s
        flows = sum(self._daemon.reporter.flows().values())
        self._daemon.begin_drain(chosen_s)
        return {"flows": flows, "timeout_s": chosen_s}

    def metrics(self, accept: str) -> tuple[str, bytes]:
        """Return content type and body of the exposition."""
        return expose(self._daemon.reporter.measure()).render(accept)
