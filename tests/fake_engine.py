"""An engine in Python for tests of the control plane: it speaks docs/engine-protocol.md and carries nothing.

In a test's own event loop (`FakeEngine`: what it was told lies in its attributes, `say` speaks as the engine
would), or as a process that the daemon starts in place of the real one: `python -m tests.fake_engine --fd N
--workers W --pop NAME`. It is deliberately strict: what a real engine would refuse, it refuses.
"""

import argparse
import contextlib
import os
import socket
import struct
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import anyio.abc
import msgpack

import l4proxy
from l4proxy.daemon.engine_messages import PROTOCOL_VERSION, SocketKey

_LENGTH = struct.Struct("!I")


def keys_of(snapshot: dict[str, Any], workers: int) -> set[SocketKey]:
    """Return every socket that a snapshot names."""
    keys = set()
    for app in snapshot["apps"]:
        for listen in app["listens"]:
            for port in range(listen["first"], listen["last"] + 1):
                for worker in range(workers):
                    keys.add(SocketKey("listener", listen["protocol"], listen["address"], port, worker))
    for link in [*snapshot["links"], *snapshot["links_in"]]:
        address, _, port = link["local"].rpartition(":")
        for worker in range(workers):
            keys.add(SocketKey("overlay", "udp", address.strip("[]"), int(port), worker))
    return keys


