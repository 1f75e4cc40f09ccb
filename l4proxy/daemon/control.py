"""Drives the pure controller: inputs from the engine, the checks and the API go in here, one at a time.

After each, its outputs go to the engine, the neighbours and the state directory. This is where engine messages become
controller inputs. It decides nothing; the controller does, and knows no I/O.
"""

import os
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import anyio
import structlog

from l4proxy.core.clocks import Clocks
from l4proxy.core.controller import Apply, Controller, Save, SavedState, SendBus
from l4proxy.core.ids import AppName, LinkName, PopName
from l4proxy.core.renewal import Act, Renewal
from l4proxy.core.samples import CheckKind, LinkSample, OriginSample
from l4proxy.daemon.checker import UNKNOWN, CheckResult, Target
from l4proxy.daemon.clock import Clock
from l4proxy.daemon.configuration import Configuration
from l4proxy.daemon.denials import Denials
from l4proxy.daemon.engine_messages import (
    BusMessage,
    Counters,
    EngineHello,
    EngineOutcomes,
    Events,
    Records,
    Samples,
    UpMessage,
)
from l4proxy.daemon.engine_session import ApplyOutcome, EngineSession
from l4proxy.daemon.refusals import Refusals
from l4proxy.daemon.resolver import Targets
from l4proxy.daemon.seen_outcomes import outcomes_of
from l4proxy.daemon.watched import Watched

SETTLE_NS = 4_000_000_000
"""How long a daemon that takes an engine over listens before it changes a route: three probes a second apart, and
the records of its neighbours."""

MAX_SLEEP_S = 1.0
"""The loop turns at least once a second, so that the clock can tell a stopped process from a silent link."""

MAX_PROBE_RESULTS = 10_000
"""Links × results that are counted apart."""

MAX_EVENTS_LOGGED = 50
EVENT_WINDOW_NS = 10_000_000_000
"""Engine events that are logged in one window: a flapping link must not fill a disk."""

log = structlog.get_logger()


class LogLimit:
    """Admits so many lines a window, and counts the others."""

    def __init__(self) -> None:
        self._window = -1
        self._logged = 0
        self._suppressed = 0

    def admits(self, now_ns: int) -> bool:
        """Whether one more line may be written now."""
        window = now_ns // EVENT_WINDOW_NS
        if window != self._window:
            self._window, self._logged = window, 0
        if self._logged >= MAX_EVENTS_LOGGED:
            self._suppressed += 1
            return False
        self._logged += 1
        return True

    def take_suppressed(self) -> int:
        """Return how many lines were not written since this was asked last."""
        suppressed, self._suppressed = self._suppressed, 0
        return suppressed


