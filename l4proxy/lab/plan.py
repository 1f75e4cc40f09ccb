"""A lab with nothing left open: addresses of every host, every directed link, the fleet file, the apps. Pure."""

import ipaddress
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from l4proxy.lab.spec import Behaviour, LabSpec, contradictions

OVERLAY_PORT = 4600
"""UDP port of every PoP's overlay: the one of the examples."""

DEFAULT_QUEUE_BYTES = 1_250_000
"""50 ms at 200 Mbit/s: a provider's port, neither bufferbloat nor a policer."""


@dataclass(frozen=True, slots=True)
class Address:
    """One attachment of a host: an IPv4 and an IPv6 address behind one transit (`None`: a host without a daemon)."""

    transit: str | None
    ipv4: str
    ipv6: str
    underlay: Literal["ipv4", "ipv6"] = "ipv4"
    """Over which of the two the daemon's overlay goes."""


@dataclass(frozen=True, slots=True)
class Host:
    """One network namespace."""

    name: str
    is_pop: bool
    addresses: tuple[Address, ...]
    number: int
    """From 1; addresses are made of it."""

    @property
    def ipv4(self) -> str:
        """Its first IPv4 address."""
        return self.addresses[0].ipv4

    @property
    def ipv6(self) -> str:
        """Its first IPv6 address."""
        return self.addresses[0].ipv6


@dataclass(frozen=True, slots=True)
class Properties:
    """How one directed link behaves; the emulator's own terms."""

    delay_ns: int = 0
    jitter_ns: int = 0
    reorder: bool = False
    loss_ratio: float = 0.0
    burst_loss_ratio: float = 0.0
    burst_packets: float = 1.0
    rate_bits_s: int | None = None
    queue_bytes: int = DEFAULT_QUEUE_BYTES
    cut: bool = False


@dataclass(frozen=True, slots=True)
class Link:
    """One directed link between two attachments. `name` is the daemons' name of it, `ams/a>iad/b`."""

    from_host: str
    to_host: str
    from_address: Address
    to_address: Address
    properties: Properties

    @property
    def name(self) -> str:
        """`ams/a>iad/b`; a host without transits stands alone: `client>ams/a`."""
        return f"{_end(self.from_host, self.from_address)}>{_end(self.to_host, self.to_address)}"

    @property
    def pairs(self) -> tuple[tuple[str, str], ...]:
        """The (source, destination) addresses that mean this link."""
        source, destination = self.from_address, self.to_address
        return (source.ipv4, destination.ipv4), (source.ipv6, destination.ipv6)


@dataclass(frozen=True, slots=True)
class Plan:
    """The whole lab."""

    name: str
    seed: int
    mtu: int
    hosts: Mapping[str, Host]
    links: Mapping[str, Link]
    workers: Mapping[str, int | None]
    fleet: dict[str, Any] = field(default_factory=dict)
    """The fleet file's document; empty: no PoPs."""
    apps: tuple[dict[str, Any], ...] = ()
    app_files: tuple[str, ...] = ()

    @property
    def pops(self) -> tuple[Host, ...]:
        """The hosts that run a daemon."""
        return tuple(host for host in self.hosts.values() if host.is_pop)

    def find_links(self, a: str, b: str | None = None, *, one_way: bool = False) -> tuple[str, ...]:
        """Return the names of the links that `a` and `b` mean: two ends (`HOST` or `HOST/TRANSIT`), or one link's name.

        Both directions unless `one_way` (from `a` to `b`) or a name is given. LookupError if there is none.
        """
        if b is None:
            if a in self.links:
                return (a,)
            raise LookupError(f"there is no link {a}; links are named {next(iter(self.links), 'a>b')}")
        found = tuple(
            link.name
            for link in self.links.values()
            if (_is(link.from_host, link.from_address, a) and _is(link.to_host, link.to_address, b))
            or (
                not one_way
                and _is(link.from_host, link.from_address, b)
                and _is(link.to_host, link.to_address, a)
            )
        )
        if not found:
            raise LookupError(f"no link joins {a} and {b}")
        return found


def _end(host: str, address: Address) -> str:
    return host if address.transit is None else f"{host}/{address.transit}"


def _is(host: str, address: Address, end: str) -> bool:
    return end in (host, f"{host}/{address.transit}")


