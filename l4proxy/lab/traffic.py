"""The demo's own origin and clients: real sockets, numbered messages, every event written down.

    python -m l4proxy.lab.traffic origin PORT
    python -m l4proxy.lab.traffic client HOST PORT --record FILE [--rate 50] [--bulk-rate 250000]
    python -m l4proxy.lab.traffic download HOST PORT --bytes 4000000 --seconds 6

The origin echoes on TCP and UDP, and sends patterned bytes to a TCP client that asks. The client keeps three flows
until SIGTERM: TCP messages, UDP datagrams, a paced TCP download; `measure` reads its record.
"""

import argparse
import json
import signal
import socket
import struct
import time
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import anyio
from anyio.abc import SocketAttribute, SocketStream, TaskGroup, UDPSocket
from anyio.streams.buffered import BufferedByteReceiveStream

ECHO = b"E"
"""First byte of a TCP connection that wants everything back."""
DOWNLOAD = b"D"
"""First byte of one that wants bytes: followed by how many (8 bytes) and how many a second (8 bytes, 0: unpaced)."""
_REQUEST = struct.Struct("!QQ")
_HEADER = struct.Struct("!QQ")
"""Number of a message and when it was sent, ns of CLOCK_MONOTONIC, which all namespaces of a machine share."""
TCP_MESSAGE_BYTES = 64
UDP_MESSAGE_BYTES = 172
"""A G.711 voice packet: 20 ms of sound and an RTP header."""
BLOCK_BYTES = 65_536
PATTERN = Random(7777).randbytes(BLOCK_BYTES)  # noqa: S311 - not a secret: so that a byte out of place shows
PACE_S = 0.02
"""Paced downloads send once in this time."""

Note = Callable[..., None]


# -- origin ------------------------------------------------------------------------------------------------------------


async def serve_tcp(client: SocketStream) -> None:
    """Echo or send, whichever the first byte asks for, until the client is done or gone."""
    async with client:
        try:
            wish = await client.receive(1)
            if wish == ECHO:
                while True:
                    await client.send(await client.receive(BLOCK_BYTES))
            elif wish == DOWNLOAD:
                request = await BufferedByteReceiveStream(client).receive_exactly(_REQUEST.size)
                await _send_pattern(client, *_REQUEST.unpack(request))
        except (anyio.EndOfStream, anyio.BrokenResourceError, anyio.IncompleteRead):
            return


async def _send_pattern(client: SocketStream, total: int, bytes_s: int) -> None:
    started, sent = time.monotonic(), 0
    while sent < total:
        at = sent % BLOCK_BYTES
        size = BLOCK_BYTES - at if bytes_s == 0 else min(BLOCK_BYTES - at, max(1, int(bytes_s * PACE_S)))
        await client.send(PATTERN[at : at + min(size, total - sent)])
        sent += min(size, total - sent)
        if bytes_s:
            await anyio.sleep(max(0.0, started + sent / bytes_s - time.monotonic()))


async def _bind_udp(port: int) -> UDPSocket:
    """One socket takes IPv4 as well, as mapped addresses; a machine without IPv6 gets an IPv4 one."""
    try:
        return await anyio.create_udp_socket(socket.AF_INET6, local_host="::", local_port=port)
    except OSError:
        return await anyio.create_udp_socket(socket.AF_INET, local_port=port)


async def _echo_udp(endpoint: UDPSocket) -> None:
    async with endpoint:
        async for payload, (host, port) in endpoint:
            await endpoint.sendto(payload, host, port)


async def origin(port: int) -> None:
    """Serve TCP and UDP on `port`, IPv4 and IPv6, for ever. Prints `ready`."""
    listener = await anyio.create_tcp_listener(local_port=port)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_echo_udp, await _bind_udp(port))
        print("ready", flush=True)  # noqa: T201 - the parent waits for it
        await listener.serve(serve_tcp)


# -- client ------------------------------------------------------------------------------------------------------------


async def _echo_tcp(host: str, port: int, interval_s: float, note: Note) -> None:
    """Send numbered messages on one connection; what comes back must be the same bytes in order."""
    client = await anyio.connect_tcp(host, port)
    local = client.extra(SocketAttribute.local_port)  # noqa: S610 - not Django
    note("open", "tcp", local_port=local)

    async def receive() -> None:
        lines, expected = BufferedByteReceiveStream(client), 0
        while True:
            number, sent_ns = _HEADER.unpack((await lines.receive_exactly(TCP_MESSAGE_BYTES))[: _HEADER.size])
            if number != expected:
                note("corrupt", "tcp", number=number, expected=expected)
                return
            note("received", "tcp", number=number, sent_ns=sent_ns)
            expected += 1

    async with client, anyio.create_task_group() as tasks:
        await client.send(ECHO)
        tasks.start_soon(receive)
        async for number in _ticks(interval_s):
            sent_ns = time.monotonic_ns()
            note("sent", "tcp", number=number, sent_ns=sent_ns)
            await client.send(_HEADER.pack(number, sent_ns).ljust(TCP_MESSAGE_BYTES, b"."))


