"""One daemon per runtime directory: a lock that the kernel releases however the daemon ends."""

import fcntl
import os
from pathlib import Path
from types import TracebackType

from l4proxy.errors import L4ProxyError


class AlreadyRunning(L4ProxyError):  # noqa: N818 (a state of the world)
    """Another daemon uses the directory."""


class RuntimeLock:
    """Held while the daemon lives. The engine does not inherit it: a new daemon may take the engine over."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / "daemon.lock"
        self._descriptor = -1

    def __enter__(self) -> "RuntimeLock":
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            owner = os.read(descriptor, 32).decode("ascii", "replace").strip()
            os.close(descriptor)
            pid = f" (pid {owner})" if owner else ""
            raise AlreadyRunning(
                f"another daemon{pid} uses {self._path.parent}: stop it, or choose another place with --socket"
            ) from error
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"{os.getpid()}\n".encode())
        self._descriptor = descriptor
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # The file stays: removing it would let two daemons lock two files of one name.
        os.close(self._descriptor)
