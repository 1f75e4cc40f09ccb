"""Where things lie by default: files, state and sockets of root and of everybody else."""

import os
import stat
import tempfile
from pathlib import Path


class UnsafeDirectory(RuntimeError):  # noqa: N818 (a state of the world)
    """A directory that others could change stands where sockets would go."""


def runtime_directory() -> Path:
    """Return where sockets go: /run/l4proxy for root, else below XDG_RUNTIME_DIR, else a private directory."""
    named = os.environ.get("L4PROXY_RUNTIME_DIR")
    if named:
        return Path(named)
    if os.geteuid() == 0:
        return Path("/run/l4proxy")
    session = os.environ.get("XDG_RUNTIME_DIR")
    if session:
        return Path(session) / "l4proxy"
    return Path(tempfile.gettempdir()) / f"l4proxy-{os.geteuid()}"


def state_directory() -> Path:
    """Return where state goes: /var/lib/l4proxy for root, else below XDG_STATE_HOME."""
    named = os.environ.get("L4PROXY_STATE_DIR")
    if named:
        return Path(named)
    if os.geteuid() == 0:
        return Path("/var/lib/l4proxy")
    home = os.environ.get("XDG_STATE_HOME")
    return (Path(home) if home else Path.home() / ".local" / "state") / "l4proxy"


def configuration_directory() -> Path:
    """Return where app and fleet files are looked for: /etc/l4proxy for root, else below XDG_CONFIG_HOME."""
    named = os.environ.get("L4PROXY_CONFIG_DIR")
    if named:
        return Path(named)
    if os.geteuid() == 0:
        return Path("/etc/l4proxy")
    home = os.environ.get("XDG_CONFIG_HOME")
    return (Path(home) if home else Path.home() / ".config") / "l4proxy"


def make_private_directory(path: Path) -> None:
    """Make a directory that only this user can enter; UnsafeDirectory if one is there that others can change."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = path.stat()
    if found.st_uid not in (0, os.geteuid()):
        raise UnsafeDirectory(f"{path} belongs to user {found.st_uid}: choose another directory")
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise UnsafeDirectory(
            f"{path} can be changed by other users: chmod 0700 it or choose another directory"
        )
