"""Smart routing switched at run time: last-writer-wins registers, one per app and PoP, and one per app for all PoPs.

The register for a PoP beats the one for all; any override beats the file; `default` takes an override back. The same set of writes
gives the same state in whatever order they come.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

from l4proxy.core.app import SmartRouting
from l4proxy.core.bus import ToggleState
from l4proxy.core.ids import AppName, PopName

MAX_REGISTERS = 10_000
"""Apps × PoPs of a large fleet; beyond, new registers are refused and counted."""


@dataclass(slots=True)
class Toggles:
    """All registers that this PoP knows."""

    own: PopName
    registers: dict[tuple[AppName, PopName | None], ToggleState] = field(default_factory=dict)
    refused: int = 0

    def write(self, app: AppName, pop: PopName | None, value: str) -> ToggleState:
        """Write a register here; return the state that is to be sent to all."""
        counter = max((state.counter for state in self.registers.values()), default=0) + 1
        state = ToggleState(app, pop, value, counter, self.own)
        self.registers[state.key] = state
        return state

    def merge(self, states: Iterable[ToggleState]) -> tuple[ToggleState, ...]:
        """Take registers that came in; return those that were new, and so are to be passed on."""
        new = []
        for state in states:
            old = self.registers.get(state.key)
            if old is not None and state.version <= old.version:
                continue
            if old is None and len(self.registers) >= MAX_REGISTERS:
                self.refused += 1
                continue
            self.registers[state.key] = state
            new.append(state)
        return tuple(new)

    def override(self, app: AppName, pop: PopName) -> str | None:
        """Return the override in force at a PoP, or None when the file decides."""
        for key in ((app, pop), (app, None)):
            state = self.registers.get(key)
            if state is not None and state.value != "default":
                return state.value
        return None

    def effective(self, app: AppName, pop: PopName, configured: SmartRouting) -> str:
        """Return what is in force for an app at a PoP."""
        return self.override(app, pop) or configured

    def all(self) -> tuple[ToggleState, ...]:
        """Return every register, in the order of its key."""
        return tuple(
            self.registers[key] for key in sorted(self.registers, key=lambda key: (key[0], key[1] or ""))
        )
