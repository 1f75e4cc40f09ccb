"""Reads the files again and brings the difference into force: all of it, or nothing and an error that says why."""

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import anyio
import anyio.to_thread
import structlog

from l4proxy.daemon import configuration
from l4proxy.daemon.configuration import Configuration, Difference
from l4proxy.daemon.control import Control
from l4proxy.daemon.engine_session import ApplyOutcome, EngineSession
from l4proxy.daemon.options import DaemonOptions
from l4proxy.errors import DataPlaneError

TIMEOUT_S = 60.0
"""How long a reload waits for the engine to answer."""

MAX_OUTCOMES = 16
"""Answers of the engine that are remembered: a reload waits for one of the newest."""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class ReloadDone:
    """What a reload changed."""

    generation: int
    difference: Difference


class Reloader:
    """Reloads one daemon, one reload at a time."""

    def __init__(
        self,
        options: DaemonOptions,
        control: Control,
        session: EngineSession,
        prepare: Callable[[Configuration, Configuration], Awaitable[None]],
        use: Callable[[Configuration], None],
    ) -> None:
        self._options = options
        self._control = control
        self._session = session
        self._prepare = prepare
        self._use = use
        self._lock = anyio.Lock()
        self._outcomes: dict[int, ApplyOutcome] = {}
        self._outcome_came = anyio.Event()
        self.is_last_good = True
        """Whether the last reload, or else the start, was accepted."""
        self.last_good_s = time.time()
        """When that was, Unix time."""

    def note_outcome(self, outcome: ApplyOutcome) -> None:
        """Take what the engine said of a snapshot."""
        self._outcomes[outcome.generation] = outcome
        for old in sorted(self._outcomes)[:-MAX_OUTCOMES]:
            del self._outcomes[old]
        self._outcome_came.set()
        self._outcome_came = anyio.Event()

    async def reload(self, old: Configuration) -> ReloadDone:
        """Reload. `old` is what is in force.

        ConfigError and IdentityError for files that are wrong, ListenError for sockets that cannot be had,
        DataPlaneError when the engine refuses; what was in force stays in each case.
        """
        async with self._lock:
            self.is_last_good = False
            done = await self._reload(old)
            self.is_last_good, self.last_good_s = True, time.time()
            changes = done.difference
            log.info("reloaded", generation=done.generation, added=changes.added, changed=changes.changed)
            return done

    async def _reload(self, old: Configuration) -> ReloadDone:
        controller = self._control.controller
        if controller is None:
            raise DataPlaneError("the daemon waits for its engine")
        new = await anyio.to_thread.run_sync(configuration.read, self._options)
        changes = configuration.difference(old, new)
        if changes.is_nothing:
            return ReloadDone(controller.generation, changes)
        await self._bind(old, new)
        await self._prepare(old, new)
        self._use(new)
        generation = controller.generation
        outcome = await self._wait_for_outcome(generation)
        if outcome is not None and outcome.problem is not None:
            self._use(old)
            raise DataPlaneError(outcome.problem)
        return ReloadDone(generation, changes)

    async def _bind(self, old: Configuration, new: Configuration) -> None:
        """Bind what the new files need before anything else changes; ListenError says what cannot be had."""
        workers = self._session.workers or self._options.workers
        wanted = configuration.needed_sockets(old, workers) | configuration.needed_sockets(new, workers)
        await anyio.to_thread.run_sync(self._session.listeners.prepare, wanted)

    async def _wait_for_outcome(self, generation: int) -> ApplyOutcome | None:
        """Return what became of a generation or of one after it; None when no engine is there to say."""
        with anyio.move_on_after(TIMEOUT_S):
            while self._session.client is not None:
                for number in sorted(self._outcomes):
                    if number >= generation:
                        return self._outcomes[number]
                await self._outcome_came.wait()
        return None
