"""`l4proxy run`: turns options into a daemon and runs it in the foreground."""

import re
import signal
import sys
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from l4proxy.cli import exits
from l4proxy.cli.acting import parse_duration_s
from l4proxy.cli.client import default_socket
from l4proxy.cli.places import (
    UnsafeDirectory,
    configuration_directory,
    make_private_directory,
    state_directory,
)

if TYPE_CHECKING:
    from l4proxy.daemon.dns_lookup import NameServer

app = typer.Typer(add_completion=False)


def parse_metrics_address(text: str) -> tuple[str, int]:
    """Return address and port of `ADDR:PORT`, `[ADDR]:PORT` or `PORT` (loopback); BadParameter if it is none."""
    address, _, port = text.rpartition(":")
    address = address.strip("[]") or "127.0.0.1"
    if not (port.isascii() and port.isdigit()) or not 0 < int(port) < 65_536:
        raise typer.BadParameter(f"{text!r} is not ADDR:PORT, such as 127.0.0.1:9469, and not 'off'")
    return address, int(port)


def parse_name_server(text: str) -> "NameServer":
    """Return the name server that `ADDR`, `ADDR:PORT`, `[ADDR]` or `[ADDR]:PORT` names; BadParameter if it is none."""
    from l4proxy.daemon.dns_lookup import NameServer

    found = re.fullmatch(r"(?:\[(?P<v6>[0-9a-fA-F:.]+)\]|(?P<v4>[0-9.]+))(?::(?P<port>[0-9]{1,5}))?", text)
    try:
        address = ip_address((found["v6"] or found["v4"]) if found else "")
        port = int(found["port"] or 53) if found else 0
    except ValueError:
        port = 0
    if not 0 < port < 65_536:
        raise typer.BadParameter(f"{text!r} is not ADDR:PORT, such as 127.0.0.1:8600 or [::1]:53")
    return NameServer(str(address), port)


LIFETIMES_S = (30.0, 3_650 * 86_400.0)
"""Shorter ones would end while they are renewed; longer ones than a CA of ours there are not."""


def parse_lifetime_s(text: str) -> float:
    """Return the lifetime of certificates, seconds; BadParameter if it is none."""
    from l4proxy.config.units import WrongValue, duration_ms

    least, most = LIFETIMES_S
    try:
        seconds = duration_ms(text) / 1_000
    except WrongValue as error:
        raise typer.BadParameter(f"--certificate-lifetime {error} (got {text!r})") from error
    if not least <= seconds <= most:
        raise typer.BadParameter(f"--certificate-lifetime is 30s to 3650d (got {text!r})")
    return seconds


def _default_apps() -> tuple[Path, ...]:
    folder = configuration_directory() / "apps"
    if not folder.is_dir():
        raise typer.BadParameter(f"name app files or folders (and there is no {folder})")
    return (folder,)