class FakeEngine:
    """One engine on one listening Unix socket."""

    def __init__(self, listener: socket.socket, workers: int = 1, pop: str = "local") -> None:
        listener.setblocking(False)
        self.listener = listener
        self.workers = workers
        self.pop = pop
        self.version = l4proxy.__version__
        self.protocol = PROTOCOL_VERSION
        self.generation = 0
        self.identity: dict[str, Any] | None = None
        self.sockets: dict[SocketKey, socket.socket] = {}
        self.snapshot: dict[str, Any] | None = None
        self.applied: list[int] = []
        self.received: list[str] = []
        self.bus: list[tuple[str, bytes]] = []
        self.refuse: str | None = None
        self.hangs_up: str | None = None
        """With these words it ends the connection when a snapshot comes."""
        self.flows: list[dict[str, Any]] = []
        self.answers_drain = True
        self.drain_deadline_ms: int | None = None
        self.ended = anyio.Event()
        self.daemons = 0
        self._connection: socket.socket | None = None
        self._buffer = bytearray()
        self._descriptors: list[int] = []
        self.counter_values: dict[str, int] = {}
        self.app_counters: dict[str, dict[str, int]] = {}
        self.drops: dict[str, int] = {}
        self.peers: list[dict[str, Any]] = []
        self.ended_flows: list[dict[str, Any]] = []
        self.handles: list[dict[str, Any]] = []
        self.transit: list[dict[str, Any]] = []
        self.access_lists: dict[int, list[dict[str, Any]]] = {}

    async def serve(self) -> None:
        """Accept one daemon at a time, a new one replaces the old, until `drain` or `stop`."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._accept, tasks)
            await self.ended.wait()
            tasks.cancel_scope.cancel()
        self._drop_connection()
        for held in self.sockets.values():
            held.close()

    async def _accept(self, tasks: anyio.abc.TaskGroup) -> None:
        while True:
            await anyio.wait_readable(self.listener)
            connection, _ = self.listener.accept()
            connection.setblocking(False)
            self._drop_connection()
            self._connection = connection
            self._buffer.clear()
            self.daemons += 1
            tasks.start_soon(self._read, connection)

    def _drop_connection(self) -> None:
        if self._connection is not None:
            anyio.notify_closing(self._connection)
            self._connection.close()
            self._connection = None

    def disconnect(self) -> None:
        """Close the connection, as an engine does that met something it cannot read."""
        self._drop_connection()

    async def _read(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError, anyio.ClosedResourceError):
            while True:
                await anyio.wait_readable(connection)
                data, descriptors, _, _ = socket.recv_fds(connection, 65_536, 64)
                self._descriptors += descriptors
                if not data:
                    return
                self._buffer += data
                while len(self._buffer) >= 4:
                    (length,) = _LENGTH.unpack_from(self._buffer)
                    if len(self._buffer) < 4 + length:
                        break
                    message = msgpack.unpackb(bytes(self._buffer[4 : 4 + length]), raw=False)
                    del self._buffer[: 4 + length]
                    ((kind, body),) = message.items()
                    await self._handle(kind, body)

    async def _handle(self, kind: str, body: dict[str, Any]) -> None:
        self.received.append(kind)
        if kind == "hello":
            await self.say("hello", self._hello())
        elif kind == "identity":
            self.identity = body
        elif kind == "socket":
            held = socket.socket(fileno=self._descriptors.pop(0))
            key = SocketKey(**body)
            if key in self.sockets:
                self.sockets[key].close()
            self.sockets[key] = held
        elif kind == "apply" and self.hangs_up is not None:
            await self.say("goodbye", {"reason": self.hangs_up})
            self.disconnect()
        elif kind == "apply":
            await self._apply(body)
        elif kind == "access_list":
            pieces = self.access_lists.setdefault(body["id"], [])
            if body["part"] == 0:
                pieces.clear()
            pieces.append(body)
        elif kind == "bus":
            self.bus.append((body["peer"], body["payload"]))
        elif kind == "list_flows":
            flows = [flow for flow in self.flows if body["app"] in (None, flow["app"])]
            answer = {"request": body["request"], "flows": flows[: body["limit"]], "total": len(flows)}
            await self.say("flows", answer)
        elif kind == "whois":
            wanted = body["address"]
            flows = [flow for flow in self.flows if wanted in (flow["client"], flow.get("source"))]
            answer = {"request": body["request"], "flows": flows[: body["limit"]], "total": len(flows)}
            await self.say("flows", answer)
        elif kind == "drain":
            self.drain_deadline_ms = body["deadline_ms"]
            if self.answers_drain:
                await self.say("drained", {"closed": len(self.flows)})
                self.ended.set()
        elif kind == "stop":
            self.ended.set()

    def _hello(self) -> dict[str, Any]:
        return {
            "protocol": self.protocol,
            "version": self.version,
            "pid": os.getpid(),
            "workers": self.workers,
            "generation": self.generation,
            "pop": self.pop,
            "sockets": [key.to_message() for key in sorted(self.sockets)],
            "access_lists": sorted(self.access_lists),
            "has_identity": self.identity is not None,
        }

    async def _apply(self, snapshot: dict[str, Any]) -> None:
        generation = snapshot["generation"]
        missing = keys_of(snapshot, self.workers) - set(self.sockets)
        reason = self.refuse
        if missing:
            reason = f"no socket {sorted(missing)[0]}"
        elif snapshot["peers"] and self.identity is None:
            reason = "peers without an identity"
        named = {found["id"] for app in snapshot["apps"] for found in app["access"]["lists"]}
        if not all(self._is_whole(number) for number in named):
            reason = "an access list has not come whole"
        if reason is not None:
            await self.say("refused", {"generation": generation, "reason": reason})
            return
        for key in set(self.sockets) - keys_of(snapshot, self.workers):
            self.sockets.pop(key).close()
        self.access_lists = {number: self.access_lists[number] for number in named}
        self.snapshot = snapshot
        self.generation = generation
        self.applied.append(generation)
        await self.say("applied", {"generation": generation})

    def _is_whole(self, number: int) -> bool:
        pieces = self.access_lists.get(number, [])
        in_order = [piece["part"] for piece in pieces] == list(range(len(pieces)))
        return bool(pieces) and in_order and bool(pieces[-1]["is_last"])

    async def say(self, kind: str, body: dict[str, Any]) -> None:
        """Send one frame to the daemon that is connected now."""
        packed = msgpack.packb({kind: body}, use_bin_type=True)
        await self.say_bytes(_LENGTH.pack(len(packed)) + packed)

    async def say_bytes(self, frame: bytes) -> None:
        """Send raw bytes, right or wrong."""
        assert self._connection is not None, "no daemon is connected"
        connection = self._connection
        view = memoryview(frame)
        while view:
            try:
                view = view[connection.send(view) :]
            except BlockingIOError:
                await anyio.wait_writable(connection)

    async def say_outcomes(
        self,
        flows: list[dict[str, Any]],
        *,
        elapsed_ms: int = 0,
        links: dict[str, int] | None = None,
        paths: list[dict[str, Any]] | None = None,
    ) -> None:
        """Tell what flows got."""
        body = {
            "at_ns": time.time_ns(),
            "elapsed_ms": elapsed_ms,
            "links": [{"link": name, "bytes": count} for name, count in (links or {}).items()],
            "paths": paths or [],
            "flows": flows,
        }
        await self.say("outcomes", body)

    async def say_counters(self) -> None:
        """Send the counters as they stand in the attributes."""
        body = {
            "at_ns": time.time_ns(),
            "workers": self.workers,
            "values": self.counter_values,
            "apps": self.app_counters,
            "drops": self.drops,
            "handles": self.handles,
            "peers": self.peers,
            "ended": self.ended_flows,
            "transit": self.transit,
        }
        await self.say("counters", body)


@contextlib.asynccontextmanager
async def fake_engine(path: Path, workers: int = 1, pop: str = "local") -> AsyncIterator[FakeEngine]:
    """Give an engine that listens on `path` in this event loop."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(path))
    listener.listen(4)
    engine = FakeEngine(listener, workers, pop)
    with listener:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(engine.serve)
            try:
                yield engine
            finally:
                engine.ended.set()


def main() -> None:
    """Be an engine process, as `python -m l4proxy.engine` is."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--fd", type=int, required=True)
    parser.add_argument("--workers", type=int, required=True)
    parser.add_argument("--pop", required=True)
    parser.add_argument("--overlay-memory", type=int, required=True)
    parser.add_argument("--protocol", type=int, default=PROTOCOL_VERSION)
    parser.add_argument("--hangs-up")
    options = parser.parse_args()

    async def run() -> None:
        engine = FakeEngine(socket.socket(fileno=options.fd), options.workers, options.pop)
        engine.protocol, engine.hangs_up = options.protocol, options.hangs_up
        await engine.serve()

    anyio.run(run)


if __name__ == "__main__":
    main()
