"""Everything known → the routing table of this PoP and the snapshot for its engine. A pure function of its inputs and the plan before."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from l4proxy.core.access_list import AccessList
from l4proxy.core.app import App, Listen, Origin, Protocol, TrafficClass
from l4proxy.core.bus import LinkState, OriginState
from l4proxy.core.disqualifier import Removal
from l4proxy.core.egress import AppRoute, Choice, Wish, app_routes
from l4proxy.core.egress_limit import EgressSet, Told, decided, field_of, followed
from l4proxy.core.estimate import LinkEstimate
from l4proxy.core.handles import handle_ids, policies_in_use
from l4proxy.core.ids import AppName, LinkName, PopName, id32, path_id
from l4proxy.core.paths import Path
from l4proxy.core.policy import AccessPolicy, TlsPolicy
from l4proxy.core.policy_rows import PolicyRows
from l4proxy.core.probing import STEADY_MS
from l4proxy.core.resolution import OriginName, Target
from l4proxy.core.route import OFF, HandleRoute, Policy
from l4proxy.core.routing.choosing import Memory, Round
from l4proxy.core.routing.cost import link_costs
from l4proxy.core.routing.declared import DeclaredLinks, Measured
from l4proxy.core.routing.links import FloatArray, LinkTable
from l4proxy.core.routing.raw import RawWindows
from l4proxy.core.routing.rows import Rows
from l4proxy.core.routing.ways import Ways
from l4proxy.core.snapshot import (
    AccessListSpec,
    AccessSpec,
    AppSpec,
    Candidate,
    CertificateSpec,
    EngineOptions,
    HandleSpec,
    IncomingLinkSpec,
    LinkSpec,
    ListenSpec,
    OriginSpec,
    PathSpec,
    PeerSpec,
    RouteSpec,
    Snapshot,
    TlsSpec,
)
from l4proxy.core.toggles import Toggles
from l4proxy.core.topology import Fleet, Link

COPIES_BYTES_PER_S = 12_500_000
"""Copies of datagrams that a link carries at most where its capacity is not configured: 100 Mbit/s."""

COPIES_SHARE = 0.1
"""The same as a part of its capacity where that is: copies must not be what fills a link."""

MAX_CANDIDATES = 8
"""Attempts that a connect budget of 5 s can hold."""


@dataclass(frozen=True, slots=True)
class Knowledge:
    """What a plan is made of."""

    pop: PopName
    fleet: Fleet
    apps: tuple[App, ...]
    own_links: Mapping[LinkName, LinkEstimate]
    own_labels: Mapping[LinkName, int]
    other_links: Mapping[LinkName, LinkState]
    origins: Mapping[PopName, Mapping[tuple[AppName, str], OriginState]]
    """What each PoP measured of origins, this one included."""
    toggles: Toggles
    files: Mapping[str, bytes] = field(default_factory=dict)
    """Contents of the files that apps name: certificates and keys."""
    names: Mapping[OriginName, tuple[Target, ...]] = field(default_factory=dict)
    """What the names of origins lead to."""
    access_files: Mapping[str, AccessList] = field(default_factory=dict)
    """What the files of access lists say, by path."""
    source_key: bytes = bytes(16)
    removed_egresses: Mapping[tuple[AppName, PopName], Removal] = field(default_factory=dict)
    """What the disqualifier has removed, by app and egress."""
    probe_intervals_ms: Mapping[LinkName, int] = field(default_factory=dict)
    """How often each own link is probed."""
    own_load_bits_s: Mapping[LinkName, float] = field(default_factory=dict)
    """What each own link carries."""
    raw: RawWindows | None = None
    """What the guard looks at."""
    told_egresses: Told = field(default_factory=dict)
    """Which PoPs may dial the origins of apps with `egress_max`, as others have decided."""
    proved: frozenset[tuple[AppName, Protocol]] = frozenset()
    """Apps and protocols for which smart routing has shown that it pays: what `auto` turns on."""


@dataclass(frozen=True, slots=True)
class Plan:
    """The table, and the snapshot made of it."""

    declared: DeclaredLinks
    measured: Measured
    costs: Mapping[TrafficClass, FloatArray]
    """Cost of each link of the table, for the classes of the apps and for `rtt`, which `off` goes by."""
    handles: Mapping[tuple[PopName, str], HandleRoute]
    routes: Mapping[tuple[AppName, Protocol], AppRoute]
    handle_ids: Mapping[tuple[PopName, str], int]
    snapshot: Snapshot
    policies_left_out: int
    rounds: Mapping[str, Round]
    """What was decided of the rows of each policy, and from what."""
    memories: Mapping[str, Memory]
    """What is remembered of them, by the policy's text."""
    egress_memory: Memory
    egress_sets: Mapping[AppName, EgressSet]
    """Which PoPs may dial the origins of each app with `egress_max`."""

    @property
    def watched(self) -> tuple[Rows, ...]:
        """Paths that the guard is to know: those in use, the best and the direct ones of each policy."""
        rounds = self.rounds.values()
        return tuple(rows for found in rounds for rows in (found.rows, found.offer.best, found.offer.direct))

    @property
    def table(self) -> LinkTable:
        """All links as they were known."""
        return self.measured.table


