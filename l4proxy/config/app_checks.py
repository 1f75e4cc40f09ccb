"""What must hold between apps, and between apps and their fleet: names, listeners, PoPs, and no way round in a circle."""

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from itertools import islice

from l4proxy.config.endpoints import ALL_ADDRESSES, split
from l4proxy.config.policy_checks import check_policies
from l4proxy.config.render import nearest_name, shown
from l4proxy.config.yaml_source import MAX_FAULTS, Document, Path
from l4proxy.core.app import App, Listen, Origin
from l4proxy.core.ids import PopName
from l4proxy.core.resolution import is_localhost
from l4proxy.core.topology import Fleet
from l4proxy.errors import Fault

LAST_PORT = 65_535


@dataclass(frozen=True, slots=True)
class Declared:
    """An app and the document that declares it."""

    app: App
    document: Document


def check_apps(apps: Sequence[Declared], fleet: Fleet | None) -> Iterator[Fault]:
    """Give everything that is wrong with apps that are right by themselves; PoPs are checked if there is a fleet."""
    yield from _same_names(apps)
    yield from _overlaps(apps)
    for declared in apps:
        yield from _origin_ports(declared)
        yield from _same_origins(declared)
        yield from _loops(declared, fleet)
        yield from check_policies(declared.app, declared.document)
        if fleet is not None:
            yield from islice(_unknown_pops(declared, fleet), MAX_FAULTS)
            yield from _overlay_ports(declared, fleet)


def _same_names(apps: Iterable[Declared]) -> Iterator[Fault]:
    first: dict[str, Declared] = {}
    for declared in apps:
        other = first.setdefault(declared.app.name, declared)
        if other is not declared:
            where = f"{other.document.file}:{other.document.values['name',].line}"
            reason = "another app has this name"
            yield declared.document.fault(
                ("name",), reason, got=shown(declared.app.name), hint=f"it is in {where}"
            )


@dataclass(frozen=True, slots=True)
class _Taken:
    listen: Listen
    index: int
    owner: Declared

    @property
    def path(self) -> Path:
        return _listen_path(self.owner.document, self.index)


def _listen_path(document: Document, index: int) -> Path:
    """Return where a listener stands, which may be written as the only value."""
    return ("listen", index) if ("listen", index) in document.values else ("listen",)


def _overlaps(apps: Iterable[Declared]) -> Iterator[Fault]:
    """Give each listener that another one was before: one fault a listener, so that a range against a range is one."""
    by_protocol: defaultdict[str, list[_Taken]] = defaultdict(list)
    for declared in apps:
        for index, listen in enumerate(declared.app.listen):
            by_protocol[listen.protocol].append(_Taken(listen, index, declared))
    for listeners in by_protocol.values():
        yield from _overlaps_in(listeners)


def _overlaps_in(listeners: list[_Taken]) -> Iterator[Fault]:
    order = {id(taken): number for number, taken in enumerate(listeners)}
    by_first = sorted(listeners, key=lambda taken: taken.listen.first)
    firsts = [taken.listen.first for taken in by_first]
    said: set[int] = set()
    for position, one in enumerate(by_first):
        for other in by_first[position + 1 : bisect_right(firsts, one.listen.last)]:
            later, earlier = (other, one) if order[id(other)] > order[id(one)] else (one, other)
            if id(later) not in said and _collide(one, other):
                said.add(id(later))
                yield _overlap_fault(later, earlier)


def _collide(one: _Taken, other: _Taken) -> bool:
    addresses = {one.listen.address, other.listen.address}
    pops, other_pops = one.owner.app.pops, other.owner.app.pops
    meet = pops is None or other_pops is None or not pops.isdisjoint(other_pops)
    return meet and (len(addresses) == 1 or ALL_ADDRESSES in addresses)


def _overlap_fault(later: _Taken, earlier: _Taken) -> Fault:
    document = later.owner.document
    if later.owner is earlier.owner:
        whose, hint = "this app's own", None
    else:
        line = earlier.owner.document.values[earlier.path].line
        whose = f"app {earlier.owner.app.name}'s"
        hint = f"it is in {earlier.owner.document.file}:{line}"
    return document.fault(
        later.path, f"overlaps {whose} {earlier.listen}", got=shown(str(later.listen)), hint=hint
    )


def _origin_path(document: Document, index: int) -> Path:
    path: Path = ("origins", index, "address")
    return path if path in document.values else path[:-1]


