"""Access lists in files: which version of each is in force, and the next one when a tool has written it.

Every two seconds each file is looked at. A version that is not the one in force is read when the file has been left alone from one
look to the next: so a tool may write in place or rename, and half a file is never read. One that is wrong is a problem that
`status` shows, and the version before stays in force.
"""

import functools
from collections.abc import Callable, Mapping

import anyio
import anyio.to_thread
import structlog

from l4proxy.config.access_files import (
    FileIsChangingError,
    ListFile,
    ListFiles,
    Signature,
    read_list,
    signature_of,
)
from l4proxy.errors import ConfigError

POLL_S = 2.0
"""Between two looks at the files, and how long a new version must have been left alone."""

log = structlog.get_logger()


class AccessWatch:
    """Follows the files of one daemon. `on_change` gets all of them when one has another version."""

    def __init__(self, on_change: Callable[[ListFiles], None]) -> None:
        self._on_change = on_change
        self._files: dict[str, ListFile] = {}
        self._seen: dict[str, Signature] = {}
        """Versions that were there at the last look and are not in force."""
        self._judged: dict[str, Signature] = {}
        """Versions that were read and found wrong: they are not read again."""
        self._problems: dict[str, str] = {}

    def use(self, files: ListFiles) -> None:
        """Follow exactly these files, of which these versions are in force."""
        self._files = dict(files)
        self._seen.clear()
        self._judged.clear()
        self._problems.clear()

    def problems(self) -> Mapping[str, str]:
        """Return what is wrong with new versions, each with its fix."""
        return dict.fromkeys(self._problems.values(), "correct the file; the version before stays in force")

    async def run(self) -> None:
        """Look at the files until cancelled."""
        while True:
            await anyio.sleep(POLL_S)
            await self.look()

    async def look(self) -> None:
        """Look at every file once."""
        found = self._files
        changed: dict[str, ListFile] = {}
        for path in list(found):
            new = await self._look_at(path)
            if new is not None:
                changed[path] = new
        # Another configuration may be in use by now; what was read for the one before is nobody's.
        if changed and self._files is found:
            self._files.update(changed)
            for path, new in changed.items():
                log.info("access list changed", file=path, prefixes=len(new.contents))
            self._on_change(dict(self._files))

    async def _look_at(self, path: str) -> ListFile | None:
        """Return a new version that is whole and right."""
        in_force = self._files[path].signature
        try:
            signature = await anyio.to_thread.run_sync(signature_of, path)
        except OSError as error:
            self._problems[path] = f"access list {path} cannot be read: {error.strerror or error}"
            return None
        if signature == in_force:
            self._problems.pop(path, None)
            self._seen.pop(path, None)
            return None
        if self._seen.get(path) != signature:
            self._seen[path] = signature
            return None
        if self._judged.get(path) == signature:
            return None
        try:
            new = await anyio.to_thread.run_sync(functools.partial(read_list, path))
        except FileIsChangingError:
            return None
        except ConfigError as error:
            self._judged[path] = signature
            fault, others = error.faults[0], len(error.faults) - 1 + error.more
            behind = f" (and {others} more)" if others else ""
            self._problems[path] = f"access list {fault}{behind}"
            log.error("access list not taken", file=path, reason=str(fault))
            return None
        self._problems.pop(path, None)
        return new
