"""The brain of one PoP, sans-IO: measurements, other PoPs' messages, toggles and files go in; snapshots, messages and state come out.

After every input call `poll_output` until it gives None, then wait until `poll_timeout`. Time is wall-clock nanoseconds as an argument;
randomness is a function handed in. The daemon runs this over an engine and a clock; the tests run many of them through hours in seconds.
"""

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace

from l4proxy.core import bus
from l4proxy.core.access_list import AccessList
from l4proxy.core.app import App
from l4proxy.core.bus import LinkState, Message, OriginState, ToggleState
from l4proxy.core.disqualifier import LOSS_GOOD, Disqualifier
from l4proxy.core.estimate import UP_AFTER, LinkEstimate, LinkEstimator, OriginEstimator, OwnLinks
from l4proxy.core.flooding import Flooding
from l4proxy.core.guarding import Guarding
from l4proxy.core.ids import AppName, LinkName, PopName
from l4proxy.core.outcomes import Outcomes
from l4proxy.core.passive import Passive, PathQuality
from l4proxy.core.plan import Knowledge, Plan, make_plan
from l4proxy.core.plausible import Claims
from l4proxy.core.probe_uses import ProbeUses
from l4proxy.core.probing import ProbePlan
from l4proxy.core.records import RecordStore
from l4proxy.core.removal import without
from l4proxy.core.renewal import MakeRequest, Renewal, Say, SignRequest, TakeCertificate
from l4proxy.core.resolution import OriginName, Target
from l4proxy.core.samples import HandleUse, LinkSample, OriginSample
from l4proxy.core.snapshot import Snapshot
from l4proxy.core.toggles import Toggles
from l4proxy.core.topology import Fleet

PLAN_EVERY_NS = 200_000_000
"""Changes within this time go into one table: a storm of records costs five tables a second."""

TICK_NS = 1_000_000_000
"""How often silence and expiry are looked for, the table is built anew from the latest estimates, and numbers that moved are told."""

LEARN_NS = 5_000_000_000
"""A PoP that has just started says nothing of links that it has not measured: others go on with what they know of it."""

MAX_OUTPUTS = 10_000
"""Outputs that wait to be polled; the shell drains them after every input."""


@dataclass(frozen=True, slots=True)
class SavedState:
    """What survives a restart: toggles, and the labels that other PoPs' paths name."""

    epoch: int
    generation: int
    labels: tuple[tuple[LinkName, int], ...] = ()
    toggles: tuple[ToggleState, ...] = ()


@dataclass(frozen=True, slots=True)
class SendBus:
    """A control message for a neighbour."""

    peer: PopName
    payload: bytes


@dataclass(frozen=True, slots=True)
class Apply:
    """A snapshot for the engine."""

    snapshot: Snapshot


@dataclass(frozen=True, slots=True)
class Save:
    """State to write down."""

    state: SavedState


Output = SendBus | Apply | Save | MakeRequest | SignRequest | TakeCertificate


@dataclass(slots=True)
class Counters:
    """What was refused, by reason."""

    bus_malformed: int = 0
    bus_from_stranger: int = 0
    samples_unknown_link: int = 0
    outputs_full: int = 0


@dataclass(slots=True)
class Problem:
    """Something an operator should know."""

    what: str
    since_ns: int
    fix: str


