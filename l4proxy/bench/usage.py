"""What processes and the machine have used: processor time and memory, read from /proc. Linux only, as all of this."""

import os
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

TICK_NS = 1_000_000_000 // os.sysconf("SC_CLK_TCK")
OF_FILES = re.compile(
    r"(?!sock_inode_cache).*(?:inode|extent|radix_tree|buffer_head|kernfs|biovec|bio_|vm_area|anon_vma|maple|vmap|task_struct)"
)
"""Caches of the kernel that grow with files and processes and never with sockets: what the rest of the machine does shows there."""


def with_descendants(pids: Iterable[int]) -> list[int]:
    """Return the processes and all that descend from them."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue  # it has ended
        children.setdefault(int(fields[1]), []).append(int(stat.parent.name))
    found = list(pids)
    for pid in found:
        found.extend(children.get(pid, ()))
    return found


def threads_cpu_ns(pids: Iterable[int]) -> dict[int, int]:
    """Return the time, user and system, that each living thread of processes has had, in ns (the scheduler's count, no ticks)."""
    found = {}
    for pid in pids:
        for schedstat in Path(f"/proc/{pid}/task").glob("*/schedstat"):
            try:
                found[int(schedstat.parent.name)] = int(schedstat.read_text().split()[0])
            except OSError:
                continue  # it has ended
    return found


def cpu_ns(pids: Iterable[int]) -> int:
    """Return the time of all threads together."""
    return sum(threads_cpu_ns(pids).values())


def idle_ns() -> int:
    """Return how long all cores together have had nothing to do, or were taken away by the hypervisor."""
    values = [int(value) for value in Path("/proc/stat").read_text().partition("\n")[0].split()[1:]]
    _user, _nice, _system, idle, io_wait, _irq, _softirq, steal, *_ = values
    return (idle + io_wait + steal) * TICK_NS


def busy_share(seconds: float) -> float:
    """Return the share of all cores' time that something takes, watched for so long: 0 to 1."""
    meter = Meter(())
    with meter:
        time.sleep(seconds)
    return min(1.0, meter.machine_ns / 1e9 / seconds / (os.cpu_count() or 1))


def pss_bytes(pids: Iterable[int]) -> int:
    """Return the resident memory of processes; what several share counts in parts."""
    total = 0
    for pid in pids:
        try:
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        except OSError:
            continue
        total += sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))
    return total


def kernel_bytes() -> int | None:
    """Return what the kernel's objects take, of the whole machine, without those of files and processes. None: not root's.

    Sockets, epoll entries and pipes are such objects. Bytes in flight are not; an idle flow has none.
    """
    try:
        return objects_bytes(Path("/proc/slabinfo").read_text())
    except OSError:
        return None


def objects_bytes(slabinfo: str) -> int:
    """Return the bytes of all objects in use, from the kernel's list of them."""
    total = 0
    for line in slabinfo.splitlines()[2:]:
        name, in_use, _all, size, *_ = line.split()
        if not OF_FILES.match(name):
            total += int(in_use) * int(size)
    return total


@dataclass(slots=True)
class Meter:
    """Processor time of some processes and of the whole machine, for the time of a `with`."""

    pids: Sequence[int]
    """Their descendants are counted, too: those that there are when it begins."""
    cpu_ns: int = 0
    busiest_ns: int = 0
    """Of the thread that had most."""
    machine_ns: int = 0
    _began_ns: int = 0
    _idle_ns: int = 0
    _threads: Mapping[int, int] = field(default_factory=dict)

    def __enter__(self) -> Self:
        self.pids = with_descendants(self.pids)
        self._began_ns, self._idle_ns, self._threads = (
            time.monotonic_ns(),
            idle_ns(),
            threads_cpu_ns(self.pids),
        )
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _value: BaseException | None, _trace: TracebackType | None
    ) -> None:
        spent_ns = (time.monotonic_ns() - self._began_ns) * (os.cpu_count() or 1)
        self.machine_ns = max(0, spent_ns - (idle_ns() - self._idle_ns))
        used = [now - self._threads.get(thread, 0) for thread, now in threads_cpu_ns(self.pids).items()]
        self.cpu_ns, self.busiest_ns = sum(used), max(used, default=0)
