"""The whole schema of app and fleet files as strict, frozen pydantic models: every field of the outside contract.

A model accepts what the contract allows, whether or not the running system can do it. `Later` on a field marks what cannot be had
yet; `supported` refuses those uses by name, so this file is the one place that changes when a feature comes. Nothing is
converted silently: numbers with units are text and go through `units`, addresses through `endpoints`.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from l4proxy.config import endpoints, units
from l4proxy.config.endpoints import OriginAddress
from l4proxy.config.units import WrongValue
from l4proxy.core.app import Listen
from l4proxy.core.probing import DEFAULT_BUDGET_BYTES_S

Item = TypeVar("Item")

MAX_FLOWS = 16_000_000
"""Flows of one app at one PoP; the memory of the largest machines ends before."""

MAX_BALANCERS = 256
"""Prefixes of balancers of one app, as the engine has it: a new flow is held against each of them."""


MAX_ACCESS_FILES = 16
"""Files of access lists in one list of an app; the engine has room for 64 lists of an app in all."""


MAX_SOURCES = 1_024
"""Source addresses of one app, as the engine has it: each new flow looks at every one of them."""


@dataclass(frozen=True, slots=True)
class Later:
    """Marks a field whose feature does not exist yet: only the default is accepted."""


# ── what fields are made of ──────────────────────────────────────────────────────────────────────────────────────


def _parsed(parse: Callable[[Any], object]) -> BeforeValidator:
    return BeforeValidator(parse)


def _text(value: object) -> str:
    if not isinstance(value, str):
        is_scalar = isinstance(value, int | float)
        raise WrongValue("is not text", "put it in quotes" if is_scalar else None)
    return value


def _name(value: object) -> str:
    text = _text(value)
    if not re.fullmatch(r"[a-z0-9-]{1,48}", text):
        better = re.sub(r"[^a-z0-9-]+", "-", text.lower()).strip("-")
        hint = f"write {better}" if 0 < len(better) <= 48 else None
        raise WrongValue("is not a name: 1 to 48 lower-case letters, digits and hyphens", hint)
    return text


def _pop_or_transit(value: object) -> str:
    text = _text(value)
    if not re.fullmatch(r"[a-z0-9-]{1,48}(/[a-z0-9-]{1,48})?", text):
        raise WrongValue("is not the name of a PoP or of a transit; write POP or POP/TRANSIT")
    return text


def _transit_name(value: object) -> str:
    text = _text(value)
    if not re.fullmatch(r"[a-z0-9-]{1,48}/[a-z0-9-]{1,48}", text):
        raise WrongValue("is not the name of a transit; write POP/TRANSIT, such as ams/a")
    return text


def _prefix(value: object) -> IPv4Network | IPv6Network:
    text = _text(value)
    try:
        return ip_network(text)
    except ValueError:
        pass
    try:
        wider = ip_network(text, strict=False)
    except ValueError:
        raise WrongValue(
            "is not an address or prefix; write 198.51.100.7, 198.51.100.0/24 or 2001:db8::/32"
        ) from None
    raise WrongValue("has bits set to the right of its prefix", f"write {wider}")


def _list(value: object) -> tuple[object, ...]:
    if not isinstance(value, list):
        is_scalar = isinstance(value, str | int | float)
        raise WrongValue("is not a list", f"write [{value}]" if is_scalar and len(str(value)) < 40 else None)
    return tuple(value)


def _one_or_list(value: object) -> tuple[object, ...]:
    return tuple(value) if isinstance(value, list) else (value,)


def _word_or_list(word: str, value: object) -> object:
    """Let a word stand for None: the word is the default, and everything else is a list."""
    if value == word:
        return None
    if not isinstance(value, list):
        hint = f"write [{value}]" if isinstance(value, str) and len(value) < 40 else None
        raise WrongValue(f"is neither {word} nor a list", hint)
    return tuple(value)


def _off_or_list(value: object) -> object:
    return () if value == "off" else _word_or_list("off", value)


def _not_empty(items: tuple[Item, ...] | None, what: str) -> tuple[Item, ...] | None:
    if items is not None and not items:
        raise WrongValue(f"must name at least one {what}")
    return items


def _some(items: dict[str, Item], what: str) -> dict[str, Item]:
    if not items:
        raise WrongValue(f"must name at least one {what}")
    return items


def _unique(items: tuple[Item, ...] | None) -> tuple[Item, ...] | None:
    seen: set[Item] = set()
    for item in items or ():
        if item in seen:
            raise WrongValue(f"names {item} twice")
        seen.add(item)
    return items


def _few_ports(listeners: tuple[Listen, ...]) -> tuple[Listen, ...]:
    ports = sum(len(listen.ports) for listen in listeners)
    if ports > endpoints.MAX_PORTS:
        raise WrongValue(f"has {ports} ports together, and {endpoints.MAX_PORTS} are possible")
    return listeners


def _few_balancers(prefixes: tuple[Item, ...]) -> tuple[Item, ...]:
    if len(prefixes) > MAX_BALANCERS:
        raise WrongValue(f"has {len(prefixes)} prefixes, and {MAX_BALANCERS} are possible")
    return prefixes


def _few_sources(pool: tuple[IPv4Network | IPv6Network, ...]) -> tuple[IPv4Network | IPv6Network, ...]:
    addresses = sum(prefix.num_addresses for prefix in pool)
    if addresses > MAX_SOURCES:
        raise WrongValue(f"has {addresses} addresses together, and {MAX_SOURCES} are possible")
    return pool


def _few_files(items: tuple[Item, ...]) -> tuple[Item, ...]:
    files = sum(isinstance(item, FileOfPrefixes) for item in items)
    if files > MAX_ACCESS_FILES:
        raise WrongValue(f"has {files} files, and {MAX_ACCESS_FILES} are possible")
    return items


def _at_least_one(what: str) -> AfterValidator:
    return AfterValidator(partial(_not_empty, what=what))


def _duration(low: str, high: str) -> BeforeValidator:
    bounds = units.duration_ms(low), units.duration_ms(high)

    def parse(value: object) -> float:
        ms = units.duration_ms(value)
        if not bounds[0] <= ms <= bounds[1]:
            raise WrongValue(f"must be from {low} to {high}")
        return ms

    return BeforeValidator(parse)


def _count(low: int, high: int) -> BeforeValidator:
    def parse(value: object) -> int:
        number = units.count(value)
        if not low <= number <= high:
            raise WrongValue(f"must be from {low} to {high}")
        return number

    return BeforeValidator(parse)


def _whole(low: int, high: int) -> BeforeValidator:
    def parse(value: object) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise WrongValue(f"must be a whole number from {low} to {high}")
        return value

    return BeforeValidator(parse)


def _none_or_count(value: object) -> int | None:
    if value == "none":
        return None
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise WrongValue("must be none or a whole number from 1")
    return value


def _rate(value: object) -> int:
    bits_s = units.bits_per_second(value)
    if bits_s == 0:
        raise WrongValue("a rate of 0 passes nothing")
    return bits_s


def _number(value: object, low: float, high: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise WrongValue(f"must be a number from {low:.10g} to {high:.10g}")
    return float(value)


def _location(value: object) -> tuple[float, float]:
    if not isinstance(value, list) or len(value) != 2:
        raise WrongValue("is not [LATITUDE, LONGITUDE] in degrees, such as [52.31, 4.76]")
    try:
        return _number(value[0], -90, 90), _number(value[1], -180, 180)
    except WrongValue:
        pass
    try:
        _number(value[0], -180, 180), _number(value[1], -90, 90)
    except WrongValue:
        raise WrongValue("latitude goes from -90 to 90 and longitude from -180 to 180") from None
    raise WrongValue("latitude comes first and goes from -90 to 90", f"write [{value[1]}, {value[0]}]")


def _one_of(name: str, value: object) -> object:
    """Let a bare value stand for a mapping with this one field."""
    return value if isinstance(value, dict) else {name: value}


def _dscp(value: object) -> object:
    known = r"keep|ef|cs[0-7]|af[1-4][1-3]"
    if isinstance(value, str) and re.fullmatch(known, value):
        return value
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 63:
        return str(value)
    raise WrongValue("must be keep, a number from 0 to 63, ef, cs0 to cs7, or af11 to af43")


Text = Annotated[str, _parsed(_text)]
Name = Annotated[str, _parsed(_name)]
Prefix = Annotated[IPv4Network | IPv6Network, _parsed(_prefix)]
Prefixes = Annotated[tuple[Prefix, ...], AfterValidator(_unique), _parsed(_list)]
Pops = Annotated[tuple[Name, ...] | None, AfterValidator(_unique), _at_least_one("PoP")]
PopsOrTransits = Annotated[
    tuple[Annotated[str, _parsed(_pop_or_transit)], ...], AfterValidator(_unique), _parsed(_list)
]
IdleMs = Annotated[float, _duration("1s", "30d")]
PerSecond = Annotated[int, _count(1, MAX_FLOWS)]


class Model(BaseModel):
    """What all models share: unknown fields are refused, nothing is coerced, nothing changes."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


