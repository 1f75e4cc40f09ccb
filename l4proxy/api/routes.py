"""The requests of the API, their parameters and their answers. No state, no sockets; GET never changes anything.

Two Starlette applications: `admin_application` for the Unix socket, `metrics_application` for a TCP port, which has
`/metrics`, `/health` and `/ready` and nothing else.
"""

import json
from collections.abc import Awaitable, Callable, Mapping
from ipaddress import IPv6Address, ip_address
from typing import Any, cast

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from l4proxy.api.backend import Backend, Json, RequestRefused, Toggle

MAX_BODY_BYTES = 64 * 1024
"""Longest request body: every app of a large fleet by name fits several times."""

MAX_FLOWS = 100_000
"""Longest flow list in one answer; more would hold the loop for too long."""

DEFAULT_FLOWS = 1000
MAX_DRAIN_S = 24 * 3600.0
MODES = ("on", "off", "auto", "shadow", "default")

Handler = Callable[[Request], Awaitable[Response]]


def _answer(document: Any, status: int = 200) -> Response:
    body = json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode() + b"\n"
    return Response(body, status, {"cache-control": "no-store"}, "application/json")


def _refusal(status: int, code: str, message: str, details: Mapping[str, Any] | None = None) -> Response:
    return _answer({"error": {"code": code, "message": message, **(details or {})}}, status)


async def _body(request: Request) -> Json:
    """Return the JSON object of a request; refuse what is too long or something else."""
    received = bytearray()
    async for piece in request.stream():
        received += piece
        if len(received) > MAX_BODY_BYTES:
            raise RequestRefused(413, "too_large", f"the body is longer than {MAX_BODY_BYTES} bytes")
    if not received:
        return {}
    try:
        document = json.loads(received)
    except (ValueError, RecursionError) as error:
        raise RequestRefused(400, "usage", "the body is not JSON") from error
    if not isinstance(document, dict):
        raise RequestRefused(400, "usage", "the body is not a JSON object")
    return document


def _refuse_unknown(document: Mapping[str, Any], known: tuple[str, ...]) -> None:
    unknown = sorted(set(document) - set(known))
    if unknown:
        raise RequestRefused(
            400, "usage", f"unknown field {unknown[0]!r}; known are {', '.join(known) or 'none'}"
        )


def _toggle(document: Json) -> Toggle:
    _refuse_unknown(document, ("mode", "apps", "pop", "move_flows"))
    mode, apps, pop = document.get("mode"), document.get("apps"), document.get("pop")
    if mode not in MODES:
        raise RequestRefused(400, "usage", f"mode is one of {', '.join(MODES)} (got {mode!r})")
    if document.get("move_flows"):
        raise RequestRefused(400, "not_supported", "moving live flows is not supported yet")
    if apps is not None and not (
        isinstance(apps, list) and apps and all(isinstance(app, str) for app in apps)
    ):
        raise RequestRefused(400, "usage", "apps is a list of names, or null for all")
    if pop is not None and not isinstance(pop, str):
        raise RequestRefused(400, "usage", "pop is a name, or null for the whole fleet")
    return Toggle(mode, apps, pop)


def _limit(request: Request) -> int:
    text = request.query_params.get("limit", str(DEFAULT_FLOWS))
    if not (text.isascii() and text.isdigit()) or not 1 <= int(text) <= MAX_FLOWS:
        raise RequestRefused(400, "usage", f"limit is a number from 1 to {MAX_FLOWS} (got {text!r})")
    return int(text)


def _endpoint(text: str) -> str:
    """Return an `ip:port` in its usual form; IPv4 inside IPv6 is IPv4, as the engine has it."""
    host, _, port = text.rpartition(":")
    is_bracketed = host.startswith("[") and host.endswith("]")
    try:
        ip = ip_address(host[1:-1] if is_bracketed else host)
    except ValueError:
        ip = None
    is_port = port.isascii() and port.isdigit() and 1 <= int(port) <= 65_535
    if ip is None or not is_port or is_bracketed != (ip.version == 6):
        right = "198.51.100.7:50000 or [2001:db8::7]:50000"
        raise RequestRefused(400, "usage", f"address is an IP address with a port, {right} (got {text!r})")
    mapped = ip.ipv4_mapped if isinstance(ip, IPv6Address) else None
    return f"[{ip}]:{int(port)}" if mapped is None and is_bracketed else f"{mapped or ip}:{int(port)}"


