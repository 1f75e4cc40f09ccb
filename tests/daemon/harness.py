"""A daemon in the test's own event loop, with the fake engine as another process, or one that is already there."""

import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio

from l4proxy.daemon import configuration
from l4proxy.daemon.backend import DaemonBackend
from l4proxy.daemon.configuration import Configuration
from l4proxy.daemon.daemon import Daemon
from l4proxy.daemon.notify import Notifier
from l4proxy.daemon.options import DaemonOptions
from l4proxy.errors import L4ProxyError
from tests.daemon.support import FAKE_ENGINE, until

APP = "name: {name}\nlisten: [tcp/127.0.0.1:{port}]\norigins: ['127.0.0.1:9']\nsmart_routing: on\n"


@dataclass
class Running:
    """One daemon that runs."""

    daemon: Daemon
    said: list[str] = field(default_factory=list)
    failure: L4ProxyError | None = None
    is_over: bool = False

    @property
    def backend(self) -> DaemonBackend:
        """What its API asks."""
        return DaemonBackend(self.daemon)

    @property
    def engine_pid(self) -> int:
        """Its engine's process."""
        assert self.daemon.supervisor.pid is not None
        return self.daemon.supervisor.pid

    async def ready(self) -> "Running":
        """Wait for the ready line."""
        await until(lambda: self.said or self.is_over, timeout_s=15)
        assert self.failure is None, self.failure
        assert self.said
        return self


def write_app(folder: Path, name: str, port: int, extra: str = "") -> None:
    """Write one app file."""
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.yaml").write_text(APP.format(name=name, port=port) + extra)


def options_for(folder: Path, **changes: Any) -> DaemonOptions:
    """Return options of a daemon that has everything below `folder`."""
    (folder / "run").mkdir(exist_ok=True)
    given: dict[str, Any] = {
        "apps": (folder / "apps",),
        "socket": folder / "run" / "l4proxy.sock",
        "state_dir": folder / "state",
        "workers": 1,
        "engine_command": FAKE_ENGINE,
    }
    return DaemonOptions(**given | changes)


@asynccontextmanager
async def running(
    options: DaemonOptions, notifier: Notifier | None = None, config: Configuration | None = None
) -> AsyncIterator[Running]:
    """Run a daemon; at the end it is gone as if it had crashed: the engine goes on."""
    said: list[str] = []
    config = config or configuration.read(options)
    subject = Running(Daemon(options, config, said.append, notifier), said)

    async def live() -> None:
        try:
            await subject.daemon.run()
        except L4ProxyError as error:
            subject.failure = error
        subject.is_over = True

    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(live)
            try:
                yield subject
            finally:
                tasks.cancel_scope.cancel()
    finally:
        for held in list(subject.daemon.session.listeners.held.values()):
            held.close()
        child = subject.daemon.supervisor._child
        if child is not None:
            child.returncode = 0  # it goes on without us: nobody is to complain that it was not waited for


def kill_engine(folder: Path) -> None:
    """End the engine of this folder, if one runs."""
    with suppress(OSError, ValueError):
        pid = int((folder / "run" / "engine.pid").read_text())
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


@asynccontextmanager
async def engine_ends_afterwards(folder: Path) -> AsyncIterator[None]:
    """See to it that no engine of this folder outlives the test."""
    try:
        yield
    finally:
        kill_engine(folder)
