"""A backend behind a real Unix socket, served as the daemon serves it."""

import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import anyio
import anyio.from_thread
import pytest

from l4proxy.api.routes import admin_application, metrics_application
from l4proxy.api.server import serve, unix_listener
from tests.api.backend import FakeBackend


@pytest.fixture
def backend() -> FakeBackend:
    """What answers."""
    return FakeBackend()


def _serve_in_thread(run: Callable[[], object]) -> Callable[[], None]:
    started = threading.Event()
    stops: list[Callable[[], None]] = []

    async def main() -> None:
        async with anyio.create_task_group() as tasks:
            token = anyio.lowlevel.current_token()
            stops.append(partial(anyio.from_thread.run_sync, tasks.cancel_scope.cancel, token=token))
            tasks.start_soon(run)
            started.set()

    thread = threading.Thread(target=anyio.run, args=(main,))
    thread.start()
    started.wait(5)

    def stop() -> None:
        stops[0]()
        thread.join(5)
        assert not thread.is_alive()

    return stop


@pytest.fixture
def admin_socket(backend: FakeBackend, tmp_path: Path) -> Iterator[Path]:
    """The path of a Unix socket at which the admin API of `backend` answers."""
    path = tmp_path / "l4proxy.sock"
    stop = _serve_in_thread(partial(serve, admin_application(backend), unix_listener(path)))
    yield path
    stop()


@pytest.fixture
def metrics_socket(backend: FakeBackend, tmp_path: Path) -> Iterator[Path]:
    """A socket at which what is served over TCP answers."""
    path = tmp_path / "metrics.sock"
    stop = _serve_in_thread(partial(serve, metrics_application(backend), unix_listener(path)))
    yield path
    stop()
