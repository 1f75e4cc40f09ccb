"""The lab file: PoPs, other hosts, links and apps, as the user wrote them. Validated here, completed in `plan`.

pops:
  del: {location: [28.65, 77.23]}
  syd: {location: [-33.87, 151.21], transits: [a, b]}
hosts:
  player: {near: del, rtt: 6ms}
  server: {near: syd, rtt: 2ms}
links:
  - {between: [del, syd], rtt: 316ms, jitter: 14ms, loss: 2.4%}
  - {from: del/a, to: syd/b, delay: 90ms}
apps:
  - {name: echo, listen: [tcp/7777, udp/7777], origins: ["server:7777"]}
"""

import ipaddress
from collections.abc import Iterator
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, model_validator

from l4proxy.lab import units

HostName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9-]{1,32}$")]
EndName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9-]{1,32}(/[a-z0-9-]{1,16})?$")]
DurationNs = Annotated[int, BeforeValidator(units.duration_ns)]
Ratio = Annotated[float, BeforeValidator(units.ratio)]
RateBitsS = Annotated[int, BeforeValidator(units.rate_bits_s)]
SizeBytes = Annotated[int, BeforeValidator(units.size_bytes)]

_OWN_IPV4, _OWN_IPV6 = ipaddress.ip_network("10.77.0.0/16"), ipaddress.ip_network("fd77::/64")


def _lab_address(text: object) -> str:
    address = ipaddress.ip_address(str(text))
    if not address.is_private or address.is_loopback or address.is_link_local or address.is_unspecified:
        raise ValueError("must be a private or documentation address (such as 10.1.2.3 or 198.51.100.7)")
    if address in _OWN_IPV4 or address in _OWN_IPV6:
        raise ValueError("lies among those that the lab gives out itself (10.77.0.0/16, fd77::/64)")
    return str(address)


LabAddress = Annotated[str, BeforeValidator(_lab_address)]


class Model(BaseModel):
    """What all parts of a lab file share."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)


class Behaviour(Model):
    """How a link treats packets. What is left out comes from `defaults`, then from here."""

    jitter_ns: DurationNs | None = Field(None, alias="jitter")
    """Mean difference between the delays of two packets (RFC 3550), on top of the delay."""
    reorder: bool | None = None
    """Whether each packet has its own jitter and may overtake others; else it changes every 20 ms and order is kept."""
    loss_ratio: Ratio | None = Field(None, alias="loss")
    """Share of packets lost in each direction, each on its own."""
    burst_loss_ratio: Ratio | None = Field(None, alias="burst_loss")
    """Share of packets lost in bursts, on top of `loss`."""
    burst_packets: Annotated[float, Field(ge=1)] | None = Field(None, alias="burst")
    """Mean length of a burst, packets."""
    rate_bits_s: RateBitsS | None = Field(None, alias="rate")
    queue_bytes: SizeBytes | None = Field(None, alias="queue")
    """Bytes that wait for the rate before more are dropped."""


class PopSpec(Model):
    """One PoP. Its transits are names, or names with an address; an address is found where there is none."""

    location: tuple[float, float] | None = None
    transits: list[HostName] | dict[HostName, LabAddress] = ["a"]
    workers: Annotated[int, Field(ge=1, le=64)] | None = None
    """Worker threads of its engine; None: as many as the daemon takes by itself."""

    @property
    def transit_names(self) -> tuple[str, ...]:
        """The transits' names in the order of the file."""
        return tuple(self.transits)


class HostSpec(Model):
    """A machine without a daemon: a client or an origin. `near` and `rtt` join it to one PoP; `links` may add more."""

    near: HostName | None = None
    rtt_ns: DurationNs = Field(2_000_000, alias="rtt")
    address: LabAddress | None = None


