"""What must hold in a fleet file beyond each field: addresses, links and wire ids that fit together."""

from collections.abc import Iterable, Mapping
from math import ceil

from l4proxy.config.convert import to_fleet, to_pops
from l4proxy.config.endpoints import split
from l4proxy.config.mesh import MAX_LINKS, can_dial, can_join, count_links, ends_of
from l4proxy.config.render import nearest_name, shown
from l4proxy.config.schema import FleetModel
from l4proxy.config.validate import Validated
from l4proxy.config.yaml_source import Document, Path
from l4proxy.core.ids import PopName, id32
from l4proxy.core.probing import least_budget_bytes_s
from l4proxy.core.topology import Fleet, Pop, Transit
from l4proxy.errors import Fault


def check_fleet(valid: Validated[FleetModel], faults: list[Fault]) -> Fleet | None:
    """Return the fleet; None when something does not fit together, which is appended to `faults`."""
    document, model = valid.document, valid.model
    before = len(faults)
    pops = to_pops(model)
    faults += _address_faults(pops, document)
    faults += _link_faults(pops, model, document)
    if model.issuer is not None and model.issuer not in pops:
        close = nearest_name(model.issuer, pops)
        hint = f"did you mean {close}?" if close else None
        reason = f"there is no PoP {model.issuer}"
        faults.append(document.fault(("issuer",), reason, got=shown(model.issuer), hint=hint))
    if len(faults) > before:
        return None
    if (links := count_links(model)) > MAX_LINKS:
        reason = f"makes up to {links} links, and {MAX_LINKS} are possible"
        faults.append(document.fault(("mesh",) if "mesh" in document.value else ("pops",), reason))
        return None
    fleet = to_fleet(model)
    faults += _lonely_pops(fleet, document)
    faults += _id_faults(fleet, document)
    faults += _budget_faults(fleet, document)
    return fleet if len(faults) == before else None


def _transit_path(document: Document, pop: str, transit: str, field: str) -> Path:
    """Return the path of a transit's field, which may be written as the transit's only value."""
    path = ("pops", pop, "transits", transit)
    return (*path, field) if (*path, field) in document.values else path


def _address_faults(pops: Mapping[PopName, Pop], document: Document) -> Iterable[Fault]:
    owners: dict[str, str] = {}
    for pop in pops.values():
        binds: dict[str, str] = {}
        for transit in pop.transits:
            name = f"{pop.name}/{transit.name}"
            at_address = _transit_path(document, pop.name, transit.name, "address")
            at_bind = _transit_path(document, pop.name, transit.name, "bind")
            # Others do not use the address of one behind NAT, and private networks are alike.
            if not pop.dial_outbound and (owner := owners.setdefault(transit.address, name)) != name:
                yield document.fault(at_address, f"{owner} has this address too", got=shown(transit.address))
            elif (owner := binds.setdefault(transit.bind, name)) != name:
                yield document.fault(at_bind, f"{owner} is bound to this too", got=shown(transit.bind))
            if (":" in split(transit.address)[0]) != (":" in split(transit.bind)[0]):
                reason = f"is not of the same family, IPv4 or IPv6, as the address {transit.address}"
                yield document.fault(at_bind, reason, got=shown(transit.bind))


def _link_faults(pops: Mapping[PopName, Pop], model: FleetModel, document: Document) -> Iterable[Fault]:
    known = {f"{pop.name}/{transit.name}": transit for pop in pops.values() for transit in pop.transits}
    first_at: dict[tuple[str, str], int] = {}
    for index, link in enumerate(model.links):
        unknown = False
        for field, end in (("from", link.from_end), ("to", link.to_end)):
            if end not in known:
                unknown = True
                reason, hint = _unknown_end(end, pops)
                yield document.fault(("links", index, field), reason, got=shown(end), hint=hint)
        if unknown:
            continue
        from_pop, _, to_pop, _ = ends_of(link)
        if from_pop == to_pop:
            yield document.fault(("links", index, "to"), f"a link joins two PoPs, and both ends are {to_pop}")
        elif not can_dial(pops[from_pop], pops[to_pop]):
            reason = f"{from_pop} and {to_pop} can both only dial out, and nobody can be dialled"
            hint = "leave it out: they reach each other through other PoPs"
            yield document.fault(("links", index, "to"), reason, hint=hint)
        elif not can_join(known[link.from_end], known[link.to_end]):
            reason = f"{link.from_end} and {link.to_end} have no address family in common"
            hint = _family_hint(pops, known[link.from_end], link.to_end)
            yield document.fault(("links", index, "to"), reason, hint=hint)
        first = first_at.setdefault((link.from_end, link.to_end), index)
        if first != index:
            yield document.fault(("links", index), f"{link.from_end}>{link.to_end} is links[{first}] already")


