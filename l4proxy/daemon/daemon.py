"""One daemon's life: start, become ready, drain, end. Everything else it has others do.

Files → `configuration` → `control` (the pure controller) → `engine_session` → engine, and back. Here is only the
order of things, and what happens when one of them fails: before the daemon was ready a failure ends it with a
reason; afterwards only being told to ends it, since the engine goes on with what it has.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import anyio
import anyio.abc
import anyio.to_thread
import structlog

import l4proxy
from l4proxy.config.access_files import ListFiles
from l4proxy.core.revocation import RevocationList
from l4proxy.daemon import certificates
from l4proxy.daemon.access_watch import AccessWatch
from l4proxy.daemon.certificates import Certificates
from l4proxy.daemon.checker import Checker
from l4proxy.daemon.clock import Clock
from l4proxy.daemon.configuration import Configuration
from l4proxy.daemon.control import Control
from l4proxy.daemon.dns_lookup import DnsLookup
from l4proxy.daemon.engine_client import EngineClient, EngineGone
from l4proxy.daemon.engine_messages import EngineHello
from l4proxy.daemon.engine_process import EngineError, EngineMismatchError, EngineSpec, Supervisor
from l4proxy.daemon.engine_session import ApplyOutcome, EngineSession
from l4proxy.daemon.flow_log import FlowLog
from l4proxy.daemon.identity import IdentityKeeper
from l4proxy.daemon.listeners import ListenerSet
from l4proxy.daemon.notify import Notifier
from l4proxy.daemon.options import DaemonOptions, default_overlay_memory_mib
from l4proxy.daemon.origins import Origins
from l4proxy.daemon.overload import Overload
from l4proxy.daemon.problems import Problems
from l4proxy.daemon.recorder import Recorder
from l4proxy.daemon.reloader import ReloadDone, Reloader
from l4proxy.daemon.reporter import Reporter
from l4proxy.daemon.resolver import Targets
from l4proxy.daemon.state import StateDirectory, StateKeeper
from l4proxy.errors import DataPlaneError, L4ProxyError

ENGINE_START_ATTEMPTS = 3
"""Engines that may fail, and connections that may end, before the first is ready; once ready, the daemon never gives up."""

DRAIN_MARGIN_S = 3.0
"""What the engine may take beyond its deadline before it is killed."""

STOP_GRACE_S = 2.0
"""What an engine that is told to stop may take."""

HOUSEKEEPING_S = 5.0
"""Between two looks at what may have changed by itself: the state directory, the flow log, the certificate."""

ENGINE_SILENCE_S = 10.0
"""An engine says its counters every second."""

if TYPE_CHECKING:
    from l4proxy.pki import Identity

log = structlog.get_logger()


def in_one_line(reason: object) -> str:
    """Return the first line of a reason, and how many more there are: every fault of a file is a line."""
    first, *more = str(reason).splitlines() or [""]
    return f"{first} (and {len(more)} more)" if more else first


class Daemon:
    """One PoP's daemon. `run` is its whole life. `say` prints the ready line."""

    def __init__(
        self,
        options: DaemonOptions,
        config: Configuration,
        say: Callable[[str], None],
        notifier: Notifier | None = None,
    ) -> None:
        self.options = options
        self.config = config
        self.is_ready = False
        self.is_draining = False
        self.uses_last_good = False
        """The operator's files are broken; the copies of the last good ones are in force."""
        self.problems = Problems()
        self.certificates = Certificates()
        self.certificates.use(config.tls)
        self.notifier = notifier or Notifier({})
        self.state = StateKeeper(StateDirectory(options.state_dir))
        self.session = EngineSession(ListenerSet(), self._on_outcome)
        self.session.reset_key = lambda: self.state.reset_key
        self.control = Control(
            Clock(),
            self.session,
            self.state.save,
            self._on_flow_record,
            lambda act: self.identity.handle_act(act),
        )
        self.identity = IdentityKeeper(options, self.control, self._on_identity)
        self.identity.use(config)
        spec = EngineSpec(
            options.runtime_dir,
            options.workers,
            config.pop,
            options.overlay_memory_mib or default_overlay_memory_mib(options.workers),
            options.engine_command,
            wants_records=options.flow_log is not None,
        )
        self.supervisor = Supervisor(spec, log.warning)
        self.flow_log = None if options.flow_log is None else FlowLog(options.flow_log)
        self.recorder = Recorder(options.state_dir / "history", options.history_mib << 20, time.time_ns)
        self.reporter = Reporter(self)
        self._say = say
        self._checker = Checker(self.control.handle_check)
        lookup = DnsLookup(options.name_servers)
        self.origins = Origins(self._checker, self.state, lookup, self._on_names)
        self.reloader = Reloader(options, self.control, self.session, self.origins.prepare, self._use)
        self.access = AccessWatch(self._on_access_files)
        self._follow_access(config)
        self.overload = Overload()
        self._fatal: L4ProxyError | None = None
        self._failures = 0
        """Engines that failed, and connections that ended, before the daemon was ready."""
        self._tasks: anyio.abc.TaskGroup | None = None

    async def run(self) -> None:
        """Serve until drained or stopped. Raises L4ProxyError when it could not become ready."""
        async with anyio.create_task_group() as tasks:
            self._tasks = tasks
            if self.flow_log is not None:
                tasks.start_soon(self.flow_log.run)
            for task in (
                self._checker.run,
                self.origins.run,
                self.access.run,
                self.identity.run,
                self.control.run_timers,
                self.state.run,
                self._keep_house,
            ):
                tasks.start_soon(task)
            tasks.start_soon(self.recorder.run, lambda: self.control.controller)
            tasks.start_soon(self._feed_watchdog)
            await self._run_engines()
            tasks.cancel_scope.cancel()
        await self.state.flush()
        if self._fatal is not None:
            raise self._fatal

    def note_last_good(self, reason: str) -> None:
        """Say that the daemon started with the last good configuration because the files are broken."""
        self.uses_last_good = True
        log.error("the files are broken; the last good configuration is in force", reason=reason)
        what = f"the last good configuration is in force: {in_one_line(reason)}"
        self._note("last_good", what, "correct the files and reload")

    # The engine

    async def _run_engines(self) -> None:
        """Have an engine until the daemon ends, and see the last one end."""
        while self.supervisor.keep_going:
            try:
                await self.supervisor.run(self.control.handle_message, self._on_connection)
            except EngineError as error:
                self._note("engine", str(error), f"see {self.options.runtime_dir}/engine.log")
                self._count_failure(error)
                if self.supervisor.keep_going:
                    await self.supervisor.pause()
        is_borrowed = self._fatal is not None and self.supervisor.starts == 0
        if not is_borrowed:  # else it serves on as it did for the daemon before
            if not await self.supervisor.wait_until_gone(STOP_GRACE_S):
                await self.supervisor.kill()
            self.supervisor.remove_files()

    def _count_failure(self, error: EngineError) -> None:
        """Give up when there never was an engine that worked, and none is to be expected."""
        self._failures += 1
        log.error("no engine", reason=str(error), attempt=self._failures)
        is_hopeless = isinstance(error, EngineMismatchError) or self._failures >= ENGINE_START_ATTEMPTS
        if is_hopeless and not self.is_ready and not self.is_draining:
            self._fatal = error
            self.supervisor.keep_going = False

    async def _on_connection(self, client: EngineClient, hello: EngineHello, taken_over: bool) -> None:
        """Use one connection to an engine until it ends."""
        self.problems.clear("engine")
        log.info("engine connected", engine=hello.pid, workers=hello.workers, taken_over=taken_over)
        if hello.workers != self.options.workers:
            log.warning("a running engine keeps its number of workers", workers=hello.workers)
        self.session.set_identity(self.config.identity, self.config.revoked)
        if self.control.controller is None:
            await self.origins.prepare(self.config)
            self._use_origins()
            self.control.start(
                self.config,
                self.state.load(),
                hello,
                taken_over=taken_over,
                names=self.origins.names,
                source_key=self.origins.source_key,
            )
        if taken_over and hello.generation > 0:
            self._become_ready(hello.generation)
        try:
            await self.session.run(client, hello, taken_over=taken_over)
        finally:
            self.control.handle_engine_gone()
            if self.supervisor.keep_going:
                why = client.why_closed or "no reason was given"
                self._note("engine", f"the engine is gone and is called again: {why}", "see the daemon's log")
                if not self.is_ready:
                    self._count_failure(EngineError(f"the engine left before it was ready: {why}"))

    def _on_outcome(self, outcome: ApplyOutcome) -> None:
        self.control.handle_outcome(outcome)
        self.reloader.note_outcome(outcome)
        for remark in self.session.listeners.take_notes():
            log.warning(remark)
        self._note("apply", outcome.problem, "what was in force stays; correct it and reload")
        if outcome.problem is not None and self.certificates.take_back(outcome.problem):
            self._use_certificates()
            return
        if outcome.problem is None:
            self.certificates.keep()
            self._become_ready(outcome.generation)
            if not self.uses_last_good:
                self.state.keep_files(dict(self.config.files))
            return
        log.error("a snapshot is not in force", generation=outcome.generation, reason=outcome.problem)
        if not self.is_ready and not self.is_draining:
            self._fatal = DataPlaneError(outcome.problem)
            self._end()

    def _become_ready(self, generation: int) -> None:
        if self.is_ready or self.is_draining:
            return
        self.is_ready = True
        summary = f"pop={self.config.pop} apps={len(self.config.apps)} generation={generation}"
        self._say(f"l4proxy {l4proxy.__version__} ready: {summary} socket={self.options.socket}")
        self.notifier.ready(summary)

    # The end

    def begin_drain(self, timeout_s: float) -> None:
        """Accept nothing new, let flows end until the deadline, then end. Harmless when it has begun."""
        if self.is_draining or self._tasks is None:
            return
        self._tasks.start_soon(self._drain, timeout_s)
        self.is_draining, self.is_ready = True, False

    def stop(self) -> None:
        """End at once, whatever is under way."""
        self.is_draining, self.is_ready = True, False
        self._end()

    def _end(self) -> None:
        self.supervisor.keep_going = False
        if self._tasks is not None:
            self._tasks.start_soon(self._stop_engine)

    async def _stop_engine(self) -> None:
        client = self.session.client
        if client is None:
            return
        try:
            if self._fatal is None or self.supervisor.starts > 0:
                await client.stop()
                await self.supervisor.wait_until_gone(STOP_GRACE_S)
        except EngineGone:
            log.debug("the engine ended before it was told to")
        finally:
            client.close()

    async def _drain(self, timeout_s: float) -> None:
        self.supervisor.keep_going = False
        flows = sum(self.reporter.flows().values())
        log.info("draining", flows=flows, timeout_s=timeout_s)
        self.notifier.stopping(f"draining {flows} flows")
        self.session.is_paused = True
        self.session.listeners.close()
        self._checker.set_targets(())
        client = self.session.client
        with anyio.move_on_after(timeout_s + DRAIN_MARGIN_S):
            try:
                if client is not None:
                    drained = await client.drain(round(timeout_s * 1000))
                    log.info("drained", closed=drained.closed)
                    return
            except EngineGone as error:
                log.warning("the engine ended while it drained", reason=str(error))
        await self._stop_engine()

    # Files

    async def reload(self) -> ReloadDone:
        """Read the files again and bring the difference into force, or raise L4ProxyError and change nothing."""
        if self.is_draining:
            raise DataPlaneError("the daemon is draining")
        self.notifier.reloading()
        if self.flow_log is not None:
            self.flow_log.reopen()
        try:
            done = await self.reloader.reload(self.config)
        except L4ProxyError as error:
            self._use_origins()
            log.error("reload failed, what was in force stays", reason=str(error))
            self._note(
                "reload", f"the last reload failed: {in_one_line(error)}", "correct the files and reload"
            )
            raise
        finally:
            self.notifier.ready(f"pop={self.config.pop} apps={len(self.config.apps)}")
        self.problems.clear("reload")
        return done

    def _use(self, config: Configuration) -> None:
        self.config = config
        self.uses_last_good = False
        self.problems.clear("last_good")
        self.certificates.use(config.tls)
        self.session.set_identity(config.identity, config.revoked)
        self.control.identity_refused = None
        self.identity.use(config)
        self._follow_access(config)
        self._use_origins()
        self.control.handle_configuration(config, self.origins.names)

    def _follow_access(self, config: Configuration) -> None:
        self.session.access_lists = config.access_lists
        self.access.use(config.access_files)

    def _on_access_files(self, files: ListFiles) -> None:
        """A tool has written a list anew."""
        self.config = replace(self.config, access_files=files)
        self.session.access_lists = self.config.access_lists
        self.control.handle_access_files(self.config)

    def _on_identity(self, identity: "Identity", revoked: RevocationList) -> None:
        """Other files are there, or a certificate was renewed."""
        self.config = replace(self.config, identity=identity, revoked=revoked)
        self.control.identity_refused = None
        self.session.set_identity(identity, revoked)

    def _on_names(self, names: Targets) -> None:
        self.control.handle_names(names)
        self.control.set_targets(self.origins.targets)

    def _use_origins(self) -> None:
        self.origins.use(self.config)
        self.control.set_targets(self.origins.targets)

    # Upkeep

    def _note(self, key: str, what: str | None, fix: str) -> None:
        self.problems.set(key, what, fix, time.time_ns())

    def _on_flow_record(self, record: Mapping[str, Any]) -> None:
        if self.flow_log is not None:
            self.flow_log.put(self.reporter.line_of(record))

    async def _keep_house(self) -> None:
        while True:
            await self.look_after()
            await anyio.sleep(HOUSEKEEPING_S)

    async def look_after(self) -> None:
        """Try again what failed, and note what is wrong and what is well again."""
        await self.state.flush()
        self.origins.look_at_sources()
        self.overload.look(self.control.counters, time.monotonic())
        begun, over = self.overload.news(time.monotonic())
        for what, fix in begun.items():
            log.warning("new flows are refused to spare live ones", reason=what, fix=fix)
        for what in over:
            log.info("new flows are let in again", reason=what)
        await self._look_at_certificates()
        fix = f"free space in {self.options.state_dir} or make it writable; serving goes on"
        self._note("state", self.state.problem, fix)
        if self.flow_log is not None:
            self._note("flow_log", self.flow_log.problem, "flows go on; their lines are lost and counted")
        self._note("history", self.recorder.problem, "free space or use another --state-dir; serving goes on")
        silent_s = self.control.silent_s() if self.session.client is not None else 0.0
        silence = f"the engine has said nothing for {silent_s:.0f} s" if silent_s > ENGINE_SILENCE_S else None
        self._note("silence", silence, f"is it stopped? its process is {self.supervisor.pid}")

    async def _look_at_certificates(self) -> None:
        """Take new files of TLS into use when they are good."""
        config = self.config
        found = await anyio.to_thread.run_sync(certificates.read, config.apps, config.pop)
        if self.config is config and self.certificates.take(found):
            log.info("certificates have changed", files=sorted(found.ends))
            self._use_certificates()
        self.problems.follow("tls", self.certificates.problems(), time.time_ns())

    def _use_certificates(self) -> None:
        self.config = replace(self.config, tls=self.certificates.in_force)
        self.control.handle_files(self.config.tls.contents)

    async def _feed_watchdog(self) -> None:
        interval_s = self.notifier.watchdog_interval_s
        while interval_s is not None:
            self.notifier.watchdog()
            await anyio.sleep(interval_s)
