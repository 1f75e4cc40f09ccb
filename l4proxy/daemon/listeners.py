"""Binds the sockets that a snapshot needs, all or none, and says who is in the way.

`needed` names them, `ListenerSet.prepare` binds what is not there yet without touching what is, `commit` forgets what
is no longer needed. Who accepts on them is the engine. The daemon keeps its own descriptors, so that an engine
that dies leaves clients in the backlog instead of refusing them; after a take-over it holds none, and binds
anew only if that engine dies. Descriptor budgets are counted before the first socket is made.
"""

import errno
import os
import resource
import socket
from collections.abc import Iterable

from l4proxy.core.snapshot import Snapshot
from l4proxy.daemon.engine_messages import SocketKey
from l4proxy.daemon.port_owner import find_port_owner
from l4proxy.errors import L4ProxyError

TCP_BACKLOG = 4096
"""Connections that wait to be accepted; the kernel cuts it to net.core.somaxconn, whose default is the same."""

SPARE_DESCRIPTORS = 64
"""Descriptors that the daemon needs besides: its log, state, API clients, checks of origins."""

ALL = "::"
"""Every address of both families."""

ALL_IPV4 = "0.0.0.0"  # noqa: S104 (what was asked for, on a machine without IPv6)


class ListenError(L4ProxyError):
    """A socket that the configuration asks for cannot be had; nothing was changed."""


def needed(snapshot: Snapshot, workers: int) -> frozenset[SocketKey]:
    """Return the key of every socket that a snapshot names, for an engine with `workers` workers."""
    keys = set()
    for app in snapshot.apps:
        for listen in app.listens:
            for port in range(listen.first, listen.last + 1):
                for worker in range(workers):
                    keys.add(SocketKey("listener", listen.protocol, listen.address, port, worker))
    locals_out, locals_in = ({link.local for link in links} for links in (snapshot.links, snapshot.links_in))
    for local in locals_out | locals_in:
        address, _, port_text = local.rpartition(":")
        for worker in range(workers):
            keys.add(SocketKey("overlay", "udp", address.strip("[]"), int(port_text), worker))
    return frozenset(keys)


