"""Finds, starts, takes over and replaces the engine process. Speaks to it only through `EngineClient`.

An engine is started in a session of its own, with its socket already listening, and outlives the daemon. What this
module does not know: snapshots, sockets, apps. `Supervisor.run` gives each connection to a `session` callback and comes
back for the next one, with a growing pause between engines that die.
"""

import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import anyio

import l4proxy
from l4proxy.daemon.engine_client import HELLO_TIMEOUT_S, EngineClient, EngineGone
from l4proxy.daemon.engine_messages import PROTOCOL_VERSION, EngineHello, UpMessage
from l4proxy.errors import DataPlaneError

ENGINE_COMMAND = (sys.executable, "-m", "l4proxy.engine")

EXIT_GRACE_S = 5.0
"""How long an engine that was told to end, or closed its socket, may take before it is killed."""

CLOSE_GRACE_S = 0.5
"""An engine that ended has its process gone within this time of its socket; otherwise it only hung up."""

BACKOFF_S_MIN = 0.1
BACKOFF_S_MAX = 5.0
HEALTHY_AFTER_S = 30.0
"""An engine that lived this long did not die of what the one before died of: the pause starts small again."""

LOG_BYTES_MAX = 1 << 20
"""The engine's own output is nearly nothing; a longer file is of an engine that complains, and starts anew."""

LOG_TAIL_BYTES = 2048
SOCKET_BACKLOG = 4

Session = Callable[[EngineClient, EngineHello, bool], Awaitable[None]]
"""(client, hello, taken over): uses the connection until it ends."""


class EngineError(DataPlaneError):
    """No engine could be had."""


class EngineMismatchError(EngineError):
    """The engine that was started is not one for this daemon, and no other that is started will be."""


@dataclass(frozen=True, slots=True)
class EngineSpec:
    """Which engine is wanted, and where it lives."""

    directory: Path
    workers: int
    pop: str
    overlay_memory_mib: int = 1024
    """What the tunnels of one worker may hold."""
    command: tuple[str, ...] = ENGINE_COMMAND
    wants_records: bool = True
    """Of each flow that has ended. Without a reader they are not even made: they cost more than a short flow's bytes."""

    @property
    def socket(self) -> Path:
        """Where the engine listens for its daemon."""
        return self.directory / "engine.sock"

    @property
    def pid_file(self) -> Path:
        """Names an engine that no longer answers, so that it can be replaced."""
        return self.directory / "engine.pid"

    @property
    def log(self) -> Path:
        """What the engine prints: nothing but the traces of a crash."""
        return self.directory / "engine.log"