# ── the app file ─────────────────────────────────────────────────────────────────────────────────────────────────


class OriginModel(Model):
    """An origin; as plain text it is only its address."""

    address: Annotated[OriginAddress, _parsed(endpoints.parse_origin)]
    weight: Annotated[int, _whole(0, 65_535), Later()] = 1
    """Share of new flows, among origins of equal priority."""
    priority: Annotated[int, _whole(0, 255), Later()] = 0
    """Lower is used first."""
    zone: Annotated[Name | None, Later()] = None


class RoutingModel(Model):
    """What smart routing may do with the app's flows."""

    min_gain: Annotated[float, _duration("0ms", "10s")] = 1.0
    max_transits: Annotated[int, _whole(0, 3)] = 3
    avoid: PopsOrTransits = ()
    prefer: Annotated[PopsOrTransits, Later()] = ()
    egress: Annotated[Pops, _parsed(partial(_word_or_list, "any"))] = None
    """None: any PoP may dial the origins."""
    egress_max: Annotated[int | None, _parsed(_none_or_count)] = None
    """How many PoPs may dial the origins at once; None: all that may."""


class IdleModel(Model):
    """After how much silence a session ends, milliseconds."""

    tcp: IdleMs = 3_600_000.0
    udp: IdleMs = 120_000.0
    half_closed: IdleMs = 60_000.0


