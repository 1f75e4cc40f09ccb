"""Files and folders → `App`s and a `Fleet`, or ConfigError with every fault of all of them at once."""

from collections.abc import Iterable, Mapping
from ipaddress import ip_address
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from l4proxy.config import schema
from l4proxy.config.render import nearest
from l4proxy.config.yaml_source import Document, SourceError, read_documents
from l4proxy.config.yaml_source import Path as Place
from l4proxy.core.app import App, IdleTimeouts, Limits, Listen, Origin, RoutingPolicy
from l4proxy.core.ids import AppName, LinkName, PopName, id32
from l4proxy.core.topology import Fleet, Link, Pop, Transit
from l4proxy.errors import ConfigError, Fault

Model = TypeVar("Model", bound=BaseModel)

SUFFIXES = (".yaml", ".yml")


def load_apps(paths: Iterable[Path], fleet: Fleet | None = None) -> tuple[App, ...]:
    """Load every app of these files and folders, in name order. With a fleet, PoPs that are named must be its own."""
    faults: list[Fault] = []
    apps: dict[AppName, tuple[App, Document]] = {}
    for document in _documents(_files(paths, faults), faults):
        app = _app(document, fleet, faults)
        if app is None:
            continue
        if app.name in apps:
            other = apps[app.name][1].file
            faults.append(document.fault(("name",), f"an app named {app.name} is also in {other}"))
        else:
            apps[app.name] = (app, document)
    _check_overlaps(apps.values(), faults)
    if faults:
        raise ConfigError(faults)
    return tuple(apps[name][0] for name in sorted(apps))


def load_fleet(path: Path) -> Fleet:
    """Load a fleet file."""
    faults: list[Fault] = []
    fleets = [_fleet(document, faults) for document in _documents([Path(path)], faults)]
    if not faults and len(fleets) != 1:
        faults.append(
            Fault(str(path), 1, 1, "(document)", f"a fleet file is one YAML document (got {len(fleets)})")
        )
    if faults or not fleets or fleets[0] is None:
        raise ConfigError(faults)
    return fleets[0]


def is_fleet(document: Document) -> bool:
    """Whether a document is a fleet file rather than an app."""
    return (
        isinstance(document.value, dict)
        and ("fleet" in document.value or "pops" in document.value)
        and ("listen" not in document.value)
    )


def check(paths: Iterable[Path]) -> tuple[list[Fault], int, int]:
    """Check app and fleet files of any mixture; return faults, and how many apps and fleets there are."""
    faults: list[Fault] = []
    documents = _documents(_files(paths, faults), faults)
    fleets = [_fleet(document, faults) for document in documents if is_fleet(document)]
    fleet = fleets[0] if len(fleets) == 1 else None
    apps: dict[AppName, tuple[App, Document]] = {}
    for document in documents:
        if not is_fleet(document) and (app := _app(document, fleet, faults)) is not None:
            if app.name in apps:
                other = apps[app.name][1].file
                faults.append(document.fault(("name",), f"an app named {app.name} is also in {other}"))
            apps[app.name] = (app, document)
    _check_overlaps(apps.values(), faults)
    return faults, len(apps), len(fleets)


def _files(paths: Iterable[Path], faults: list[Fault]) -> list[Path]:
    files: list[Path] = []
    for given in paths:
        path = Path(given)
        if path.is_dir():
            found = sorted(file for file in path.iterdir() if file.suffix in SUFFIXES and file.is_file())
            if not found:
                faults.append(Fault(str(path), 1, 1, "(folder)", "has no .yaml file"))
            files += found
        else:
            files.append(path)
    return files


def _documents(files: Iterable[Path], faults: list[Fault]) -> list[Document]:
    documents: list[Document] = []
    for file in files:
        try:
            read = read_documents(str(file), file.read_bytes())
        except OSError as error:
            faults.append(Fault(str(file), 1, 1, "(file)", f"cannot be read: {error.strerror}"))
        except SourceError as error:
            faults += error.faults
        else:
            documents += read
            if not read:
                faults.append(Fault(str(file), 1, 1, "(document)", "is empty"))
    return documents


def _validate(model: type[Model], document: Document, faults: list[Fault]) -> Model | None:
    if not isinstance(document.value, dict):
        faults.append(document.fault((), f"must be a mapping of fields (got {_shown(document.value)})"))
        return None
    try:
        return model.model_validate(document.value, strict=True)
    except ValidationError as error:
        faults += _faults_of(error, model, document)
        return None


