"""Control messages between daemons: the one place that encodes and decodes them (docs/protocol.md section 8).

A message is a msgpack map of `v: 1` and what it brings (the fields of `Message`); absent parts are empty, unknown keys are ignored.
Times and ratios travel as whole numbers of small units, links without the name of the PoP that they leave: link state is most of what
PoPs tell each other, and a fleet of 330 has 100,000 links. Whatever cannot be read raises BusError; the caller counts it.
"""

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, NamedTuple, TypeVar

import msgpack

from l4proxy.core.ids import AppName, LinkName, PopName
from l4proxy.errors import L4ProxyError

_T = TypeVar("_T")

VERSION = 1
MAX_MESSAGE = 1 << 20
MAX_ITEMS = 10_000
MAX_NAME = 200
UNITS_PER_MS = 100
"""Times are whole numbers of 10 µs: PoPs of one city are 300 µs apart, and what is below 2 ms apart is the same to a route."""
UNITS_OF_LOSS = 100_000
"""A ratio is a whole number of these parts: one packet of 100,000."""
MAX_UNITS = (1 << 32) - 1
TOGGLES_HASH_LENGTH = 16
"""Bytes: two PoPs that say the same by chance are not to be expected, and nobody gains by it."""
MAX_CERTIFICATE = 16_384
"""Bytes of a certificate, or of a request for one; they have a few hundred."""


class BusError(L4ProxyError):
    """A control message that is not one."""


Version = tuple[int, int]
"""Epoch and sequence of a record. The epoch grows with each start of its owner, the sequence with each change."""


@dataclass(frozen=True, slots=True)
class LinkState:
    """What the owner of a link says of it. `label` 0: it forwards nothing over it. On the wire only what `rounded` makes of it."""

    link: LinkName
    is_up: bool
    rtt_ms: float
    rtt_ms_min: float
    jitter_ms: float
    loss_ratio: float
    label: int

    def rounded(self) -> "LinkState":
        """Return it in the units of the wire. A round trip that was measured is never none at all."""
        return LinkState(
            self.link,
            self.is_up,
            _rounded_ms(self.rtt_ms),
            _rounded_ms(self.rtt_ms_min),
            _rounded_ms(self.jitter_ms),
            round(self.loss_ratio * UNITS_OF_LOSS) / UNITS_OF_LOSS,
            self.label,
        )


@dataclass(frozen=True, slots=True)
class OriginState:
    """What a PoP that may dial an origin measured of it. On the wire only what `rounded` makes of it."""

    app: AppName
    origin: str
    is_up: bool
    rtt_ms: float

    @property
    def key(self) -> tuple[AppName, str]:
        """Which origin of which app."""
        return (self.app, self.origin)

    def rounded(self) -> "OriginState":
        """Return it in the units of the wire."""
        return OriginState(self.app, self.origin, self.is_up, _rounded_ms(self.rtt_ms))


Chosen = tuple[AppName, tuple[PopName, ...]]
"""An app with `egress_max`, and the PoPs that may dial its origins, in name order."""


@dataclass(frozen=True, slots=True)
class Record:
    """Everything one PoP says of itself, links and origins in the order of their names. The newest version wins; nobody else writes it."""

    owner: PopName
    epoch: int
    sequence: int
    links: tuple[LinkState, ...]
    origins: tuple[OriginState, ...]
    egresses: tuple[Chosen, ...] = ()
    """Of the apps for which the owner decides, in name order."""

    @property
    def version(self) -> Version:
        """What newest means."""
        return (self.epoch, self.sequence)


@dataclass(frozen=True, slots=True)
class LinkChange:
    """What a delta says of one link of the record before: `place` among its links. What is None is what it was."""

    place: int
    is_up: bool
    rtt_ms: float | None = None
    rtt_ms_min: float | None = None
    jitter_ms: float | None = None
    loss_ratio: float | None = None
    label: int | None = None


@dataclass(frozen=True, slots=True)
class Delta:
    """What makes record `sequence` of the one before it, of the same epoch. It means nothing on top of any other."""

    owner: PopName
    epoch: int
    sequence: int
    changes: tuple[LinkChange, ...] = ()
    """Of links that the record before has."""
    added: tuple[LinkState, ...] = ()
    origins: tuple[OriginState, ...] = ()
    """Those that are new or say something else."""
    removed_links: tuple[LinkName, ...] = ()
    removed_origins: tuple[tuple[AppName, str], ...] = ()
    egresses: tuple[Chosen, ...] | None = None
    """All of them, if one differs; None: they are what they were."""

    @property
    def version(self) -> Version:
        """That of the record that it makes."""
        return (self.epoch, self.sequence)


