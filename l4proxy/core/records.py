"""What the PoPs say of themselves, as one PoP knows it: the newest record of each, how it is changed, and when it is void.

A record has a base and deltas: who has sequence n takes the delta n + 1 and nothing else. A record is only ever written by its owner: one
of our own that comes back newer than what we have (we restarted without our state) makes us continue after it. Whether an owner lives is
known by its beats alone, which only it counts up, so that what others tell of a dead PoP never makes it young (docs/decisions/0025).
The store sends nothing: `flooding` decides what goes to whom.
"""

from bisect import bisect_right
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from l4proxy.core.bus import (
    MAX_ITEMS,
    Chosen,
    Delta,
    Heard,
    LinkChange,
    LinkState,
    OriginState,
    Record,
    Version,
)
from l4proxy.core.ids import PopName

EXPIRY_NS = 60_000_000_000
"""A record whose owner has not been known to live for this long is void: six of its beats have not come."""

REFRESH_NS = 10_000_000_000
"""How often a PoP says that it lives and which versions it has."""

SIGNIFICANT_RATIO = 0.05
SIGNIFICANT_MS = 2.0
"""A change below both is not worth a message: routes only follow larger ones."""

LOSS_CLASSES = (0.001, 0.01, 0.05, 0.2)
"""Loss matters by orders: none, rare, noticeable, bad, broken."""

MAX_EPOCH_AHEAD = 366 * 86_400
"""Epochs are seconds of the wall clock at the owner's start: one that lies a year ahead is refused."""

MAX_SEQUENCE = 1 << 62
"""No PoP writes so many records. One that claims more would leave its owner no number to continue with."""

NEVER: Version = (-1, -1)

Taken = Literal["new", "known", "gap", "refused"]
"""What became of a delta: applied; nothing new; of no use without one that is missing; impossible."""


