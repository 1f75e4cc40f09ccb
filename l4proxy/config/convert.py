"""Valid models → what the rest of the program works with: `core.app.App` and `core.topology.Fleet`."""

from pathlib import Path

from l4proxy.config.endpoints import OriginAddress
from l4proxy.config.mesh import make_links
from l4proxy.config.policies import access_of, client_address_of, dscp_of, limits_of, tls_of
from l4proxy.config.schema import AppModel, FleetModel, PopModel
from l4proxy.core.app import App, IdleTimeouts, Origin, RoutingPolicy
from l4proxy.core.ids import AppName, PopName
from l4proxy.core.topology import Fleet, Pop, Transit


def to_app(model: AppModel, folder: Path) -> App:
    """Return the app that a model declares in a file of this folder."""
    return App(
        name=AppName(model.name),
        listen=model.listen,
        origins=tuple(_origin(origin.address) for origin in model.origins),
        smart_routing=model.smart_routing,
        tcp_class=model.traffic_class or "bulk",
        udp_class=model.traffic_class or "game",
        routing=RoutingPolicy(
            min_gain_ms=model.routing.min_gain,
            max_transits=model.routing.max_transits,
            avoid=frozenset(model.routing.avoid),
            egress=_pops(model.routing.egress),
            egress_max=model.routing.egress_max,
        ),
        idle=IdleTimeouts(
            tcp_ms=round(model.idle_timeout.tcp),
            udp_ms=round(model.idle_timeout.udp),
            half_closed_ms=round(model.idle_timeout.half_closed),
        ),
        connect_timeout_ms=round(model.connect_timeout),
        limits=limits_of(model.limits),
        pops=_pops(model.pops),
        client_address=client_address_of(model.client_address, {listen.protocol for listen in model.listen}),
        accept_client_address=tuple(str(prefix) for prefix in model.accept_client_address),
        access=access_of(model.access, folder),
        rehome=model.rehome,
        dscp=dscp_of(model.dscp),
        duplication=model.duplication,
        tls=tls_of(model.tls),
        record_client=model.record_client,
        allow_private_origins=model.allow_private_origins,
        source_pool=() if model.source is None else tuple(str(prefix) for prefix in model.source.pool),
    )


def _pops(names: tuple[str, ...] | None) -> frozenset[PopName] | None:
    return None if names is None else frozenset(PopName(name) for name in names)


def _origin(address: OriginAddress) -> Origin:
    return Origin(address.text, address.host, address.port, address.kind)


def to_pops(model: FleetModel) -> dict[PopName, Pop]:
    """Return the PoPs of a fleet in name order, their transits in the order of the file."""
    return {PopName(name): _pop(PopName(name), model.pops[name]) for name in sorted(model.pops)}


def to_fleet(model: FleetModel) -> Fleet:
    """Return the fleet that a document declares, which `fleet_checks` found to be one."""
    pops = to_pops(model)
    issuer = None if model.issuer is None else PopName(model.issuer)
    links = make_links(pops, model.mesh, model.links)
    return Fleet(model.fleet, pops, links, issuer, model.datagrams, model.probe_budget // 8)


def _pop(name: PopName, model: PopModel) -> Pop:
    transits = tuple(
        Transit(transit_name, transit.address, transit.bind or transit.address)
        for transit_name, transit in model.transits.items()
    )
    dials_out = model.dial == "outbound"
    return Pop(
        name, transits, model.location, dial_outbound=dials_out, transit_rate_bits_s=model.transit_rate
    )
