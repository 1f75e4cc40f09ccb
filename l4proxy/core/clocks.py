"""How far the clocks of other PoPs are from ours, by their answers to probes, and which of them is wrong as far as that can be known.

A responder stamps each request with its own wall clock, so that a reply says, to half a round trip, what time it is there. No clock here.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median

from l4proxy.core.ids import PopName

S = 1_000_000_000

TOLERANCE_NS = 60 * S
"""Certificates are made valid five minutes before their time; a clock that is a minute off is worth a word before that is used up."""

FORGET_NS = 60 * S
"""What was seen longer ago says nothing of a clock that may have been set since."""


@dataclass(frozen=True, slots=True)
class Offset:
    """A clock of another PoP less ours, and when that was seen."""

    offset_ns: int
    at_ns: int


class Clocks:
    """What is known of the others' clocks. As large as the fleet."""

    def __init__(self) -> None:
        self._offsets: dict[PopName, Offset] = {}

    def handle_reply(self, now_ns: int, peer: PopName, sent_ns: int, received_ns: int, rtt_ns: int) -> None:
        """Take what a reply says: sent by our clock, received by the peer's."""
        self._offsets[peer] = Offset(received_ns - sent_ns - rtt_ns // 2, now_ns)

    def offsets_ns(self, now_ns: int) -> Mapping[PopName, int]:
        """Return by how much each clock that was seen lately is ahead of ours."""
        # A clock of ours that was set makes ages of any sign.
        fresh = {pop: seen for pop, seen in self._offsets.items() if abs(now_ns - seen.at_ns) < FORGET_NS}
        return {pop: seen.offset_ns for pop, seen in sorted(fresh.items())}

    def problems(self, now_ns: int) -> dict[str, str]:
        """Return what an operator should know, each with what to do."""
        offsets = self.offsets_ns(now_ns)
        far = {pop: offset for pop, offset in offsets.items() if abs(offset) > TOLERANCE_NS}
        if not far:
            return {}
        middle = round(median(far.values()))
        agree = all(abs(offset - middle) <= TOLERANCE_NS for offset in far.values())
        near = len(offsets) - len(far)
        if agree and len(far) >= 2 and len(far) > near:
            what = f"this PoP's clock is {_apart(-middle)} those of {', '.join(far)}, who agree: it is wrong"
            return {what: "set this machine's clock (timedatectl); certificates are refused by it"}
        found = {}
        for pop, offset in far.items():
            witness = (
                f"and {near} other PoPs agree with this one's: it is wrong"
                if near
                else "one of the two is wrong"
            )
            what = f"the clock of {pop} is {_apart(offset)} this PoP's; {witness}"
            found[what] = (
                f"set the clock of {pop}" + ("" if near else ", or this machine's") + " (timedatectl)"
            )
        return found


def _apart(offset_ns: int) -> str:
    """Say how far, in whole minutes so that the words stay the same while nothing changes."""
    minutes = round(abs(offset_ns) / S / 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    far = f"{days} d {hours} h" if days else f"{hours} h {minutes} min" if hours else f"{minutes} min"
    return f"{far} {'ahead of' if offset_ns > 0 else 'behind'}"