def _faults_of(error: ValidationError, model: type[BaseModel], document: Document) -> list[Fault]:
    """One fault a place: of a union only the branch that went deepest speaks."""
    found: dict[Place, Fault] = {}
    for detail in error.errors(include_url=False):
        path = _path_in(document.value, detail["loc"])
        got = _at(document.value, path)
        kind, message = detail["type"], detail["msg"]
        if kind == "extra_forbidden":
            *above, name = path
            reason = f"unknown field{nearest(str(name), _names(model, tuple(above)))}"
            found[path] = document.fault(path, reason, at_key=True)
            continue
        if kind == "missing":
            found[(*path, str(detail["loc"][-1]))] = document.fault(
                path, f"the field {detail['loc'][-1]} is missing"
            )
            continue
        if kind == "value_error":
            message = message.removeprefix("Value error, ")
        elif kind == "literal_error":
            right = detail.get("ctx", {}).get("expected", "")
            names = [part.strip("' ") for part in right.replace(" or ", ", ").split(",")]
            message = f"must be one of {', '.join(names)}{nearest(str(got), names)}"
        else:
            message = message[:1].lower() + message[1:]
        found.setdefault(path, document.fault(path, f"{message} (got {_shown(got)})"))
    return [fault for path, fault in found.items() if not any(_below(path, other) for other in found)]


def _below(path: Place, other: Place) -> bool:
    return len(other) > len(path) and other[: len(path)] == path


def _path_in(value: Any, loc: tuple[int | str, ...]) -> Place:
    """Return the part of a pydantic location that exists in the document: union members and aliases are left out."""
    path: list[str | int] = []
    for part in loc:
        is_key = isinstance(value, dict) and part in value
        if is_key or (isinstance(value, list) and isinstance(part, int) and part < len(value)):
            value = value[part]
            path.append(part)
    return tuple(path)


def _at(value: Any, path: Place) -> Any:
    for part in path:
        value = value[part]
    return value


def _names(model: type[BaseModel], path: Place) -> list[str]:
    """Field names of the model at a path, for suggestions."""
    names: list[str] = []
    todo: list[Any] = [model]
    for _ in range(6):
        for kind in todo:
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                names += [field.alias or name for name, field in kind.model_fields.items()]
        todo = [inner for kind in todo for inner in _inner(kind)]
    top = [field.alias or name for name, field in model.model_fields.items()]
    return top if not path else names


def _inner(kind: Any) -> list[Any]:
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return [
            part
            for field in kind.model_fields.values()
            for part in (field.annotation, *getattr(field.annotation, "__args__", ()))
        ]
    return list(getattr(kind, "__args__", ()))


def _shown(value: Any) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return "true" if value else "false"
    text = (
        value
        if isinstance(value, str)
        else repr(value)
        if isinstance(value, int | float)
        else f"a {_kind(value)}"
    )
    return text if len(text) <= 60 else text[:57] + "..."


def _kind(value: Any) -> str:
    return "list" if isinstance(value, list) else "mapping"


def _refuse_later(
    model: BaseModel,
    fields: Iterable[tuple[str, ...]],
    prefix: Place,
    document: Document,
    faults: list[Fault],
) -> None:
    for field in fields:
        value: Any = model
        default: Any = None
        for name in field:
            default = type(value).model_fields[name].default
            value = getattr(value, name)
        if value != default:
            faults.append(document.fault((*prefix, *field), "not supported yet; leave it out", at_key=True))


def _app(document: Document, fleet: Fleet | None, faults: list[Fault]) -> App | None:
    model = _validate(schema.AppModel, document, faults)
    if model is None:
        return None
    before = len(faults)
    _refuse_later(model, schema.LATER_APP_FIELDS, (), document, faults)
    if model.smart_routing in ("auto", "shadow"):
        faults.append(
            document.fault(("smart_routing",), f"{model.smart_routing} is not supported yet; write on or off")
        )
    origins = tuple(_origins(model, document, faults))
    _check_pops(model, fleet, document, faults)
    if len(faults) > before:
        return None
    return App(
        name=AppName(model.name),
        listen=tuple(model.listen),
        origins=origins,
        smart_routing=model.smart_routing,
        tcp_class=model.class_ or "bulk",
        udp_class=model.class_ or "game",
        routing=RoutingPolicy(
            min_gain_ms=model.routing.min_gain,
            max_transits=model.routing.max_transits,
            avoid=frozenset(model.routing.avoid),
            egress=None if model.routing.egress == "any" else frozenset(map(PopName, model.routing.egress)),
        ),
        idle=IdleTimeouts(
            round(model.idle_timeout.tcp),
            round(model.idle_timeout.udp),
            round(model.idle_timeout.half_closed),
        ),
        connect_timeout_ms=round(model.connect_timeout),
        limits=Limits(model.limits.flows, model.limits.flows_per_source),
        pops=None if model.pops == "all" else frozenset(map(PopName, model.pops)),
    )


