"""The commands that change a running daemon: reload, drain, smart-routing."""

import re
from typing import Annotated, Any

import typer

from l4proxy.cli.client import RequestFailed, get, post
from l4proxy.cli.options import JsonOption, SocketOption, socket_path
from l4proxy.cli.output import coloured, note, print_json, print_table

reload_app = typer.Typer(add_completion=False)
drain_app = typer.Typer(add_completion=False)
smart_routing_app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    help="Smart routing of apps, fleet-wide unless --pop. Live flows stay where they are.",
)

_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h)?", re.ASCII)
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, None: 1.0}


def parse_duration_s(text: str) -> float:
    """Return `30s`, `500ms`, `2m`, `1h` or a bare number of seconds as seconds; BadParameter if it is none."""
    found = _DURATION.fullmatch(text.strip())
    if found is None:
        raise typer.BadParameter(f"{text!r} is not a duration such as 30s, 500ms or 2m")
    return float(found.group(1)) * _SECONDS[found.group(2)]


@reload_app.command("reload")
def reload_files(socket: SocketOption = None, json: JsonOption = False) -> None:
    """Have the daemon read its files again. A file that is wrong changes nothing."""
    try:
        answer = post(socket_path(socket), "/v1/reload", {})
    except RequestFailed as error:
        if json:
            print_json({"error": dict(error.details)})
        raise
    if json:
        print_json(answer)
        return
    changes = [f"{name} {what}" for what in ("added", "changed", "removed") for name in answer[what]]
    note(f"generation {answer['generation']}: {', '.join(changes) if changes else 'nothing changed'}")


@drain_app.command("drain")
def drain(
    timeout: Annotated[
        str | None, typer.Option("--timeout", metavar="DURATION", help="How long flows may go on.")
    ] = None,
    socket: SocketOption = None,
    json: JsonOption = False,
) -> None:
    """Have the daemon end: nothing new is accepted, flows may finish until the deadline."""
    body = {} if timeout is None else {"timeout_s": parse_duration_s(timeout)}
    answer = post(socket_path(socket), "/v1/drain", body)
    if json:
        print_json(answer)
        return
    note(f"draining: {answer['flows']} flows may go on for at most {answer['timeout_s']:g} s")


AppsArgument = Annotated[
    list[str] | None, typer.Argument(metavar="APPS", help="The apps.", show_default=False)
]
AllOption = Annotated[bool, typer.Option("--all", help="Every app.")]
PopOption = Annotated[
    str | None, typer.Option("--pop", metavar="NAME", help="Only for flows that come in at this PoP.")
]
MoveOption = Annotated[
    bool, typer.Option("--move-flows", help="Move live UDP flows as well (not supported yet).")
]


def _toggle(
    mode: str, apps: list[str] | None, everything: bool, pop: str | None, move: bool, socket: Any, json: bool
) -> None:
    if move:
        raise typer.BadParameter("--move-flows is not supported yet: live flows stay where they are")
    if bool(apps) == everything:
        raise typer.BadParameter(
            "name the apps, or say --all" if not apps else "either name apps or say --all"
        )
    body = {"mode": mode, "apps": None if everything else apps, "pop": pop}
    answer = post(socket_path(socket), "/v1/smart-routing", body)
    if json:
        print_json(answer)
        return
    where = f" at {pop}" if pop else ""
    for app in answer["apps"]:
        note(f"{app['app']}: smart routing {mode}{where}")
    note("new flows follow at once, live flows stay where they are")


def _register(mode: str, help_text: str) -> None:
    @smart_routing_app.command(mode, help=help_text)
    def toggle(
        apps: AppsArgument = None,
        everything: AllOption = False,
        pop: PopOption = None,
        move_flows: MoveOption = False,
        socket: SocketOption = None,
        json: JsonOption = False,
    ) -> None:
        _toggle(mode, apps, everything, pop, move_flows, socket, json)


for _mode, _help in (
    ("on", "New flows take the best measured path."),
    ("off", "New flows go local or direct; never a detour for gain."),
    ("default", "Take the override back: the app file decides."),
    ("auto", "On where it has proved a gain, off again where it does not pay."),
    ("shadow", "Compute and report, move nothing."),
):
    _register(_mode, _help)


@smart_routing_app.command("status")
def smart_routing_status(socket: SocketOption = None, json: JsonOption = False) -> None:
    """Show what holds for each app, and who said so."""
    answer = get(socket_path(socket), "/v1/smart-routing")
    if json:
        print_json(answer)
        return
    rows = [
        (
            app["app"],
            coloured(app["in_force"], "green" if app["in_force"] == "on" else "yellow"),
            app["configured"],
            ", ".join(f"{o['value']} at {o['pop']} (by {o['writer']})" for o in app["overrides"]) or None,
        )
        for app in answer["apps"]
    ]
    print_table(("APP", "HERE", "FILE", "OVERRIDES"), rows, "no apps")
