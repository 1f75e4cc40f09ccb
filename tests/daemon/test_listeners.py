"""Sockets are bound all or none, per worker, and a failure names who is in the way."""

import resource
import socket

import pytest

from l4proxy.core.ids import AppName, LinkName, PopName, id32
from l4proxy.core.snapshot import (
    AppSpec,
    EngineOptions,
    IncomingLinkSpec,
    LinkSpec,
    ListenSpec,
    RouteSpec,
    Snapshot,
)
from l4proxy.daemon import listeners
from l4proxy.daemon.engine_messages import SocketKey
from l4proxy.daemon.listeners import ListenError, ListenerSet, needed


def snapshot(
    *listens: ListenSpec, links: tuple[LinkSpec, ...] = (), links_in: tuple[IncomingLinkSpec, ...] = ()
) -> Snapshot:
    app = AppSpec(AppName("game"), listens, listens, (), RouteSpec((), ()), 1, 1, 1, 1, True)
    return Snapshot(1, PopName("ams"), id32("ams"), "demo", (app,), links, links_in, (), (), EngineOptions())


def key(port: int, worker: int = 0, protocol: str = "tcp", address: str = "127.0.0.1") -> SocketKey:
    return SocketKey("listener", protocol, address, port, worker)  # type: ignore[arg-type]


def test_every_port_of_a_range_has_a_socket_per_worker() -> None:
    keys = needed(
        snapshot(ListenSpec("udp", "::", 10, 12), ListenSpec("tcp", "192.0.2.1", 22, 22)), workers=2
    )
    assert keys == {key(port, worker, "udp", "::") for port in (10, 11, 12) for worker in (0, 1)} | {
        key(22, worker, "tcp", "192.0.2.1") for worker in (0, 1)
    }


def test_links_over_one_transit_share_one_overlay_socket_per_worker() -> None:
    def link(name: str, local: str) -> LinkSpec:
        return LinkSpec(id32(name), LinkName(name), PopName("iad"), 1, local, "192.0.2.9:4600", 1000)

    def link_in(name: str, local: str) -> IncomingLinkSpec:
        return IncomingLinkSpec(id32(name), LinkName(name), PopName("iad"), local, "192.0.2.9:4600")

    made = snapshot(
        links=(link("x", "192.0.2.1:4600"), link("y", "192.0.2.1:4600")),
        links_in=(link_in("z", "[2001:db8::1]:4600"),),
    )
    assert needed(made, workers=2) == {
        SocketKey("overlay", "udp", address, 4600, worker)
        for address in ("192.0.2.1", "2001:db8::1")
        for worker in (0, 1)
    }


def test_workers_share_a_port_and_clients_reach_one_of_them(free_port: int) -> None:
    mine = ListenerSet()
    bound = mine.prepare(frozenset({key(free_port, 0), key(free_port, 1)}))
    try:
        assert set(bound) == {key(free_port, 0), key(free_port, 1)}
        with socket.create_connection(("127.0.0.1", free_port), timeout=5):
            pass
    finally:
        mine.close()


def test_all_addresses_means_both_families(free_port: int) -> None:
    mine = ListenerSet()
    mine.prepare(frozenset({key(free_port, address="::")}))
    try:
        for host in ("127.0.0.1", "::1") if mine.take_notes() == [] else ("127.0.0.1",):
            with socket.create_connection((host, free_port), timeout=5):
                pass
    finally:
        mine.close()


def test_without_ipv6_all_addresses_means_ipv4_and_says_so(
    free_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A machine booted with ipv6.disable=1 must still serve."""
    real = socket.socket

    class NoIpv6(real):
        def __init__(self, family: int = -1, *rest: object, **options: object) -> None:
            if family == socket.AF_INET6:
                raise OSError(97, "Address family not supported by protocol")
            super().__init__(family, *rest, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(listeners.socket, "socket", NoIpv6)
    mine = ListenerSet()
    bound = mine.prepare(frozenset({key(free_port, 0, address="::"), key(free_port, 1, address="::")}))
    try:
        assert [sock.family for sock in bound.values()] == [socket.AF_INET, socket.AF_INET]
        assert mine.take_notes() == ["this machine has no IPv6: listeners without an address serve IPv4 only"]
    finally:
        mine.close()


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_a_port_in_use_names_its_owner_and_changes_nothing(protocol: str, free_port: int) -> None:
    kind = socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM
    with socket.socket(socket.AF_INET, kind) as other:
        # Who sets SO_REUSEPORT as well would silently take half of the clients.
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        other.bind(("127.0.0.1", free_port))
        if protocol == "tcp":
            other.listen()
        mine = ListenerSet()
        wanted = frozenset(
            {key(free_port, 0, protocol), key(free_port, 1, protocol), key(free_port, 0, "tcp", "127.0.0.2")}
        )
        with pytest.raises(ListenError, match=rf"{protocol}/127.0.0.1:{free_port}.*in use by .+ \(pid \d+\)"):
            mine.prepare(wanted)
        assert mine.held == {}


def test_what_the_engine_has_is_not_bound_again(free_port: int) -> None:
    """After a take-over the ports are in use, by our own engine."""
    with socket.create_server(("127.0.0.1", free_port), reuse_port=True):
        mine = ListenerSet()
        mine.adopt({key(free_port)})
        assert mine.prepare(frozenset({key(free_port)})) == {}
        # An address of the same port is added: the engine's own socket is not somebody in the way.
        bound = mine.prepare(frozenset({key(free_port), key(free_port, address="127.0.0.2")}))
        assert set(bound) == {key(free_port, address="127.0.0.2")}
        mine.close()


def test_after_an_engine_died_everything_is_handed_over_again(free_port: int) -> None:
    mine = ListenerSet()
    wanted = frozenset({key(free_port)})
    first = mine.prepare(wanted)
    mine.handed_over(wanted)
    mine.commit(wanted)
    assert mine.prepare(wanted) == {}
    mine.engine_died()
    assert mine.prepare(wanted) == first
    mine.close()


def test_commit_lets_go_of_what_is_no_longer_needed(free_port: int) -> None:
    mine = ListenerSet()
    mine.prepare(frozenset({key(free_port)}))
    mine.commit(frozenset())
    with socket.create_server(("127.0.0.1", free_port)):
        assert mine.held == {}


def test_too_many_sockets_are_refused_with_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _which: (200, 200))
    keys = frozenset(key(port, worker, "udp") for port in range(20_000, 20_100) for worker in (0, 1))
    with pytest.raises(ListenError, match=r"200 new sockets need \d+ file descriptors and the limit is 200"):
        ListenerSet().prepare(keys)


def test_an_address_of_another_machine_is_explained() -> None:
    with pytest.raises(ListenError, match=r"no interface of this machine has the address 192\.0\.2\.77"):
        ListenerSet().prepare(frozenset({key(9, address="192.0.2.77")}))