class LimitsModel(Model):
    """Caps and rates of one app at one PoP."""

    flows: Annotated[int | None, _count(1, MAX_FLOWS)] = None
    flows_per_source: Annotated[int | None, _count(1, MAX_FLOWS)] = None
    amplification: Annotated[float | None, _parsed(partial(_number, low=0.1, high=1_000))] = None
    """Bytes to a client that has not proved its address, per byte from it."""
    source_prefix_v6: Annotated[int, _whole(32, 128)] = 64
    """Length of the prefix that counts as one IPv6 client."""
    new_flows_per_second: PerSecond | None = None
    new_flows_per_second_per_source: PerSecond | None = None
    bandwidth_per_flow: Annotated[int | None, _parsed(_rate)] = None
    """Bits per second."""


@dataclass(frozen=True, slots=True)
class FileOfPrefixes:
    """A file with a prefix a line, as written: relative to the app file."""

    path: str


def _access_item(value: object) -> IPv4Network | IPv6Network | FileOfPrefixes:
    if isinstance(value, str) and value.startswith("file:"):
        path = value.removeprefix("file:")
        if not path or "\0" in path:
            raise WrongValue("names no file; write file:PATH")
        return FileOfPrefixes(path)
    return _prefix(value)


AccessItem = IPv4Network | IPv6Network | FileOfPrefixes
AccessItems = Annotated[
    tuple[Annotated[AccessItem, _parsed(_access_item)], ...],
    AfterValidator(_few_files),
    AfterValidator(_unique),
    _parsed(_list),
]


class AccessModel(Model):
    """Who may come: the longest prefix wins, deny wins ties."""

    default: Literal["allow", "deny"] = "allow"
    allow: AccessItems = ()
    deny: AccessItems = ()


class SourceModel(Model):
    """Source addresses towards origins."""

    pool: Annotated[
        tuple[Prefix, ...],
        AfterValidator(_few_sources),
        AfterValidator(_unique),
        _at_least_one("address"),
        _parsed(_list),
    ]
    """Every address of a prefix is used, the first and the last as well."""


class CertificateModel(Model):
    """Files of one certificate."""

    certificate: Text
    key: Text


class TlsModel(Model):
    """TLS at the edge, and towards the origin; a bare word is the mode."""

    mode: Literal["off", "flexible", "full", "strict"] = "off"
    certificate: Text | None = None
    key: Text | None = None
    certificates: Annotated[tuple[CertificateModel, ...], _parsed(_list)] = ()
    """Several, chosen by server name."""
    client_ca: Text | None = None


class HealthModel(Model):
    """How origins are checked; a bare word is the check."""

    check: Annotated[str, _parsed(_name)] = "off"
    interval: Annotated[float, _duration("100ms", "1h")] = 5_000.0
    timeout: Annotated[float, _duration("10ms", "1m")] = 2_000.0
    down_after: Annotated[int, _whole(1, 100)] = 3
    up_after: Annotated[int, _whole(1, 100)] = 2


