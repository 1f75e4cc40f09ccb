"""The commands that only look: status, and the lists of PoPs, links, routes and flows. Apps have a module of their own."""

from typing import Annotated, Any

import typer

from l4proxy.cli import exits
from l4proxy.cli.client import get
from l4proxy.cli.options import JsonOption, SocketOption, socket_path
from l4proxy.cli.output import (
    age,
    clean,
    coloured,
    console,
    count,
    milliseconds,
    note,
    path_text,
    print_json,
    print_table,
    ratio,
    size,
)
from l4proxy.cli.planning import plan
from l4proxy.cli.recording import record
from l4proxy.cli.replaying import replay

AppArgument = Annotated[str | None, typer.Argument(metavar="APP", help="Only this app.", show_default=False)]


def _group(help_text: str) -> typer.Typer:
    group = typer.Typer(add_completion=False, no_args_is_help=True, help=help_text)
    group.callback()(lambda: None)  # makes it a group, also with one command
    return group


status_app = typer.Typer(add_completion=False)
pop_app = _group("PoPs and the tunnels to them.")
link_app = _group("Links and what probes measure on them.")
route_app = _group("Routes: the table, and why it is as it is.")
flow_app = _group("Live flows.")


def _state(word: str) -> Any:
    return coloured(word, {"ok": "green", "up": "green", "on": "green"}.get(word, "yellow"))


def _up(value: bool | None) -> Any:
    if value is None:
        return coloured("unknown", "yellow")
    return coloured("up", "green") if value else coloured("down", "red")


@status_app.command()
def status(socket: SocketOption = None, json: JsonOption = False) -> None:
    """Show how the daemon is. Exit code 5 when it is degraded."""
    answer = get(socket_path(socket), "/v1/status")
    if json:
        print_json(answer)
    else:
        _print_status(answer)
    if answer["state"] == "degraded":
        raise typer.Exit(exits.DEGRADED)


def _print_status(answer: dict[str, Any]) -> None:
    flows = answer["flows"]
    out = console()
    head = f"l4proxy {answer['version']}   pop {answer['pop']}   generation {answer['generation']}   "
    out.print(
        clean(head), coloured(answer["state"], "green" if answer["state"] == "ok" else "yellow"), sep=""
    )
    out.print(
        f"up {age(answer['uptime_s'])}   {count(answer['apps'], 'app')}   {flows['tcp']} TCP and {flows['udp']} UDP flows"
        f"   {'ready' if answer['ready'] else 'not ready'}"
    )
    dropped = [f"{reason} {count}" for reason, count in answer["drops"].items() if count]
    if dropped:
        out.print(f"dropped or refused since the engine's start: {clean(', '.join(dropped))}", markup=False)
    for removal in answer.get("removed", ()):
        what = removal["link"] or f"egress {removal['egress']} for app {removal['app']}"
        said = f"not used: {what}: {removal['reason']} (for {age(removal['since_s'])})"
        out.print(clean(said), markup=False)
    for problem in answer["problems"]:
        out.print(
            coloured("! ", "yellow"),
            clean(problem["what"]),
            f" (for {age(problem['since_s'])})",
            sep="",
            markup=False,
        )
        if problem.get("fix"):
            out.print(f"  {clean(problem['fix'])}", markup=False)


@pop_app.command("list")
def pop_list(socket: SocketOption = None, json: JsonOption = False) -> None:
    """Show the PoPs of the fleet, as this one sees them."""
    answer = get(socket_path(socket), "/v1/pops")
    if json:
        print_json(answer)
        return
    rows = [
        (
            f"{pop['name']} (here)" if pop.get("self") else pop["name"],
            ", ".join(f"{name} {address}" for name, address in pop["transits"].items()),
            coloured("here", "green") if pop.get("self") else _up(pop.get("connected")),
            None if pop.get("record_age_ms") is None else age(pop["record_age_ms"] / 1000),
        )
        for pop in answer["pops"]
    ]
    print_table(("POP", "TRANSITS", "TUNNEL", ">HEARD"), rows, "no PoPs")


