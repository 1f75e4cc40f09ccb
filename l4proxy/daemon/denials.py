"""What other PoPs asked this one to dial although its own files do not say so: for `status`. Pure; time is an argument.

A PoP that does is configured otherwise than this one, or it is not what it was.
"""

from collections.abc import Mapping
from typing import Any

REMEMBERED_S = 300.0
"""How long after the last report of a PoP it is still said. The engine reports a PoP at most every 10 s."""

MAX_SHOWN = 60
"""Characters that are shown of a name that another PoP has sent."""

MISSING = {
    "unknown_app": "an app that is not configured here",
    "unknown_origin": "an origin that the app does not have here",
    "denied": "an app that this PoP does not dial for others, or a port that is not the app's",
}
"""What a reason of the engine means."""


class Denials:
    """The newest report of each PoP: as many as the fleet has PoPs."""

    def __init__(self) -> None:
        self._newest: dict[str, tuple[float, Mapping[str, Any]]] = {}

    def take(self, event: Mapping[str, Any], now_s: float) -> None:
        """Take a `request_denied` of the engine."""
        self._newest[str(event.get("peer"))] = (now_s, event)

    def problems(self, now_s: float) -> dict[str, str]:
        """Return what was asked of late, each with what to do about it."""
        self._newest = {
            peer: (at_s, event)
            for peer, (at_s, event) in self._newest.items()
            if now_s - at_s <= REMEMBERED_S
        }
        return dict(
            _problem(peer, event)
            for peer, (_, event) in sorted(self._newest.items(), key=lambda item: item[0])
        )


def _problem(peer: str, event: Mapping[str, Any]) -> tuple[str, str]:
    app, origin = _shown(event.get("app")), _shown(event.get("origin"))
    missing = MISSING.get(str(event.get("reason")), str(event.get("reason")))
    what = f"PoP {peer} asks for app {app}, origin {origin} ({event.get('protocol')}): {missing}; nothing was dialled"
    fix = f"give {peer} and this PoP the same app files; if they are the same, find out what runs on {peer}"
    return what, fix


def _shown(name: object) -> str:
    """Return a name as it may stand in a line: short, and without what would move a terminal's cursor."""
    text = ascii(str(name))[1:-1]
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}…"