def make_plan(know: Knowledge, previous: Plan | None, generation: int, now_ns: int) -> Plan:
    """Build the table and the snapshot, which gets this generation number."""
    last = previous if previous is not None and previous.declared.fleet is know.fleet else None
    declared = DeclaredLinks.of(know.fleet) if last is None else last.declared
    measured = declared.measured(
        know.pop,
        know.own_links,
        know.own_labels,
        know.other_links,
        None if last is None else last.measured,
        know.own_load_bits_s,
    )
    table = measured.table
    wanted = [Policy.of(app, protocol) for app in know.apps for protocol in app.protocols]
    traffics: set[TrafficClass] = {"rtt", *(policy.traffic for policy in wanted)}
    costs = {traffic: link_costs(table, traffic) for traffic in sorted(traffics)}
    policies, left_out = policies_in_use(wanted)
    before = previous.handles if previous is not None else {}
    is_calm = last is not None and _has_same_links(last.table, table)
    memories = {} if previous is None else previous.memories
    rows = PolicyRows(know.pop, know.raw, declared, table, costs, memories, now_ns)
    handles = rows.handles(policies, before, is_calm=is_calm)
    if any(route.primary is None for route in handles.values()):
        dead = table.with_dead()
        last_known = Ways(declared, dead, link_costs(dead, "rtt"), know.pop)
        handles = {
            meaning: _watching(route, before.get(meaning), last_known) for meaning, route in handles.items()
        }
    sets = _egress_sets(know, rows, {} if previous is None else previous.egress_sets, now_ns)
    wishes = [
        _wish(know, app, protocol, handles, rows, sets.get(app.name))
        for app in know.apps
        for protocol in app.protocols
    ]
    egress_memory, routes = app_routes(
        know.pop,
        table.pops,
        wishes,
        None if previous is None else previous.egress_memory,
        {} if previous is None else previous.routes,
        now_ns,
    )
    ids = handle_ids(handles)
    snapshot = _snapshot(know, handles, routes, ids, generation)
    return Plan(
        declared=declared,
        measured=measured,
        costs=costs,
        handles=handles,
        routes=routes,
        handle_ids=ids,
        snapshot=snapshot,
        policies_left_out=left_out,
        rounds=rows.rounds,
        memories=rows.memories,
        egress_memory=egress_memory,
        egress_sets=sets,
    )


def _has_same_links(table: LinkTable, other: LinkTable) -> bool:
    return bool((table.usable == other.usable).all() and (table.labelled == other.labelled).all())


def _wish(
    know: Knowledge,
    app: App,
    protocol: Protocol,
    handles: Mapping[tuple[PopName, str], HandleRoute],
    rows: PolicyRows,
    limit: EgressSet | None,
) -> Wish:
    policy = Policy.of(app, protocol)
    egresses = _egresses(know, app)
    off = tuple(_choice(know, app, egress, handles.get((egress, OFF))) for egress in egresses)
    smart = tuple(_smart_choice(know, app, policy, egress, handles, rows) for egress in egresses)
    mode = know.toggles.effective(app.name, know.pop, app.smart_routing)
    off, smart = (_barred(know, app, choices, limit) for choices in (off, smart))
    return Wish(app, protocol, mode, off, smart, (app.name, protocol) in know.proved)


def _smart_choice(
    know: Knowledge,
    app: App,
    policy: Policy,
    egress: PopName,
    handles: Mapping[tuple[PopName, str], HandleRoute],
    rows: PolicyRows,
) -> Choice:
    choice = _choice(know, app, egress, handles.get((egress, policy.text), handles.get((egress, OFF))))
    if choice.policy is None:
        return choice
    now_ms, doubt_ms = rows.now_and_doubt(policy, egress)
    return replace(choice, path_cost_ms_now=now_ms, doubt_ms=doubt_ms)


