"""The command that names the client behind an address: for bans, for abuse mail, for plugins of game servers."""

from typing import Annotated, Any

import typer

from l4proxy.cli import exits
from l4proxy.cli.client import get
from l4proxy.cli.options import JsonOption, SocketOption, socket_path
from l4proxy.cli.output import age, note, path_text, print_json, print_table

app = typer.Typer(add_completion=False)


@app.command()
def whois(
    address: Annotated[
        str, typer.Argument(metavar="ADDR:PORT", help="As an origin sees it, or a client's own.")
    ],
    socket: SocketOption = None,
    json: JsonOption = False,
) -> None:
    """Show which client is behind a source port that an origin sees, or the flows of a client. Exit code 1: nobody, now."""
    answer = get(socket_path(socket), "/v1/whois", address=address)
    if json:
        print_json(answer)
    elif answer["flows"]:
        _print(answer["flows"])
    if not answer["flows"]:
        note(
            f"no live flow has {answer['address']}, as a client or towards an origin that this PoP dials; "
            "ended flows are in the flow log"
        )
        raise typer.Exit(exits.FAILED)


def _print(flows: list[dict[str, Any]]) -> None:
    rows = [
        (
            flow["client"],
            flow["app"],
            flow["protocol"],
            flow["source"] or "–",
            flow["origin"],
            path_text(flow["path"]),
            age(flow["age_s"]),
            flow["id"],
        )
        for flow in flows
    ]
    print_table(("CLIENT", "APP", "PROTO", "SEEN AS", "ORIGIN", "PATH", ">AGE", "FLOW"), rows, "")
