"""A flow as the engine tells it → as the outside contract shows it. Pure."""

from collections.abc import Mapping, Sequence
from typing import Any


def flow_view(flow: Mapping[str, Any], pop: str) -> dict[str, Any]:
    """Return a live flow with ages in seconds, and its path both as PoPs and as links."""
    shown = {name: value for name, value in flow.items() if name not in ("age_ms", "idle_ms", "path")}
    return (
        {"source": None}
        | shown
        | {
            "path": path_pops(flow, pop),
            "links": [str(link) for link in flow["path"]],
            "age_s": flow["age_ms"] / 1000,
            "idle_s": flow["idle_ms"] / 1000,
        }
    )


def path_pops(flow: Mapping[str, Any], pop: str) -> list[str]:
    """Return the PoPs of a flow's path from ingress to egress.

    Each PoP knows the links over which it sends itself: at the egress `pop` those of the way back.
    """
    ingress, egress = str(flow["ingress"]), str(flow["egress"])
    links: Sequence[str] = flow["path"]
    if not links:
        return [ingress] if ingress == egress else [ingress, egress]
    ends = [[end.partition("/")[0] for end in str(link).split(">")] for link in links]
    pops = [ends[0][0], *(end[-1] for end in ends)]
    return pops[::-1] if pop == egress and pops[0] == egress else pops