def _barred(
    know: Knowledge, app: App, choices: tuple[Choice, ...], limit: EgressSet | None
) -> tuple[Choice, ...]:
    """Keep flows from what the disqualifier removed and from what `egress_max` leaves out; never from the last one.

    The limit gives way first: an egress that works is better than one of the few that does not.
    """
    allowed = [choice for choice in choices if limit is None or choice.egress in limit.pops]
    removed = {c.egress: know.removed_egresses.get((app.name, c.egress)) for c in choices}
    usable = {choice.egress for choice in choices if choice.cost_ms is not None}
    good = {egress for egress in usable if removed[egress] is None}
    few = good & {choice.egress for choice in allowed}
    for egresses in (few, good, usable):
        if egresses:
            return tuple(
                c if c.egress in egresses else replace(c, barred=_why_barred(removed[c.egress], limit))
                for c in choices
            )
    return choices


def _why_barred(removal: Removal | None, limit: EgressSet | None) -> str:
    if removal is not None:
        return f"disqualifier: {removal.reason}"
    return "" if limit is None else f"egress_max: {limit.decider} decided on {', '.join(limit.pops)}"


def _egress_sets(
    know: Knowledge, rows: PolicyRows, previous: Mapping[AppName, EgressSet], now_ns: int
) -> dict[AppName, EgressSet]:
    """Which PoPs may dial the origins of each app with `egress_max`. By the costs of its first protocol: it has one pool of origins."""
    found = {}
    alive = know.origins.keys() | {know.pop}
    for app in know.apps:
        limit = app.routing.egress_max
        if limit is None:
            continue
        before = previous.get(app.name)
        origins_ms = _origins_ms(know, app, alive)
        can_dial = {pop for pop, origin_ms in origins_ms.items() if origin_ms is not None}
        egresses = followed(app, know.pop, alive, can_dial, know.told_egresses, before, now_ns)
        if egresses is None and app.listens_at(know.pop):
            ground = rows.ground_of(Policy.of(app, app.protocols[0]))
            field = field_of(app, ground, alive, origins_ms)
            egresses = decided(field, limit, () if before is None else before.pops, know.pop, now_ns)
        if egresses is not None:
            found[app.name] = egresses
    return found


def _origins_ms(know: Knowledge, app: App, alive: Collection[PopName]) -> dict[PopName, float | None]:
    """From each living egress that has measured an origin, or from all if none has."""
    egresses = [pop for pop in alive if app.admits_egress(pop)]
    measured = [pop for pop in egresses if any(key[0] == app.name for key in know.origins.get(pop, ()))]
    return {pop: origin_cost_ms(know, app, pop) for pop in measured or egresses}


def _egresses(know: Knowledge, app: App) -> tuple[PopName, ...]:
    return tuple(pop for pop in know.fleet.pops if app.admits_egress(pop))


def _choice(know: Knowledge, app: App, egress: PopName, handle: HandleRoute | None) -> Choice:
    origin_cost = origin_cost_ms(know, app, egress)
    if egress == know.pop:
        return Choice(egress, (egress,), (), 0.0, origin_cost, (), None)
    primary = handle.primary if handle is not None else None
    return Choice(
        egress,
        primary.pops if primary is not None else (),
        primary.names if primary is not None else (),
        primary.cost_ms if primary is not None else None,
        origin_cost,
        handle.backups if handle is not None else (),
        handle.policy if handle is not None else OFF,
    )


def origin_cost_ms(know: Knowledge, app: App, egress: PopName) -> float | None:
    """Return the RTT from an egress to the app's nearest origin that answers; 0 if nothing was measured, None if all fail."""
    states = know.origins.get(egress, {})
    measured = [states[app.name, origin.name] for origin in app.origins if (app.name, origin.name) in states]
    alive = [state.rtt_ms for state in measured if state.is_up]
    if alive:
        return min(alive)
    return None if len(measured) == len(app.origins) else 0.0


