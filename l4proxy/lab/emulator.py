"""The process around the Rust emulator: `python -m l4proxy.lab.emulator CONFIG SOCKET`.

It opens every host's device, prints `ready`, then serves commands on a Unix socket: one JSON document a line,
`{"do": "stats"}` or `{"do": "set", "links": [...], "properties": {...}}`, one answer a line, `{"error": "…"}` if it failed.
No packet passes through Python: the emulator's own thread moves them.
"""

import contextlib
import json
import os
import signal
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
from anyio.abc import SocketStream
from anyio.streams.buffered import BufferedByteReceiveStream

from l4proxy.lab import namespaces
from l4proxy.lab.plan import Plan

if TYPE_CHECKING:
    from l4proxy import _native

MAX_LINE_BYTES = 1 << 20
"""Longest command: every link of the largest lab by name."""


def config(plan: Plan, holders: dict[str, int], hub: int | None, *, precise: bool) -> dict[str, Any]:
    """Return what the emulator process reads: hosts and links by name. With a hub the wire is veth, else TUN."""
    hosts = [
        {
            "name": host.name,
            "wire": "tun" if hub is None else "veth",
            "namespace": namespaces.path(holders[host.name] if hub is None else hub),
            "device": namespaces.DEVICE if hub is None else namespaces.hub_device(host),
            "mac": namespaces.mac(host),
        }
        for host in plan.hosts.values()
    ]
    links = [
        {
            "name": link.name,
            "from_host": link.from_host,
            "to_host": link.to_host,
            "pairs": link.pairs,
            "properties": asdict(link.properties),
        }
        for link in plan.links.values()
    ]
    return {"hosts": hosts, "links": links, "seed": plan.seed, "precise": precise}


def answer(emulator: "_native.LabEmulator", line: bytes) -> dict[str, Any]:
    """Carry out one command; a wrong one is answered, never raised."""
    try:
        command = json.loads(line)
        match command["do"]:
            case "stats":
                stats: dict[str, Any] = emulator.stats()
                if command.get("reset"):
                    emulator.reset_lateness()
                return stats
            case "set":
                changed = {
                    name: emulator.properties(name) | command["properties"] for name in command["links"]
                }
                for name, properties in changed.items():
                    emulator.set_link(name, properties)
                return {"links": changed}
            case "properties":
                return {"links": {name: emulator.properties(name) for name in command["links"]}}
            case unknown:
                return {"error": f"unknown command {unknown!r}: stats, set or properties"}
    except (ValueError, KeyError, TypeError) as error:
        return {"error": f"{type(error).__name__}: {error}"}


async def _serve(emulator: "_native.LabEmulator", path: str) -> None:
    async def talk(client: SocketStream) -> None:
        async with client:
            lines = BufferedByteReceiveStream(client)
            while True:
                try:
                    line = await lines.receive_until(b"\n", MAX_LINE_BYTES)
                    await client.send(json.dumps(answer(emulator, line)).encode() + b"\n")
                except (
                    anyio.EndOfStream,
                    anyio.IncompleteRead,
                    anyio.DelimiterNotFound,
                    anyio.BrokenResourceError,
                ):
                    return

    async def stop_on_signal() -> None:
        with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            async for _ in signals:
                tasks.cancel_scope.cancel()
                return

    listener = await anyio.create_unix_listener(path, mode=0o600)
    async with listener, anyio.create_task_group() as tasks:
        tasks.start_soon(stop_on_signal)
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        await listener.serve(talk)


def main(config_path: str, socket_path: str) -> None:
    """Open the devices, start the emulator's thread, serve commands until SIGTERM."""
    from l4proxy import (
        _native,
    )  # only here: who makes the config or speaks to the socket need not load the extension

    given = json.loads(Path(config_path).read_text())
    _ask_for_punctuality(spins=given["precise"])
    emulator = _native.LabEmulator(given["hosts"], given["links"], given["seed"], given["precise"])
    try:
        anyio.run(_serve, emulator, socket_path)
    finally:
        emulator.stop()


def _ask_for_punctuality(*, spins: bool) -> None:
    """Make threads started from here wake up on time, as far as this machine lets us; the lateness tells how far."""
    with contextlib.suppress(OSError):
        # Timers may fire up to this late to save power, 50 µs by default.
        Path("/proc/self/timerslack_ns").write_text("1")
    try:
        if spins:  # the kernel stops a real-time thread that never sleeps for 50 ms of every second
            raise PermissionError
        # Ahead of the flows' own programs: a packet that waits for a turn on the processor is a late packet.
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    except OSError:
        with contextlib.suppress(OSError):
            os.nice(-10)


if __name__ == "__main__":
    main(*sys.argv[1:3])