class Control:
    """The controller of one PoP with everything around it that is not its own life."""

    def __init__(
        self,
        clock: Clock,
        session: EngineSession,
        save: Callable[[SavedState], None],
        on_record: Callable[[Mapping[str, Any]], None],
        on_act: Callable[[Act], None] = lambda _: None,
    ) -> None:
        self._clock = clock
        self._session = session
        self._save = save
        self._on_record = on_record
        self._on_act = on_act
        self._wake = anyio.Event()
        self._controller: Controller | None = None
        self.counters: Counters | None = None
        """What the engine counted last."""
        self.probes: Counter[tuple[str, str]] = Counter()
        self.path_changes: Counter[str] = Counter()
        self.checks: dict[Target, CheckResult] = {}
        self.denials = Denials()
        """What other PoPs asked for and did not get."""
        self.internal_errors = 0
        self.refusals = Refusals()
        self.clocks = Clocks()
        self.watched = Watched()
        self.identity_refused: str | None = None
        """Why the engine did not take the identity that it was given last."""
        self.heard_ns = clock.now_ns()
        """When the engine said something last, by the daemon's clock."""
        self._event_log = LogLimit()

    @property
    def controller(self) -> Controller | None:
        """The controller; None until the first engine said hello."""
        return self._controller

    def start(
        self,
        configuration: Configuration,
        saved: SavedState | None,
        hello: EngineHello,
        *,
        taken_over: bool,
        names: Targets | None = None,
        source_key: bytes = bytes(16),
    ) -> None:
        """Begin to control, with an engine that is there."""
        now_ns = self._clock.now_ns()
        is_serving = taken_over and hello.generation > 0
        has_links = len(configuration.fleet.pops) > 1
        saved = saved or SavedState(0, 0)
        # The engine's number may be ahead of what was saved; a number must never mean two snapshots.
        generation = max(saved.generation, hello.generation)
        self._controller = Controller(
            pop=configuration.pop,
            fleet=configuration.fleet,
            apps=configuration.apps,
            now_ns=now_ns,
            random_u32=lambda: int.from_bytes(os.urandom(4), "big"),
            epoch=now_ns // 1_000_000_000,
            saved=SavedState(saved.epoch, generation, saved.labels, saved.toggles),
            settle_ns=SETTLE_NS if is_serving and has_links else 0,
            names=names or {},
            access_files=configuration.access_contents,
            source_key=source_key,
            files=configuration.tls.contents,
        )
        self.handle_time()

    def _drain_outputs(self) -> None:
        controller = self._controller
        while controller is not None and (output := controller.poll_output()) is not None:
            match output:
                case SendBus():
                    self._session.send_bus(output.peer, output.payload)
                case Apply():
                    self._session.want(output.snapshot)
                case Save():
                    self._save(output.state)
                case _:
                    self._on_act(output)
        self._wake.set()

    async def run_timers(self) -> None:
        """Give the controller its time until cancelled."""
        while True:
            wait_s = MAX_SLEEP_S
            if self._controller is not None:
                wait_s = min(wait_s, (self._controller.poll_timeout() - self._clock.now_ns()) / 1e9)
            with anyio.move_on_after(wait_s):
                await self._wake.wait()
            self._wake = anyio.Event()
            now_ns = self._clock.now_ns()
            if self._controller is not None and self._controller.poll_timeout() <= now_ns:
                self._guarded(lambda: self.handle_time())

    def handle_time(self) -> None:
        """Let the controller do what is due."""
        if self._controller is not None:
            self._controller.handle_timeout(self._clock.now_ns())
            self._drain_outputs()

    def renew(self, act: Callable[[Renewal, int], object]) -> None:
        """Tell the renewal of certificates something; it gets the time too."""
        controller = self._controller
        if controller is not None:
            now_ns = self._clock.now_ns()
            act(controller.renewal, now_ns)
            controller.handle_timeout(now_ns)
            self._drain_outputs()

    def identity_problems(self) -> dict[str, str]:
        """Return what is wrong with certificates and clocks as far as other PoPs and the engine say it, each with what to do."""
        now_ns = self._clock.now_ns()
        if self._controller is None:
            return {}
        found = self.refusals.problems(now_ns, self._controller.connected)
        return found | self.clocks.problems(now_ns) | self._controller.renewal.problems(now_ns)

    async def handle_message(self, message: UpMessage) -> None:
        """Take what the engine says."""
        self.heard_ns = self._clock.now_ns()
        self._guarded(lambda: self._on_message(message))

    def _guarded(self, act: Callable[[], None]) -> None:
        """Go on after a mistake of ours: the next input is worth more than a clean death."""
        try:
            act()
        except Exception:
            self.internal_errors += 1
            log.exception("internal error in the control plane")

    def _on_message(self, message: UpMessage) -> None:
        match message:
            case Samples():
                self._on_samples(message)
            case Counters():
                self._on_counters(message)
            case EngineOutcomes():
                self._on_outcomes(message)
            case BusMessage():
                if self._controller is not None:
                    peer = PopName(message.peer)
                    self._controller.handle_bus(self._clock.now_ns(), peer, message.payload)
            case Events():
                for event in message.events:
                    self._on_event(event)
            case Records():
                for record in message.records:
                    self._on_record(record)
            case _:
                log.debug("unexpected message", kind=type(message).__name__)
        self._drain_outputs()

    def _on_samples(self, message: Samples) -> None:
        for sample in message.samples:
            result = "lost" if sample.rtt_ns is None else "answered"
            if len(self.probes) < MAX_PROBE_RESULTS or (sample.link, result) in self.probes:
                self.probes[sample.link, result] += 1
        if self._controller is not None:
            self._compare_clocks(self._controller, message)
            samples = [
                LinkSample(
                    LinkName(sample.link),
                    sample.sequence,
                    sample.sent_ns,
                    sample.rtt_ns,
                    sample.received_ns,
                    sample.peer_received,
                )
                for sample in message.samples
            ]
            self._controller.handle_samples(self._clock.now_ns(), samples)

    def _compare_clocks(self, controller: Controller, message: Samples) -> None:
        now_ns = self._clock.now_ns()
        for sample in message.samples:
            link = controller.fleet.links.get(LinkName(sample.link))
            if link is not None and sample.received_ns is not None and sample.rtt_ns is not None:
                self.clocks.handle_reply(
                    now_ns, link.to_pop, sample.sent_ns, sample.received_ns, sample.rtt_ns
                )

    def _on_counters(self, message: Counters) -> None:
        self.counters = message
        if self._controller is None:
            return
        for peer in message.peers:
            name = PopName(peer.name)
            if peer.connected != (name in self._controller.connected):
                self._controller.handle_peer(self._clock.now_ns(), name, peer.connected)
        self._controller.handle_uses(self._clock.now_ns(), self.watched.uses(message.handles))

    def _on_outcomes(self, message: EngineOutcomes) -> None:
        if self._controller is not None:
            outcomes = outcomes_of(message, self._controller.pop)
            self._controller.handle_outcomes(self._clock.now_ns(), outcomes)

    def _on_event(self, event: Mapping[str, Any]) -> None:
        kind = str(event.get("kind"))
        fields = {name: value for name, value in event.items() if name not in ("kind", "at_ns")}
        if self._event_log.admits(self._clock.now_ns()):
            level = log.warning if kind in _WARNINGS else log.info
            named = {_FIELD_NAMES.get(name, name): value for name, value in fields.items()}
            level(
                "engine event",
                kind=kind,
                not_logged_before=self._event_log.take_suppressed() or None,
                **named,
            )
        self.refusals.handle_event(kind, event, self._clock.now_ns())
        self.watched.handle_event(kind, event)
        if kind == "identity_refused":
            self.identity_refused = str(event.get("reason"))
        if kind == "request_denied":
            self.denials.take(event, self._clock.now_ns() / 1e9)
        if kind == "handle_moved":
            self.path_changes["engine"] += 1
        if kind in ("tunnel_up", "tunnel_down") and self._controller is not None:
            peer = PopName(str(event.get("peer")))
            self._controller.handle_peer(self._clock.now_ns(), peer, kind == "tunnel_up")

    def denied(self) -> dict[str, str]:
        """Return what other PoPs asked for of late and did not get, each with what to do about it."""
        return self.denials.problems(self._clock.now_ns() / 1e9)

    async def handle_check(self, result: CheckResult) -> None:
        """Take the result of a check of an origin."""
        self.checks[result.target] = result
        if result.reason == UNKNOWN or self._controller is None:
            return
        rtt_ms = None if result.rtt_ns is None else result.rtt_ns / 1e6
        app, origin = AppName(result.target.app), result.target.origin
        kind: CheckKind = "icmp" if result.target.port is None else "tcp"
        sample = OriginSample(app, origin, rtt_ms, result.reason or None, kind)
        controller = self._controller
        self._guarded(lambda: controller.handle_origin_sample(self._clock.now_ns(), sample))
        self._drain_outputs()

    def handle_outcome(self, outcome: ApplyOutcome) -> None:
        """Take what became of a snapshot. One that is not in force is the daemon's to report: it knows why."""
        if self._controller is not None and outcome.problem is None:
            self._controller.handle_applied(self._clock.now_ns(), outcome.generation)
            self._drain_outputs()

    def handle_engine_gone(self) -> None:
        """Note that no tunnel stands: nothing can be sent until the next engine says otherwise."""
        self.counters = None
        self.watched.handle_engine_gone()
        if self._controller is not None:
            self._controller.handle_engine_gone(self._clock.now_ns())
            for peer in sorted(self._controller.connected):
                self._controller.handle_peer(self._clock.now_ns(), peer, False)
            self._drain_outputs()

    def handle_names(self, names: Targets) -> None:
        """Take what the names of origins lead to now."""
        if self._controller is not None:
            self._controller.handle_names(self._clock.now_ns(), names)
            self._drain_outputs()

    def handle_access_files(self, configuration: Configuration) -> None:
        """Take what the files of access lists say now."""
        if self._controller is not None:
            self._controller.handle_access_files(self._clock.now_ns(), configuration.access_contents)
            self._drain_outputs()

    def handle_files(self, files: Mapping[str, bytes]) -> None:
        """Take files that apps name, which were read again."""
        if self._controller is not None:
            self._controller.handle_files(self._clock.now_ns(), files)
            self._drain_outputs()

    def handle_configuration(self, configuration: Configuration, names: Targets) -> None:
        """Take files that were read again, and what the names in them lead to."""
        if self._controller is not None:
            self._controller.names = names
            self._controller.access_files = configuration.access_contents
            self._controller.files = configuration.tls.contents
            self._controller.handle_config(self._clock.now_ns(), configuration.fleet, configuration.apps)
            self._drain_outputs()

    def set_toggle(self, app: AppName | None, pop: PopName | None, mode: str) -> None:
        """Switch smart routing."""
        if self._controller is not None:
            self._controller.set_toggle(self._clock.now_ns(), app, pop, mode)
            self._drain_outputs()

    def silent_s(self) -> float:
        """Return how long the engine has said nothing, seconds."""
        return (self._clock.now_ns() - self.heard_ns) / 1e9

    def set_targets(self, targets: frozenset[Target]) -> None:
        """Forget the checks of origins that are no longer checked."""
        self.checks = {target: result for target, result in self.checks.items() if target in targets}


_WARNINGS = frozenset(
    {
        "tunnel_down",
        "path_dead",
        "peer_lost",
        "worker_panicked",
        "peer_refused",
        "request_denied",
        "listener_error",
        "identity_refused",
    }
)

_FIELD_NAMES = {"from": "from_path", "to": "to_path"}
"""Fields of events whose names mean something else in a log line."""
