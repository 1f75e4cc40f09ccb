"""The only module that speaks the engine's socket: frames, descriptors, requests and their answers.

`run` reads until the engine goes away and hands every message that nobody asked for to one handler, in
order. The verbs (`hello`, `apply`, `list_flows`, `whois`, `drain`) await their answer. What it does not do: start
engines, bind sockets, or decide anything (`engine_process.py`, `listeners.py`, `daemon.py`). The protocol is
docs/engine-protocol.md.
"""

import errno
import itertools
import socket
import struct
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import anyio
import msgpack

from l4proxy.core.access_list import AccessList
from l4proxy.daemon.engine_messages import (
    PROTOCOL_VERSION,
    ApplyResult,
    Drained,
    EngineHello,
    FlowPage,
    Goodbye,
    MalformedMessage,
    SocketKey,
    UpMessage,
    decode,
)

MAX_FRAME_BYTES = 16 * 1024 * 1024
"""Longest frame either way; docs/engine-protocol.md."""

RECEIVE_BYTES = 256 * 1024
"""One read: a second's worth of what a busy engine says."""

SEND_TIMEOUT_S = 20.0
"""How long the engine may leave its socket unread before it counts as gone: a busy moment is far shorter."""

HELLO_TIMEOUT_S = 5.0
"""How long an engine may take to say who it is; one that is stuck is replaced."""

ANSWER_TIMEOUT_S = 30.0
"""How long a snapshot or a flow list may take before the caller is told that the engine does not answer."""

MAX_WAITING_BUS = 256
"""Control messages that wait for the socket; more are dropped and counted (records flood again anyway)."""

MAX_LIST_REQUESTS = 16
"""Flow lists asked for at one time."""

DESCRIPTOR_RETRY_S = 0.01
"""Pause when the kernel says that too many descriptors are in flight: the engine has to take some first."""

_LENGTH = struct.Struct("!I")
_Answer = TypeVar("_Answer")


class EngineGone(ConnectionError):  # noqa: N818 (a state of the world, not a mistake)
    """The connection to the engine ended or never stood; whoever asked must not expect an answer."""


class _Pending:
    """Somebody waits here for one answer."""

    __slots__ = ("_event", "answer")

    def __init__(self) -> None:
        self._event = anyio.Event()
        self.answer: UpMessage | None = None

    def resolve(self, answer: UpMessage | None) -> None:
        """Wake the waiting side; None means that the engine went away."""
        self.answer = answer
        self._event.set()

    async def wait(self, kind: type[_Answer]) -> _Answer:
        """Return the answer, or raise EngineGone."""
        await self._event.wait()
        if not isinstance(self.answer, kind):
            raise EngineGone("the engine went away before it answered")
        return self.answer


def encode_frame(kind: str, body: Mapping[str, Any]) -> bytes:
    """Return the bytes of one frame; ValueError when it is longer than the protocol allows."""
    packed: bytes = msgpack.packb({kind: body}, use_bin_type=True)
    if len(packed) > MAX_FRAME_BYTES:
        raise ValueError(f"{kind}: a frame of {len(packed)} bytes is over the limit of {MAX_FRAME_BYTES}")
    return _LENGTH.pack(len(packed)) + packed