class LinkSpec(Behaviour):
    """Either `between` two ends with `rtt` (both directions, half of it each), or `from` and `to` with `delay`.

    An end is `HOST` (all its transits) or `HOST/TRANSIT`. Where two entries name one directed link the later one counts.
    """

    between: tuple[EndName, EndName] | None = None
    rtt_ns: DurationNs | None = Field(None, alias="rtt")
    from_end: EndName | None = Field(None, alias="from")
    to_end: EndName | None = Field(None, alias="to")
    delay_ns: DurationNs | None = Field(None, alias="delay")

    @model_validator(mode="after")
    def _one_form(self) -> Self:
        both_ways = self.between is not None and self.rtt_ns is not None
        one_way = self.from_end is not None and self.to_end is not None and self.delay_ns is not None
        fields = (self.between, self.rtt_ns, self.from_end, self.to_end, self.delay_ns)
        given = sum(field is not None for field in fields)
        if not (both_ways and given == 2) and not (one_way and given == 3):
            raise ValueError("give either `between` and `rtt`, or `from`, `to` and `delay`")
        return self

    @property
    def ends(self) -> tuple[str, str]:
        """The two ends, first to second."""
        return self.between or (str(self.from_end), str(self.to_end))


class LabSpec(Model):
    """A whole lab."""

    name: HostName = Field("lab", alias="lab")
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 1
    """Same seed and same packets at the same times: same losses."""
    mtu: Annotated[int, Field(ge=1280, le=9000)] = 1500
    pops: dict[HostName, PopSpec] = {}
    hosts: dict[HostName, HostSpec] = {}
    defaults: Behaviour = Behaviour()
    links: list[LinkSpec] = []
    underlay: Literal["ipv4", "ipv6"] = "ipv4"
    """What the overlay goes over at transits whose address the file does not give."""
    mesh: Literal["same", "all"] = "same"
    """The fleet's mesh: which transits of two PoPs its daemons join. The emulator joins what `links` says."""
    fleet_links: list[dict[str, Any]] = []
    """`links` of the fleet file, as they are."""
    apps: list[dict[str, Any] | str] = []
    """App files' documents, or paths of app files. An origin may be the name of a host of the lab."""


_PARTS: dict[str, type[Model]] = {
    "pops": PopSpec,
    "hosts": HostSpec,
    "links": LinkSpec,
    "defaults": Behaviour,
}


def fields_at(path: tuple[int | str, ...]) -> list[str]:
    """Return the names that a lab file may have at a place: for suggestions."""
    model = _PARTS.get(str(path[0]), LabSpec) if path else LabSpec
    return [field.alias or name for name, field in model.model_fields.items()]


def contradictions(spec: LabSpec) -> list[tuple[tuple[int | str, ...], str]]:
    """Return every place that names what is not there, or claims what another has; empty for a lab that can be made."""
    found: list[tuple[tuple[int | str, ...], str]] = []
    for name, host in spec.hosts.items():
        if name in spec.pops:
            found.append((("hosts", name), f"{name} is both a PoP and a host"))
        if host.near is not None and host.near not in spec.pops:
            found.append((("hosts", name, "near"), f"there is no PoP {host.near}"))
    for index, link in enumerate(spec.links):
        keys: tuple[tuple[str | int, ...], ...] = (("between", 0), ("between", 1))
        for key, end in zip(keys if link.between else (("from",), ("to",)), link.ends, strict=True):
            if why := _unknown_end(spec, end):
                found.append((("links", index, *key), why))
        first, second = (end.split("/")[0] for end in link.ends)
        if first == second:
            found.append((("links", index), f"both ends are {first}"))
    owner: dict[str, str] = {}
    for place, name, address in _given_addresses(spec):
        if owner.setdefault(address, name) != name:
            found.append((place, f"{owner[address]} has the address {address} as well"))
    return found


def _unknown_end(spec: LabSpec, end: str) -> str | None:
    host, _, transit = end.partition("/")
    if host not in spec.pops and host not in spec.hosts:
        return f"there is no host {host}"
    if transit and (host not in spec.pops or transit not in spec.pops[host].transits):
        return f"{host} has no transit {transit}"
    return None


def _given_addresses(spec: LabSpec) -> Iterator[tuple[tuple[int | str, ...], str, str]]:
    for name, pop in spec.pops.items():
        given = pop.transits if isinstance(pop.transits, dict) else {}
        for transit, address in given.items():
            yield ("pops", name, "transits", transit), f"{name}/{transit}", address
    for name, host in spec.hosts.items():
        if host.address is not None:
            yield ("hosts", name, "address"), name, host.address