def _snapshot(
    know: Knowledge,
    handles: Mapping[tuple[PopName, str], HandleRoute],
    routes: Mapping[tuple[AppName, Protocol], AppRoute],
    ids: Mapping[tuple[PopName, str], int],
    generation: int,
) -> Snapshot:
    own = know.fleet.links_from(know.pop)
    adjacent = frozenset(know.fleet.neighbours(know.pop))
    return Snapshot(
        generation=generation,
        pop=know.pop,
        pop_id=id32(know.pop),
        fleet=know.fleet.name,
        apps=tuple(_app_spec(know, app, routes, ids) for app in know.apps),
        links=tuple(_link_spec(know, link) for link in own),
        links_in=tuple(_incoming_spec(know, link) for link in know.fleet.links_to(know.pop)),
        peers=tuple(_peer_spec(know, peer, peer in adjacent) for peer in know.fleet.pops if peer != know.pop),
        handles=tuple(
            HandleSpec(ids[meaning], meaning[0], meaning[1], _path_specs(know, route))
            for meaning, route in sorted(handles.items())
        ),
        options=EngineOptions(source_key=know.source_key),
        transit_bytes_per_s=_transit_bytes_per_s(know),
        datagrams=know.fleet.datagrams,
    )


def _link_spec(know: Knowledge, link: Link) -> LinkSpec:
    pops = know.fleet.pops
    return LinkSpec(
        id=link.id,
        name=link.name,
        peer=link.to_pop,
        label=know.own_labels.get(link.name, 0) if link.enabled else 0,
        local=pops[link.from_pop].transit(link.from_transit).bind,
        remote=pops[link.to_pop].transit(link.to_transit).address,
        probe_interval_ms=know.probe_intervals_ms.get(link.name, STEADY_MS),
        copies_bytes_per_s=_copies_bytes_per_s(link),
        moves=pops[link.to_pop].dial_outbound,
    )


