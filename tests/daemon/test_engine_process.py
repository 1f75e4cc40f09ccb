"""Engines are started, found again, replaced when they cannot be used, and started anew when they die."""

import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest

from l4proxy.daemon import engine_process
from l4proxy.daemon.engine_client import EngineClient
from l4proxy.daemon.engine_messages import EngineHello, UpMessage
from l4proxy.daemon.engine_process import EngineError, EngineSpec, Supervisor
from tests.daemon.support import FAKE_ENGINE, until
from tests.fake_engine import fake_engine

pytestmark = pytest.mark.anyio


class Connections:
    """What a supervisor gave to its session, one entry per connection."""

    def __init__(self) -> None:
        self.hellos: list[tuple[EngineHello, bool]] = []
        self.clients: list[EngineClient] = []
        self.log: list[str] = []

    async def session(self, client: EngineClient, hello: EngineHello, taken_over: bool) -> None:
        self.hellos.append((hello, taken_over))
        self.clients.append(client)
        await anyio.sleep_forever()

    async def handle(self, _message: UpMessage) -> None:
        """Take what the engine says."""

    def write_log(self, text: str, **_fields: Any) -> None:
        self.log.append(text)


@asynccontextmanager
async def supervised(spec: EngineSpec) -> AsyncIterator[tuple[Supervisor, Connections]]:
    """Run a supervisor; every engine it started is ended afterwards."""
    seen = Connections()
    supervisor = Supervisor(spec, seen.write_log)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(supervisor.run, seen.handle, seen.session)
        try:
            yield supervisor, seen
        finally:
            supervisor.keep_going = False
            with anyio.CancelScope(shield=True):
                await supervisor.kill()
            tasks.cancel_scope.cancel()


def spec(folder: Path, **changes: Any) -> EngineSpec:
    return EngineSpec(folder, 2, "ams", **{"command": FAKE_ENGINE, **changes})


async def test_an_engine_is_started_in_a_session_of_its_own(tmp_path: Path) -> None:
    """Ctrl-C at the daemon's terminal must not reach the engine."""
    async with supervised(spec(tmp_path)) as (supervisor, seen):
        await until(lambda: seen.hellos)
        ((hello, taken_over),) = seen.hellos
        assert (hello.pop, hello.workers, taken_over) == ("ams", 2, False)
        assert os.getsid(hello.pid) == hello.pid == supervisor.pid
        assert (tmp_path / "engine.sock").stat().st_mode & 0o777 == 0o600


async def test_a_killed_engine_is_started_again(tmp_path: Path) -> None:
    async with supervised(spec(tmp_path)) as (supervisor, seen):
        await until(lambda: seen.hellos)
        os.kill(seen.hellos[0][0].pid, signal.SIGKILL)
        await until(lambda: len(seen.hellos) == 2)
        assert seen.hellos[1][0].pid != seen.hellos[0][0].pid
        assert seen.hellos[1][1] is False
        assert supervisor.starts == 2
        assert "engine ended" in seen.log


async def test_a_running_engine_is_taken_over(tmp_path: Path) -> None:
    async with fake_engine(tmp_path / "engine.sock", workers=4, pop="ams") as engine:
        engine.generation = 17
        async with supervised(spec(tmp_path)) as (supervisor, seen):
            await until(lambda: seen.hellos)
            ((hello, taken_over),) = seen.hellos
            assert (hello.generation, hello.workers, taken_over) == (17, 4, True)
            assert supervisor.starts == 0
            supervisor.pid = None  # it is this very process: not to be killed


async def test_an_engine_that_hangs_up_is_called_again_not_replaced(tmp_path: Path) -> None:
    """A lost connection must not cost the flows of an engine that is well."""
    async with supervised(spec(tmp_path)) as (supervisor, seen):
        await until(lambda: seen.hellos)
        seen.clients[0].close()
        await until(lambda: len(seen.hellos) == 2)
        assert seen.hellos[1] == (seen.hellos[0][0], True)
        assert supervisor.starts == 1


@pytest.mark.parametrize("difference", [{"version": "0.0.1"}, {"pop": "fra"}, {"protocol": 9}])
async def test_an_engine_that_cannot_be_used_is_told_to_stop(
    tmp_path: Path, difference: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another version's engine would misread a snapshot; another PoP's carries somebody else's flows."""
    monkeypatch.setattr(engine_process, "EXIT_GRACE_S", 0.05)
    killed: list[int] = []
    monkeypatch.setattr(engine_process, "_kill", killed.append)
    async with fake_engine(tmp_path / "engine.sock", workers=2, pop="ams") as engine:
        for name, value in difference.items():
            setattr(engine, name, value)
        seen = Connections()
        supervisor = Supervisor(spec(tmp_path), seen.write_log)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(supervisor.run, seen.handle, seen.session)
            await until(lambda: seen.hellos)
            tasks.cancel_scope.cancel()
        assert engine.received == ["hello", "stop"]
        assert killed == [os.getpid()]  # the process in which it hung on
        assert seen.hellos[0][1] is False
        monkeypatch.undo()
        supervisor.keep_going = False
        await supervisor.kill()


async def test_an_engine_that_cannot_start_says_why(tmp_path: Path) -> None:
    command = (sys.executable, "-c", "import sys; sys.exit('no extension was built')")
    supervisor = Supervisor(spec(tmp_path, command=command), Connections().write_log)
    with pytest.raises(EngineError, match=r"status 1 before it was ready: no extension was built"):
        await supervisor.run(Connections().handle, Connections().session)


async def test_a_stale_socket_is_replaced(tmp_path: Path) -> None:
    async with fake_engine(tmp_path / "engine.sock"):
        pass
    assert (tmp_path / "engine.sock").exists()
    async with supervised(spec(tmp_path)) as (_, seen):
        await until(lambda: seen.hellos)
        assert seen.hellos[0][1] is False


async def test_an_engine_that_is_stuck_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stopped engine answers nobody, and its sockets would keep the ports."""
    monkeypatch.setattr(engine_process, "EXIT_GRACE_S", 0.2)
    async with supervised(spec(tmp_path)) as (supervisor, seen):
        await until(lambda: seen.hellos)
        os.kill(seen.hellos[0][0].pid, signal.SIGSTOP)
        monkeypatch.setattr("l4proxy.daemon.engine_client.HELLO_TIMEOUT_S", 0.2)
        seen.clients[0].close()
        await until(lambda: "running engine does not answer; it is replaced" in seen.log)
        monkeypatch.setattr("l4proxy.daemon.engine_client.HELLO_TIMEOUT_S", 10.0)
        await until(lambda: len(seen.hellos) == 2 and supervisor.starts == 2, timeout_s=10)
        assert seen.hellos[1][1] is False
