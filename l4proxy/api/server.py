"""Serves an application on a socket inside the daemon's event loop, until it is cancelled. Knows no route.

uvicorn does HTTP. What it does as a program of its own is left out: its signal handlers (the daemon has its own)
and its ten wake-ups a second (nothing here needs them).
"""

import contextlib
import os
import socket
import stat
from collections.abc import Generator
from pathlib import Path

import anyio
import uvicorn
from starlette.applications import Starlette

from l4proxy.errors import L4ProxyError

BACKLOG = 128
MAX_CONCURRENT = 64
"""Requests at one time; more are answered 503. One person and one Prometheus need two."""

KEEP_ALIVE_S = 75
"""Longer than the usual scrape interval, so that Prometheus keeps its connection."""

CLOSE_GRACE_S = 1
"""How long requests that are being answered may take when the daemon ends."""

UNIX_PATH_BYTES_MAX = 107
"""`sun_path` has 108 bytes with its final zero."""


class ServeError(L4ProxyError):
    """A socket of the API cannot be had."""


def unix_listener(path: Path) -> socket.socket:
    """Return a listening Unix socket that only this user can use; a stale one at `path` is replaced.

    The caller holds the lock of the directory, so that whoever made a socket found here is gone.
    """
    if len(os.fsencode(path)) > UNIX_PATH_BYTES_MAX:
        raise ServeError(
            f"the socket's path is longer than {UNIX_PATH_BYTES_MAX} bytes: {path}; choose a shorter one"
        )
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise ServeError(f"{path} is there and is no socket: remove it or choose another with --socket")
        path.unlink()
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        mask = os.umask(0o177)
        try:
            listener.bind(str(path))
        finally:
            os.umask(mask)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise ServeError(f"cannot make the socket {path}: {error.strerror or error}") from error
    return listener


def tcp_listener(address: str, port: int) -> socket.socket:
    """Return a listening TCP socket for metrics."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        return socket.create_server((address, port), family=family, backlog=BACKLOG)
    except OSError as error:
        raise ServeError(f"cannot serve metrics on {address}:{port}: {error.strerror or error}") from error


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield

    async def main_loop(self) -> None:
        await anyio.sleep_forever()


async def serve(application: Starlette, listener: socket.socket) -> None:
    """Answer requests on a listening socket until cancelled; closes it."""
    config = uvicorn.Config(
        application,
        http="h11",
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=False,
        proxy_headers=False,
        backlog=BACKLOG,
        limit_concurrency=MAX_CONCURRENT,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=CLOSE_GRACE_S,
    )
    server = _Server(config)
    try:
        await server.serve(sockets=[listener])
    finally:
        with anyio.CancelScope(shield=True):
            if server.started:
                await server.shutdown(sockets=[listener])
        listener.close()
