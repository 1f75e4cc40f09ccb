"""Options that many commands share."""

from pathlib import Path
from typing import Annotated

import typer

from l4proxy.cli.client import default_socket

SocketOption = Annotated[
    Path | None,
    typer.Option(
        "--socket",
        metavar="PATH",
        help="The daemon's socket; default: L4PROXY_SOCKET, else in the runtime directory.",
        show_default=False,
    ),
]

JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]


def socket_path(given: Path | None) -> Path:
    """Return the socket to ask: the given one, or the default."""
    return given if given is not None else default_socket()