def _transit_bytes_per_s(know: Knowledge) -> int:
    bits_s = know.fleet.pops[know.pop].transit_rate_bits_s
    return 0 if bits_s is None else max(1, bits_s // 8)


def _copies_bytes_per_s(link: Link) -> int:
    if link.capacity_bits_s is None:
        return COPIES_BYTES_PER_S
    return max(1, int(link.capacity_bits_s / 8 * COPIES_SHARE))


def _incoming_spec(know: Knowledge, link: Link) -> IncomingLinkSpec:
    pops = know.fleet.pops
    return IncomingLinkSpec(
        id=link.id,
        name=link.name,
        peer=link.from_pop,
        local=pops[link.to_pop].transit(link.to_transit).bind,
        remote=pops[link.from_pop].transit(link.from_transit).address,
        moves=pops[link.from_pop].dial_outbound,
    )


def _peer_spec(know: Knowledge, peer: PopName, is_adjacent: bool) -> PeerSpec:
    own, other = know.fleet.pops[know.pop], know.fleet.pops[peer]
    return PeerSpec(peer, id32(peer), own.dials(other), is_adjacent, other.dial_outbound)


def _watching(route: HandleRoute, previous: HandleRoute | None, last_known: Ways) -> HandleRoute:
    """Return a route that has no path alive with the paths to watch: what was best before all died, and no others while those can be.

    The engine's hellos find the first of them that lives again some seconds before probes make a link count as up.
    """
    if route.primary is not None:
        return route
    kept = previous.watched if previous is not None else ()
    if kept and all(last_known.priced(path) is not None for path in kept):
        return replace(route, watched=kept)
    best = last_known.best.get(route.peer)
    return replace(
        route, watched=() if best is None else (best, *last_known.backups({route.peer: best})[route.peer])
    )


def _path_specs(know: Knowledge, route: HandleRoute) -> tuple[PathSpec, ...]:
    paths = (route.primary, *route.backups) if route.primary is not None else _first_packets(know, route)
    return tuple(_path_spec(know, path) for path in paths)


def _first_packets(know: Knowledge, route: HandleRoute) -> tuple[Path, ...]:
    """Return what the first packets take while no path is alive: what is watched, and the own links to the peer, measured or not."""
    watched = {path.names for path in route.watched}
    links = (link for link in know.fleet.links_from(know.pop) if link.to_pop == route.peer and link.enabled)
    return route.watched + tuple(Path((link,), 0.0) for link in links if (link.name,) not in watched)


def _path_spec(know: Knowledge, path: Path) -> PathSpec:
    labels = tuple(know.other_links[link.name].label for link in path.links[1:])
    return PathSpec(path_id(path.names), path.names, path.links[0].id, labels)


def _app_spec(
    know: Knowledge,
    app: App,
    routes: Mapping[tuple[AppName, Protocol], AppRoute],
    ids: Mapping[tuple[PopName, str], int],
) -> AppSpec:
    def candidates(protocol: Protocol) -> tuple[Candidate, ...]:
        route = routes.get((app.name, protocol))
        return () if route is None else _candidates(know, app, route, ids)

    listens = tuple(_listen_spec(listen) for listen in app.listen)
    return AppSpec(
        name=app.name,
        listens=listens if app.listens_at(know.pop) else (),
        all_listens=listens,
        origins=tuple(_origin_spec(know, origin) for origin in app.origins),
        routes=RouteSpec(tcp=candidates("tcp"), udp=candidates("udp")),
        idle_tcp_ms=app.idle.tcp_ms,
        idle_udp_ms=app.idle.udp_ms,
        half_closed_ms=app.idle.half_closed_ms,
        connect_timeout_ms=app.connect_timeout_ms,
        admits_egress=app.admits_egress(know.pop),
        limits=app.limits,
        client_address=app.client_address,
        accept_client_address=app.accept_client_address,
        access=_access_spec(app.access, know.access_files),
        rehome=app.rehome,
        dscp=app.dscp,
        duplication=app.duplication,
        tls=None if app.tls is None else _tls_spec(app.tls, know.files, is_ingress=app.listens_at(know.pop)),
        record_client=app.record_client,
        allow_private_origins=app.allow_private_origins,
        source_pool=app.source_pool,
    )


def _access_spec(access: AccessPolicy, files: Mapping[str, AccessList]) -> AccessSpec:
    """Return which lists hold. A file that was not read is a list that nobody has, which the engine refuses: nobody comes in by mistake."""

    def lists(
        verdict: Literal["allow", "deny"], own: AccessList, paths: tuple[str, ...]
    ) -> list[AccessListSpec]:
        ids = [own.id] if len(own) else []
        ids += [files[path].id if path in files else 0 for path in paths]
        return [AccessListSpec(verdict, number) for number in ids]

    allow = lists("allow", access.allow, access.allow_files)
    deny = lists("deny", access.deny, access.deny_files)
    return AccessSpec(access.default_allow, tuple(allow + deny))


def _tls_spec(tls: TlsPolicy, files: Mapping[str, bytes], *, is_ingress: bool) -> TlsSpec:
    """Return what the engine needs of TLS; a file that could not be read is empty, and the engine refuses it by the app's name.

    Where no client comes in, a PoP only dials origins: it gets no certificate, and above all no key.
    """
    if not is_ingress:
        return TlsSpec(tls.mode, (), None)
    certificates = tuple(
        CertificateSpec(files.get(pair.certificate, b""), files.get(pair.key, b""))
        for pair in tls.certificates
    )
    client_ca = None if tls.client_ca is None else files.get(tls.client_ca, b"")
    return TlsSpec(tls.mode, certificates, client_ca)


def _origin_spec(know: Knowledge, origin: Origin) -> OriginSpec:
    kind: Literal["address", "name"] = "address" if origin.to_resolve is None else "name"
    return OriginSpec(origin.name, kind, origin.targets(know.names))


def _listen_spec(listen: Listen) -> ListenSpec:
    return ListenSpec(listen.protocol, listen.address, listen.first, listen.last)


def _candidates(
    know: Knowledge, app: App, route: AppRoute, ids: Mapping[tuple[PopName, str], int]
) -> tuple[Candidate, ...]:
    """The chosen egress with each origin, those that answer first; then the other egresses. What looks dead is tried last, not never."""
    found = []
    for choice in route.choices:
        if choice.path_cost_ms is None:
            continue
        states = know.origins.get(choice.egress, {})

        def is_down(index: int, states: Mapping[tuple[AppName, str], OriginState] = states) -> bool:
            state = states.get((app.name, app.origins[index].name))
            return state is not None and not state.is_up

        handle = None if choice.policy is None else ids[choice.egress, choice.policy]
        order = sorted(range(len(app.origins)), key=lambda index: (is_down(index), index))
        removal = know.removed_egresses.get((app.name, choice.egress))
        is_on_trial = removal is not None and removal.on_trial
        found += [Candidate(index, handle, is_on_trial) for index in order]
    return tuple(found[:MAX_CANDIDATES])
