"""How many file descriptors a process has open, and how many it may. From /proc; None where that does not tell."""

import os
import resource
from pathlib import Path

from l4proxy.daemon.measures import Descriptors


def descriptors_of(pid: int | None) -> Descriptors | None:
    """Return the descriptors of a process; `pid` None: of this one."""
    folder = Path("/proc") / ("self" if pid is None else str(pid))
    try:
        with os.scandir(folder / "fd") as entries:
            used = sum(1 for _ in entries)
        if pid is None:
            return Descriptors(
                used - 1, resource.getrlimit(resource.RLIMIT_NOFILE)[0]
            )  # the scan itself is one
        return Descriptors(used, resource.prlimit(pid, resource.RLIMIT_NOFILE)[0])
    except OSError:  # it has ended, or belongs to somebody else
        return None