def _family_hint(pops: Mapping[PopName, Pop], start: Transit, end: str) -> str:
    """Say which transit of the other PoP would do, or what to give it."""
    pop = pops[PopName(end.partition("/")[0])]
    others = [f"{pop.name}/{transit.name}" for transit in pop.transits if can_join(start, transit)]
    family = "IPv6" if ":" in split(start.bind)[0] else "IPv4"
    return f"write {' or '.join(others)}" if others else f"give {pop.name} a transit with an {family} address"


def _unknown_end(end: str, pops: Mapping[PopName, Pop]) -> tuple[str, str | None]:
    pop_name, _, transit = end.partition("/")
    pop = pops.get(PopName(pop_name))
    if pop is None:
        close = nearest_name(pop_name, pops)
        return f"there is no PoP {pop_name}", f"did you mean {close}/{transit}?" if close else None
    names = ", ".join(f"{pop_name}/{one.name}" for one in pop.transits)
    return f"{pop_name} has no transit {transit}", f"it has {names}"


def _lonely_pops(fleet: Fleet, document: Document) -> Iterable[Fault]:
    if len(fleet.pops) == 1:
        return
    joined = {end for link in fleet.links.values() for end in (link.from_pop, link.to_pop)}
    usable = {end for link in fleet.links.values() if link.enabled for end in (link.from_pop, link.to_pop)}
    for pop in fleet.pops:
        if pop not in joined:
            others = [other for name, other in fleet.pops.items() if name != pop]
            reason = (
                "no link joins this PoP with another: they have no address family in common"
                if any(can_dial(fleet.pops[pop], other) for other in others)
                else "no link joins this PoP with another: all of them can only dial out, and nobody can be dialled"
            )
            yield document.fault(("pops", pop), reason, at_key=True)
        elif pop not in usable:
            yield document.fault(("pops", pop), "every link of this PoP is disabled", at_key=True)


def _budget_faults(fleet: Fleet, document: Document) -> Iterable[Fault]:
    """What probes may cost must pay for the least that can be done, at the PoP with the most to do."""
    least: dict[PopName, tuple[float, int]] = {}
    for pop in fleet.pops:
        links = fleet.links_from(pop)
        mappings = sum(
            fleet.pops[link.to_pop].dial_outbound or fleet.pops[pop].dial_outbound for link in links
        )
        least[pop] = (least_budget_bytes_s(len(links), mappings), len(links))
    pop, (needed, links_of) = max(least.items(), key=lambda item: item[1][0])
    if needed > fleet.probe_budget_bytes_s:
        reason = f"does not pay for the probes of {pop}, which has {links_of} links"
        got = shown(document.value["probe_budget"]) if "probe_budget" in document.value else None
        at = ("probe_budget",) if got is not None else ("pops", pop)
        yield document.fault(
            at,
            reason,
            got=got,
            at_key=got is None,
            hint=f"write probe_budget: {ceil(needed / 1e3)}kB/s or more",
        )


def _id_faults(fleet: Fleet, document: Document) -> Iterable[Fault]:
    """Names stand as 32-bit ids on the wire; among 1,000 links two are equal once in 8,600 fleets."""
    for names in (fleet.pops, fleet.links):
        # 0 is nobody.
        seen: dict[int, str] = {0: "nothing at all"}
        for name in names:
            if (other := seen.setdefault(id32(name), name)) != name:
                pop = name.partition("/")[0]
                reason = f"{other} and {name} have the same id on the wire"
                yield document.fault(("pops", pop), reason, at_key=True, hint="rename one")
