"""What the PoPs say of themselves: one record each, the newest wins, every PoP passes on what is new to it.

The store answers what must be sent to whom; it sends nothing. A record is only ever written by its owner: one of our own that comes
back newer than what we have (we restarted without our state) makes us continue after it.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from l4proxy.core.bus import LinkState, Message, OriginState, Record
from l4proxy.core.ids import LinkName, PopName

EXPIRY_NS = 60_000_000_000
"""A record that nobody has confirmed for this long is void: its owner refreshes it every 10 s."""

REFRESH_NS = 10_000_000_000
"""How often a PoP writes its record anew even if nothing changed, and sends digests."""

SIGNIFICANT_RATIO = 0.05
SIGNIFICANT_MS = 2.0
"""A change below both is not worth a message: routes only follow larger ones."""

LOSS_CLASSES = (0.001, 0.01, 0.05, 0.2)
"""Loss matters by orders: none, rare, noticeable, bad, broken."""

MAX_EPOCH_AHEAD = 366 * 86_400
"""Epochs are seconds of the wall clock at the owner's start: one that lies a year ahead is refused."""

MAX_SEQUENCE = 1 << 62
"""No PoP writes so many records. One that claims more would leave its owner no number to continue with."""


@dataclass(slots=True)
class RecordStore:
    """Records of all PoPs of the fleet, as this PoP knows them."""

    own: PopName
    epoch: int
    records: dict[PopName, Record] = field(default_factory=dict)
    heard_ns: dict[PopName, int] = field(default_factory=dict)
    refused: int = 0
    _sequence: int = 0

    def write_own(
        self, now_ns: int, links: tuple[LinkState, ...], origins: tuple[OriginState, ...]
    ) -> Record | None:
        """Write the own record if it changed significantly or is due; return it when it is to be sent to all."""
        old = self.records.get(self.own)
        is_due = old is None or now_ns - self.heard_ns.get(self.own, 0) >= REFRESH_NS
        if not is_due and old is not None and not differs(old, links, origins):
            return None
        self._sequence += 1
        record = Record(self.own, self.epoch, self._sequence, links, origins)
        self.records[self.own] = record
        self.heard_ns[self.own] = now_ns
        return record

    def handle_record(self, now_ns: int, record: Record, known: Iterable[PopName]) -> bool:
        """Take a record that came in; whether it was new, and so is to be passed on."""
        if record.owner not in known or not is_sound(record, now_ns):
            self.refused += 1
            return False
        if record.owner == self.own:
            if record.version > (self.epoch, self._sequence):
                self.epoch, self._sequence = record.epoch, record.sequence
                self.heard_ns.pop(self.own, None)
            return False
        old = self.records.get(record.owner)
        if old is not None and record.version <= old.version:
            return False
        self.records[record.owner] = record
        self.heard_ns[record.owner] = now_ns
        return True

    def handle_time(self, now_ns: int, known: Iterable[PopName]) -> bool:
        """Forget what expired or left the fleet; whether anything did."""
        keep = set(known)
        gone = [
            owner
            for owner in self.records
            if owner not in keep or (owner != self.own and now_ns - self.heard_ns[owner] > EXPIRY_NS)
        ]
        for owner in gone:
            del self.records[owner]
            self.heard_ns.pop(owner, None)
        return bool(gone)

    def digest(self) -> dict[PopName, tuple[int, int]]:
        """Return the versions of everything known."""
        return {owner: self.records[owner].version for owner in sorted(self.records)}

    def answer(self, digest: Mapping[PopName, tuple[int, int]]) -> Message | None:
        """Return what the sender of a digest lacks, and our own digest if we lack something; None when both are equal."""
        newer = tuple(
            record
            for owner, record in sorted(self.records.items())
            if owner not in digest or record.version > digest[owner]
        )
        lacking = any(
            owner not in self.records or version > self.records[owner].version
            for owner, version in digest.items()
        )
        if not newer and not lacking:
            return None
        return Message(records=newer, digest=self.digest() if lacking else None)

    def links(self) -> dict[LinkName, LinkState]:
        """Return the state of every link, as its owner says."""
        return {state.link: state for _, record in sorted(self.records.items()) for state in record.links}


def is_sound(record: Record, now_ns: int) -> bool:
    """Whether a record can be what its owner wrote: it speaks of links that begin there, and its version leaves room for the next."""
    return (
        record.epoch <= now_ns // 1_000_000_000 + MAX_EPOCH_AHEAD
        and record.sequence <= MAX_SEQUENCE
        and all(state.link.startswith(f"{record.owner}/") for state in record.links)
    )


def differs(old: Record, links: tuple[LinkState, ...], origins: tuple[OriginState, ...]) -> bool:
    """Whether a new state says something that others should act on."""
    before, after = {s.link: s for s in old.links}, {s.link: s for s in links}
    if before.keys() != after.keys() or any(
        _link_differs(before[name], state) for name, state in after.items()
    ):
        return True
    known = {(s.app, s.origin): s for s in old.origins}
    now = {(s.app, s.origin): s for s in origins}
    return known.keys() != now.keys() or any(
        known[key].is_up != s.is_up or _is_significant(known[key].rtt_ms, s.rtt_ms) for key, s in now.items()
    )


def _link_differs(old: LinkState, new: LinkState) -> bool:
    return (
        old.is_up != new.is_up
        or old.label != new.label
        or _is_significant(old.rtt_ms, new.rtt_ms)
        or abs(old.jitter_ms - new.jitter_ms) > SIGNIFICANT_MS
        or _loss_class(old.loss_ratio) != _loss_class(new.loss_ratio)
    )


def _is_significant(old_ms: float, new_ms: float) -> bool:
    return abs(new_ms - old_ms) > max(SIGNIFICANT_MS, SIGNIFICANT_RATIO * old_ms)


def _loss_class(ratio: float) -> int:
    return sum(ratio >= limit for limit in LOSS_CLASSES)