async def _datagrams(host: str, port: int, interval_s: float, note: Note) -> None:
    """Send numbered datagrams from one socket and note what comes back, in whatever order."""
    endpoint = await anyio.create_connected_udp_socket(host, port)
    local = endpoint.extra(SocketAttribute.local_port)  # noqa: S610 - not Django
    note("open", "udp", local_port=local)

    async def receive() -> None:
        async for payload in endpoint:
            number, sent_ns = _HEADER.unpack(payload[: _HEADER.size])
            note("received", "udp", number=number, sent_ns=sent_ns)

    async with endpoint, anyio.create_task_group() as tasks:
        tasks.start_soon(receive)
        async for number in _ticks(interval_s):
            sent_ns = time.monotonic_ns()
            note("sent", "udp", number=number, sent_ns=sent_ns)
            await endpoint.send(_HEADER.pack(number, sent_ns).ljust(UDP_MESSAGE_BYTES, b"."))


async def _ticks(interval_s: float) -> Any:
    """Give 0, 1, 2 … on a fixed schedule: a late tick does not move the following ones."""
    started, number = time.monotonic(), 0
    while True:
        await anyio.sleep(max(0.0, started + number * interval_s - time.monotonic()))
        yield number
        number += 1


async def fetch(host: str, port: int, total: int, bytes_s: int, on_bytes: Callable[[int], None]) -> int:
    """Download `total` patterned bytes; return how many came, all of them right. ValueError at a wrong one."""
    received = 0
    async with await anyio.connect_tcp(host, port) as client:
        await client.send(DOWNLOAD + _REQUEST.pack(total, bytes_s))
        while received < total:
            try:
                chunk = await client.receive(BLOCK_BYTES)
            except anyio.EndOfStream:
                break
            at = received % BLOCK_BYTES
            if (PATTERN + PATTERN)[at : at + len(chunk)] != chunk:
                raise ValueError(f"wrong bytes after {received}")
            received += len(chunk)
            on_bytes(received)
    return received


async def _paced_download(host: str, port: int, bytes_s: int, note: Note) -> None:
    await fetch(host, port, 2**62, bytes_s, lambda received: note("bytes", "bulk", received=received))


async def client(host: str, port: int, record: Path, rate: float, bulk_bytes_s: int) -> None:
    """Keep the three flows until SIGTERM, each by itself: the end of one is noted and does not end the others."""
    with record.open("w", buffering=1) as out:

        def note(event: str, flow: str, **fields: Any) -> None:
            out.write(
                json.dumps({"event": event, "flow": flow, "at_ns": time.monotonic_ns(), **fields}) + "\n"
            )

        async def guarded(flow: str, work: Callable[[], Any]) -> None:
            try:
                await work()
                note("ended", flow, reason="the other side closed it")
            except (
                OSError,
                anyio.EndOfStream,
                anyio.BrokenResourceError,
                anyio.IncompleteRead,
                ValueError,
            ) as error:
                note("ended", flow, reason=_reason(error))
            except BaseExceptionGroup as group:
                kept, _ = group.split(anyio.get_cancelled_exc_class())
                if kept:
                    raise
                note("ended", flow, reason=_reason(group.exceptions[0]))

        async def until_signal(tasks: TaskGroup) -> None:
            with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
                async for _ in signals:
                    tasks.cancel_scope.cancel()
                    return

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(until_signal, tasks)
            tasks.start_soon(guarded, "tcp", lambda: _echo_tcp(host, port, 1 / rate, note))
            tasks.start_soon(guarded, "udp", lambda: _datagrams(host, port, 1 / rate, note))
            if bulk_bytes_s:
                tasks.start_soon(guarded, "bulk", lambda: _paced_download(host, port, bulk_bytes_s, note))


def _reason(error: BaseException) -> str:
    cause = error.__cause__ or error
    return f"{type(cause).__name__}: {cause}"


async def download(host: str, port: int, total: int, seconds: float) -> dict[str, Any]:
    """Download as fast as it goes, for at most `seconds`. Return `bytes, seconds, mbit_s, error`."""
    received, error = 0, None

    def on_bytes(count: int) -> None:
        nonlocal received
        received = count

    started = time.monotonic()
    with anyio.move_on_after(seconds):
        try:
            await fetch(host, port, total, 0, on_bytes)
        except (OSError, anyio.BrokenResourceError, ValueError) as problem:
            error = _reason(problem)
    took_s = time.monotonic() - started
    return {"bytes": received, "seconds": took_s, "mbit_s": received * 8 / took_s / 1e6, "error": error}


def main() -> None:
    """Read the arguments and run one of the three."""
    parser = argparse.ArgumentParser(prog="python -m l4proxy.lab.traffic", description=__doc__)
    programs = parser.add_subparsers(dest="program", required=True)
    server = programs.add_parser("origin")
    server.add_argument("port", type=int)
    flows = programs.add_parser("client")
    flows.add_argument("--record", type=Path, required=True)
    flows.add_argument("--rate", type=float, default=50.0, help="messages a second, TCP and UDP each")
    flows.add_argument(
        "--bulk-rate", type=int, default=250_000, help="bytes a second of the download; 0: none"
    )
    once = programs.add_parser("download")
    once.add_argument("--bytes", type=int, default=4_000_000)
    once.add_argument("--seconds", type=float, default=6.0)
    for program in (flows, once):
        program.add_argument("host")
        program.add_argument("port", type=int)
    given = parser.parse_args()
    match given.program:
        case "origin":
            anyio.run(origin, given.port)
        case "client":
            anyio.run(client, given.host, given.port, given.record, given.rate, given.bulk_rate)
        case "download":
            print(json.dumps(anyio.run(download, given.host, given.port, given.bytes, given.seconds)))  # noqa: T201


if __name__ == "__main__":
    main()
