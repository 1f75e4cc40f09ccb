"""The whole schema of app and fleet files as strict, frozen pydantic models: every field that the outside contract names.

A model accepts what the contract allows, whether or not the running system can do it; `LATER` says which values cannot be had yet, and
`load` refuses those by name. Nothing is converted silently: numbers with units are text and go through `units`.
"""

import re
from ipaddress import ip_address, ip_network
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from l4proxy.config import units
from l4proxy.core.app import Listen

MAX_PORTS = 10_000
"""Ports of one range: more are surely a slip, and each needs a descriptor a worker."""

_NAME = r"[a-z0-9-]{1,48}"


def _name(value: object) -> str:
    if not isinstance(value, str) or not re.fullmatch(_NAME, value):
        raise ValueError("must be 1 to 48 lower-case letters, digits or hyphens")
    return value


def _port(text: str) -> int:
    if not re.fullmatch(r"[1-9]\d{0,4}", text) or int(text) > 65535:
        raise ValueError(f"port {text or '(empty)'} is not a number from 1 to 65535")
    return int(text)


def _address(text: str) -> str:
    try:
        address = ip_address(text)
    except ValueError:
        raise ValueError(f"{text or '(empty)'} is not an IP address") from None
    return str(address)


def parse_listen(value: object) -> Listen:
    """Parse `tcp/PORT`, `udp/FIRST-LAST`, `tcp/ADDR:PORT` or `udp/[ADDR]:FIRST-LAST`."""
    hint = "write tcp/PORT, udp/FIRST-LAST, tcp/ADDR:PORT or udp/[ADDR]:FIRST-LAST"
    match = (
        re.fullmatch(r"(tcp|udp)/(?:(\[[^]]*\]|[^:\[\]]+):)?([^:]+)", value)
        if isinstance(value, str)
        else None
    )
    if match is None:
        raise ValueError(f"is not a listener; {hint}")
    protocol, host, ports = match[1], match[2], match[3]
    if host is None:
        address = "::"
    else:
        address = _address(host.strip("[]"))
        if (":" in address) != host.startswith("["):
            raise ValueError("an IPv6 address, and only one, stands in brackets: udp/[2001:db8::1]:5060")
    first_text, dash, last_text = ports.partition("-")
    first = _port(first_text)
    last = _port(last_text) if dash else first
    if last < first:
        raise ValueError(f"range {first}-{last} ends before it begins")
    if last - first + 1 > MAX_PORTS:
        raise ValueError(
            f"range {first}-{last} has {last - first + 1} ports, at most {MAX_PORTS} are possible"
        )
    return Listen("udp" if protocol == "udp" else "tcp", address, first, last)


def _list(value: object) -> list[object]:
    return value if isinstance(value, list) else [value]


def _prefix(value: object) -> str:
    try:
        return str(ip_network(value)) if isinstance(value, str) else _fail("is not an address prefix")
    except ValueError as error:
        raise ValueError(f"is not an address prefix: {error}") from None


def _fail(reason: str) -> Any:
    raise ValueError(reason)


def _via(parse: Any) -> BeforeValidator:
    return BeforeValidator(parse)


Name = Annotated[str, _via(_name)]
DurationMs = Annotated[float, _via(units.duration_ms)]
Count = Annotated[int, _via(units.count)]
BitsPerSecond = Annotated[int, _via(units.bits_per_second)]
Ratio = Annotated[float, _via(units.percentage)]
Prefix = Annotated[str, _via(_prefix)]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, arbitrary_types_allowed=True)


class OriginModel(_Model):
    """An origin with its weight in the pool."""

    address: str
    weight: Count = 1
    priority: Count = 0
    zone: str = ""


class RoutingModel(_Model):
    """What smart routing may do."""

    min_gain: DurationMs = 1.0
    max_transits: Annotated[int, Field(ge=0, le=3)] = 3
    avoid: list[str] = []
    prefer: list[str] = []
    egress: Literal["any"] | list[str] = "any"
    egress_max: Literal["none"] | Annotated[int, Field(ge=1)] = "none"


class IdleModel(_Model):
    """After how much silence a session ends."""

    tcp: DurationMs = 3_600_000.0
    udp: DurationMs = 120_000.0
    half_closed: DurationMs = 60_000.0


class LimitsModel(_Model):
    """Caps and rates."""

    flows: Count | None = None
    flows_per_source: Count | None = None
    amplification: Count | None = None
    source_prefix_v6: Annotated[int, Field(ge=1, le=128)] = 64
    new_flows_per_second: Count | None = None
    new_flows_per_second_per_source: Count | None = None
    bandwidth_per_flow: BitsPerSecond | None = None


