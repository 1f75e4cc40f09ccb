"""Keeps the names of origins resolved: asks what `core.resolution` says is due, and tells when an origin's targets changed.

It knows neither DNS (`dns_lookup`) nor apps (`origin_names`).
"""

import random
from collections.abc import Awaitable, Callable, Iterable, Mapping

import anyio
import structlog

from l4proxy.core.resolution import SECOND_NS, Failed, OriginName, Outcome, Question, Resolution, Target

Lookup = Callable[[Question], Awaitable[Outcome]]
Targets = Mapping[OriginName, tuple[Target, ...]]

log = structlog.get_logger()


class Resolver:
    """Resolves a set of names that may change at any time. `on_change` gets all targets whenever one of them changed."""

    def __init__(
        self, lookup: Lookup, on_change: Callable[[Targets], None], *, seed: int | None = None
    ) -> None:
        self.names = Resolution()
        self._lookup = lookup
        self._on_change = on_change
        self._random = random.Random(seed)  # noqa: S311 (spreads moments, protects nothing)
        self._wanted: frozenset[OriginName] = frozenset()
        self._told: Targets = {}
        self._wake = anyio.Event()
        self._answered = anyio.Event()

    def set_names(self, names: Iterable[OriginName]) -> None:
        """Keep exactly these resolved from now on."""
        self._wanted = frozenset(names)
        self.names.set_names(_now_ns(), self._wanted)
        self._after_input()

    def restore(self, good: Targets) -> None:
        """Take what was good before a restart."""
        self.names.restore(good)
        self._after_input()

    async def settle(self, timeout_s: float) -> bool:
        """Wait until every name has been answered, or asked for in vain; False when that takes too long."""
        with anyio.move_on_after(timeout_s):
            while not self.names.is_settled():
                await self._answered.wait()
        return self.names.is_settled()

    async def run(self) -> None:
        """Resolve until cancelled."""
        async with anyio.create_task_group() as tasks:
            while True:
                for question in self.names.poll_due(_now_ns()):
                    tasks.start_soon(self._ask, question)
                await self._wait()

    async def _wait(self) -> None:
        timeout_ns = self.names.poll_timeout()
        if timeout_ns is None:
            await self._wake.wait()
        else:
            with anyio.move_on_at(timeout_ns / SECOND_NS):
                await self._wake.wait()
        self._wake = anyio.Event()

    async def _ask(self, question: Question) -> None:
        try:
            outcome = await self._lookup(question)
        except Exception as error:
            # A mistake of ours or of a library must not leave the question under way for ever.
            log.exception("cannot ask for a name", name=question.name, kind=question.kind)
            outcome = Failed(f"internal error: {type(error).__name__}")
        self.names.handle_outcome(_now_ns(), question, outcome, self._random.random())
        self._after_input()

    def _after_input(self) -> None:
        targets = {name: self.names.targets(name) for name in self._wanted}
        if targets != self._told:
            self._told = targets
            self._on_change(targets)
        self._wake.set()
        self._answered.set()
        self._answered = anyio.Event()


def _now_ns() -> int:
    """Return the loop's time, which simulations let jump."""
    return round(anyio.current_time() * SECOND_NS)
