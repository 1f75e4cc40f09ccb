"""The state directory: what a daemon remembers over a restart. Nothing in it that cannot be rebuilt.

Files are written whole (temporary file, fsync, rename), so that a crash leaves the old or the new one. A directory that
cannot be written never stops the daemon: `problem` says what is wrong, and the next save tries again.
"""

import contextlib
import os
import tempfile
from functools import cached_property
from pathlib import Path

import anyio
import anyio.to_thread

from l4proxy.core.controller import SavedState
from l4proxy.core.privacy import KEY_BYTES
from l4proxy.daemon import last_good, saved_state

RESET_KEY_FILE = "reset.key"
CLIENT_KEY_FILE = "client.key"

MAX_FILE_BYTES = 16 * 1024 * 1024
"""A longer file is not one of ours."""


class StateDirectory:
    """Named blobs in one folder."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.problem: str | None = None
        """Why the last save failed, in a sentence; None: it did not."""
        self._unsaved: dict[str, bytes] = {}

    @property
    def has_unsaved(self) -> bool:
        """Whether something could not be written yet."""
        return bool(self._unsaved)

    def load(self, name: str) -> bytes | None:
        """Return a blob, None when there is none or it cannot be read (`problem` then says why)."""
        file = self.path / name
        try:
            if file.stat().st_size > MAX_FILE_BYTES:
                self.problem = f"{file} is longer than {MAX_FILE_BYTES} bytes and is ignored"
                return None
            return file.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            self.problem = f"cannot read {file}: {error.strerror or error}"
            return None

    def save(self, name: str, content: bytes) -> bool:
        """Write a blob. Blocking. False when that failed: it is kept in memory for `retry`."""
        self._unsaved[name] = content
        return self.retry()

    def retry(self) -> bool:
        """Write what could not be written before; True when nothing is left to write."""
        for name, content in list(self._unsaved.items()):
            try:
                self._write(name, content)
            except OSError as error:
                self.problem = f"cannot write {self.path / name}: {error.strerror or error}"
                return False
            if self._unsaved.get(name) is content:
                del self._unsaved[name]
        self.problem = None
        return True

    def _write(self, name: str, content: bytes) -> None:
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(prefix=f".{name}.", dir=self.path)  # made with mode 0600
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            Path(temporary).replace(self.path / name)
        except BaseException:
            with contextlib.suppress(OSError):
                Path(temporary).unlink()
            raise
        folder = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


class StateKeeper:
    """Keeps the controller's state on disk: the newest one, written in a thread, never awaited by the controller."""

    def __init__(self, directory: StateDirectory) -> None:
        self._directory = directory
        self._lock = anyio.Lock()
        self._newest: SavedState | None = None
        self._files: dict[str, bytes] | None = None
        self._blobs: dict[str, bytes] = {}
        self._files_problem: str | None = None
        self._wanted = anyio.Event()

    @property
    def problem(self) -> str | None:
        """Why state cannot be read or written now, in a sentence."""
        return self._directory.problem or self._files_problem

    def load(self) -> SavedState | None:
        """Return what a daemon before this one saved, None if there is nothing that can be used."""
        content = self._directory.load(saved_state.FILE_NAME)
        if content is None:
            return None
        try:
            return saved_state.decode(content)
        except saved_state.MalformedState as error:
            path = self._directory.path / saved_state.FILE_NAME
            self._directory.problem = f"{path} was not usable, toggles in it are lost: {error}"
            return None

    @cached_property
    def client_key(self) -> bytes:
        """The key that hides clients in flow records, made at its first use. Blocking.

        It stays on this machine, so that nobody with the records alone can try addresses; without the file one client has another hash
        from the next start on.
        """
        return self._key(CLIENT_KEY_FILE)

    @cached_property
    def reset_key(self) -> bytes:
        """The secret of stateless resets, made at its first use. Blocking.

        It outlives the certificates, so that an engine that starts after a renewal can still tell peers that it knows their connections
        no more. Without the file they find out by silence.
        """
        return self._key(RESET_KEY_FILE)

    def _key(self, name: str) -> bytes:
        kept = self._directory.load(name)
        if kept is not None and len(kept) == KEY_BYTES:
            return kept
        made = os.urandom(KEY_BYTES)
        self._directory.save(name, made)
        return made

    def save(self, state: SavedState) -> None:
        """Have this state written soon, instead of any that waits."""
        self._newest = state
        self._wanted.set()

    def load_blob(self, name: str) -> bytes | None:
        """Return a file that was saved under this name, None when there is none or it cannot be read."""
        return self._directory.load(name)

    def save_blob(self, name: str, content: bytes) -> None:
        """Have this file written soon, instead of any of its name that waits."""
        self._blobs[name] = content
        self._wanted.set()

    def keep_files(self, files: dict[str, bytes]) -> None:
        """Have these files, which are in force, kept soon as the last good ones."""
        self._files = files
        self._wanted.set()

    async def run(self) -> None:
        """Write until cancelled."""
        while True:
            await self._wanted.wait()
            self._wanted = anyio.Event()
            await self.flush()

    async def flush(self) -> None:
        """Write what is not written yet, and what a disk refused before."""
        async with self._lock:
            state, self._newest = self._newest, None
            with anyio.CancelScope(shield=True):
                if state is not None:
                    content = saved_state.encode(state)
                    await anyio.to_thread.run_sync(self._directory.save, saved_state.FILE_NAME, content)
                elif self._directory.has_unsaved:
                    await anyio.to_thread.run_sync(self._directory.retry)
                blobs, self._blobs = self._blobs, {}
                for name, content in blobs.items():
                    await anyio.to_thread.run_sync(self._directory.save, name, content)
                await self._keep_files()

    async def _keep_files(self) -> None:
        files, self._files = self._files, None
        if files is None:
            return
        try:
            await anyio.to_thread.run_sync(last_good.keep, self._directory.path, files)
            self._files_problem = None
        except OSError as error:
            self._files_problem = f"cannot keep the last good configuration: {error}"
            self._files = self._files or files  # newer ones may have come meanwhile