@link_app.command("list")
def link_list(socket: SocketOption = None, json: JsonOption = False) -> None:
    """Show directed links with their estimates."""
    answer = get(socket_path(socket), "/v1/links")
    if json:
        print_json(answer)
        return
    rows = [
        (
            link["name"],
            _up(link["up"]),
            milliseconds(link["rtt_ms"]),
            milliseconds(link["rtt_ms_min"]),
            milliseconds(link["jitter_ms"]),
            ratio(link["loss_ratio"]),
            link["samples"],
            None if link["age_ms"] is None else age(link["age_ms"] / 1000),
        )
        for link in answer["links"]
    ]
    columns = ("LINK", "STATE", ">RTT MS", ">MIN", ">JITTER", ">LOSS", ">SAMPLES", ">AGE")
    print_table(columns, rows, "no links: this PoP has no fleet")


@route_app.command("list")
def route_list(app: AppArgument = None, socket: SocketOption = None, json: JsonOption = False) -> None:
    """Show the table: for each app and ingress the egress, the path, and what it gains."""
    answer = get(socket_path(socket), "/v1/routes", app=app)
    if json:
        print_json(answer)
        return
    rows = [
        (
            route["app"],
            route.get("protocol"),
            route["ingress"],
            route["origin"],
            _state(route["smart_routing"]),
            path_text(route["path"]),
            milliseconds(route["cost_ms"]),
            milliseconds(route["gain_ms"]),
            path_text(route["backups"][0]["path"]) if route["backups"] else "–",
            route["reason"],
        )
        for route in answer["routes"]
    ]
    columns = ("APP", "PROTO", "INGRESS", "ORIGIN", "SMART", "PATH", ">COST MS", ">GAIN", "BACKUP", "REASON")
    print_table(columns, rows, "no routes")


@route_app.command("explain")
def route_explain(
    app: Annotated[str, typer.Argument(metavar="APP", help="The app.")],
    from_pop: Annotated[
        str | None, typer.Option("--from", metavar="POP", help="The ingress PoP; default: the daemon's own.")
    ] = None,
    why_not: Annotated[
        str | None,
        typer.Option(
            "--why-not", metavar="PATH", help="Say why flows do not take this path, as 'ams>iad>sin'."
        ),
    ] = None,
    socket: SocketOption = None,
    json: JsonOption = False,
) -> None:
    """Show every candidate for an app's flows, its numbers, what each rule said, and the last changes with their causes."""
    answer = get(socket_path(socket), "/v1/explain", app=app, why_not=why_not, **{"from": from_pop})
    if json:
        print_json(answer)
        return
    from l4proxy.cli.explaining import print_explanation

    print_explanation(answer)


@route_app.command("gain")
def route_gain(socket: SocketOption = None, json: JsonOption = False) -> None:
    """Show what the table is worth: the direct path to each other PoP beside the chosen one.

    Round trips are raw, of the last quarter of an hour: median and 95th percentile. × LIGHT is the chosen median over the least that is
    possible in fibre between the two places.
    """
    answer = get(socket_path(socket), "/v1/gain")
    if json:
        print_json(answer)
        return
    from l4proxy.cli.explaining import print_gain

    print_gain(answer)


route_app.command("replay")(replay)
route_app.command("record")(record)
route_app.command("plan")(plan)


@flow_app.command("list")
def flow_list(
    app: Annotated[str | None, typer.Option("--app", metavar="APP", help="Only this app.")] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, max=100_000, help="At most so many.")] = 1000,
    socket: SocketOption = None,
    json: JsonOption = False,
) -> None:
    """Show live flows with their paths and counters."""
    answer = get(socket_path(socket), "/v1/flows", app=app, limit=limit)
    if json:
        print_json(answer)
        return
    rows = [
        (
            flow["id"],
            flow["app"],
            flow["protocol"],
            flow["client"],
            flow.get("source") or "–",
            path_text(flow["path"]),
            flow["origin"],
            size(flow["bytes_to_origin"]),
            size(flow["bytes_to_client"]),
            flow["dropped"],
            age(flow["age_s"]),
            age(flow["idle_s"]),
            flow["path_changes"],
        )
        for flow in answer["flows"]
    ]
    columns = (
        "FLOW",
        "APP",
        "PROTO",
        "CLIENT",
        "SOURCE",
        "PATH",
        "ORIGIN",
        ">TO ORIGIN",
        ">TO CLIENT",
        ">DROPPED",
        ">AGE",
        ">IDLE",
        ">MOVED",
    )
    print_table(columns, rows, "no flows")
    if answer["total"] > len(answer["flows"]):
        note(f"{len(answer['flows'])} of {answer['total']} flows; --limit shows more")