class FrameReader:
    """Cuts a byte stream into unpacked frames. No I/O; memory is bounded by one frame and one read."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[object]:
        """Take bytes, return the frames that are complete; MalformedMessage when they are not frames."""
        self._buffer += data
        frames: list[object] = []
        start = 0
        while len(self._buffer) - start >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._buffer, start)
            if length > MAX_FRAME_BYTES:
                raise MalformedMessage(f"a frame of {length} bytes is over the limit of {MAX_FRAME_BYTES}")
            end = start + _LENGTH.size + length
            if len(self._buffer) < end:
                break
            try:
                frames.append(
                    msgpack.unpackb(memoryview(self._buffer)[start + _LENGTH.size : end], raw=False)
                )
            except Exception as error:  # msgpack raises several unrelated types
                raise MalformedMessage(f"not msgpack: {error}") from error
            start = end
        del self._buffer[:start]
        return frames


class EngineClient:
    """One connection to one engine."""

    def __init__(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        self._socket = connection
        self._send_lock = anyio.Lock()
        self._closed = False
        self._hello: _Pending | None = None
        self._apply: dict[int, _Pending] = {}
        self._lists: dict[int, _Pending] = {}
        self._drain: _Pending | None = None
        self._requests = itertools.count(1)
        self._waiting_bus = 0
        self.dropped_bus = 0
        """Control messages that were not sent because too many waited."""
        self.why_closed = ""

    @classmethod
    async def connect(cls, path: Path) -> "EngineClient":
        """Connect to the engine that listens on `path`; OSError when nobody does."""
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            connection.setblocking(False)
            # A Unix stream connects at once or says why not; EAGAIN is a full backlog: that engine is stuck.
            connection.connect(str(path))
        except BaseException:
            connection.close()
            raise
        return cls(connection)

    @property
    def is_closed(self) -> bool:
        """Whether the connection has ended."""
        return self._closed

    def close(self, why: str = "closed by the daemon") -> None:
        """End the connection and everybody's waiting; harmless when it is closed already."""
        if self._closed:
            return
        self._closed = True
        self.why_closed = why
        anyio.notify_closing(self._socket)
        self._socket.close()
        pending = [self._hello, self._drain, *self._apply.values(), *self._lists.values()]
        for waiting in pending:
            if waiting is not None:
                waiting.resolve(None)

    async def run(self, handle: Callable[[UpMessage], Awaitable[None]]) -> str:
        """Read until the connection ends; return why. Unasked messages go to `handle`, one by one."""
        reader = FrameReader()
        try:
            while True:
                data = await self._receive()
                if not data:
                    self.close("the engine closed its end")
                    break
                for frame in reader.feed(data):
                    message = decode(frame)
                    if isinstance(message, Goodbye):
                        self.close(f"the engine hung up: {message.reason}")
                    elif not self._resolve(message):
                        await handle(message)
        except MalformedMessage as error:
            self.close(f"malformed message from the engine: {error}")
        except (OSError, anyio.ClosedResourceError) as error:
            self.close(f"{type(error).__name__}: {error}")
        finally:
            self.close("the reader ended")
        return self.why_closed

    async def _receive(self) -> bytes:
        while True:
            if self._closed:
                raise EngineGone(self.why_closed)
            try:
                return self._socket.recv(RECEIVE_BYTES)
            except BlockingIOError:
                await anyio.wait_readable(self._socket)

    def _resolve(self, message: UpMessage) -> bool:
        """Give an answer to whoever asked for it; False when it is no answer."""
        waiting: _Pending | None
        match message:
            case EngineHello():
                waiting, self._hello = self._hello, None
            case ApplyResult(generation=generation):
                waiting = self._apply.pop(generation, None)
            case FlowPage(request=request):
                waiting = self._lists.pop(request, None)
            case Drained():
                waiting, self._drain = self._drain, None
            case _:
                return False
        if waiting is not None:  # else: the asker gave up before the answer came
            waiting.resolve(message)
        return True

    async def hello(self, *, records: bool = True) -> EngineHello:
        """Say hello, return who the engine is; `records`: it shall tell of each flow that has ended. `run` must be running.

        Raises EngineGone, or TimeoutError when it does not answer.
        """
        self._hello = pending = _Pending()
        with anyio.fail_after(HELLO_TIMEOUT_S):
            await self._send("hello", {"protocol": PROTOCOL_VERSION, "records": records})
            return await pending.wait(EngineHello)

    async def send_identity(
        self,
        fleet: str,
        pop: str,
        ca_pem: bytes,
        cert_pem: bytes,
        key_pem: bytes,
        revoked: Mapping[str, Any] | None = None,
    ) -> None:
        """Hand over the PoP's certificates and key, and what it believes no more."""
        body = {"fleet": fleet, "pop": pop, "ca_pem": ca_pem, "cert_pem": cert_pem, "key_pem": key_pem}
        await self._send("identity", body | dict(revoked or {}))

    async def send_socket(self, key: SocketKey, sock: socket.socket) -> None:
        """Hand over a bound socket; the caller keeps its own descriptor."""
        await self._send("socket", key.to_message(), descriptor=sock.fileno())

    async def send_access_list(self, contents: AccessList) -> None:
        """Hand over an access list, piece by piece."""
        for piece in contents.pieces():
            await self._send("access_list", piece)

    async def apply(self, snapshot: Mapping[str, Any]) -> ApplyResult:
        """Hand over a snapshot, return what the engine made of it. TimeoutError when it does not answer."""
        generation = int(snapshot["generation"])
        self._apply[generation] = pending = _Pending()
        try:
            with anyio.fail_after(ANSWER_TIMEOUT_S):
                await self._send("apply", snapshot)
                return await pending.wait(ApplyResult)
        finally:
            self._apply.pop(generation, None)

    async def send_bus(self, peer: str, payload: bytes) -> None:
        """Send one control message to a neighbour; dropped and counted when too many wait for the socket."""
        if self._waiting_bus >= MAX_WAITING_BUS:
            self.dropped_bus += 1
            return
        self._waiting_bus += 1
        try:
            await self._send("bus", {"peer": peer, "payload": payload})
        finally:
            self._waiting_bus -= 1

    async def list_flows(self, app: str | None, limit: int) -> FlowPage:
        """Return at most `limit` live flows, of one app or of all."""
        return await self._page("list_flows", {"app": app, "limit": limit})

    async def whois(self, address: str, limit: int) -> FlowPage:
        """Return at most `limit` live flows of the client at `ip:port`, or that an origin sees come from there."""
        return await self._page("whois", {"address": address, "limit": limit})

    async def _page(self, kind: str, body: Mapping[str, Any]) -> FlowPage:
        if len(self._lists) >= MAX_LIST_REQUESTS:
            raise TimeoutError(f"{MAX_LIST_REQUESTS} flow lists are being made already")
        request = next(self._requests)
        self._lists[request] = pending = _Pending()
        try:
            with anyio.fail_after(ANSWER_TIMEOUT_S):
                await self._send(kind, {"request": request, **body})
                return await pending.wait(FlowPage)
        finally:
            self._lists.pop(request, None)

    async def drain(self, deadline_ms: int) -> Drained:
        """Have the engine end its flows within the deadline; it exits afterwards.

        Raises EngineGone if it exits without a word.
        """
        self._drain = pending = _Pending()
        await self._send("drain", {"deadline_ms": deadline_ms})
        return await pending.wait(Drained)

    async def stop(self) -> None:
        """Have the engine end at once."""
        await self._send("stop", {})

    async def _send(self, kind: str, body: Mapping[str, Any], descriptor: int | None = None) -> None:
        frame = memoryview(encode_frame(kind, body))
        with anyio.move_on_after(SEND_TIMEOUT_S) as scope:
            async with self._send_lock:
                await self._write(frame, descriptor)
        if scope.cancelled_caught:
            self.close()
            self.why_closed = f"the engine has not read its socket for {SEND_TIMEOUT_S:.0f} s"
            raise EngineGone(self.why_closed)

    async def _write(self, frame: memoryview, descriptor: int | None) -> None:
        sent = 0
        try:
            while sent < len(frame):
                if self._closed:
                    raise EngineGone(self.why_closed)
                try:
                    if descriptor is not None and sent == 0:
                        sent += socket.send_fds(self._socket, [frame], [descriptor])
                    else:
                        sent += self._socket.send(frame[sent:])
                except BlockingIOError:
                    await anyio.wait_writable(self._socket)
                except OSError as error:
                    if error.errno != errno.ETOOMANYREFS:
                        raise
                    await anyio.sleep(DESCRIPTOR_RETRY_S)
        except anyio.ClosedResourceError as error:
            raise EngineGone(self.why_closed) from error
        except OSError as error:
            self.close(f"{type(error).__name__}: {error}")
            raise EngineGone(self.why_closed) from error
        finally:
            # Cancelled in the middle of a frame: what follows would be read as the rest of it.
            if 0 < sent < len(frame):
                self.close("a frame was cut off in the middle")
