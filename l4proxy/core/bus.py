"""Control messages between daemons: the one place that encodes and decodes them (docs/protocol.md section 8).

A message is a msgpack map `{v: 1, records: [...], toggles: [...], digest: {...}, toggles_hash, certificate_request: [...],
certificate: [...], certificate_refused: [...]}`; absent parts are empty, unknown keys are ignored.
Whatever cannot be read raises BusError; the caller counts it.
"""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgpack

from l4proxy.core.ids import AppName, LinkName, PopName
from l4proxy.errors import L4ProxyError

VERSION = 1
MAX_MESSAGE = 1 << 20
MAX_ITEMS = 10_000
MAX_NAME = 200
TOGGLES_HASH_LENGTH = 16
"""Bytes: two PoPs that say the same by chance are not to be expected, and nobody gains by it."""
MAX_CERTIFICATE = 16_384
"""Bytes of a certificate, or of a request for one; they have a few hundred."""


class BusError(L4ProxyError):
    """A control message that is not one."""


@dataclass(frozen=True, slots=True)
class LinkState:
    """What the owner of a link says of it. `label` 0: it forwards nothing over it."""

    link: LinkName
    is_up: bool
    rtt_ms: float
    rtt_ms_min: float
    jitter_ms: float
    loss_ratio: float
    label: int


@dataclass(frozen=True, slots=True)
class OriginState:
    """What a PoP that may dial an origin measured of it."""

    app: AppName
    origin: str
    is_up: bool
    rtt_ms: float


@dataclass(frozen=True, slots=True)
class Record:
    """Everything one PoP says of itself. The newest (epoch, sequence) wins; nobody else writes it."""

    owner: PopName
    epoch: int
    sequence: int
    links: tuple[LinkState, ...]
    origins: tuple[OriginState, ...]

    @property
    def version(self) -> tuple[int, int]:
        """What newest means."""
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
    toggles: tuple[ToggleState, ...] = ()
    digest: Mapping[PopName, tuple[int, int]] | None = field(default=None)
    """Versions of all records that the sender has; asks for what is newer elsewhere."""
    certificate_request: CertificateRequest | None = None
    certificate_answer: CertificateAnswer | None = None
    toggles_hash: bytes | None = None
    """What `hash_of_toggles` makes of all that the sender has; asks for those of whoever has others."""


def encode(message: Message) -> bytes:
    """Return the bytes of a message."""
    body: dict[str, Any] = {"v": VERSION}
    if message.records:
        body["records"] = [_record_out(record) for record in message.records]
    if message.toggles:
        body["toggles"] = [_toggle_out(toggle) for toggle in message.toggles]
    if message.digest is not None:
        body["digest"] = {name: list(version) for name, version in message.digest.items()}
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
    links = [
        [s.link, s.is_up, s.rtt_ms, s.rtt_ms_min, s.jitter_ms, s.loss_ratio, s.label] for s in record.links
    ]
    origins = [[s.app, s.origin, s.is_up, s.rtt_ms] for s in record.origins]
    return [record.owner, record.epoch, record.sequence, links, origins]


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
    digest = body.get("digest")
    try:
        return Message(
            records=tuple(_record_in(item) for item in body.get("records", ())),
            toggles=tuple(_toggle_in(item) for item in body.get("toggles", ())),
            digest=None
            if digest is None
            else {PopName(_name(k)): (_int(e), _int(s)) for k, (e, s) in digest.items()},
            toggles_hash=_hash_in(body.get("toggles_hash")),
            certificate_request=_request_in(body.get("certificate_request")),
            certificate_answer=_answer_in(body.get("certificate"), body.get("certificate_refused")),
        )
    except (TypeError, ValueError, AttributeError) as error:
        raise BusError(f"malformed message: {error}") from error


def _record_in(item: Any) -> Record:
    owner, epoch, sequence, links, origins = item
    return Record(
        PopName(_name(owner)),
        _int(epoch),
        _int(sequence),
        tuple(_link_in(link) for link in links),
        tuple(_origin_in(origin) for origin in origins),
    )


def _link_in(item: Any) -> LinkState:
    link, is_up, rtt, rtt_min, jitter, loss, label = item
    loss_ratio = _number(loss)
    if loss_ratio > 1:
        raise ValueError(f"loss ratio {loss_ratio}")
    return LinkState(
        LinkName(_name(link)),
        _bool(is_up),
        _number(rtt),
        _number(rtt_min),
        _number(jitter),
        loss_ratio,
        _int(label, 1 << 32),
    )


def _origin_in(item: Any) -> OriginState:
    app, origin, is_up, rtt = item
    return OriginState(AppName(_name(app)), _name(origin), _bool(is_up), _number(rtt))


def _toggle_in(item: Any) -> ToggleState:
    app, pop, value, counter, writer = item
    if value not in ("on", "off", "default"):
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


def _number(value: Any) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value < 1e9:
        raise ValueError("not a number in range")
    return float(value)