class AccessModel(_Model):
    """Who may come."""

    default: Literal["allow", "deny"] = "allow"
    allow: list[Prefix] = []
    deny: list[Prefix] = []


class TlsModel(_Model):
    """TLS at the edge."""

    mode: Literal["flexible", "full", "strict"] = "full"
    certificate: str | None = None
    key: str | None = None
    client_ca: str | None = None


class HealthModel(_Model):
    """A check of the origins."""

    check: str
    interval: DurationMs = 5_000.0
    timeout: DurationMs = 2_000.0
    down_after: Annotated[int, Field(ge=1)] = 3
    up_after: Annotated[int, Field(ge=1)] = 2


class SourceModel(_Model):
    """Source addresses towards origins."""

    pool: list[Prefix]


class AppModel(_Model):
    """One app document."""

    name: Name
    listen: Annotated[list[Annotated[Listen, _via(parse_listen)]], _via(_list), Field(min_length=1)]
    origins: Annotated[list[str | OriginModel], Field(min_length=1)]
    smart_routing: Literal["on", "off", "auto", "shadow"] = "on"
    class_: Annotated[Literal["game", "voip", "bulk", "rtt"] | None, Field(alias="class")] = None
    routing: RoutingModel = RoutingModel()
    client_address: Literal[
        "off", "proxy-v1", "proxy-v2", "spp", "proxy-v2-first", "proxy-v2-every", "transparent"
    ] = "off"
    source: SourceModel | None = None
    tls: Literal["off", "flexible", "full", "strict"] | TlsModel = "off"
    affinity: Literal["flow", "client"] = "flow"
    accept_client_address: Literal["off"] | list[Prefix] = "off"
    access: AccessModel = AccessModel()
    limits: LimitsModel = LimitsModel()
    idle_timeout: IdleModel = IdleModel()
    connect_timeout: DurationMs = 5_000.0
    balance: Literal["weighted", "least-latency", "failover", "source-hash", "least-players"] = "weighted"
    health: Literal["off"] | HealthModel = "off"
    duplication: Literal["off", "on-loss", "always"] = "off"
    pops: Literal["all"] | list[str] = "all"
    preset: str | None = None
    answer_queries: Literal["off", "on"] = "off"
    control_group: Ratio = 0.02
    rehome: bool = False
    dscp: str = "keep"
    record_client: Literal["full", "prefix", "hash", "none"] = "full"
    allow_private_origins: bool = False
    kernel_offload: Literal["auto", "off"] = "auto"


class TransitModel(_Model):
    """A transit whose socket is bound to another address than the one that others reach."""

    address: str
    bind: str


class PopModel(_Model):
    """One PoP."""

    transits: Annotated[dict[Name, str | TransitModel], Field(min_length=1)]
    location: Annotated[list[float | int], Field(min_length=2, max_length=2)] | None = None
    dial: Literal["any", "outbound"] = "any"
    kernel_offload: Literal["auto", "off"] = "auto"


class LinkModel(_Model):
    """What differs from the default for one directed link."""

    from_: Annotated[str, Field(alias="from")]
    to: str
    enabled: bool = True
    capacity: BitsPerSecond | None = None
    price: Annotated[float | int, Field(ge=0)] = 0.0
    kind: str = "transit"


class FleetModel(_Model):
    """A fleet file."""

    fleet: Name
    pops: Annotated[dict[Name, PopModel], Field(min_length=1)]
    links: list[LinkModel] = []
    mesh: Literal["same", "all"] = "same"
    issuer: str | None = None


LATER_APP_FIELDS = (
    ("routing", "prefer"), ("routing", "egress_max"),
    ("limits", "amplification"), ("limits", "source_prefix_v6"), ("limits", "new_flows_per_second"),
    ("limits", "new_flows_per_second_per_source"), ("limits", "bandwidth_per_flow"),
    ("client_address",), ("source",), ("tls",), ("affinity",), ("accept_client_address",), ("access",), ("balance",),
    ("health",), ("duplication",), ("preset",), ("answer_queries",), ("control_group",), ("rehome",), ("dscp",),
    ("record_client",), ("allow_private_origins",), ("kernel_offload",),
)  # fmt: skip
"""Fields of an app file whose feature does not exist yet: only the default is accepted, anything else is "not supported yet"."""

LATER_POP_FIELDS = (("dial",), ("kernel_offload",))
"""The same of a PoP in a fleet file."""
