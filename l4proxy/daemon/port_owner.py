"""Finds out who holds a port, from /proc, for an error message. Best effort: "" where /proc does not tell."""

import os
from collections.abc import Iterator
from pathlib import Path

MAX_PROCESSES = 20_000
"""Processes looked at before giving up: an error message may take a moment, not a minute."""

_TCP_LISTEN = "0A"


def find_port_owner(protocol: str, port: int, proc: Path = Path("/proc")) -> str:
    """Return `nginx (pid 812)` for the process that holds the port, "" if that cannot be known."""
    inodes = set(_inodes(protocol, port, proc))
    if not inodes:
        return ""
    targets = {f"socket:[{inode}]" for inode in inodes}
    for count, process in enumerate(_processes(proc)):
        if count >= MAX_PROCESSES:
            break
        if _holds(process, targets):
            return f"{_command(process)} (pid {process.name})"
    return ""


def _inodes(protocol: str, port: int, proc: Path) -> Iterator[str]:
    """Yield the inodes of sockets bound to the port; for tcp only of those that listen."""
    for table in (protocol, f"{protocol}6"):
        try:
            lines = (proc / "net" / table).read_text().splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            fields = line.split()
            if len(fields) < 10 or int(fields[1].rpartition(":")[2], 16) != port:
                continue
            if protocol == "tcp" and fields[3] != _TCP_LISTEN:
                continue
            yield fields[9]


def _processes(proc: Path) -> Iterator[Path]:
    for entry in proc.iterdir():
        if entry.name.isdigit():
            yield entry


def _holds(process: Path, targets: set[str]) -> bool:
    try:
        with os.scandir(process / "fd") as entries:
            for entry in entries:
                try:
                    if str(Path(entry.path).readlink()) in targets:
                        return True
                except OSError:  # closed in the meantime
                    continue
    except OSError:  # another user's process, or one that has ended
        return False
    return False


def _command(process: Path) -> str:
    try:
        return (process / "comm").read_text().strip()
    except OSError:
        return "a process"