@dataclass
class Controller:
    """The control plane of one PoP. `settle_ns`: how long a daemon that took over a running engine listens before it changes anything."""

    pop: PopName
    fleet: Fleet
    apps: tuple[App, ...]
    now_ns: int
    random_u32: Callable[[], int]
    epoch: int
    saved: SavedState | None = None
    settle_ns: int = 0
    files: Mapping[str, bytes] = field(default_factory=dict)
    """Contents of the files that apps name, as they were read last."""
    names: Mapping[OriginName, tuple[Target, ...]] = field(default_factory=dict)
    """What the names of origins lead to, as far as it is known."""
    access_files: Mapping[str, AccessList] = field(default_factory=dict)
    """What the files of access lists say, by path."""
    source_key: bytes = bytes(16)
    """Decides which address of a source pool a client is seen from."""
    counters: Counters = field(default_factory=Counters)

    def __post_init__(self) -> None:
        saved = self.saved or SavedState(0, 0)
        self.started_ns = self.now_ns
        self.generation = saved.generation
        self.applied: int | None = None
        self.refused: str | None = None
        self.plan: Plan | None = None
        self.store = RecordStore(self.pop, max(self.epoch, saved.epoch + 1))
        self.toggles = Toggles(self.pop)
        self.toggles.merge(saved.toggles)
        self.labels: dict[LinkName, int] = dict(saved.labels)
        self.links = OwnLinks()
        self.guarding = Guarding()
        self.uses = ProbeUses()
        self.passive = Passive()
        self.disqualifier = Disqualifier()
        self.not_spared: frozenset[LinkName] = frozenset()
        """Links that the disqualifier has removed and that are used still, because nothing else leads to some PoP."""
        self.probes = ProbePlan({}, 0.0, is_over=False)
        self.origins: dict[tuple[AppName, str], OriginEstimator] = {}
        self.connected: set[PopName] = set()
        self.flooding = Flooding(self.store, self.toggles, self.fleet.pops, self.now_ns)
        self.claims = Claims(self.fleet)
        self.renewal = Renewal(self.pop, lambda: self.random_u32() << 32 | self.random_u32())
        self._outputs: deque[Output] = deque()
        self._saved = saved
        self._plan_due_ns: int | None = self.now_ns + self.settle_ns
        self._planned_ns = self.now_ns - PLAN_EVERY_NS
        self._tick_ns = self.now_ns + TICK_NS
        self._is_publish_due = True
        self._follow_fleet()
        self._save()

    # Inputs

    def handle_config(self, now_ns: int, fleet: Fleet, apps: tuple[App, ...]) -> None:
        """Take files that were read again."""
        self.fleet, self.apps = fleet, apps
        self._follow_fleet()
        self.handle_force(now_ns)

    def handle_force(self, now_ns: int) -> None:
        """Make a plan at once: a reload or an engine that was started anew waits for it."""
        self._plan_due_ns = now_ns
        self._planned_ns = now_ns - PLAN_EVERY_NS
        self.applied = None
        self._work(now_ns)

    def handle_files(self, now_ns: int, files: Mapping[str, bytes]) -> None:
        """Take the contents of the files that apps name, read anew."""
        if files != self.files:
            self.files = files
            self._want_plan(now_ns)
        self._work(now_ns)

    def handle_samples(self, now_ns: int, samples: Iterable[LinkSample]) -> None:
        """Take results of probes."""
        if self.links.handle_samples(now_ns, samples):
            self._is_publish_due = True
            self._want_plan(now_ns)
        self.counters.samples_unknown_link = self.links.unknown
        self._work(now_ns)

    def handle_uses(self, now_ns: int, uses: Iterable[HandleUse]) -> None:
        """Take what the engine says of its route handles: which links carry traffic, and are heard by hellos."""
        if self.plan is not None:
            for link in self.uses.handle_uses(now_ns, uses, self.plan.snapshot):
                self.links.handle_heard(now_ns, link)
        self._work(now_ns)

    def handle_outcomes(self, now_ns: int, outcomes: Outcomes) -> None:
        """Take what flows really got, as the engine says it."""
        self.passive.handle_outcomes(
            now_ns, outcomes, {link.name for link in self.fleet.links_from(self.pop)}
        )
        self.disqualifier.handle_outcomes(
            now_ns,
            outcomes.flows,
            outcomes.paths,
            outcomes.elapsed_ms,
            self._probed_ms() if outcomes.paths else None,
        )
        self._judge(now_ns)
        self._work(now_ns)

    def handle_engine_gone(self, now_ns: int) -> None:
        """What its connections saw of paths is not of the next engine's."""
        self.passive = Passive()
        self._work(now_ns)

    def handle_origin_sample(self, now_ns: int, sample: OriginSample) -> None:
        """Take the result of a check of an origin."""
        estimator = self.origins.setdefault((sample.app, sample.origin), OriginEstimator())
        was_up, was_known = estimator.is_up, estimator.rtt_ms is not None
        estimator.handle_sample(now_ns, sample)
        if estimator.is_up != was_up or not was_known:
            self._is_publish_due = True
            self._want_plan(now_ns)
        self._work(now_ns)

    def handle_names(self, now_ns: int, names: Mapping[OriginName, tuple[Target, ...]]) -> None:
        """Take what the names of origins lead to now. Live flows stay where they are."""
        if names != self.names:
            self.names = names
            self._want_plan(now_ns)
        self._work(now_ns)

    def handle_access_files(self, now_ns: int, files: Mapping[str, AccessList]) -> None:
        """Take what the files of access lists say now."""
        if files != self.access_files:
            self.access_files = files
            self._want_plan(now_ns)
        self._work(now_ns)

    def handle_bus(self, now_ns: int, peer: PopName, payload: bytes) -> None:
        """Take a control message of a neighbour; what cannot be read is counted."""
        if peer not in self.fleet.pops:
            self.counters.bus_from_stranger += 1
            return
        if not self.flooding.admits(now_ns, peer, len(payload)):
            return
        try:
            message = bus.decode(payload)
        except bus.BusError:
            self.counters.bus_malformed += 1
            return
        learnt = self.flooding.handle_message(now_ns, peer, message)
        # Numbers that have moved wait for the table of the next second.
        if learnt.urgent or learnt.toggles:
            self._want_plan(now_ns)
        if learnt.toggles:
            self._save()
        self.renewal.handle_message(now_ns, peer, message)
        self._work(now_ns)

    def handle_peer(self, now_ns: int, peer: PopName, connected: bool) -> None:
        """The pair connection with a neighbour came up or was lost."""
        if connected and peer in self.fleet.pops:
            self.connected.add(peer)
        elif not connected:
            self.connected.discard(peer)
        self.flooding.handle_connected(now_ns, frozenset(self.connected))
        self._work(now_ns)

    def set_toggle(self, now_ns: int, app: AppName | None, pop: PopName | None, value: str) -> None:
        """Switch smart routing of one app or all, at one PoP or all: `on`, `off` or `default`."""
        names = [known.name for known in self.apps] if app is None else [app]
        written = []
        for name in names:
            if pop is None:
                # The register for all gives way to those for single PoPs: a fleet-wide switch takes those back.
                single = [
                    key
                    for key, state in self.toggles.registers.items()
                    if key[0] == name and key[1] is not None
                ]
                written += [self.toggles.write(name, where, "default") for _, where in single]
            written.append(self.toggles.write(name, pop, value))
        self.flooding.tell_toggles(tuple(written), without=None)
        self._save()
        self._plan_due_ns = now_ns
        self._work(now_ns)

    def handle_applied(self, now_ns: int, generation: int) -> None:
        """The engine has put a snapshot into force."""
        self.applied, self.refused = generation, None
        self._work(now_ns)

    def handle_refused(self, now_ns: int, generation: int, reason: str) -> None:
        """The engine has refused a snapshot; what was in force stays."""
        self.refused = f"generation {generation}: {reason}"
        self._work(now_ns)

    def handle_timeout(self, now_ns: int) -> None:
        """A deadline of `poll_timeout` has come."""
        self._work(now_ns)

    # Outputs

    def poll_output(self) -> Output | None:
        """Return the next thing to do."""
        return self._outputs.popleft() if self._outputs else None

    def poll_timeout(self) -> int:
        """Return when `handle_timeout` is due."""
        deadlines = [self._tick_ns, self.flooding.poll_timeout()]
        if (renewal_ns := self.renewal.poll_timeout()) is not None:
            deadlines.append(renewal_ns)
        if self._plan_due_ns is not None:
            deadlines.append(max(self._plan_due_ns, self._planned_ns + PLAN_EVERY_NS))
        return min(deadlines)

    # What flows got

    @property
    def path_quality(self) -> Mapping[tuple[PopName, tuple[LinkName, ...]], PathQuality]:
        """What tunnel connections saw of each path in use, by the PoP at its end and its links."""
        return self.passive.path_quality

    @property
    def link_load_bits_s(self) -> Mapping[LinkName, float]:
        """What each own link carries, bits a second: all that leaves over it, without IP and UDP headers. Idle ones are left out."""
        return self.passive.link_load_bits_s

    def _probed_ms(self) -> dict[LinkName, float]:
        """Links that probes pass over, with their round trips. Where probes are lost as well, cost judges."""
        known = self.known()
        probed = {
            name: now.rtt_ms
            for name, now in known.own_links.items()
            if now.is_up and now.rtt_ms and now.route_loss_ratio < LOSS_GOOD
        }
        others = {
            name: state.rtt_ms
            for name, state in known.other_links.items()
            if state.is_up and state.loss_ratio < LOSS_GOOD
        }
        return others | probed

    def _judge(self, now_ns: int) -> None:
        egresses = {
            app.name: frozenset(pop for pop in self.fleet.pops if app.admits_egress(pop)) for app in self.apps
        }
        own = self.links.estimates(now_ns)
        up = frozenset(name for name, known in own.items() if known.is_up)
        if self.disqualifier.handle_time(now_ns, egresses, up):
            self._want_plan(now_ns)

    # Inside

    def _work(self, now_ns: int) -> None:
        self.now_ns = now_ns
        if now_ns >= self._tick_ns:
            self._tick_ns = now_ns + TICK_NS
            self._on_tick(now_ns)
        if self._plan_due_ns is not None and now_ns >= max(
            self._plan_due_ns, self._planned_ns + PLAN_EVERY_NS
        ):
            self._plan(now_ns)
        self._publish(now_ns)
        self._follow_flooding(now_ns)
        self._follow_renewal(now_ns)

    def _follow_flooding(self, now_ns: int) -> None:
        self.flooding.handle_time(now_ns)
        while (output := self.flooding.poll_output()) is not None:
            self._send(*output)

    def _follow_renewal(self, now_ns: int) -> None:
        self.renewal.handle_connected(now_ns, frozenset(self.connected))
        while (output := self.renewal.poll_output()) is not None:
            if isinstance(output, Say):
                self._send(output.peer, output.message)
            else:
                self._push(output)

    def _on_tick(self, now_ns: int) -> None:
        self.links.handle_time(now_ns)
        self.passive.handle_time(now_ns)
        self._judge(now_ns)
        self.store.handle_time(now_ns, self.fleet.pops)
        self._is_publish_due = True
        if self.plan is not None:
            self._want_plan(now_ns)

    def _want_plan(self, now_ns: int) -> None:
        if self._plan_due_ns is None:
            self._plan_due_ns = now_ns

    def _plan(self, now_ns: int) -> None:
        self._plan_due_ns, self._planned_ns = None, now_ns
        self._plan_probes(now_ns)
        plan = make_plan(self.knowledge(), self.plan, self.generation, now_ns)
        if self.plan is None or self.applied is None or _differs(plan.snapshot, self.plan.snapshot):
            self.generation += 1
            plan = replace(plan, snapshot=replace(plan.snapshot, generation=self.generation))
            self._push(Apply(plan.snapshot))
            self.applied = self.applied or 0
            self._save()
        self.guarding.handle_plan(now_ns, self.plan, plan)
        self.plan = plan
        if self.guarding.raw.is_due(now_ns):
            self.guarding.handle_time(now_ns, self.pop, plan, self.apps, self.links.take_newest())

    def _plan_probes(self, now_ns: int) -> None:
        """How often to probe, by the paths of the plan before: a path that is new is probed faster from the next on."""
        snapshot = self.plan.snapshot if self.plan is not None else None
        self.probes = self.uses.plan(now_ns, self.pop, self.fleet, snapshot)
        for name, interval_ms in self.probes.intervals_ms.items():
            self.links.estimators[name].handle_interval(now_ns, interval_ms * 1_000_000)

    @property
    def estimators(self) -> dict[LinkName, LinkEstimator]:
        """Estimators of the own links, in name order."""
        return self.links.estimators

    def knowledge(self) -> Knowledge:
        """Return what a plan is made of, now: what is known, without what the disqualifier has removed."""
        known = self.known()
        own, others, self.not_spared = without(
            self.pop, self.fleet, known.own_links, known.other_links, self.disqualifier.links
        )
        return replace(known, own_links=own, other_links=others)

    def known(self) -> Knowledge:
        """Return all that is known, now."""
        own = self.links.estimates(self.now_ns)
        measured = {name: self._state(name, estimate) for name, estimate in own.items()}
        return Knowledge(
            pop=self.pop,
            fleet=self.fleet,
            apps=self.apps,
            own_links=own,
            own_labels=self.labels,
            other_links=self.claims.follow(self.now_ns, self.pop, measured, self.store.records),
            removed_egresses=self.disqualifier.egresses,
            origins=self._all_origins(),
            toggles=self.toggles,
            files=self.files,
            names=self.names,
            access_files=self.access_files,
            source_key=self.source_key,
            probe_intervals_ms=self.probes.intervals_ms,
            own_load_bits_s=self.passive.link_load_bits_s,
            raw=self.guarding.raw,
            told_egresses={
                owner: dict(record.egresses)
                for owner, record in self.store.records.items()
                if record.egresses and owner != self.pop
            },
            proved=self.guarding.proved,
        )

    def _all_origins(self) -> dict[PopName, dict[tuple[AppName, str], OriginState]]:
        found: dict[PopName, dict[tuple[AppName, str], OriginState]] = {}
        for owner, record in sorted(self.store.records.items()):
            found[owner] = {(state.app, state.origin): state for state in record.origins}
        found[self.pop] = {(state.app, state.origin): state for state in self._own_origins()}
        return found

    def _own_origins(self) -> tuple[OriginState, ...]:
        configured = {(app.name, origin.name) for app in self.apps for origin in app.origins}
        return tuple(
            OriginState(app, origin, estimator.is_up, estimator.rtt_ms or 0.0)
            for (app, origin), estimator in sorted(self.origins.items())
            if (app, origin) in configured and (estimator.rtt_ms is not None or not estimator.is_up)
        )

    def _publish(self, now_ns: int) -> None:
        """Write and tell the own record if it says something new: at once when a link or origin comes or goes, else each second."""
        is_learning = any(estimator.samples < UP_AFTER for estimator in self.estimators.values())
        if not self._is_publish_due or (is_learning and now_ns - self.started_ns < LEARN_NS):
            return
        self._is_publish_due = False
        estimates = self.links.estimates_for_record(now_ns)
        links = tuple(self._state(name, estimate) for name, estimate in estimates.items())
        self.flooding.publish(now_ns, links, self._own_origins(), self._own_egresses())

    def _own_egresses(self) -> tuple[bus.Chosen, ...]:
        sets = {} if self.plan is None else self.plan.egress_sets
        return tuple((app, sets[app].pops) for app in sorted(sets) if sets[app].decider == self.pop)

    def _state(self, name: LinkName, now: LinkEstimate) -> LinkState:
        rtt, least = now.rtt_ms or 0.0, now.rtt_ms_min or 0.0
        label = self.labels.get(name, 0) if self.fleet.links[name].enabled else 0
        return LinkState(name, now.is_up, rtt, least, now.jitter_ms, now.route_loss_ratio, label)

    def _follow_fleet(self) -> None:
        """Estimators for exactly the own links, and labels for those that others may use.

        A link that left, or was disabled, loses its label for good: one that comes, or comes back, gets a new one. One that is down keeps
        its label, because hellos of the sources find out first that it is back (docs/decisions/0013).
        """
        own = {link.name: link for link in self.fleet.links_from(self.pop)}
        self.links.handle_fleet(self.pop, self.fleet)
        self.labels = {
            name: self.labels.get(name) or self._new_label() for name, link in own.items() if link.enabled
        }
        self.connected &= set(self.fleet.pops)
        self.claims = Claims(self.fleet)
        self.flooding.handle_fleet(self.now_ns, self.fleet.pops)
        self._is_publish_due = True
        self.renewal.handle_fleet(self.now_ns, self.fleet.issuer, self.fleet.pops)

    def _new_label(self) -> int:
        while True:
            label = self.random_u32() & 0xFFFF_FFFF
            if label and label not in self.labels.values():
                return label

    def _send(self, peer: PopName, message: Message) -> None:
        self._push(SendBus(peer, bus.encode(message)))

    def _save(self) -> None:
        labels = tuple(sorted(self.labels.items()))
        state = SavedState(self.store.epoch, self.generation, labels, self.toggles.all())
        if state != self._saved:
            self._saved = state
            self._push(Save(state))

    def _push(self, output: Output) -> None:
        if len(self._outputs) >= MAX_OUTPUTS:
            self._outputs.popleft()
            self.counters.outputs_full += 1
        self._outputs.append(output)

    def messages_dropped(self) -> dict[str, int]:
        """Return control messages that were not taken or not sent, by reason."""
        counts = self.counters
        return {
            "malformed": counts.bus_malformed,
            "stranger": counts.bus_from_stranger,
            "neighbour_limited": self.flooding.counters["neighbour_limited"],
            "outputs_full": counts.outputs_full,
        }

    def problems(self) -> list[Problem]:
        """Return what an operator should know, worst first."""
        found = []
        if self.refused is not None:
            found.append(
                Problem(f"the engine refused a snapshot: {self.refused}", self.now_ns, "see the daemon's log")
            )
        for name, estimator in sorted(self.estimators.items()):
            age_ns = self.now_ns - self.started_ns
            if not estimator.is_up and age_ns > 10 * TICK_NS and self.fleet.links[name].enabled:
                found.append(
                    Problem(
                        f"link {name} is down", self.now_ns, "check the transit and the other PoP's daemon"
                    )
                )
        for what, since_ns, fix in self.disqualifier.problems():
            found.append(Problem(what, since_ns, fix))
        for name in sorted(self.not_spared):
            removal = self.disqualifier.links.get(name)
            if removal is not None:
                found.append(
                    Problem(
                        f"link {name} carries badly ({removal.reason}) and is used still: nothing else leads there",
                        removal.since_ns,
                        "add a link or a transit",
                    )
                )
        if self.probes.is_over:
            found.append(
                Problem(
                    f"probes cost {self.probes.bytes_s / 1e3:.1f} kB/s, more than probe_budget",
                    self.now_ns,
                    "raise probe_budget in the fleet file",
                )
            )
        for pop, others in self.claims.suspects(self.now_ns):
            found.append(_of_claims(pop, others, self.now_ns))
        if self.plan is not None and self.plan.policies_left_out:
            found.append(
                Problem(
                    f"{self.plan.policies_left_out} routing policies have no handle of their own and use off",
                    self.now_ns,
                    "let apps share class, min_gain, max_transits and avoid",
                )
            )
        return found


def _of_claims(pop: PopName, others: tuple[PopName, ...], now_ns: int) -> Problem:
    if not others:
        fix = "if its location in the fleet file is right, its clock or its daemon is not: look at it before you trust it"
        return Problem(f"PoP {pop} claims links that are faster than light in fibre", now_ns, fix)
    named = ", ".join(others[:3]) + (f" and {len(others) - 3} more" if len(others) > 3 else "")
    what = f"PoP {pop} and what {named} measure disagree about the round trips between them; the larger count"
    return Problem(what, now_ns, f"look at {pop}: it measures wrong, or it does not say what it measures")


def _differs(new: Snapshot, old: Snapshot) -> bool:
    """Whether two snapshots say different things, whatever their numbers."""
    return any(
        getattr(new, name) != getattr(old, name) for name in Snapshot.__slots__ if name != "generation"
    )