class Supervisor:
    """Keeps one engine connected."""

    def __init__(self, spec: EngineSpec, log: Callable[..., None]) -> None:
        self._spec = spec
        self._log = log
        self._child: subprocess.Popen[bytes] | None = None
        self._backoff_s = BACKOFF_S_MIN
        self.pid: int | None = None
        """The engine's process; None while there is none."""
        self.starts = 0
        """Engines started by this daemon."""
        self.keep_going = True
        """False: the engine ends because it was told to; it is not started again."""

    async def run(self, handle: Callable[[UpMessage], Awaitable[None]], session: Session) -> None:
        """Give one connection after the other to `session`, until `keep_going` is false.

        EngineError when an engine ends before it says who it is: the caller decides whether to call again.
        """
        while self.keep_going:
            began = time.monotonic()
            await self._one_connection(handle, session)
            if not self.keep_going:
                return
            if time.monotonic() - began >= HEALTHY_AFTER_S:
                self._backoff_s = BACKOFF_S_MIN
            await self.pause()

    async def pause(self) -> None:
        """Wait before the next engine, longer each time."""
        await anyio.sleep(self._backoff_s)
        self._backoff_s = min(self._backoff_s * 2, BACKOFF_S_MAX)

    async def _one_connection(self, handle: Callable[[UpMessage], Awaitable[None]], session: Session) -> None:
        client = await self._connect()
        taken_over = client is not None
        if client is None:
            client = await self._start()

        async def read(scope: anyio.CancelScope) -> None:
            await client.run(handle)
            scope.cancel()

        hello: EngineHello | None = None
        failure = ""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(read, tasks.cancel_scope)
            try:
                hello = await client.hello(records=self._spec.wants_records)
            except (EngineGone, TimeoutError) as error:
                failure = str(error) or f"no hello within {HELLO_TIMEOUT_S:.0f} s"
            if hello is not None and self._is_ours(hello):
                self.pid = hello.pid
                await session(client, hello, taken_over)
            client.close()
            tasks.cancel_scope.cancel()
        if hello is not None and self._is_ours(hello):
            await self._bury()
        elif taken_over:
            await self._replace(hello)
        elif hello is not None:
            await self._send_away(hello)
            own = _describe(PROTOCOL_VERSION, l4proxy.__version__, self._spec.pop)
            raise EngineMismatchError(
                f"the engine that was started is {_describe_found(hello)}, and this daemon is {own}: its extension and "
                "its Python part are of two builds; run `make build`, or install l4proxy again"
            )
        else:
            raise EngineError(await self._why_it_failed(failure))

    async def _connect(self) -> EngineClient | None:
        """Return a connection to the engine that runs already, None if there is none."""
        try:
            return await EngineClient.connect(self._spec.socket)
        except (FileNotFoundError, ConnectionRefusedError, BlockingIOError):
            # Nobody there, or one that cannot be spoken with: it would keep the ports from the next one.
            await self._end(self.pid or self._read_pid())
            return None
        except OSError as error:
            raise EngineError(f"cannot connect to the engine at {self._spec.socket}: {error}") from error

    def _is_ours(self, hello: EngineHello) -> bool:
        wanted = (PROTOCOL_VERSION, l4proxy.__version__, self._spec.pop)
        return (hello.protocol, hello.version, hello.pop) == wanted

    async def _replace(self, hello: EngineHello | None) -> None:
        """Have an engine end that runs and cannot be taken over."""
        if hello is None:
            self._log("running engine does not answer; it is replaced")
            await self._end(self._read_pid())
            return
        self._log("running engine is another version or PoP; it is replaced", found=_describe_found(hello))
        await self._send_away(hello)

    async def _send_away(self, hello: EngineHello) -> None:
        """Have an engine end that is not for us."""
        with contextlib.suppress(EngineGone, OSError):
            client = await EngineClient.connect(self._spec.socket)
            await client.stop()
            client.close()
        await self._end(hello.pid)

    async def _start(self) -> EngineClient:
        listener = _listen(self._spec.socket)
        try:
            self._child = _spawn(self._spec, listener)
            self.pid = self._child.pid
            self.starts += 1
            with contextlib.suppress(OSError):  # only a convenience for a later daemon
                self._spec.pid_file.write_text(f"{self.pid}\n")
            # Before our own end of the listener closes: an engine that dies at once is then an end of file here.
            return await EngineClient.connect(self._spec.socket)
        except OSError as error:
            raise EngineError(f"cannot start the engine: {error}") from error
        finally:
            listener.close()

    async def _why_it_failed(self, found: str) -> str:
        child, self._child, self.pid = self._child, None, None
        if child is None:
            return found
        if not await _wait_for_exit(child.pid, EXIT_GRACE_S):
            _kill(child.pid)
            child.wait()
            return f"the engine that was started cannot be used and was killed: {found}{self.log_tail()}"
        return f"the engine ended with status {child.wait()} before it was ready{self.log_tail()}"

    def log_tail(self) -> str:
        """Return `: ` and the last lines that the engine printed, "" if it printed nothing."""
        try:
            with self._spec.log.open("rb") as file:
                file.seek(max(0, self._spec.log.stat().st_size - LOG_TAIL_BYTES))
                text = file.read().decode(errors="replace").strip()
        except OSError:
            return ""
        return f": {text}" if text else ""

    async def _bury(self) -> None:
        """Reap the engine if it ended with its connection; one that lives is left for the next connection."""
        pid = self.pid
        status = await self._reap(CLOSE_GRACE_S)
        if self.pid is None and self.keep_going:
            self._log("engine ended", engine=pid, status=status, output=self.log_tail())

    async def _reap(self, timeout_s: float) -> int | None:
        """Wait for the engine's process to end; return its status if it was our child. `pid` is None afterwards."""
        if self.pid is None or not await _wait_for_exit(self.pid, timeout_s):
            return None
        status = None
        if self._child is not None and self._child.pid == self.pid:
            status = self._child.wait()
            self._child = None
        self.pid = None
        return status

    async def wait_until_gone(self, timeout_s: float) -> bool:
        """Wait for the engine's process to end; False when it has not ended in time."""
        await self._reap(timeout_s)
        return self.pid is None

    async def kill(self) -> None:
        """End the engine at once."""
        await self._end(self.pid, grace_s=0.0)

    def remove_files(self) -> None:
        """Remove the socket and the pid file of an engine that has ended."""
        for path in (self._spec.socket, self._spec.pid_file):
            path.unlink(missing_ok=True)

    def _read_pid(self) -> int | None:
        try:
            pid = int(self._spec.pid_file.read_text())
            command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        except (OSError, ValueError):
            return None
        # A number may have been given to another program since.
        return pid if self._spec.command[-1].encode() in command else None

    async def _end(self, pid: int | None, grace_s: float | None = None) -> None:
        """See to it that the process `pid` ends, and that nothing of it is left."""
        grace_s = EXIT_GRACE_S if grace_s is None else grace_s
        if pid is not None and not await _wait_for_exit(pid, grace_s):
            _kill(pid)
            await _wait_for_exit(pid, EXIT_GRACE_S)
        if pid == self.pid:
            await self._reap(0.0)
        self.remove_files()


