"""What each outgoing link is used for, as far as the engine and the plan say: the inputs of `probing`. Remembers when, decides nothing."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from l4proxy.core.ids import LinkName, PopName
from l4proxy.core.probing import USED_FOR_MS, ProbedLink, ProbePlan, Use, plan_probes
from l4proxy.core.samples import HandleUse
from l4proxy.core.snapshot import Snapshot
from l4proxy.core.topology import Fleet, Link


@dataclass(slots=True)
class ProbeUses:
    """When each link carried traffic, and was heard without a probe, last. As large as the links of this PoP."""

    _used_ns: dict[LinkName, int] = field(default_factory=dict)
    _heard_ns: dict[LinkName, int] = field(default_factory=dict)

    def handle_uses(self, now_ns: int, uses: Iterable[HandleUse], snapshot: Snapshot) -> frozenset[LinkName]:
        """Take what the engine says of its handles, whose paths stand in the snapshot; return the links that were heard just now."""
        names = {link.id: link.name for link in snapshot.links}
        first_links = {
            (handle.peer, handle.policy, path.id): names.get(path.first_link)
            for handle in snapshot.handles
            for path in handle.paths
        }
        heard = set()
        for use in uses:
            if use.active_path is None or not use.is_in_use:
                continue
            link = first_links.get((use.peer, use.policy, use.active_path))
            if link is None:
                continue
            self._used_ns[link] = now_ns
            if use.is_alive:
                self._heard_ns[link] = now_ns
                heard.add(link)
        return frozenset(heard)

    def plan(self, now_ns: int, pop: PopName, fleet: Fleet, snapshot: Snapshot | None) -> ProbePlan:
        """Return how often to probe each link of this PoP; `snapshot`: the paths that are installed, None: none yet."""
        links = fleet.links_from(pop)
        own = {link.name for link in links}
        for known in (self._used_ns, self._heard_ns):
            for gone in known.keys() - own:
                del known[gone]
        installed = (
            frozenset(path.first_link for handle in snapshot.handles for path in handle.paths)
            if snapshot is not None
            else frozenset()
        )
        probed = [self._probed(now_ns, fleet, link, link.id in installed) for link in links]
        return plan_probes(probed, fleet.probe_budget_bytes_s)

    def _probed(self, now_ns: int, fleet: Fleet, link: Link, is_installed: bool) -> ProbedLink:
        is_behind_nat = any(fleet.pops[end].dial_outbound for end in (link.from_pop, link.to_pop))
        used_ns, heard_ns = self._used_ns.get(link.name), self._heard_ns.get(link.name)
        if used_ns is None or now_ns - used_ns > USED_FOR_MS * 1_000_000:
            return ProbedLink(link.name, Use.INSTALLED if is_installed else Use.NONE, None, is_behind_nat)
        passive_ms = None if heard_ns is None else (used_ns - heard_ns) / 1e6
        return ProbedLink(link.name, Use.TRAFFIC, passive_ms, is_behind_nat)