class Heard(NamedTuple):
    """What a digest says of one owner: the version that the sender has, and when the owner was last known to be alive.

    The owner counts `beat` up with each digest of its own; `age_s` is how long ago, in whole seconds and by the sender's clock, it said
    that beat. The owner itself says 0.
    """

    epoch: int
    sequence: int
    beat: int
    age_s: int

    @property
    def version(self) -> Version:
        """Of the record."""
        return (self.epoch, self.sequence)


@dataclass(frozen=True, slots=True)
class ToggleState:
    """One register of the toggles: `pop` None is the one for all PoPs; `value` `default` takes the override back."""

    app: AppName
    pop: PopName | None
    value: str
    counter: int
    writer: PopName

    @property
    def key(self) -> tuple[AppName, PopName | None]:
        """Which register."""
        return (self.app, self.pop)

    @property
    def version(self) -> tuple[int, PopName]:
        """The higher wins: Lamport counter, then the writer's name."""
        return (self.counter, self.writer)


@dataclass(frozen=True, slots=True)
class CertificateRequest:
    """A PoP asks its issuer for a certificate: PKCS #10, DER. `number` is drawn by the asker and comes back with the answer."""

    number: int
    request: bytes


@dataclass(frozen=True, slots=True)
class CertificateAnswer:
    """What an issuer says to a request: the certificate, DER, or why there is none."""

    number: int
    certificate: bytes | None
    refusal: str | None = None


@dataclass(frozen=True, slots=True)
class Message:
    """One control message."""

    records: tuple[Record, ...] = ()
    """Whole ones, to whom has asked."""
    deltas: tuple[Delta, ...] = ()
    toggles: tuple[ToggleState, ...] = ()
    digest: Mapping[PopName, Heard] | None = field(default=None)
    """Of all records that the sender has; whoever has newer ones says so with `news`."""
    news: Mapping[PopName, Heard] = field(default_factory=dict)
    """Of some records that the sender has, and that the receiver may lack."""
    want: Mapping[PopName, Version] = field(default_factory=dict)
    """Asks for these records if they are newer than these versions; (0, 0): whatever there is."""
    follow: bool = False
    """The sender asks to be told what is new, for three digests' time."""
    certificate_request: CertificateRequest | None = None
    certificate_answer: CertificateAnswer | None = None
    toggles_hash: bytes | None = None
    """What `hash_of_toggles` makes of all that the sender has; asks for those of whoever has others."""


def encode(message: Message) -> bytes:
    """Return the bytes of a message."""
    body: dict[str, Any] = {"v": VERSION}
    if message.records:
        body["records"] = [_record_out(record) for record in message.records]
    if message.deltas:
        body["deltas"] = [_delta_out(delta) for delta in message.deltas]
    if message.toggles:
        body["toggles"] = [_toggle_out(toggle) for toggle in message.toggles]
    if message.digest is not None:
        body["digest"] = message.digest
    if message.news:
        body["news"] = message.news
    if message.want:
        body["want"] = message.want
    if message.follow:
        body["follow"] = True
    if message.toggles_hash is not None:
        body["toggles_hash"] = message.toggles_hash
    if (request := message.certificate_request) is not None:
        body["certificate_request"] = [request.number, request.request]
    if (answer := message.certificate_answer) is not None:
        if answer.certificate is not None:
            body["certificate"] = [answer.number, answer.certificate]
        else:
            body["certificate_refused"] = [answer.number, answer.refusal or ""]
    packed = msgpack.packb(body)
    assert isinstance(packed, bytes)  # noqa: S101 (packb without a stream returns bytes)
    return packed


def hash_of_toggles(toggles: Iterable[ToggleState]) -> bytes:
    """Return the first 16 bytes of the SHA-256 of registers as they stand in a message, in the order of their encoded bytes."""
    packed = sorted(bytes(msgpack.packb(_toggle_out(toggle))) for toggle in toggles)
    return hashlib.sha256(b"".join(packed)).digest()[:TOGGLES_HASH_LENGTH]


def _toggle_out(toggle: ToggleState) -> list[Any]:
    return [toggle.app, toggle.pop, toggle.value, toggle.counter, toggle.writer]


def _record_out(record: Record) -> list[Any]:
    links = [_link_out(record.owner, state) for state in record.links]
    origins = [_origin_out(state) for state in record.origins]
    return [record.owner, record.epoch, record.sequence, links, origins, _chosen_out(record.egresses)]