def _origins(model: schema.AppModel, document: Document, faults: list[Fault]) -> Iterable[Origin]:
    for index, given in enumerate(model.origins):
        place: Place = ("origins", index)
        if not isinstance(given, str):
            faults.append(
                document.fault(place, "an origin with weight, priority or zone is not supported yet")
            )
            continue
        if given.startswith("srv:"):
            faults.append(document.fault(place, "SRV records are not supported yet; write an address"))
            continue
        try:
            yield parse_origin(given)
        except ValueError as error:
            faults.append(document.fault(place, f"{error} (got {_shown(given)})"))


def parse_origin(text: str) -> Origin:
    """Parse `IP`, `IP:PORT` or `[IPv6]:PORT`."""
    host, port = text, None
    if text.startswith("["):
        inside, _, rest = text[1:].partition("]")
        host = inside
        if rest and not rest.startswith(":"):
            raise ValueError("is not an address and port; write 203.0.113.10:25565 or [2001:db8::1]:25565")
        port = rest[1:] if rest else None
    elif text.count(":") == 1:
        host, port = text.split(":")
    try:
        address = ip_address(host)
    except ValueError:
        if all(c.isalnum() or c in ".-" for c in host) and any(c.isalpha() for c in host):
            raise ValueError("a host name is not supported yet; write its address") from None
        raise ValueError(
            "is not an address and port; write 203.0.113.10:25565 or [2001:db8::1]:25565"
        ) from None
    if address.is_unspecified or address.is_multicast or str(address) == "255.255.255.255":
        raise ValueError(f"{address} is no host; write the origin's own address")
    return Origin(text, str(address), None if port is None else schema._port(port))


def _check_pops(model: schema.AppModel, fleet: Fleet | None, document: Document, faults: list[Fault]) -> None:
    if isinstance(model.routing.egress, list) and not model.routing.egress:
        faults.append(document.fault(("routing", "egress"), "must name at least one PoP, or any"))
    if isinstance(model.pops, list) and not model.pops:
        faults.append(document.fault(("pops",), "must name at least one PoP, or all"))
    if fleet is None:
        return
    transits = {f"{pop.name}/{transit.name}" for pop in fleet.pops.values() for transit in pop.transits}
    for path, names, known in (
        (("pops",), model.pops if isinstance(model.pops, list) else [], set(fleet.pops)),
        (
            ("routing", "egress"),
            model.routing.egress if isinstance(model.routing.egress, list) else [],
            set(fleet.pops),
        ),
        (("routing", "avoid"), model.routing.avoid, set(fleet.pops) | transits),
    ):
        for index, name in enumerate(names):
            if name not in known:
                reason = f"the fleet has no {name}{nearest(name, map(str, known))}"
                faults.append(document.fault((*path, index), reason))


def _check_overlaps(apps: Iterable[tuple[App, Document]], faults: list[Fault]) -> None:
    taken: list[tuple[Listen, App]] = []
    for app, document in apps:
        for index, listen in enumerate(app.listen):
            for other, owner in taken:
                if _overlap(listen, other) and (
                    app.pops is None or owner.pops is None or app.pops & owner.pops
                ):
                    place: Place = ("listen", index) if ("listen", index) in document.values else ("listen",)
                    whose = "this app" if owner.name == app.name else f"app {owner.name}"
                    faults.append(document.fault(place, f"{listen} overlaps {other} of {whose}"))
                    break
            taken.append((listen, app))


def _overlap(a: Listen, b: Listen) -> bool:
    same_address = a.address == b.address or "::" in (a.address, b.address)
    return a.protocol == b.protocol and same_address and a.first <= b.last and b.first <= a.last