class AppModel(Model):
    """One app document."""

    name: Name
    listen: Annotated[
        tuple[Annotated[Listen, _parsed(endpoints.parse_listen)], ...],
        AfterValidator(_unique),
        AfterValidator(_few_ports),
        _at_least_one("listener"),
        _parsed(_one_or_list),
    ]
    origins: Annotated[
        tuple[Annotated[OriginModel, _parsed(partial(_one_of, "address"))], ...],
        _at_least_one("origin"),
        _parsed(_list),
    ]
    smart_routing: Literal["on", "off", "auto", "shadow"] = "on"
    traffic_class: Literal["game", "voip", "bulk", "rtt"] | None = Field(None, alias="class")
    routing: RoutingModel = RoutingModel()
    client_address: Literal[
        "off", "proxy-v1", "proxy-v2", "spp", "proxy-v2-first", "proxy-v2-every", "transparent"
    ] = "off"
    source: SourceModel | None = None
    tls: Annotated[TlsModel, _parsed(partial(_one_of, "mode"))] = TlsModel()
    affinity: Annotated[Literal["flow", "client"], Later()] = "flow"
    accept_client_address: Annotated[
        tuple[Prefix, ...],
        AfterValidator(_few_balancers),
        AfterValidator(_unique),
        _parsed(_off_or_list),
    ] = ()
    access: AccessModel = AccessModel()
    limits: LimitsModel = LimitsModel()
    idle_timeout: IdleModel = IdleModel()
    connect_timeout: Annotated[float, _duration("100ms", "60s")] = 5_000.0
    balance: Annotated[
        Literal["weighted", "least-latency", "failover", "source-hash", "least-players"], Later()
    ] = "weighted"
    health: Annotated[HealthModel, _parsed(partial(_one_of, "check")), Later()] = HealthModel()
    duplication: Literal["off", "on-loss", "always"] = "off"
    """Which datagrams go over two disjoint paths."""
    pops: Annotated[Pops, _parsed(partial(_word_or_list, "all"))] = None
    """None: it listens at every PoP."""
    preset: Annotated[Name | None, Later()] = None
    answer_queries: Annotated[Literal["off", "on"], Later()] = "off"
    control_group: Annotated[float, _parsed(units.percentage), Later()] = 0.02
    rehome: bool = False
    """Whether UDP flows may move to another egress or origin when theirs is out of reach."""
    dscp: Annotated[str, _parsed(_dscp)] = "keep"
    record_client: Literal["full", "prefix", "hash", "none"] = "full"
    """What flow records say of the client's address."""
    allow_private_origins: bool = False
    """Whether the names of origins may lead to private networks (RFC 1918, unique local, shared address space)."""
    kernel_offload: Annotated[Literal["auto", "off"], Later()] = "auto"


# ── the fleet file ───────────────────────────────────────────────────────────────────────────────────────────────


class TransitModel(Model):
    """One provider at one PoP; as plain text it is only its address."""

    address: Annotated[str, _parsed(endpoints.parse_overlay_address)]
    bind: Annotated[str | None, _parsed(endpoints.parse_overlay_address)] = None
    """What the socket is bound to, where that differs; None: the address."""


class PopModel(Model):
    """One site."""

    location: Annotated[tuple[float, float] | None, _parsed(_location)] = None
    transits: Annotated[
        dict[Name, Annotated[TransitModel, _parsed(partial(_one_of, "address"))]],
        AfterValidator(partial(_some, what="transit")),
    ]
    dial: Literal["outbound"] | None = None
    """`outbound`: it is behind NAT and can only dial out; the others learn where it is from its packets, not from its addresses here."""
    kernel_offload: Annotated[Literal["auto", "off"], Later()] = "auto"
    transit_rate: Annotated[int | None, _parsed(_rate)] = None
    """Bits per second that each other PoP may send through this one."""


class LinkModel(Model):
    """What differs from the default for one directed link."""

    from_end: Annotated[str, _parsed(_transit_name)] = Field(alias="from")
    to_end: Annotated[str, _parsed(_transit_name)] = Field(alias="to")
    enabled: bool = True
    capacity: Annotated[int | None, _parsed(_rate)] = None
    """Bits per second."""
    price: Annotated[float, _parsed(partial(_number, low=0, high=1_000_000))] = 0.0
    kind: Name = "transit"


class FleetModel(Model):
    """A fleet file."""

    fleet: Name
    pops: Annotated[dict[Name, PopModel], AfterValidator(partial(_some, what="PoP"))]
    links: Annotated[tuple[LinkModel, ...], _parsed(_list)] = ()
    mesh: Literal["same", "all"] = "same"
    issuer: Name | None = None
    """The PoP that holds the CA's key and renews the others' certificates; None: they are renewed by hand."""
    datagrams: Literal["channel", "quic"] = "channel"
    probe_budget: Annotated[int, _parsed(_rate)] = 8 * DEFAULT_BUDGET_BYTES_S
    """Bits per second that the probes of each PoP may cost, requests and replies together."""


def field_names(model: type[BaseModel]) -> Iterable[str]:
    """Return the names of a model's fields as they stand in files."""
    return (info.alias or name for name, info in model.model_fields.items())