def _delta_out(delta: Delta) -> list[Any]:
    """An item of `links` that begins with a number is a change, one that begins with a name a link that is new."""
    links: list[list[Any]] = [_change_out(change) for change in delta.changes]
    links += [_link_out(delta.owner, state) for state in delta.added]
    removed: list[Any] = [_short(delta.owner, name) for name in delta.removed_links]
    removed += [list(key) for key in delta.removed_origins]
    egresses = None if delta.egresses is None else _chosen_out(delta.egresses)
    origins = [_origin_out(state) for state in delta.origins]
    return [delta.owner, delta.epoch, delta.sequence, links, origins, removed, egresses]


def _chosen_out(egresses: tuple[Chosen, ...]) -> list[Any]:
    return [[app, list(pops)] for app, pops in egresses]


def _change_out(change: LinkChange) -> list[Any]:
    """A link that went down is five bytes, and storms are made of those."""
    values = (
        None if change.rtt_ms is None else _units(change.rtt_ms),
        None if change.rtt_ms_min is None else _units(change.rtt_ms_min),
        None if change.jitter_ms is None else _units(change.jitter_ms),
        None if change.loss_ratio is None else round(change.loss_ratio * UNITS_OF_LOSS),
        change.label,
    )
    what = int(change.is_up) | sum(2 << bit for bit, value in enumerate(values) if value is not None)
    return [change.place, what, *(value for value in values if value is not None)]


def _link_out(owner: PopName, s: LinkState) -> list[Any]:
    loss = round(s.loss_ratio * UNITS_OF_LOSS)
    times = [_units(ms) for ms in (s.rtt_ms, s.rtt_ms_min, s.jitter_ms)]
    return [_short(owner, s.link), s.is_up, *times, loss, s.label]


def _origin_out(state: OriginState) -> list[Any]:
    return [state.app, state.origin, state.is_up, _units(state.rtt_ms)]


def _short(owner: PopName, link: LinkName) -> str:
    return link.removeprefix(f"{owner}/")


def _units(ms: float) -> int:
    return min(round(ms * UNITS_PER_MS), MAX_UNITS)


def _rounded_ms(ms: float) -> float:
    return (max(1, _units(ms)) if ms > 0 else 0) / UNITS_PER_MS


def decode(payload: bytes) -> Message:
    """Read a message. Raises BusError."""
    if len(payload) > MAX_MESSAGE:
        raise BusError(f"message of {len(payload)} bytes, at most {MAX_MESSAGE}")
    try:
        body = msgpack.unpackb(payload, strict_map_key=False, max_array_len=MAX_ITEMS, max_map_len=MAX_ITEMS)
    except Exception as error:  # msgpack raises ValueError, UnicodeDecodeError and its own types
        raise BusError(f"not msgpack: {error}") from error
    if not isinstance(body, dict) or body.get("v") != VERSION:
        raise BusError("not a message of version 1")
    try:
        return Message(
            records=tuple(_record_in(item) for item in body.get("records", ())),
            deltas=tuple(_delta_in(item) for item in body.get("deltas", ())),
            toggles=tuple(_toggle_in(item) for item in body.get("toggles", ())),
            digest=None if body.get("digest") is None else _heard_in(body["digest"]),
            news=_heard_in(body.get("news", {})),
            want={PopName(_name(k)): (_int(e), _int(s)) for k, (e, s) in body.get("want", {}).items()},
            follow=_bool(body.get("follow", False)),
            toggles_hash=_hash_in(body.get("toggles_hash")),
            certificate_request=_request_in(body.get("certificate_request")),
            certificate_answer=_answer_in(body.get("certificate"), body.get("certificate_refused")),
        )
    except (TypeError, ValueError, AttributeError, LookupError) as error:
        raise BusError(f"malformed message: {error}") from error


def _record_in(item: Any) -> Record:
    owner, epoch, sequence, links, origins, egresses = item
    name = PopName(_name(owner))
    return Record(
        name,
        _int(epoch),
        _int(sequence),
        _ordered((_link_in(name, link) for link in links), lambda state: state.link),
        _ordered(map(_origin_in, origins), lambda state: state.key),
        _chosen_in(egresses),
    )


def _chosen_in(items: Any) -> tuple[Chosen, ...]:
    return _ordered(
        ((AppName(_name(app)), _ordered((PopName(_name(p)) for p in pops), str)) for app, pops in items),
        lambda chosen: chosen[0],
    )