@app.command()
def run(
    apps: Annotated[
        list[Path] | None,
        typer.Argument(metavar="APPS", help="App files or folders.", show_default=False),
    ] = None,
    fleet: Annotated[
        Path | None,
        typer.Option(
            "--fleet",
            metavar="FILE",
            envvar="L4PROXY_FLEET",
            help="The fleet file. Without: one PoP, direct.",
        ),
    ] = None,
    pop: Annotated[
        str | None,
        typer.Option("--pop", metavar="NAME", envvar="L4PROXY_POP", help="Which PoP of the fleet this is."),
    ] = None,
    identity: Annotated[
        Path | None,
        typer.Option(
            "--identity",
            metavar="DIR",
            envvar="L4PROXY_IDENTITY",
            help="Folder with cert.pem, key.pem and ca.pem.",
        ),
    ] = None,
    ca: Annotated[
        Path | None,
        typer.Option(
            "--ca",
            metavar="DIR",
            envvar="L4PROXY_CA",
            help="At the issuer of the fleet file: folder with ca.pem and ca-key.pem; renews the others' certificates.",
            show_default=False,
        ),
    ] = None,
    certificate_lifetime: Annotated[
        str,
        typer.Option(
            "--certificate-lifetime",
            metavar="DURATION",
            envvar="L4PROXY_CERTIFICATE_LIFETIME",
            help="How long what the issuer signs is valid; renewed with a third left.",
        ),
    ] = "90d",
    revoked: Annotated[
        Path | None,
        typer.Option(
            "--revoked",
            metavar="FILE",
            envvar="L4PROXY_REVOKED",
            help="PoPs and certificates that are refused; default: the file revoked in the identity's folder.",
            show_default=False,
        ),
    ] = None,
    state_dir: Annotated[
        Path | None,
        typer.Option(
            "--state-dir", metavar="DIR", envvar="L4PROXY_STATE_DIR", help="What is remembered over restarts."
        ),
    ] = None,
    socket: Annotated[
        Path | None,
        typer.Option(
            "--socket", metavar="PATH", envvar="L4PROXY_SOCKET", help="Where commands reach this daemon."
        ),
    ] = None,
    metrics: Annotated[
        str,
        typer.Option(
            "--metrics",
            metavar="ADDR:PORT",
            envvar="L4PROXY_METRICS",
            help="Prometheus and health; auto, off, or where.",
        ),
    ] = "auto",
    workers: Annotated[
        int | None,
        typer.Option(
            "--workers",
            min=1,
            max=64,
            envvar="L4PROXY_WORKERS",
            help="Threads that carry traffic; default: cores.",
        ),
    ] = None,
    overlay_memory: Annotated[
        int | None,
        typer.Option(
            "--overlay-memory",
            metavar="MIB",
            min=64,
            envvar="L4PROXY_OVERLAY_MEMORY",
            help="MiB for the tunnels of each worker; default: a quarter of the memory for all, 1024 each at most.",
        ),
    ] = None,
    history: Annotated[
        int,
        typer.Option(
            "--history",
            metavar="MIB",
            min=0,
            max=1_048_576,
            envvar="L4PROXY_HISTORY",
            help="MiB on disk for the history of links that `route record`, `replay` and `plan` read; 0: record nothing.",
        ),
    ] = 64,
    drain_timeout: Annotated[
        str,
        typer.Option(
            "--drain-timeout",
            metavar="DURATION",
            envvar="L4PROXY_DRAIN_TIMEOUT",
            help="How long flows go on after SIGTERM.",
        ),
    ] = "30s",
    flow_log: Annotated[
        str | None,
        typer.Option(
            "--flow-log",
            metavar="FILE",
            envvar="L4PROXY_FLOW_LOG",
            help="One JSON line per ended flow; - is stdout.",
        ),
    ] = None,
    dns: Annotated[
        list[str] | None,
        typer.Option(
            "--dns",
            metavar="ADDR:PORT",
            envvar="L4PROXY_DNS",
            help="Name server for origins; default: those of resolv.conf.",
            show_default=False,
        ),
    ] = None,
    log_format: Annotated[
        str | None,
        typer.Option(
            "--log-format",
            metavar="json|console",
            envvar="L4PROXY_LOG_FORMAT",
            help="Default: console on a terminal.",
        ),
    ] = None,
    log_level: Annotated[
        str,
        typer.Option(
            "--log-level", metavar="LEVEL", envvar="L4PROXY_LOG_LEVEL", help="debug, info, warning or error."
        ),
    ] = "info",
) -> None:
    """Run the daemon in the foreground. SIGTERM drains, a second one stops; SIGHUP reloads."""
    from l4proxy.daemon.options import DEFAULT_METRICS, DaemonOptions, MetricsAddress, default_workers

    if (fleet is None) != (pop is None):
        raise typer.BadParameter("--fleet and --pop belong together")
    if fleet is not None and identity is None:
        identity = configuration_directory() / "identity"
    where = None if metrics == "off" else DEFAULT_METRICS
    if metrics not in ("auto", "off"):
        where = MetricsAddress(*parse_metrics_address(metrics))
    options = DaemonOptions(
        apps=tuple(apps) if apps else _default_apps(),
        socket=socket if socket is not None else default_socket(),
        state_dir=state_dir if state_dir is not None else state_directory(),
        workers=workers if workers is not None else default_workers(),
        overlay_memory_mib=overlay_memory,
        fleet=fleet,
        pop=pop,
        identity=identity,
        ca=ca,
        revoked=revoked,
        certificate_lifetime_s=parse_lifetime_s(certificate_lifetime),
        metrics=where,
        drain_timeout_s=parse_duration_s(drain_timeout),
        flow_log=flow_log,
        history_mib=history,
        name_servers=tuple(parse_name_server(text) for text in dns or ()),
    )
    _configure_log(log_format, log_level, pop or "local")
    try:
        make_private_directory(options.runtime_dir)
    except UnsafeDirectory as error:
        raise typer.BadParameter(str(error)) from error
    from l4proxy.daemon.service import run_daemon

    ended_by = run_daemon(options)
    raise typer.Exit(exits.INTERRUPTED if ended_by == signal.SIGINT else exits.OK)


def _configure_log(log_format: str | None, level: str, pop: str) -> None:
    from l4proxy import log

    if log_format is None:
        log_format = "console" if sys.stderr.isatty() else "json"
    if log_format not in ("json", "console"):
        raise typer.BadParameter(f"--log-format is json or console (got {log_format!r})")
    if level not in log.LEVELS:
        raise typer.BadParameter(f"--log-level is one of {', '.join(log.LEVELS)} (got {level!r})")
    log.configure("json" if log_format == "json" else "console", level, pop=pop)