def _describe_found(hello: EngineHello) -> str:
    return _describe(hello.protocol, hello.version, hello.pop)


def _describe(protocol: int, version: str, pop: str) -> str:
    return f"{version} (protocol {protocol}) of PoP {pop}"


def _listen(path: Path) -> socket.socket:
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        mask = os.umask(0o177)
        try:
            listener.bind(str(path))
        finally:
            os.umask(mask)
        listener.listen(SOCKET_BACKLOG)
    except OSError as error:
        listener.close()
        raise EngineError(f"cannot make the engine's socket {path}: {error}") from error
    return listener


def _spawn(spec: EngineSpec, listener: socket.socket) -> subprocess.Popen[bytes]:
    # Inherited output would hold the daemon's terminal or pipe open for as long as the engine outlives the daemon.
    with contextlib.suppress(OSError):
        if spec.log.stat().st_size > LOG_BYTES_MAX:
            spec.log.unlink()
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("NOTIFY_", "WATCHDOG_"))}
    fd = listener.fileno()
    with open(spec.log, "ab", opener=lambda path, flags: os.open(path, flags, 0o600)) as output:
        return subprocess.Popen(
            [
                *spec.command,
                "--fd",
                str(fd),
                "--workers",
                str(spec.workers),
                "--pop",
                spec.pop,
                "--overlay-memory",
                str(spec.overlay_memory_mib),
            ],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            pass_fds=(fd,),
            start_new_session=True,
            cwd="/",
            env=environment,
        )


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


async def _wait_for_exit(pid: int, timeout_s: float) -> bool:
    """Return whether the process has ended within the time; it need not be our child."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        if select.select([descriptor], [], [], 0)[0]:
            return True
        with anyio.move_on_after(timeout_s) as scope:
            await anyio.wait_readable(descriptor)
        return not scope.cancelled_caught
    finally:
        os.close(descriptor)
