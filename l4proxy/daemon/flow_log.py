"""Writes one JSON line per ended flow to a file or stdout: bounded in memory, rotated by size.

A disk that is full or slow costs records, which are counted, and never a flow. Fields: docs/engine-protocol.md "Flow",
shaped as operators know them (`ts`, `event`, addresses apart from ports).
"""

import json
import sys
from collections import deque
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO

import anyio
import anyio.to_thread

from l4proxy.core.privacy import recorded_client

MAX_WAITING = 10_000
"""Records in memory: some seconds of a PoP that ends thousands of flows a second."""

MAX_FILE_BYTES = 64 * 1024 * 1024
MAX_OLD_FILES = 5
"""`FILE.1` is the newest of them."""

_COPIED = (
    "app",
    "protocol",
    "role",
    "ingress",
    "egress",
    "policy",
    "origin",
    "bytes_to_origin",
    "bytes_to_client",
    "datagrams_to_origin",
    "datagrams_to_client",
    "dropped",
    "path_changes",
    "egress_changes",
    "connect_ms",
    "first_byte_ms",
    "code",
    "reason",
    "closed_by",
    "sni",
)


def _split(address: str) -> tuple[str, int | None]:
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port) if port.isdigit() else None


def _timestamp(wall_ns: int) -> str:
    moment = datetime.fromtimestamp(wall_ns / 1e9, UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{moment.microsecond // 1000:03d}Z"


def to_line(
    record: Mapping[str, Any],
    path: Sequence[str],
    pop: str,
    generation: int,
    *,
    is_smart: bool,
    client_key: bytes,
) -> str:
    """Return the line of one ended flow, newline included; `path` as PoPs from ingress to egress.

    `client_key` hides clients of apps with `record_client: hash`.
    """
    ip, port = _split(str(record["client"]))
    client_ip, client_port = recorded_client(ip, port, str(record["record_client"]), client_key)
    # Our address towards the origin is the client's own with `transparent`, and one per client from a pool.
    source = record.get("source") if record["record_client"] == "full" else None
    line = {
        "ts": _timestamp(int(record["ended_ns"])),
        "event": "flow_ended",
        "pop": pop,
        "generation": generation,
        "flow": record["id"],
        "client_ip": client_ip,
        "client_port": client_port,
        "listen": record["listener"],
        "source": source,
        "smart_routing": is_smart,
        "started": _timestamp(int(record["started_ns"])),
        "duration_ms": max(0, (int(record["ended_ns"]) - int(record["started_ns"])) // 1_000_000),
    }
    line |= {name: record.get(name) for name in _COPIED}
    line |= {"path": list(path), "links": list(record["path"])}
    return json.dumps(line, separators=(",", ":"), ensure_ascii=True) + "\n"


class FlowLog:
    """One destination of flow records; `-` is stdout."""

    def __init__(self, destination: str) -> None:
        self._path = None if destination == "-" else Path(destination)
        self._file: TextIO | None = None
        self._waiting: deque[str] = deque()
        self._wake = anyio.Event()
        self._reopen = False
        self.written = 0
        self.dropped = 0
        """Records that found the queue full, or the disk."""
        self.problem: str | None = None

    def put(self, line: str) -> None:
        """Take a line for writing; dropped and counted when too many wait."""
        if len(self._waiting) >= MAX_WAITING:
            self.dropped += 1
            return
        self._waiting.append(line)
        self._wake.set()

    def reopen(self) -> None:
        """Open the file anew before the next line: somebody has moved it away."""
        self._reopen = True

    async def run(self) -> None:
        """Write until cancelled; what waits then is written before this returns."""
        try:
            while True:
                await self._wake.wait()
                self._wake = anyio.Event()
                lines = self._take()
                with anyio.CancelScope(shield=True):  # what was taken is written, or lost
                    await anyio.to_thread.run_sync(self._write, lines)
        finally:
            self._write(self._take())
            if self._file is not None and self._path is not None:
                self._file.close()

    def _take(self) -> list[str]:
        lines = list(self._waiting)
        self._waiting.clear()
        return lines

    def _write(self, lines: list[str]) -> None:
        done = 0
        try:
            for line in lines:
                self._open_if_needed().write(line)
                done += 1
            if self._file is not None:
                self._file.flush()
            self.problem = None
        except OSError as error:
            self.problem = f"cannot write the flow log {self._path or 'to stdout'}: {error.strerror or error}"
            self._file = None
        self.written += done
        self.dropped += len(lines) - done

    def _open_if_needed(self) -> TextIO:
        if self._path is None:
            self._file = sys.stdout
            return self._file
        if self._file is not None and (self._reopen or self._file.tell() >= MAX_FILE_BYTES):
            self._file.close()
            self._file = None
            if not self._reopen:
                self._rotate(self._path)
        self._reopen = False
        if self._file is None:
            self._file = self._path.open("a", encoding="utf-8")
        return self._file

    @staticmethod
    def _rotate(path: Path) -> None:
        for number in range(MAX_OLD_FILES - 1, 0, -1):
            old = path.with_name(f"{path.name}.{number}")
            if old.exists():
                old.replace(path.with_name(f"{path.name}.{number + 1}"))
        path.replace(path.with_name(f"{path.name}.1"))
