"""The engine's words for what flows got, as the controller takes them: this PoP's name where the origin was dialled here. No I/O."""

from dataclasses import fields

from l4proxy.core.ids import AppName, Id32, LinkName, PopName
from l4proxy.core.outcomes import FlowOutcomes, Outcomes, PathReport
from l4proxy.daemon.engine_messages import EngineOutcomes

_COUNTS = frozenset(field.name for field in fields(FlowOutcomes)) - {"app", "egress", "links"}


def outcomes_of(message: EngineOutcomes, pop: PopName) -> Outcomes:
    """Return the same for the controller of a PoP. Counts that it does not know are left out."""
    return Outcomes(
        elapsed_ms=message.elapsed_ms,
        links={LinkName(name): count for name, count in message.links.items()},
        paths=tuple(
            PathReport(
                peer=PopName(path.peer),
                policy=path.policy,
                path=Id32(path.path_id),
                links=tuple(LinkName(name) for name in path.links),
                rtt_ms=path.rtt_us / 1e3,
                packets=path.packets,
                lost=path.lost,
                bytes_out=path.bytes_out,
                bytes_in=path.bytes_in,
            )
            for path in message.paths
        ),
        flows=tuple(
            FlowOutcomes(
                app=AppName(flow.app),
                egress=pop if flow.egress is None else PopName(flow.egress),
                links=tuple(LinkName(name) for name in flow.links),
                **{name: count for name, count in flow.counts.items() if name in _COUNTS},
            )
            for flow in message.flows
        ),
    )