def make_plan(spec: LabSpec) -> Plan:
    """Complete a lab file. ValueError where it contradicts itself; `load` says where."""
    if wrong := contradictions(spec):
        raise ValueError("; ".join(reason for _, reason in wrong))
    hosts = {host.name: host for host in _hosts(spec)}
    links: dict[str, Link] = {}
    for link in _links(spec, hosts):
        links.pop(link.name, None)
        links[link.name] = link
    return Plan(
        name=spec.name,
        seed=spec.seed,
        mtu=spec.mtu,
        hosts=hosts,
        links=links,
        workers={name: pop.workers for name, pop in spec.pops.items()},
        fleet=_fleet(spec, hosts) if spec.pops else {},
        apps=tuple(_with_addresses(app, hosts) for app in spec.apps if isinstance(app, dict)),
        app_files=tuple(app for app in spec.apps if isinstance(app, str)),
    )


def _hosts(spec: LabSpec) -> Iterator[Host]:
    for number, (name, pop) in enumerate(spec.pops.items(), start=1):
        given = pop.transits if isinstance(pop.transits, dict) else {}
        addresses = tuple(
            _address(number, index, transit, given.get(transit), spec.underlay)
            for index, transit in enumerate(pop.transit_names, start=1)
        )
        yield Host(name, True, addresses, number)
    for number, (name, host) in enumerate(spec.hosts.items(), start=len(spec.pops) + 1):
        yield Host(name, False, (_address(number, 1, None, host.address, spec.underlay),), number)


def _address(
    host: int, index: int, transit: str | None, given: str | None, underlay: Literal["ipv4", "ipv6"]
) -> Address:
    """Return both addresses of an attachment; one that the file gives is also the one for the overlay."""
    ipv4, ipv6 = f"10.77.{host}.{index}", f"fd77::{host}:{index}"
    if given is None:
        return Address(transit, ipv4, ipv6, underlay)
    if ipaddress.ip_address(given).version == 4:
        return Address(transit, given, ipv6, "ipv4")
    return Address(transit, ipv4, given, "ipv6")


def _links(spec: LabSpec, hosts: Mapping[str, Host]) -> Iterator[Link]:
    for name, host in spec.hosts.items():
        if host.near is not None:
            properties = _properties(spec.defaults, Behaviour(), host.rtt_ns // 2)
            yield from _join(hosts, name, host.near, properties)
            yield from _join(hosts, host.near, name, properties)
    for link in spec.links:
        first, second = link.ends
        if link.rtt_ns is None:
            yield from _join(hosts, first, second, _properties(spec.defaults, link, link.delay_ns or 0))
        else:
            properties = _properties(spec.defaults, link, link.rtt_ns // 2)
            yield from _join(hosts, first, second, properties)
            yield from _join(hosts, second, first, properties)


def _properties(defaults: Behaviour, own: Behaviour, delay_ns: int) -> Properties:
    known = Behaviour.model_fields
    chosen = {
        name: value
        for name in known
        if (value := getattr(own, name) if getattr(own, name) is not None else getattr(defaults, name))
        is not None
    }
    return replace(Properties(delay_ns=delay_ns), **chosen)


def _join(hosts: Mapping[str, Host], first: str, second: str, properties: Properties) -> Iterator[Link]:
    for source_host, source in _attachments(hosts, first):
        for to_host, destination in _attachments(hosts, second):
            yield Link(source_host, to_host, source, destination, properties)


def _attachments(hosts: Mapping[str, Host], end: str) -> Iterator[tuple[str, Address]]:
    host = hosts[end.split("/")[0]]
    for address in host.addresses:
        if _is(host.name, address, end):
            yield host.name, address


def _fleet(spec: LabSpec, hosts: Mapping[str, Host]) -> dict[str, Any]:
    pops: dict[str, Any] = {}
    for name, pop in spec.pops.items():
        transits = {str(address.transit): _overlay(address) for address in hosts[name].addresses}
        pops[name] = {"transits": transits} | ({"location": list(pop.location)} if pop.location else {})
    document: dict[str, Any] = {"fleet": spec.name, "pops": pops}
    if spec.mesh != "same":
        document["mesh"] = spec.mesh
    if spec.fleet_links:
        document["links"] = spec.fleet_links
    return document


def _overlay(address: Address) -> str:
    host = address.ipv4 if address.underlay == "ipv4" else f"[{address.ipv6}]"
    return f"{host}:{OVERLAY_PORT}"


def _with_addresses(app: dict[str, Any], hosts: Mapping[str, Host]) -> dict[str, Any]:
    """Put addresses for the lab's hosts among the origins: there is no DNS between the namespaces."""

    def resolve(origin: Any) -> Any:
        if isinstance(origin, dict) and "address" in origin:
            return origin | {"address": resolve(origin["address"])}
        name, colon, port = str(origin).partition(":")
        return f"{hosts[name].ipv4}{colon}{port}" if name in hosts else origin

    origins = app.get("origins")
    return app | {"origins": [resolve(origin) for origin in origins]} if isinstance(origins, list) else app
