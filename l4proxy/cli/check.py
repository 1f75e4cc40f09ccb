"""`l4proxy check`: app and fleet files, every fault at once, with its place and what to write instead."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from l4proxy.cli import exits
from l4proxy.cli.options import JsonOption
from l4proxy.cli.output import print_json

if TYPE_CHECKING:
    from l4proxy.config.load import Loaded

app = typer.Typer(add_completion=False)


@app.command("check")
def check(
    paths: Annotated[
        list[Path], typer.Argument(help="App and fleet files, or folders of them.", metavar="PATH")
    ],
    json: JsonOption = False,
) -> None:
    """Validate app and fleet files. Apps are held against the fleet file, if one is named. Exit code 3 when invalid."""
    from l4proxy.config import load

    loaded = load.check(paths)
    if json:
        print_json(_as_json(loaded))
    else:
        sys.stdout.write(_as_text(loaded) + "\n")
    if loaded.faults:
        raise typer.Exit(exits.CONFIG_INVALID)


def _as_json(loaded: "Loaded") -> dict[str, object]:
    return {
        "ok": not loaded.faults,
        "files": loaded.files,
        "apps": [app.name for app in loaded.apps],
        "fleets": [fleet.name for fleet in loaded.fleets],
        "errors": [
            {
                name: getattr(fault, name)
                for name in ("file", "line", "column", "path", "reason", "got", "hint")
            }
            for fault in loaded.faults
        ],
        "more_errors": loaded.more,
    }


def _as_text(loaded: "Loaded") -> str:
    from l4proxy.config.render import render

    if loaded.faults:
        colour = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
        files = len({fault.file for fault in loaded.faults})
        count = f"{_counted(len(loaded.faults), 'error')} in {_counted(files, 'file')}"
        if loaded.more:
            count += f", and {loaded.more} more"
        return f"{render(loaded.faults, colour=colour)}\n\n{count}"
    parts = [_counted(len(loaded.apps), "app")] if loaded.apps else []
    parts += [
        f"fleet {fleet.name} of {_counted(len(fleet.pops), 'PoP')} and {_counted(len(fleet.links), 'link')}"
        for fleet in loaded.fleets
    ]
    return f"ok: {', '.join(parts) or 'nothing'}"


def _counted(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
