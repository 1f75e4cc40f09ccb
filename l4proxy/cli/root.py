"""The root of the command tree: which module has which command, and how failures become exit codes.

Listing commands needs their names and one line each, so those stand here; the module behind a name is imported when
the command is called. A test holds this table against what the modules say of themselves.
"""

import importlib
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import typer
from typer.core import TyperCommand, TyperGroup

from l4proxy.cli import exits

if TYPE_CHECKING:
    from typer._click import Context  # what typer.core itself names in these signatures


@dataclass(frozen=True, slots=True)
class Entry:
    """Where a command lives: `module:attribute`, a `typer.Typer` or a function, and its line in the help."""

    place: str
    help: str
    panel: str


SERVE = "Serve"
SEE = "See"
CHANGE = "Change"
TOOLS = "Tools"

COMMANDS: dict[str, Entry] = {
    "run": Entry("l4proxy.cli.run:app", "Run the daemon in the foreground.", SERVE),
    "reload": Entry("l4proxy.cli.acting:reload_app", "Have the daemon read its files again.", SERVE),
    "drain": Entry(
        "l4proxy.cli.acting:drain_app", "Have the daemon end: no new flows, old ones may finish.", SERVE
    ),
    "status": Entry("l4proxy.cli.reading:status_app", "How the daemon is; exit code 5 when degraded.", SEE),
    "app": Entry("l4proxy.cli.apps:app", "Apps, their origins, and what they allow.", SEE),
    "pop": Entry("l4proxy.cli.reading:pop_app", "PoPs and the tunnels to them.", SEE),
    "link": Entry("l4proxy.cli.reading:link_app", "Links and what probes measure on them.", SEE),
    "route": Entry("l4proxy.cli.reading:route_app", "Routes: the table, and why it is as it is.", SEE),
    "flow": Entry("l4proxy.cli.reading:flow_app", "Live flows.", SEE),
    "whois": Entry("l4proxy.cli.whois:app", "Which client is behind a source port that an origin sees.", SEE),
    "smart-routing": Entry(
        "l4proxy.cli.acting:smart_routing_app",
        "Smart routing of apps: on, off, auto, shadow, status.",
        CHANGE,
    ),
    "check": Entry("l4proxy.cli.check:app", "Validate app and fleet files.", TOOLS),
    "pki": Entry("l4proxy.cli.pki:app", "The fleet's certificates.", TOOLS),
    "lab": Entry("l4proxy.cli.lab:app", "A whole network on one machine.", TOOLS),
    "bench": Entry("l4proxy.cli.bench:app", "Measure latency, throughput and connects.", TOOLS),
}


def load(name: str) -> Any:
    """Return the command behind a name of COMMANDS, imported now."""
    module_name, _, attribute = COMMANDS[name].place.partition(":")
    found = getattr(importlib.import_module(module_name), attribute)
    if not isinstance(found, typer.Typer):
        wrapper = typer.Typer(add_completion=False)
        wrapper.command(name)(found)
        found = wrapper
    command = typer.main.get_command(found)
    command.name = name
    return command


class LazyGroup(TyperGroup):
    """A group that lists its commands, and guesses at misspelt ones, without importing any."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        for name, entry in COMMANDS.items():
            self.add_command(TyperCommand(name=name, help=entry.help, rich_help_panel=entry.panel))

    def resolve_command(self, ctx: "Context", args: list[str]) -> Any:
        """Return the command itself, to be run."""
        name, command, rest = super().resolve_command(ctx, args)
        return name, load(name) if name in COMMANDS else command, rest


app = typer.Typer(
    cls=LazyGroup,
    name="l4proxy",
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(value: bool) -> None:
    if value:
        import l4proxy

        sys.stdout.write(f"l4proxy {l4proxy.__version__}\n")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def root(
    context: typer.Context,
    version: bool = typer.Option(
        False, "--version", help="Print the version.", callback=_show_version, is_eager=True
    ),
) -> None:
    """A self-hosted layer-4 proxy (TCP and UDP) with smart overlay routing."""
    del version
    if context.invoked_subcommand is None:
        sys.stdout.write(context.get_help() + "\n")


def run_command(arguments: Sequence[str] | None = None) -> int:
    """Run one command, say what went wrong on stderr, return the exit code."""
    from l4proxy.cli.client import RequestFailed
    from l4proxy.errors import ConfigError, DaemonUnreachableError, IdentityError, L4ProxyError

    try:
        app(args=None if arguments is None else list(arguments), prog_name="l4proxy")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else exits.FAILED if end.code else exits.OK
    except KeyboardInterrupt:
        return exits.INTERRUPTED
    except DaemonUnreachableError as error:
        return _fail(
            exits.UNREACHABLE, str(error), "start one with: l4proxy run, or name its socket with --socket"
        )
    except RequestFailed as error:
        return _fail(_exit_code_of(error), str(error))
    except ConfigError as error:
        from l4proxy.config.render import render

        colour = sys.stderr.isatty() and not os.environ.get("NO_COLOR")
        sys.stderr.write(render(error.faults, colour=colour) + "\n")
        if error.more:
            sys.stderr.write(f"and {error.more} more\n")
        return exits.CONFIG_INVALID
    except IdentityError as error:
        return _fail(exits.CONFIG_INVALID, str(error))
    except BrokenPipeError:
        # Whoever read our output has had enough. Python would complain once more while it closes stdout.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return exits.FAILED
    except (L4ProxyError, OSError) as error:
        return _fail(exits.FAILED, str(error))
    return exits.OK


def _exit_code_of(error: Any) -> int:
    match error.code:
        case "usage" | "not_supported" | "unknown_app" | "unknown_pop":
            return exits.USAGE
        case "config_invalid":
            return exits.CONFIG_INVALID
        case _:
            return exits.FAILED


def _fail(code: int, message: str, hint: str = "") -> int:
    sys.stderr.write(f"l4proxy: {message}\n" + (f"  {hint}\n" if hint else ""))
    return code