def _delta_in(item: Any) -> Delta:
    owner, epoch, sequence, links, origins, removed, egresses = item
    name = PopName(_name(owner))
    return Delta(
        name,
        _int(epoch),
        _int(sequence),
        tuple(_change_in(link) for link in links if not isinstance(link[0], str)),
        _ordered((_link_in(name, link) for link in links if isinstance(link[0], str)), lambda s: s.link),
        _ordered(map(_origin_in, origins), lambda state: state.key),
        tuple(_link_name_in(name, gone) for gone in removed if isinstance(gone, str)),
        tuple(_origin_key_in(gone) for gone in removed if not isinstance(gone, str)),
        None if egresses is None else _chosen_in(egresses),
    )


def _ordered(items: Iterable[_T], key: Callable[[_T], Any]) -> tuple[_T, ...]:
    """Places in a record are those of the sorted list, so each name must stand in it once."""
    found = sorted(items, key=key)
    if any(key(a) == key(b) for a, b in pairwise(found)):
        raise ValueError("a name stands twice")
    return tuple(found)


def _link_in(owner: PopName, item: Any) -> LinkState:
    link, is_up, rtt, rtt_min, jitter, loss, label = item
    return LinkState(
        _link_name_in(owner, link),
        _bool(is_up),
        _ms_in(rtt),
        _ms_in(rtt_min),
        _ms_in(jitter),
        _loss_in(loss),
        _int(label, 1 << 32),
    )


def _change_in(item: Any) -> LinkChange:
    place, what, *values = item
    bits = _int(what, 64)
    if len(values) != (bits >> 1).bit_count():
        raise ValueError("a change has other values than it says")
    rest = iter(values)
    return LinkChange(
        _int(place, MAX_ITEMS),
        bool(bits & 1),
        _ms_in(next(rest)) if bits & 2 else None,
        _ms_in(next(rest)) if bits & 4 else None,
        _ms_in(next(rest)) if bits & 8 else None,
        _loss_in(next(rest)) if bits & 16 else None,
        _int(next(rest), 1 << 32) if bits & 32 else None,
    )


def _loss_in(value: Any) -> float:
    return _int(value, UNITS_OF_LOSS + 1) / UNITS_OF_LOSS


def _link_name_in(owner: PopName, short: Any) -> LinkName:
    """Nobody can speak of a link that begins elsewhere: the owner's name is put before it here."""
    return LinkName(f"{owner}/{_name(short)}")


def _origin_in(item: Any) -> OriginState:
    app, origin, is_up, rtt = item
    return OriginState(AppName(_name(app)), _name(origin), _bool(is_up), _ms_in(rtt))


def _origin_key_in(item: Any) -> tuple[AppName, str]:
    app, origin = item
    return AppName(_name(app)), _name(origin)


def _heard_in(items: Any) -> dict[PopName, Heard]:
    return {
        PopName(_name(owner)): Heard(_int(epoch), _int(sequence), _int(beat), _int(age))
        for owner, (epoch, sequence, beat, age) in items.items()
    }


def _toggle_in(item: Any) -> ToggleState:
    app, pop, value, counter, writer = item
    if value not in ("on", "off", "auto", "shadow", "default"):
        raise ValueError(f"toggle value {value!r}")
    where = None if pop is None else PopName(_name(pop))
    return ToggleState(AppName(_name(app)), where, value, _int(counter), PopName(_name(writer)))


def _hash_in(value: Any) -> bytes | None:
    if value is not None and (not isinstance(value, bytes) or len(value) != TOGGLES_HASH_LENGTH):
        raise ValueError("not a hash of toggles")
    return value


def _request_in(item: Any) -> CertificateRequest | None:
    if item is None:
        return None
    number, request = item
    return CertificateRequest(_int(number), _bytes(request))


def _answer_in(given: Any, refused: Any) -> CertificateAnswer | None:
    if given is not None:
        number, certificate = given
        return CertificateAnswer(_int(number), _bytes(certificate))
    if refused is not None:
        number, refusal = refused
        return CertificateAnswer(_int(number), None, _name(refusal))
    return None


def _bytes(value: Any) -> bytes:
    if not isinstance(value, bytes) or not 0 < len(value) <= MAX_CERTIFICATE:
        raise ValueError("not a certificate or request")
    return value


def _name(value: Any) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= MAX_NAME:
        raise ValueError("a name is missing or too long")
    return value


def _bool(value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError("not a truth value")
    return value


def _int(value: Any, below: int = 1 << 63) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < below:
        raise ValueError("not a whole number in range")
    return value


def _ms_in(value: Any) -> float:
    return _int(value, MAX_UNITS + 1) / UNITS_PER_MS
