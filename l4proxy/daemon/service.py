"""The process around a daemon: its lock, sockets for people, signals, event loop. `run_daemon` is what the command calls."""

import signal
import socket
import sys
from dataclasses import replace

import anyio
import structlog

from l4proxy.api.routes import admin_application, metrics_application
from l4proxy.api.server import ServeError, serve, tcp_listener, unix_listener
from l4proxy.daemon import configuration, last_good
from l4proxy.daemon.backend import DaemonBackend
from l4proxy.daemon.configuration import Configuration
from l4proxy.daemon.daemon import Daemon
from l4proxy.daemon.listeners import raise_descriptor_limit
from l4proxy.daemon.notify import Notifier
from l4proxy.daemon.options import DaemonOptions
from l4proxy.daemon.runtime_lock import RuntimeLock
from l4proxy.errors import ConfigError, IdentityError, L4ProxyError

log = structlog.get_logger()


def run_daemon(options: DaemonOptions) -> int:
    """Run a daemon until it ends; return the signal that ended it, 0 if none did. Raises L4ProxyError before that.

    The runtime directory is there. ConfigError and IdentityError come before anything was touched.
    """
    config, broken = read_or_last_good(options)
    raise_descriptor_limit()
    with RuntimeLock(options.runtime_dir):
        daemon = Daemon(options, config, say, Notifier())
        if broken is not None:
            daemon.note_last_good(str(broken))
        ended_by = anyio.run(run_service, daemon, backend="asyncio", backend_options={"use_uvloop": True})
    return int(ended_by)


def read_or_last_good(options: DaemonOptions) -> tuple[Configuration, L4ProxyError | None]:
    """Return the configuration, and what is wrong with the operator's files if it is the last good one instead.

    That is only used when an engine still serves with it; else what is wrong is raised.
    """
    try:
        return configuration.read(options), None
    except (ConfigError, IdentityError) as broken:
        kept = last_good.options_with_kept(options)
        if kept is None or not _engine_runs(options):
            raise
        # The engine has its identity already; the operator's may be what is broken.
        identity = None if isinstance(broken, IdentityError) else options.identity
        try:
            return configuration.read(replace(kept, identity=identity)), broken
        except L4ProxyError:
            raise broken from None


def _engine_runs(options: DaemonOptions) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(1.0)
        try:
            connection.connect(str(options.runtime_dir / "engine.sock"))
        except OSError:
            return False
        return True


def say(line: str) -> None:
    """Print the one line that says that clients are served."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


async def run_service(daemon: Daemon) -> int:
    """Run a daemon with its API and signals; return the signal that ended it, 0 if none did."""
    backend = DaemonBackend(daemon)
    admin = unix_listener(daemon.options.socket)
    ended_by: list[int] = []
    failure: L4ProxyError | None = None
    try:
        metrics = _metrics_listener(daemon.options)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(serve, admin_application(backend), admin)
            if metrics is not None:
                tasks.start_soon(serve, metrics_application(backend), metrics)
            tasks.start_soon(_obey_signals, daemon, ended_by)
            try:
                await daemon.run()
            except L4ProxyError as error:  # a task group would wrap it
                failure = error
            tasks.cancel_scope.cancel()
    finally:
        admin.close()
        daemon.options.socket.unlink(missing_ok=True)
    if failure is not None:
        raise failure
    return ended_by[0] if ended_by else 0


def _metrics_listener(options: DaemonOptions) -> socket.socket | None:
    where = options.metrics
    if where is None:
        return None
    try:
        return tcp_listener(where.address, where.port)
    except ServeError as error:
        if where.is_required:
            raise
        log.warning("no metrics over TCP; choose another port with --metrics", reason=str(error))
        return None


async def _obey_signals(daemon: Daemon, ended_by: list[int]) -> None:
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
        async for number in signals:
            if number == signal.SIGHUP:
                try:
                    await daemon.reload()
                except L4ProxyError:
                    continue  # said in the log and in `status`
            elif not ended_by:
                ended_by.append(number)
                daemon.begin_drain(daemon.options.drain_timeout_s)
            else:
                log.warning("stopped before the drain was over")
                daemon.stop()