def _origin_ports(declared: Declared) -> Iterator[Fault]:
    for index, origin in enumerate(declared.app.origins):
        for listen in declared.app.listen:
            if origin.port is not None and origin.port + listen.last - listen.first > LAST_PORT:
                last = origin.port + listen.last - listen.first
                reason = f"{listen} goes up to port {last} from there, and {LAST_PORT} is the last"
                yield declared.document.fault(
                    _origin_path(declared.document, index), reason, got=shown(origin.name)
                )


def _same_origins(declared: Declared) -> Iterator[Fault]:
    first: dict[tuple[str, int | None], int] = {}
    for index, origin in enumerate(declared.app.origins):
        if first.setdefault((origin.address, origin.port), index) != index:
            path = _origin_path(declared.document, index)
            reason = f"is origins[{first[origin.address, origin.port]}] again"
            yield declared.document.fault(path, reason, got=shown(origin.name))


def _loops(declared: Declared, fleet: Fleet | None) -> Iterator[Fault]:
    """Give each origin that is a listener of the same app, on a PoP that both listens and dials."""
    app = declared.app
    if app.pops is not None and app.routing.egress is not None and app.pops.isdisjoint(app.routing.egress):
        return
    own = _own_addresses(app, fleet)
    for index, origin in enumerate(app.origins):
        # Where a name leads is seen when it is dialled.
        is_own = origin.kind == "ip" and (origin.address in own or ip_address(origin.address).is_loopback)
        if not is_own and not (origin.kind == "name" and is_localhost(origin.address)):
            continue
        if (listen := _reached(app, origin)) is not None:
            reason = f"is the app's own listener {listen}: flows would go round in a circle"
            yield declared.document.fault(
                _origin_path(declared.document, index), reason, got=shown(origin.name)
            )


def _own_addresses(app: App, fleet: Fleet | None) -> set[str]:
    own = {listen.address for listen in app.listen}
    if fleet is not None:
        for pop in fleet.pops.values():
            if app.listens_at(pop.name) and app.admits_egress(pop.name):
                own.update(
                    split(end)[0] for transit in pop.transits for end in (transit.address, transit.bind)
                )
    return own


def _reached(app: App, origin: Origin) -> Listen | None:
    """Return the app's listener that its own flows to an origin on this machine would come to, if any."""
    places = (ALL_ADDRESSES, *(target.address for target in origin.targets({})))
    for start in app.listen:
        first = start.first if origin.port is None else origin.port
        last = first + start.last - start.first
        for listen in app.listen:
            if (
                listen.protocol == start.protocol
                and listen.address in places
                and first <= listen.last
                and listen.first <= last
            ):
                return listen
    return None


def _unknown_pops(declared: Declared, fleet: Fleet) -> Iterator[Fault]:
    app, document = declared.app, declared.document
    transits = {f"{pop.name}/{transit.name}" for pop in fleet.pops.values() for transit in pop.transits}
    for path, names, known in (
        (("pops",), app.pops or (), set(fleet.pops)),
        (("routing", "egress"), app.routing.egress or (), set(fleet.pops)),
        (("routing", "avoid"), app.routing.avoid, set(fleet.pops) | transits),
    ):
        written: list[str] = _at(document.value, path) if names else []
        for index, name in enumerate(written):
            if name not in known:
                close = nearest_name(name, map(str, known))
                hint = f"did you mean {close}?" if close else f"it has {', '.join(sorted(fleet.pops)[:10])}"
                what = "transit" if "/" in name else "PoP"
                yield document.fault(
                    (*path, index), f"the fleet {fleet.name} has no {what} {name}", hint=hint
                )


def _at(value: object, path: Path) -> list[str]:
    for part in path:
        value = value[part]  # type: ignore[index]
    return value if isinstance(value, list) else []


def _overlay_ports(declared: Declared, fleet: Fleet) -> Iterator[Fault]:
    """Give each UDP listener that is an overlay socket of a PoP where the app listens."""
    for index, listen in enumerate(declared.app.listen):
        if (taken := _overlay_in(listen, declared.app, fleet)) is not None:
            path = _listen_path(declared.document, index)
            yield declared.document.fault(path, f"overlaps the overlay's own {taken}", got=shown(str(listen)))


def _overlay_in(listen: Listen, app: App, fleet: Fleet) -> str | None:
    if listen.protocol != "udp":
        return None
    for pop in fleet.pops.values():
        for transit in pop.transits if app.listens_at(PopName(pop.name)) else ():
            address, port = split(transit.bind)
            if port in listen.ports and listen.address in (ALL_ADDRESSES, address):
                return f"{transit.bind} of {pop.name}/{transit.name}"
    return None
