"""Checks origins from this PoP: connects over TCP, or pings where only UDP is spoken. Reports, decides nothing.

An origin with several addresses is well when one of them answers; they are tried as flows try them, one beside the other.
One target is one (app, origin) that this PoP may dial. Every target is checked once an interval, at its own moment
within it, a bounded number at a time. What a result means for health and routes is the controller's business.
"""

import random
import socket
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass

import anyio

from l4proxy.daemon import ping

INTERVAL_S = 5.0
"""Between two checks of one origin."""

JITTER = 0.1
"""Share of the interval by which each wait varies, so that PoPs do not check in step."""

TIMEOUT_S = 2.0
"""An origin that takes longer counts as not answering."""

MAX_AT_ONCE = 32
"""Checks under way at one time: with more targets than this can serve in an interval, each is checked less often."""


STAGGER_S = 0.25
"""Between two addresses of one origin, as flows race them (RFC 8305)."""

MAX_ADDRESSES = 4
"""Addresses of one origin that a check tries."""


@dataclass(frozen=True, slots=True, order=True)
class Target:
    """One origin of one app. `port` None: pinged, nothing there can be connected to."""

    app: str
    origin: str
    address: str
    """Where it is; "" when its name leads nowhere that may be dialled, and `trouble` says why."""
    port: int | None
    others: tuple[tuple[str, int | None], ...] = ()
    """Its other addresses, each with its port."""
    trouble: str = ""


@dataclass(frozen=True, slots=True)
class CheckResult:
    """What one check found. `rtt_ns` None: no answer, and `reason` says in a word why; `unknown`: it cannot be checked."""

    target: Target
    rtt_ns: int | None
    reason: str = ""


UNKNOWN = "unknown"

Report = Callable[[CheckResult], Awaitable[None]]


async def check(target: Target, sequence: int) -> CheckResult:
    """Check one origin once."""
    if target.trouble:
        return CheckResult(target, None, target.trouble)
    places = ((target.address, target.port), *target.others)[:MAX_ADDRESSES]
    if len(places) == 1:
        return CheckResult(target, *await _check_place(*places[0], sequence))
    answers: list[tuple[int | None, str]] = []

    async def attempt(number: int) -> None:
        await anyio.sleep(number * STAGGER_S)
        answers.append(await _check_place(*places[number], sequence))
        if answers[-1][0] is not None:
            race.cancel_scope.cancel()

    with anyio.move_on_after(TIMEOUT_S):
        async with anyio.create_task_group() as race:
            for number in range(len(places)):
                race.start_soon(attempt, number)
    # The one that answered; else the first word of why not, an honest failure before "unknown".
    answers.sort(key=lambda answer: (answer[0] is None, answer[1] == UNKNOWN))
    return CheckResult(target, *(answers[0] if answers else (None, "timed_out")))


async def _check_place(address: str, port: int | None, sequence: int) -> tuple[int | None, str]:
    """Return how long one address took, nanoseconds, or None and why."""
    try:
        with anyio.fail_after(TIMEOUT_S):
            if port is not None:
                return await _connect(address, port), ""
            family = socket.AF_INET6 if ":" in address else socket.AF_INET
            if not ping.is_possible(family):
                return None, UNKNOWN
            return await ping.ping(address, sequence), ""
    except TimeoutError:
        return None, "timed_out"
    except ConnectionRefusedError:
        return None, "refused"
    except OSError:
        return None, "unreachable"


async def _connect(address: str, port: int) -> int:
    """Return how long a TCP connect took, nanoseconds."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC) as sock:
        began_ns = time.perf_counter_ns()
        try:
            sock.connect((address, port))
        except BlockingIOError:
            await anyio.wait_writable(sock)
        error = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if error:
            raise OSError(error, "connect")
        return time.perf_counter_ns() - began_ns


class Checker:
    """Checks a set of targets that may change at any time."""

    def __init__(self, report: Report, *, interval_s: float = INTERVAL_S, seed: int | None = None) -> None:
        self._report = report
        self._interval_s = interval_s
        self._random = random.Random(seed)  # noqa: S311 (spreads moments, protects nothing)
        self._due: dict[Target, float] = {}
        self._running: set[Target] = set()
        self._changed = anyio.Event()
        self._sequence = 0

    def set_targets(self, targets: Iterable[Target]) -> None:
        """Check exactly these from now on; new ones at once, spread over a second."""
        wanted = set(targets)
        now = anyio.current_time()
        for gone in self._due.keys() - wanted:
            del self._due[gone]
        for new in sorted(wanted - self._due.keys()):
            self._due[new] = now + self._random.random() * min(1.0, self._interval_s)
        self._changed.set()

    async def run(self) -> None:
        """Check until cancelled."""
        async with anyio.create_task_group() as tasks:
            while True:
                now = anyio.current_time()
                free = MAX_AT_ONCE - len(self._running)
                for target in sorted(self._due, key=lambda due: self._due[due])[:free]:
                    if self._due[target] > now:
                        break
                    if target not in self._running:
                        self._running.add(target)
                        tasks.start_soon(self._check, target)
                    self._due[target] = now + self._interval_s * (1 + self._random.uniform(-JITTER, JITTER))
                await self._wait()

    async def _wait(self) -> None:
        if len(self._running) >= MAX_AT_ONCE or not self._due:
            await self._changed.wait()
        else:
            with anyio.move_on_at(min(self._due.values())):
                await self._changed.wait()
        self._changed = anyio.Event()

    async def _check(self, target: Target) -> None:
        self._sequence += 1
        try:
            result = await check(target, self._sequence)
        finally:
            self._running.discard(target)
            if len(self._running) == MAX_AT_ONCE - 1:
                self._changed.set()
        if target in self._due:
            await self._report(result)