@dataclass(slots=True)
class RecordStore:
    """Records of all PoPs of the fleet, as this PoP knows them. Every table has at most an entry for each PoP of the fleet file."""

    own: PopName
    epoch: int
    records: dict[PopName, Record] = field(default_factory=dict)
    alive_ns: dict[PopName, int] = field(default_factory=dict)
    """When each other owner said the newest beat that has been heard of it, by our clock."""
    changed_ns: dict[PopName, int] = field(default_factory=dict)
    """Since when we have the version that we have."""
    refused: Counter[str] = field(default_factory=Counter)
    """What came in and was not taken, by reason: those of docs/protocol.md section 8."""
    beat: int = 0
    _sequence: int = 0
    _must_rewrite: bool = False
    _beats: dict[PopName, Version] = field(default_factory=dict)
    _newest: dict[PopName, Version] = field(default_factory=dict)

    # The own record

    def change(
        self,
        links: tuple[LinkState, ...],
        origins: tuple[OriginState, ...],
        egresses: tuple[Chosen, ...] = (),
    ) -> Record | Delta | None:
        """Return what is to be written and told if this is how things are: a first or new base, a delta, or nothing."""
        old = self.records.get(self.own)
        if old is None or self._must_rewrite:
            links = tuple(sorted((s.rounded() for s in links), key=lambda s: s.link))
            origins = tuple(sorted((s.rounded() for s in origins), key=lambda s: s.key))
            return Record(self.own, self.epoch, self._sequence + 1, links, origins, egresses)
        delta = difference(old, links, origins, egresses)
        return None if delta is None else replace(delta, epoch=self.epoch, sequence=self._sequence + 1)

    def write(self, now_ns: int, change: Record | Delta) -> None:
        """Write what `change` returned."""
        record = change if isinstance(change, Record) else apply(self.records[self.own], change)
        self._sequence, self._must_rewrite = record.sequence, False
        self.records[self.own] = record
        self.changed_ns[self.own] = now_ns

    # What others say

    def handle_heard(self, now_ns: int, owner: PopName, heard: Heard, known: Collection[PopName]) -> bool:
        """Take a line of a digest; whether it speaks of a record of a living PoP that is newer than what we have."""
        if not self._is_sound(now_ns, owner, max(heard.version, (heard.epoch, heard.beat)), known):
            return False
        if owner == self.own:
            self._continue_after(heard.version)
            self._beat_after(heard.epoch, heard.beat)
            return False
        beat = (heard.epoch, heard.beat)
        if beat > self._beats.get(owner, NEVER):
            self._beats[owner] = beat
            said_ns = now_ns - heard.age_s * 1_000_000_000
            self.alive_ns[owner] = max(said_ns, self.alive_ns.get(owner, said_ns))
        return self.is_alive(now_ns, owner) and heard.version > self.version(owner)

    def handle_record(self, now_ns: int, record: Record, known: Collection[PopName]) -> bool:
        """Take a whole record; whether it was new."""
        owner = record.owner
        if not self._is_sound(now_ns, owner, record.version, known):
            return False
        if any(not state.link.startswith(f"{owner}/") for state in record.links):
            self.refused["foreign_link"] += 1
        elif owner == self.own:
            ours = self.records.get(owner)
            # Who has this one would take ours for a repetition of it.
            self._must_rewrite |= ours is not None and ours.version == record.version and ours != record
            self._continue_after(record.version)
        elif record.version <= self.version(owner) or record.version < self._newest.get(owner, NEVER):
            self.refused["repeated"] += 1
        elif not self.is_alive(now_ns, owner):
            self.refused["silent"] += 1
        else:
            self._put(now_ns, record)
            return True
        return False

    def handle_delta(self, now_ns: int, delta: Delta, known: Collection[PopName]) -> Taken:
        """Take what changes a record."""
        owner = delta.owner
        if not self._is_sound(now_ns, owner, delta.version, known):
            return "refused"
        if owner == self.own:
            self._continue_after(delta.version)
            return "known"
        old = self.records.get(owner)
        if old is not None and delta.version <= old.version:
            self.refused["repeated"] += 1
            return "known"
        if old is None or delta.version != (old.epoch, old.sequence + 1):
            return "gap"
        try:
            self._put(now_ns, apply(old, delta))
        except ValueError:
            self.refused["unfit"] += 1
            return "gap"
        return "new"

    def handle_time(self, now_ns: int, known: Collection[PopName]) -> bool:
        """Forget what is void or left the fleet; whether anything was. Numbers are kept, so that nothing older comes back."""
        gone = [
            owner
            for owner in self.records
            if owner != self.own and (owner not in known or not self.is_alive(now_ns, owner))
        ]
        for owner in gone:
            del self.records[owner]
            del self.changed_ns[owner]
        tables: tuple[dict[PopName, int] | dict[PopName, Version], ...]
        tables = (self.alive_ns, self._beats, self._newest)
        for table in tables:
            for owner in [owner for owner in table if owner not in known]:
                del table[owner]
        return bool(gone)

    # What is known

    def version(self, owner: PopName) -> Version:
        """Return that of the record that we have; (0, 0): none."""
        record = self.records.get(owner)
        return (0, 0) if record is None else record.version

    def is_alive(self, now_ns: int, owner: PopName) -> bool:
        """Whether another PoP is known to have lived within the last minute."""
        at_ns = self.alive_ns.get(owner)
        return at_ns is not None and now_ns - at_ns <= EXPIRY_NS

    def age_ns(self, now_ns: int, owner: PopName) -> int | None:
        """Return how long ago the owner of a record that we have said that it lives: 0 for our own. None: we have none."""
        if owner not in self.records:
            return None
        return 0 if owner == self.own else max(0, now_ns - self.alive_ns[owner])

    def heard(self, now_ns: int, owner: PopName) -> Heard:
        """Return the line of a digest about a record that we have. Ages are rounded up: what is told is never younger than it is."""
        record = self.records[owner]
        beat = self.beat if owner == self.own else self._beats[owner][1]
        age_s = -(-(self.age_ns(now_ns, owner) or 0) // 1_000_000_000)
        return Heard(record.epoch, record.sequence, beat, age_s)

    def digest(self, now_ns: int) -> dict[PopName, Heard]:
        """Return a line about everything known."""
        return {owner: self.heard(now_ns, owner) for owner in sorted(self.records)}

    def newer_than(self, now_ns: int, digest: Mapping[PopName, Heard], for_ns: int) -> dict[PopName, Heard]:
        """Return lines about what the sender of a digest lacks although we have had it for so long already, or of what it has no base."""
        found = {}
        for owner in sorted(self.records):
            version, theirs = self.records[owner].version, digest.get(owner)
            if (
                theirs is None
                or version[0] > theirs.epoch
                or (version > theirs.version and now_ns - self.changed_ns[owner] >= for_ns)
            ):
                found[owner] = self.heard(now_ns, owner)
        return found

    # Inside

    def _is_sound(self, now_ns: int, owner: PopName, version: Version, known: Collection[PopName]) -> bool:
        """Whether the fleet has the owner, and its version leaves room for the next; else the reason is counted."""
        reason = (
            "left"
            if owner not in known
            else "epoch_ahead"
            if version[0] > now_ns // 1_000_000_000 + MAX_EPOCH_AHEAD
            else "sequence_ahead"
            if version[1] > MAX_SEQUENCE
            else None
        )
        if reason is not None:
            self.refused[reason] += 1
        return reason is None

    def _continue_after(self, version: Version) -> None:
        """Somebody has a newer record of ours: we wrote it before a restart, or somebody lies. The next is newer, and a base."""
        if version > (self.epoch, self._sequence):
            self.epoch, self._sequence = version
            self._must_rewrite = True
            if self._sequence >= MAX_SEQUENCE:
                self.epoch, self._sequence = self.epoch + 1, 0

    def _beat_after(self, epoch: int, beat: int) -> None:
        """The same of beats: one that is not above what was heard would be an echo to others."""
        if (epoch, beat) > (self.epoch, self.beat):
            self.beat = beat
            if beat >= MAX_SEQUENCE:
                self.epoch, self._sequence, self.beat, self._must_rewrite = self.epoch + 1, 0, 0, True

    def _put(self, now_ns: int, record: Record) -> None:
        self.records[record.owner] = record
        self.changed_ns[record.owner] = now_ns
        self._newest[record.owner] = record.version


def apply(record: Record, delta: Delta) -> Record:
    """Return the record after a delta. ValueError: the delta cannot have been made of this record."""
    links = list(record.links)
    for change in delta.changes:
        if change.place >= len(links):
            raise ValueError(f"no link {change.place} among {len(links)}")
        old = links[change.place]
        links[change.place] = LinkState(
            old.link,
            change.is_up,
            _changed(old.rtt_ms, change.rtt_ms),
            _changed(old.rtt_ms_min, change.rtt_ms_min),
            _changed(old.jitter_ms, change.jitter_ms),
            _changed(old.loss_ratio, change.loss_ratio),
            old.label if change.label is None else change.label,
        )
    if delta.added or delta.removed_links:
        by_name = {state.link: state for state in links}
        if not by_name.keys() >= set(delta.removed_links) or by_name.keys() & {s.link for s in delta.added}:
            raise ValueError("links are removed that are not there, or added that are")
        for name in delta.removed_links:
            del by_name[name]
        by_name |= {state.link: state for state in delta.added}
        links = [by_name[name] for name in sorted(by_name)]
    origins = record.origins
    if delta.origins or delta.removed_origins:
        by_key = {state.key: state for state in origins}
        if not by_key.keys() >= set(delta.removed_origins):
            raise ValueError("origins are removed that are not there")
        for key in delta.removed_origins:
            del by_key[key]
        by_key |= {state.key: state for state in delta.origins}
        origins = tuple(by_key[key] for key in sorted(by_key))
    if max(len(links), len(origins)) > MAX_ITEMS:
        raise ValueError(f"more than {MAX_ITEMS} links or origins")
    egresses = record.egresses if delta.egresses is None else delta.egresses
    return Record(record.owner, delta.epoch, delta.sequence, tuple(links), origins, egresses)


def difference(
    old: Record,
    links: tuple[LinkState, ...],
    origins: tuple[OriginState, ...],
    egresses: tuple[Chosen, ...] = (),
) -> Delta | None:
    """Return what others should know of a new state, or None; its version is still that of the old record."""
    now = {state.link: state for state in links}
    places = {state.link: place for place, state in enumerate(old.links)}
    changes = tuple(
        _change(place, state, now[state.link].rounded())
        for place, state in enumerate(old.links)
        if state.link in now and _link_differs(state, now[state.link])
    )
    added = tuple(now[name].rounded() for name in sorted(now.keys() - places.keys()))
    said, found = {s.key: s for s in old.origins}, {s.key: s for s in origins}
    new_origins = tuple(
        found[key].rounded()
        for key in sorted(found)
        if key not in said or _origin_differs(said[key], found[key])
    )
    removed_links = tuple(sorted(places.keys() - now.keys()))
    removed_origins = tuple(sorted(said.keys() - found.keys()))
    new_egresses = None if egresses == old.egresses else egresses
    is_same = not (changes or added or new_origins or removed_links or removed_origins)
    if is_same and new_egresses is None:
        return None
    return Delta(
        old.owner,
        old.epoch,
        old.sequence,
        changes,
        added,
        new_origins,
        removed_links,
        removed_origins,
        new_egresses,
    )


def is_urgent(old: Record, delta: Delta) -> bool:
    """Whether a delta says more than that numbers have moved: something came, went, or has another label; paths may be dead of it."""
    if delta.added or delta.removed_links or delta.removed_origins or delta.egresses is not None:
        return True
    was_up = {state.key: state.is_up for state in old.origins}
    return any(
        change.label is not None
        or change.place >= len(old.links)
        or change.is_up != old.links[change.place].is_up
        for change in delta.changes
    ) or any(was_up.get(state.key) != state.is_up for state in delta.origins)


def _changed(old: float, new: float | None) -> float:
    return old if new is None else new


def _change(place: int, old: LinkState, new: LinkState) -> LinkChange:
    """Say what differs; of the least round trip too, which alone is no reason to say anything."""
    return LinkChange(
        place,
        new.is_up,
        new.rtt_ms if _is_significant(old.rtt_ms, new.rtt_ms) else None,
        new.rtt_ms_min if _is_significant(old.rtt_ms_min, new.rtt_ms_min) else None,
        new.jitter_ms if abs(old.jitter_ms - new.jitter_ms) > SIGNIFICANT_MS else None,
        new.loss_ratio if _loss_class(old.loss_ratio) != _loss_class(new.loss_ratio) else None,
        None if new.label == old.label else new.label,
    )


def _link_differs(old: LinkState, new: LinkState) -> bool:
    return old is not new and (
        old.is_up != new.is_up
        or old.label != new.label
        or _is_significant(old.rtt_ms, new.rtt_ms)
        or abs(old.jitter_ms - new.jitter_ms) > SIGNIFICANT_MS
        or _loss_class(old.loss_ratio) != _loss_class(new.loss_ratio)
    )


def _origin_differs(old: OriginState, new: OriginState) -> bool:
    return old.is_up != new.is_up or _is_significant(old.rtt_ms, new.rtt_ms)


def _is_significant(old_ms: float, new_ms: float) -> bool:
    return abs(new_ms - old_ms) > max(SIGNIFICANT_MS, SIGNIFICANT_RATIO * old_ms)


def _loss_class(ratio: float) -> int:
    return bisect_right(LOSS_CLASSES, ratio)
