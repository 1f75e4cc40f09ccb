"""The commands about apps: the list, and everything about one."""

from collections.abc import Iterator
from typing import Annotated, Any

import typer

from l4proxy.cli import exits
from l4proxy.cli.client import get
from l4proxy.cli.options import JsonOption, SocketOption, socket_path
from l4proxy.cli.output import age, coloured, milliseconds, note, print_json, print_table, size

app = typer.Typer(
    add_completion=False, no_args_is_help=True, help="Apps, their origins, and what they allow."
)


@app.command("list")
def app_list(socket: SocketOption = None, json: JsonOption = False) -> None:
    """Show where clients come, where they go, and what is unlike the defaults."""
    answer = get(socket_path(socket), "/v1/apps")
    if json:
        print_json(answer)
        return
    rows = [
        (
            found["name"],
            ", ".join(found["listen"]),
            ", ".join(_origin(origin) for origin in found["origins"]),
            _state(found["smart_routing"]),
            ", ".join(_policies(found)) or "–",
            sum(found["flows"].values()),
            _refused(found),
        )
        for found in answer["apps"]
    ]
    columns = ("APP", "LISTEN", "ORIGINS", "SMART ROUTING", "POLICIES", ">FLOWS", ">REFUSED")
    print_table(columns, rows, "no apps")


@app.command("show")
def app_show(
    name: Annotated[str, typer.Argument(metavar="APP", help="The app.")],
    socket: SocketOption = None,
    json: JsonOption = False,
) -> None:
    """Show everything about one app: limits, access, what its origins learn of clients, what was refused."""
    answer = get(socket_path(socket), "/v1/apps")
    found = next((one for one in answer["apps"] if one["name"] == name), None)
    if found is None:
        names = ", ".join(one["name"] for one in answer["apps"]) or "none"
        note(f"l4proxy: no app is called {name!r}; there are: {names}")
        raise typer.Exit(exits.USAGE)
    if json:
        print_json(found)
        return
    print_table(("SETTING", "IN FORCE"), _everything(found), "")


def _state(word: str) -> Any:
    return coloured(word, {"ok": "green", "up": "green", "on": "green"}.get(word, "yellow"))


def _origin(origin: dict[str, Any]) -> str:
    health = "" if origin["health"] == "healthy" else f" ({origin['failure'] or origin['health']})"
    return f"{origin['origin']}{health}"


def _refused(found: dict[str, Any]) -> int:
    return int(found["counters"].get("flows_refused", 0))


def _policies(found: dict[str, Any]) -> Iterator[str]:
    """Name what an app does that others do not."""
    if any(value is not None for key, value in found["limits"].items() if key != "source_prefix_v6"):
        yield "limits"
    access = found["access"]
    if access["default"] != "allow" or any(value for key, value in access.items() if key != "default"):
        yield "access"
    yield from sorted({word for word in found["client_address"].values() if word != "off"})
    if found["accept_client_address"]:
        yield "behind balancers"
    if found["source_pool"]:
        yield "source pool"
    if found["tls"] is not None:
        yield f"tls {found['tls']['mode']}"
    if found["rehome"]:
        yield "rehome"
    if found["dscp"] is not None:
        yield f"dscp {found['dscp']}"
    if found["duplication"] != "off":
        yield f"duplication {found['duplication']}"
    if found["record_client"] != "full":
        yield f"records {found['record_client']}"


def _everything(found: dict[str, Any]) -> list[tuple[str, Any]]:
    idle = found["idle_timeout_s"]
    rows: list[tuple[str, Any]] = [("app", found["name"])]
    rows += [("listen", listen) for listen in found["listen"]]
    rows += [("origin", _measured(origin)) for origin in found["origins"]]
    rows += [
        ("smart routing", _toggle(found)),
        ("class", ", ".join(f"{protocol} {word}" for protocol, word in found["class"].items())),
        ("listens here", "yes" if found["listens_here"] else "no"),
    ]
    rows += [(f"limits.{key}", value) for key, value in _limits(found["limits"])]
    rows += list(_access(found["access"]))
    rows += [(f"client address, {protocol}", word) for protocol, word in found["client_address"].items()]
    rows += [("believes balancers at", prefix) for prefix in found["accept_client_address"]]
    rows += [("source pool", prefix) for prefix in found["source_pool"]]
    rows += [
        ("tls", _tls(found["tls"])),
        ("udp may change its egress", "yes" if found["rehome"] else "no"),
        ("dscp", "as it came" if found["dscp"] is None else found["dscp"]),
        ("duplication", found["duplication"]),
        ("records of clients", found["record_client"]),
        ("names may lead to private networks", "yes" if found["allow_private_origins"] else "no"),
        ("idle", f"tcp {age(idle['tcp'])}, udp {age(idle['udp'])}, half closed {age(idle['half_closed'])}"),
        ("connect timeout", age(found["connect_timeout_s"])),
    ]
    rows += [(f"flows, {protocol}", count) for protocol, count in found["flows"].items()]
    rows += [(f"count of {name}", count) for name, count in sorted(found["counters"].items()) if count]
    return rows


def _measured(origin: dict[str, Any]) -> str:
    rtt = "" if origin["rtt_ms"] is None else f", {milliseconds(origin['rtt_ms'])} ms"
    return f"{_origin(origin)}{rtt}"


def _toggle(found: dict[str, Any]) -> str:
    override = found["override"]
    said = f"the file says {found['configured']}"
    return f"{found['smart_routing']} ({said}{'' if override is None else f', overridden: {override}'})"


def _limits(limits: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    for key, value in limits.items():
        if key == "bandwidth_per_flow_bytes_per_s":
            yield "bandwidth_per_flow", "–" if value is None else f"{size(value)}/s"
        elif key == "source_prefix_v6":
            yield key, f"/{value}"
        else:
            yield key, value


def _access(access: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    yield "access", f"{access['default']} by default"
    for verdict in ("allow", "deny"):
        if access[f"{verdict}_prefixes"]:
            yield f"access.{verdict}", f"{access[f'{verdict}_prefixes']} prefixes"
        for file in access[f"{verdict}_files"]:
            yield f"access.{verdict}", f"file {file}"


def _tls(tls: dict[str, Any] | None) -> str:
    if tls is None:
        return "passes through"
    clients = "" if tls["client_ca"] is None else f", clients of {tls['client_ca']}"
    return f"{tls['mode']}: {', '.join(tls['certificates'])}{clients}"