def _fleet(document: Document, faults: list[Fault]) -> Fleet | None:
    model = _validate(schema.FleetModel, document, faults)
    if model is None:
        return None
    before = len(faults)
    if model.issuer is not None:
        faults.append(document.fault(("issuer",), "not supported yet; leave it out", at_key=True))
    pops: dict[PopName, Pop] = {}
    addresses: dict[str, str] = {}
    for name in sorted(model.pops):
        pop = model.pops[name]
        _refuse_later(pop, schema.LATER_POP_FIELDS, ("pops", name), document, faults)
        transits = tuple(_transits(name, pop, addresses, document, faults))
        location = None
        if pop.location is not None:
            location = (float(pop.location[0]), float(pop.location[1]))
            if not (-90 <= location[0] <= 90 and -180 <= location[1] <= 180):
                faults.append(
                    document.fault(("pops", name, "location"), "must be [latitude, longitude] in degrees")
                )
        pops[PopName(name)] = Pop(PopName(name), transits, location)
    links = {link.name: link for link in _mesh(pops, model.mesh)}
    _apply_link_overrides(model, pops, links, document, faults)
    _check_ids(pops, links, document, faults)
    if len(faults) > before:
        return None
    return Fleet(model.fleet, pops, {name: links[name] for name in sorted(links)})


def _transits(
    pop: str, model: schema.PopModel, addresses: dict[str, str], document: Document, faults: list[Fault]
) -> Iterable[Transit]:
    for name in sorted(model.transits):
        given = model.transits[name]
        address, bind = (given, given) if isinstance(given, str) else (given.address, given.bind)
        place: Place = ("pops", pop, "transits", name)
        for text in (address, bind):
            try:
                origin = parse_origin(text) if text != bind or address == bind else parse_bind(text)
                if origin.port is None:
                    raise ValueError("needs a port: 198.51.100.1:4600")
            except ValueError as error:
                faults.append(document.fault(place, f"{error} (got {_shown(text)})"))
                break
        else:
            if address in addresses:
                faults.append(document.fault(place, f"{address} is also the address of {addresses[address]}"))
            addresses[address] = f"{pop}/{name}"
            yield Transit(name, address, bind)


def parse_bind(text: str) -> Origin:
    """Parse the address that a socket is bound to: like an origin's, but it may be unspecified."""
    host = text.rpartition(":")[0].strip("[]")
    if host in ("0.0.0.0", "::"):  # noqa: S104 (an operator's word, not ours)
        return Origin(text, host, schema._port(text.rpartition(":")[2]))
    return parse_origin(text)


def _mesh(pops: Mapping[PopName, Pop], mesh: str) -> Iterable[Link]:
    """Give the default links. `same`: transits of equal names; from one without a namesake to the other's first. `all`: every pair."""
    for a in pops.values():
        for b in pops.values():
            if a.name == b.name:
                continue
            names = [transit.name for transit in b.transits]
            for transit in a.transits:
                same = [transit.name] if transit.name in names else names[:1]
                ends = names if mesh == "all" else same
                for end in ends:
                    yield Link(a.name, transit.name, b.name, end)
    if mesh == "same":
        # A link must have its reverse: probes are answered over it.
        for a in pops.values():
            for b in pops.values():
                for transit in a.transits if a.name != b.name else ():
                    if b.transits and transit.name not in [t.name for t in b.transits]:
                        yield Link(b.name, b.transits[0].name, a.name, transit.name)


def _apply_link_overrides(
    model: schema.FleetModel,
    pops: Mapping[PopName, Pop],
    links: dict[LinkName, Link],
    document: Document,
    faults: list[Fault],
) -> None:
    for index, given in enumerate(model.links):
        ends = []
        for key, text in (("from", given.from_), ("to", given.to)):
            pop, _, transit = text.partition("/")
            known = [f"{p.name}/{t.name}" for p in pops.values() for t in p.transits]
            if text not in known:
                reason = f"there is no {text}; write POP/TRANSIT{nearest(text, known)}"
                faults.append(document.fault(("links", index, key), reason))
            ends.append((PopName(pop), transit))
        if len(ends) == 2:
            (from_pop, from_transit), (to_pop, to_transit) = ends
            link = Link(
                from_pop,
                from_transit,
                to_pop,
                to_transit,
                given.enabled,
                given.capacity,
                float(given.price),
                given.kind,
            )
            if from_pop == to_pop:
                faults.append(document.fault(("links", index), "a link joins two different PoPs"))
            links[link.name] = link


def _check_ids(
    pops: Mapping[PopName, Pop], links: Mapping[LinkName, Link], document: Document, faults: list[Fault]
) -> None:
    for what, names in (("PoPs", list(pops)), ("links", list(links))):
        seen: dict[int, str] = {}
        for name in names:
            if (number := id32(name)) in seen:
                faults.append(
                    document.fault(
                        (), f"the {what} {seen[number]} and {name} have the same wire id; rename one"
                    )
                )
            seen[number] = name