def _timeout(document: Json) -> float | None:
    _refuse_unknown(document, ("timeout_s",))
    value = document.get("timeout_s")
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= MAX_DRAIN_S:
        raise RequestRefused(
            400, "usage", f"timeout_s is a number from 0 to {MAX_DRAIN_S:.0f} (got {value!r})"
        )
    return float(value)


def _observing(backend: Backend) -> list[Route]:
    async def health(_request: Request) -> Response:
        return _answer({"alive": True})

    async def ready(_request: Request) -> Response:
        is_ready = backend.is_ready()
        return _answer({"ready": is_ready}, 200 if is_ready else 503)

    async def metrics(request: Request) -> Response:
        content_type, body = backend.metrics(request.headers.get("accept", ""))
        return Response(body, headers={"content-type": content_type})

    return [Route("/health", health), Route("/ready", ready), Route("/metrics", metrics)]


def _reading(backend: Backend) -> list[Route]:
    def plain(give: Callable[[], Json]) -> Handler:
        async def handler(_request: Request) -> Response:
            return _answer(give())

        return handler

    async def routes(request: Request) -> Response:
        return _answer(backend.routes(request.query_params.get("app")))

    async def explain(request: Request) -> Response:
        app = request.query_params.get("app")
        if not app:
            raise RequestRefused(400, "usage", "which app? (parameter app)")
        asked = request.query_params
        return _answer(backend.explain(app, asked.get("from"), asked.get("why_not")))

    async def flows(request: Request) -> Response:
        return _answer(await backend.flows(request.query_params.get("app"), _limit(request)))

    async def whois(request: Request) -> Response:
        return _answer(await backend.whois(_endpoint(request.query_params.get("address", ""))))

    return [
        Route("/v1/status", plain(backend.status)),
        Route("/v1/apps", plain(backend.apps)),
        Route("/v1/pops", plain(backend.pops)),
        Route("/v1/links", plain(backend.links)),
        Route("/v1/routes", routes),
        Route("/v1/explain", explain),
        Route("/v1/gain", plain(backend.gain)),
        Route("/v1/history", plain(backend.history)),
        Route("/v1/flows", flows),
        Route("/v1/whois", whois),
        Route("/v1/smart-routing", plain(backend.smart_routing), methods=["GET"]),
    ]


def _changing(backend: Backend) -> list[Route]:
    async def smart_routing(request: Request) -> Response:
        return _answer(await backend.set_smart_routing(_toggle(await _body(request))))

    async def reload(request: Request) -> Response:
        _refuse_unknown(await _body(request), ())
        return _answer(await backend.reload())

    async def drain(request: Request) -> Response:
        return _answer(await backend.drain(_timeout(await _body(request))), 202)

    return [
        Route("/v1/smart-routing", smart_routing, methods=["POST"]),
        Route("/v1/reload", reload, methods=["POST"]),
        Route("/v1/drain", drain, methods=["POST"]),
    ]


async def _on_refused(_request: Request, error: Exception) -> Response:
    refused = cast(RequestRefused, error)  # that is what it is registered for
    return _refusal(refused.status, refused.code, str(refused), refused.details)


async def _on_http_error(_request: Request, error: Exception) -> Response:
    refused = cast(HTTPException, error)  # that is what it is registered for
    return _refusal(refused.status_code, "http", refused.detail)


async def _on_bug(_request: Request, error: Exception) -> Response:
    return _refusal(500, "internal", f"internal error: {type(error).__name__}")


def _application(routes: list[Route]) -> Starlette:
    handlers: Any = {RequestRefused: _on_refused, HTTPException: _on_http_error, Exception: _on_bug}
    return Starlette(routes=routes, exception_handlers=handlers)


def admin_application(backend: Backend) -> Starlette:
    """Return what is served on the Unix socket."""
    return _application([*_observing(backend), *_reading(backend), *_changing(backend)])


def metrics_application(backend: Backend) -> Starlette:
    """Return what is served on a TCP port: nothing there changes anything, or names a client."""
    return _application(_observing(backend))
