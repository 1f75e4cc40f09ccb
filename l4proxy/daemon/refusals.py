"""Why there is no tunnel with a peer, when a certificate is the reason: what the engine says of it, and what to do about it."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from l4proxy.core.ids import PopName

FORGET_NS = 60_000_000_000
"""A peer is dialled again every five seconds: what was said last longer ago is over."""

FIXES: Mapping[str, str] = {
    "not_in_time": "compare the clocks of both (timedatectl); if they are right, issue {peer}'s identity again",
    "not_in_time_there": "compare the clocks of both (timedatectl); if they are right, issue this PoP's identity again",
    "other_ca": "have both trust the CA that issued the other's identity (l4proxy pki show, pki trust)",
    "wrong_name": "give {peer} the identity of its name, and both the same fleet file",
    "revoked": "take it from the list of what is revoked, or from the fleet file",
    "refused_by_peer": "look at `l4proxy status` of {peer}",
}
"""What to do, by the engine's word for what a handshake failed for. Others are no matter of certificates."""

OF_TIME = frozenset({"not_in_time", "not_in_time_there"})


@dataclass(frozen=True, slots=True)
class Refusal:
    """The newest failure of a handshake with a peer."""

    failure: str
    reason: str
    at_ns: int


class Refusals:
    """The newest of each peer. As large as the fleet: the engine names nobody else."""

    def __init__(self) -> None:
        self._newest: dict[PopName, Refusal] = {}

    def handle_event(self, kind: str, event: Mapping[str, Any], now_ns: int) -> None:
        """Take an event of the engine."""
        peer = PopName(str(event.get("peer")))
        if kind == "tunnel_up":
            self._newest.pop(peer, None)
        elif kind in ("tunnel_down", "peer_refused") and event.get("failure") in FIXES:
            self._newest[peer] = Refusal(str(event["failure"]), str(event.get("reason")), now_ns)

    def problems(self, now_ns: int, connected: Collection[PopName]) -> dict[str, str]:
        """Return why there is no tunnel, with whom, each with what to do."""
        fresh = {
            peer: refusal
            for peer, refusal in sorted(self._newest.items())
            if peer not in connected and 0 <= now_ns - refusal.at_ns < FORGET_NS
        }
        found = {}
        of_time = [peer for peer, refusal in fresh.items() if refusal.failure in OF_TIME]
        if len(of_time) >= 2 and not connected:
            what = f"{', '.join(of_time)} and this PoP find each other's certificates out of their time, and no tunnel stands"
            found[f"{what}: this PoP's clock is probably wrong"] = "set this machine's clock (timedatectl)"
        for peer, refusal in fresh.items():
            fix = FIXES[refusal.failure].format(peer=peer)
            found[f"no tunnel with {peer}: {refusal.reason}"] = fix
        return found