def raise_descriptor_limit() -> int:
    """Raise the soft limit of descriptors to the hard one, for this process and the engine; return it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def open_descriptors() -> int:
    """Return how many descriptors this process has open."""
    with os.scandir("/proc/self/fd") as entries:
        return sum(1 for _ in entries) - 1  # the scan itself is one


class ListenerSet:
    """The sockets of one daemon, by key."""

    def __init__(self) -> None:
        self._held: dict[SocketKey, socket.socket] = {}
        self._in_engine: frozenset[SocketKey] = frozenset()
        self._notes: list[str] = []

    @property
    def held(self) -> dict[SocketKey, socket.socket]:
        """Sockets of which this process has a descriptor."""
        return self._held

    def adopt(self, keys: Iterable[SocketKey]) -> None:
        """Note what an engine that was taken over holds already: it is not bound again."""
        self._in_engine = frozenset(keys)

    def engine_died(self) -> None:
        """Note that nothing lies in the engine any more."""
        self._in_engine = frozenset()

    def take_notes(self) -> list[str]:
        """Return what an operator should know of the last `prepare` (no IPv6 here, …), once."""
        notes, self._notes = self._notes, []
        return notes

    def prepare(self, keys: frozenset[SocketKey]) -> dict[SocketKey, socket.socket]:
        """Return the sockets to hand to the engine: bound ones that it has not got. Blocking, about 20 µs a socket.

        ListenError when one cannot be had: then everything bound by this call is closed again.
        """
        missing = sorted(keys - self._in_engine - self._held.keys())
        self._check_descriptors(len(missing))
        bound: dict[SocketKey, socket.socket] = {}
        ours = {(key.protocol, key.port) for key in self._in_engine | self._held.keys()}
        try:
            for key in missing:
                if key.worker == 0 and (key.protocol, key.port) not in ours:
                    _refuse_shared(key)
                bound[key] = self._bind(key)
        except BaseException:
            for sock in bound.values():
                sock.close()
            raise
        self._held |= bound
        return {key: sock for key, sock in self._held.items() if key in keys and key not in self._in_engine}

    def handed_over(self, keys: Iterable[SocketKey]) -> None:
        """Note that the engine has these now."""
        self._in_engine |= frozenset(keys)

    def commit(self, keys: frozenset[SocketKey]) -> None:
        """Let go of everything but `keys`: the snapshot that needs exactly these is in force."""
        self._in_engine &= keys
        self._close_all_but(keys)

    def roll_back(self, keys: frozenset[SocketKey]) -> None:
        """Let go of everything but `keys`: the snapshot was refused, the one before needs these.

        The engine keeps the others, idle, until its next snapshot.
        """
        self._close_all_but(keys)

    def close(self) -> None:
        """Let go of every socket: new clients are refused as soon as the engine has done so too."""
        self._close_all_but(frozenset())

    def _close_all_but(self, keys: frozenset[SocketKey]) -> None:
        for key in self._held.keys() - keys:
            self._held.pop(key).close()

    def _check_descriptors(self, new: int) -> None:
        limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        wanted = open_descriptors() + new + SPARE_DESCRIPTORS
        if new and wanted > limit:
            raise ListenError(
                f"{new} new sockets need {wanted} file descriptors and the limit is {limit}: raise it"
                " (LimitNOFILE= of the service, or ulimit -n), listen on fewer ports, or use fewer workers"
            )

    def _bind(self, key: SocketKey) -> socket.socket:
        try:
            return _open(key, key.address)
        except OSError as error:
            # IPv6 left out of the kernel, or switched off: "all addresses" can only mean IPv4.
            if key.address != ALL or error.errno not in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL):
                raise _explain(key, error) from error
        note = "this machine has no IPv6: listeners without an address serve IPv4 only"
        if note not in self._notes:
            self._notes.append(note)
        try:
            return _open(key, ALL_IPV4)
        except OSError as error:
            raise _explain(key, error) from error


def _open(key: SocketKey, address: str, *, shared: bool = True) -> socket.socket:
    """Return a bound socket; `shared`: one of several on the same port, one per worker (TCP: listening)."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    kind = socket.SOCK_STREAM if key.protocol == "tcp" else socket.SOCK_DGRAM
    sock = socket.socket(family, kind | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        if address == ALL:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        if key.protocol == "tcp":
            # Connections of a former run that linger in TIME_WAIT must not keep the port.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind((address, key.port))
        if key.protocol == "tcp" and shared:
            sock.listen(TCP_BACKLOG)
    except BaseException:
        sock.close()
        raise
    return sock


def _refuse_shared(key: SocketKey) -> None:
    """Raise ListenError if anybody holds the port, also somebody who would share it.

    SO_REUSEPORT lets a second daemon of the same user join the group silently, and each would get half of the
    clients. A socket without it tells.
    """
    try:
        _open(key, key.address, shared=False).close()
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise _explain(key, error) from error


def _explain(key: SocketKey, error: OSError) -> ListenError:
    host = f"[{key.address}]" if ":" in key.address else key.address
    where = f"{key.protocol}/{key.port}" if key.address == ALL else f"{key.protocol}/{host}:{key.port}"
    what = f"cannot listen on {where}" if key.role == "listener" else f"cannot bind the overlay to {where}"
    match error.errno:
        case errno.EADDRINUSE:
            owner = find_port_owner(key.protocol, key.port)
            return ListenError(f"{what}: the port is in use{f' by {owner}' if owner else ''}")
        case errno.EACCES | errno.EPERM:
            return ListenError(
                f"{what}: not permitted; ports below net.ipv4.ip_unprivileged_port_start need root"
                " or CAP_NET_BIND_SERVICE"
            )
        case errno.EADDRNOTAVAIL:
            return ListenError(f"{what}: no interface of this machine has the address {key.address}")
        case errno.EMFILE | errno.ENFILE:
            limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
            return ListenError(
                f"{what}: out of file descriptors ({open_descriptors()} open, the limit is {limit})"
            )
        case _:
            return ListenError(f"{what}: {error.strerror or error}")
