"""Which paths the engine's hellos find dead, from its events: any other that carries traffic is heard 20 times a second. No I/O."""

from collections.abc import Iterable, Mapping
from typing import Any

from l4proxy.core.ids import Id32, PopName
from l4proxy.core.samples import HandleUse
from l4proxy.daemon.engine_messages import HandleState

MAX_PATHS = 4_096
"""Dead paths and lost peers that are remembered. The engine watches 40 paths at a time; one that does not fit counts as heard."""


class Watched:
    """What is dead now."""

    def __init__(self) -> None:
        self._dead: set[tuple[str, int | None]] = set()
        self.full = 0
        """Paths and peers that were not remembered."""

    def handle_event(self, kind: str, event: Mapping[str, Any]) -> None:
        """Take an event of the engine; most are none of these."""
        peer = str(event.get("peer"))
        if kind in ("path_dead", "path_alive"):
            self._note((peer, event.get("path_id")), is_dead=kind == "path_dead")
        elif kind in ("peer_lost", "peer_back"):
            self._note((peer, None), is_dead=kind == "peer_lost")

    def handle_engine_gone(self) -> None:
        """The next engine begins anew."""
        self._dead.clear()

    def uses(self, handles: Iterable[HandleState]) -> list[HandleUse]:
        """Return what the engine says of its handles as the controller takes it."""
        return [
            HandleUse(
                peer=PopName(handle.peer),
                policy=handle.policy,
                active_path=None if handle.active_path is None else Id32(handle.active_path),
                is_in_use=handle.in_use,
                is_alive=not {(handle.peer, handle.active_path), (handle.peer, None)} & self._dead,
            )
            for handle in handles
        ]

    def _note(self, what: tuple[str, int | None], *, is_dead: bool) -> None:
        if not is_dead:
            self._dead.discard(what)
        elif what in self._dead or len(self._dead) < MAX_PATHS:
            self._dead.add(what)
        else:
            self.full += 1
