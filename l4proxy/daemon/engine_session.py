"""What the daemon says to its engine: identity, sockets, access lists, and always the newest snapshot, one at a time.

The newest wanted snapshot is applied as soon as the one before was answered; those in between are skipped, each is
whole. Sockets are bound before a snapshot that needs them is sent. A new engine gets everything again; one that was
taken over keeps the sockets it has. Control messages wait in a bounded queue; one that finds it full is dropped and
counted.
"""

import math
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import anyio
import anyio.to_thread

from l4proxy.core.access_list import AccessList
from l4proxy.core.revocation import RevocationList
from l4proxy.core.snapshot import Snapshot
from l4proxy.daemon.engine_client import EngineClient, EngineGone
from l4proxy.daemon.engine_messages import EngineHello
from l4proxy.daemon.listeners import ListenError, ListenerSet, needed

if TYPE_CHECKING:
    from l4proxy.pki import Identity  # a PoP without a fleet needs no cryptography library

MAX_WAITING_BUS = 1024
"""Control messages that wait for the engine: a flood of every record of a large fleet."""

RETRY_S = 5.0
"""Between two attempts to bring a snapshot into force that failed for a reason outside: a port in use, a busy engine."""


@dataclass(frozen=True, slots=True)
class ApplyOutcome:
    """What became of a snapshot; `problem` None: it is in force."""

    generation: int
    problem: str | None


class EngineSession:
    """Everything that goes down to the engine, over as many connections as it takes."""

    def __init__(self, listeners: ListenerSet, on_outcome: Callable[[ApplyOutcome], None]) -> None:
        self.listeners = listeners
        self._on_outcome = on_outcome
        self._client: EngineClient | None = None
        self._wanted: Snapshot | None = None
        self._wake = anyio.Event()
        self._identity: Identity | None = None
        self._revoked = RevocationList()
        self.reset_key: Callable[[], bytes] = lambda: b""
        """Gives the secret of stateless resets, which goes with the identity; empty: the engine takes one of the private key."""
        self._identity_sent = False
        self._bus: deque[tuple[str, bytes]] = deque()
        self._bus_wake = anyio.Event()
        self.in_force: Snapshot | None = None
        """The snapshot that this daemon brought into force in the engine that is connected."""
        self.workers = 0
        """Workers of the engine that is connected, or was last."""
        self.access_lists: Mapping[int, AccessList] = {}
        """Contents of the lists that snapshots name, by number."""
        self._lists_in_engine: frozenset[int] = frozenset()
        self.dropped_bus = 0
        self.is_paused = False
        """True: no snapshot is sent (the engine drains)."""

    @property
    def client(self) -> EngineClient | None:
        """The connection to the engine, None while there is none."""
        return self._client

    @property
    def total_dropped_bus(self) -> int:
        """Control messages dropped here or at the connection that stands."""
        return self.dropped_bus + (self._client.dropped_bus if self._client is not None else 0)

    def want(self, snapshot: Snapshot) -> None:
        """Have this snapshot applied as soon as possible, instead of any that waits."""
        self._wanted = snapshot
        self._wake.set()

    def set_identity(self, identity: "Identity | None", revoked: RevocationList) -> None:
        """Have this identity, with what it believes no more, handed over at once, and before the next snapshot."""
        if (identity, revoked) != (self._identity, self._revoked):
            self._identity, self._revoked = identity, revoked
            self._identity_sent = False
            self._wake.set()

    def send_bus(self, peer: str, payload: bytes) -> None:
        """Send a control message to a neighbour when the engine takes it; dropped and counted if it does not."""
        if self._client is None or len(self._bus) >= MAX_WAITING_BUS:
            self.dropped_bus += 1
            return
        self._bus.append((peer, payload))
        self._bus_wake.set()

    async def run(self, client: EngineClient, hello: EngineHello, *, taken_over: bool) -> None:
        """Use one connection until it ends."""
        self._client = client
        self.workers = hello.workers
        self._identity_sent = False
        self._lists_in_engine = hello.access_lists if taken_over else frozenset()
        self.listeners.adopt(hello.sockets) if taken_over else self.listeners.engine_died()
        self._wake.set()
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._send_bus, client)
                await self._apply_all(client)
                tasks.cancel_scope.cancel()
        except* EngineGone:
            pass  # the supervisor notices as well
        finally:
            self.dropped_bus += client.dropped_bus + len(self._bus)
            self._bus.clear()
            self._client = self.in_force = None

    async def _send_bus(self, client: EngineClient) -> None:
        while True:
            await self._bus_wake.wait()
            self._bus_wake = anyio.Event()
            while self._bus:
                await client.send_bus(*self._bus.popleft())

    async def _apply_all(self, client: EngineClient) -> None:
        retry_s = math.inf
        while not client.is_closed:
            with anyio.move_on_after(retry_s):
                await self._wake.wait()
            self._wake = anyio.Event()
            retry_s = math.inf
            snapshot = self._wanted
            if snapshot is None:
                continue
            await self._hand_over_identity(client)
            if self.is_paused or snapshot is self.in_force:
                continue
            try:
                problem = await self._apply(client, snapshot)
            except (ListenError, TimeoutError) as error:
                problem = str(error) or "the engine does not answer"
                retry_s = RETRY_S
            if problem is None:
                self.in_force = snapshot
            self._on_outcome(ApplyOutcome(snapshot.generation, problem))

    async def _send_access_lists(self, client: EngineClient, snapshot: Snapshot) -> frozenset[int]:
        """Hand over what a snapshot names and the engine has not got; return what it names."""
        named = frozenset(found.id for app in snapshot.apps for found in app.access.lists)
        contents = self.access_lists
        for number in sorted(named - self._lists_in_engine):
            # One that is not there (any more) the engine names when it refuses the snapshot; a newer one is on its way then.
            if number in contents:
                await client.send_access_list(contents[number])
        return named

    async def _hand_over_identity(self, client: EngineClient) -> None:
        while not self._identity_sent:
            self._identity_sent = True
            if (identity := self._identity) is not None:
                reset_key = await anyio.to_thread.run_sync(self.reset_key)
                await client.send_identity(
                    identity.fleet,
                    identity.pop,
                    identity.ca_pem,
                    identity.cert_pem,
                    identity.key_pem,
                    self._revoked.to_message() | {"reset_key": reset_key},
                )

    async def _apply(self, client: EngineClient, snapshot: Snapshot) -> str | None:
        """Bring one snapshot into force; return why the engine refused it. ListenError when a socket cannot be had."""
        keys = needed(snapshot, self.workers)
        sockets = await anyio.to_thread.run_sync(self.listeners.prepare, keys)
        for key, sock in sockets.items():
            await client.send_socket(key, sock)
        self.listeners.handed_over(sockets)
        named = await self._send_access_lists(client, snapshot)
        reason = (await client.apply(snapshot.to_message())).reason
        if reason is None:
            self.listeners.commit(keys)
            self._lists_in_engine = named
            return None
        if self.in_force is not None:
            self.listeners.roll_back(needed(self.in_force, self.workers))
        return f"the engine refused generation {snapshot.generation}: {reason}"
