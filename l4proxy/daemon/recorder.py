"""Writes down what this PoP knows of all links, once a minute, into files of a bounded folder: what `route replay` and `route plan` read.

The bytes are `core.link_history`'s. A disk that is full or gone costs moments, which are counted, and never stops the daemon.
"""

import contextlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import anyio
import anyio.to_thread

from l4proxy.core.controller import Controller
from l4proxy.core.link_history import Header, Writer, header_of

INTERVAL_S = 60
"""Levels move within some seconds; a minute is a tenth of what flows last, and a day of 330 PoPs with three links fits into the limit."""

SEGMENTS = 8
"""A segment ends at this part of the limit, so that pruning takes no more than that of what there is."""

SUFFIX = ".links"


@dataclass(frozen=True, slots=True)
class Recorded:
    """What there is, for people."""

    directory: Path
    bytes: int
    max_bytes: int
    segments: int
    moments_written: int
    moments_lost: int
    """Not written because the disk did not take them."""
    segments_pruned: int
    problem: str | None


class Recorder:
    """One folder of segments, named by the second they begin, the oldest of which goes when all together are too long."""

    def __init__(self, directory: Path, max_bytes: int, now_ns: Callable[[], int]) -> None:
        self._directory = directory
        self._max_bytes = max_bytes
        self._now_ns = now_ns
        self._writer: Writer | None = None
        self._file: Path | None = None
        self._written = self._lost = self._pruned = 0
        self._problem: str | None = None

    async def run(self, controller: Callable[[], Controller | None]) -> None:
        """Record until cancelled."""
        while True:
            await anyio.sleep(INTERVAL_S)
            known = controller()
            if known is not None:
                await self.record(known)

    async def record(self, controller: Controller) -> None:
        """Write down this moment, as far as there is a table."""
        plan = controller.plan
        if plan is None or not plan.table.names or self._max_bytes <= 0:
            return
        at_s = self._now_ns() // 1_000_000_000
        locations = {name: pop.location for name, pop in controller.fleet.pops.items()}
        header = header_of(controller.fleet.name, controller.pop, INTERVAL_S, locations, plan.table)
        begun = self._begun(header)
        writer = Writer(header) if begun is None else begun
        data = writer.moment(at_s, plan.table)
        try:
            if begun is None:
                data = writer.begin() + data
                self._file = await anyio.to_thread.run_sync(self._create, at_s)
            await anyio.to_thread.run_sync(self._append, data)
        except OSError as error:
            # What was written of it is torn, and nothing can follow it.
            if begun is None and self._file is not None:
                await anyio.to_thread.run_sync(self._discard, self._file)
            self._writer, self._file = None, None
            self._lost += 1
            self._problem = f"cannot record links in {self._directory}: {error.strerror or error}"
            return
        self._writer, self._problem = writer, None
        self._written += 1

    def state(self) -> Recorded:
        """Return what there is. Blocking, some file names."""
        segments = self._segments()
        return Recorded(
            directory=self._directory,
            bytes=sum(size for _, size in segments),
            max_bytes=self._max_bytes,
            segments=len(segments),
            moments_written=self._written,
            moments_lost=self._lost,
            segments_pruned=self._pruned,
            problem=self._problem,
        )

    @property
    def problem(self) -> str | None:
        """Why the last moment was not written; None: it was."""
        return self._problem

    def _begun(self, header: Header) -> Writer | None:
        """The writer of the segment that may go on: of the same links, and not too long."""
        writer, file = self._writer, self._file
        if writer is None or file is None or writer.header != header:
            return None
        try:
            return writer if file.stat().st_size < self._max_bytes // SEGMENTS else None
        except OSError:
            return None

    def _create(self, at_s: int) -> Path:
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        while (file := self._directory / f"{at_s}{SUFFIX}").exists():
            at_s += 1
        os.close(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        return file

    def _discard(self, file: Path) -> None:
        """Remove a segment that did not get as far as its first moment."""
        with contextlib.suppress(OSError):
            file.unlink()

    def _append(self, data: bytes) -> None:
        assert self._file is not None  # noqa: S101 (made before)
        with self._file.open("ab", buffering=0) as out:
            if out.write(data) != len(data):
                raise OSError(0, "the disk is full")
            os.fdatasync(out.fileno())
        self._prune()

    def _prune(self) -> None:
        segments = self._segments()
        total = sum(size for _, size in segments)
        for file, size in segments:
            if total <= self._max_bytes or file == self._file:
                return
            file.unlink(missing_ok=True)
            total -= size
            self._pruned += 1

    def _segments(self) -> list[tuple[Path, int]]:
        """All files of ours with their sizes, the oldest first."""
        files = [file for file in self._directory.glob(f"*{SUFFIX}") if file.stem.isdigit()]
        return [(file, file.stat().st_size) for file in sorted(files, key=lambda file: int(file.stem))]
