"""UDP: strict receivers for each way of telling them, and a balancer of our own."""

import socket

import pytest

from tests.edge import port_of, wait_until
from tests.identity.conftest import World
from tests.identity.headers import Said, datagram_header, read_datagram, read_spp
from tests.tls.origins import DEADLINE_S

CLIENT = "127.0.0.5"


@pytest.fixture
def player() -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind((CLIENT, 0))
    sock.settimeout(DEADLINE_S)
    return sock


def hear(world: World, name: str) -> tuple[bytes, tuple[str, int]]:
    """Return the next datagram at an origin, and from where it came."""
    datagram, source = world.udp[name].socket.recvfrom(65_535)
    return datagram, source


def check(world: World, app: str, player: socket.socket, said: Said) -> None:
    """A header names the player and the port that it asked."""
    assert (said.client, said.proxy) == ((CLIENT, port_of(player)), ("127.0.0.1", world.edge.ports[app]))
    assert said.transport == "datagram"


@pytest.mark.parametrize(("app", "read"), [("every", read_datagram), ("spp", read_spp)])
def test_each_datagram_says_who_sent_it(world: World, player: socket.socket, app: str, read: object) -> None:
    assert callable(read)
    with player:
        player.connect(("127.0.0.1", world.edge.ports[app]))
        for payload in (b"one", b"", b"x" * 9_000, b"three"):
            player.send(payload)
            datagram, source = hear(world, app)
            said, heard = read(datagram)
            assert heard == payload
            check(world, app, player, said)
            world.udp[app].socket.sendto(b"answer to " + payload, source)
            assert player.recv(65_535) == b"answer to " + payload


def test_answers_of_spp_may_repeat_their_header(world: World, player: socket.socket) -> None:
    with player:
        player.connect(("127.0.0.1", world.edge.ports["spp"]))
        player.send(b"ask")
        datagram, source = hear(world, "spp")
        world.udp["spp"].socket.sendto(datagram[:-3] + b"answer", source)
        assert player.recv(65_535) == b"answer"


def test_an_origin_is_told_once_and_again_when_it_was_restarted(world: World, player: socket.socket) -> None:
    origin = world.udp["first"]
    with player:
        player.connect(("127.0.0.1", world.edge.ports["first"]))
        player.send(b"one")
        datagram, source = hear(world, "first")
        said, heard = read_datagram(datagram)
        assert heard == b"one"
        check(world, "first", player, said)
        origin.socket.sendto(b"answer", source)
        assert player.recv(100) == b"answer"
        player.send(b"two")
        assert hear(world, "first")[0] == b"two"

        # Nobody is there: the kernel tells the relay so. Then there is somebody who has forgotten everything.
        def refused() -> int:
            return int(world.edge.status()["drops"].get("udp_refused", 0))

        before = refused()
        origin.socket.close()
        player.send(b"lost")
        wait_until("the relay was told", lambda: refused() > before)
        again = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        wait_until("the port is free", lambda: not _fails(lambda: again.bind(("127.0.0.1", origin.port))))
        again.settimeout(DEADLINE_S)
        origin.socket = again
        player.send(b"three")
        datagram, _ = hear(world, "first")
        said, heard = read_datagram(datagram)
        assert heard == b"three"
        check(world, "first", player, said)
    again.close()


def _fails(act: object) -> bool:
    assert callable(act)
    try:
        act()
    except OSError:
        return True
    return False


def test_strangers_are_dropped_and_a_balancers_datagrams_are_its_clients_and_answers_go_back_through_it(
    world: World, player: socket.socket
) -> None:
    named = ("192.0.2.44", 5060)
    port = world.edge.ports["balanced"]
    with player:
        player.sendto(datagram_header(named, ("192.0.2.1", 9)) + b"ping", ("127.0.0.1", port))
        refused = "bad_proxy_header_untrusted"
        wait_until(refused, lambda: world.edge.status()["drops"].get(refused))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as balancer:
        balancer.bind(("127.0.0.1", 0))
        balancer.settimeout(DEADLINE_S)
        balancer.sendto(datagram_header(named, ("192.0.2.1", 9)) + b"ping", ("127.0.0.1", port))
        datagram, source = hear(world, "balanced")
        said, payload = read_spp(datagram)
        assert (said.client, payload) == (named, b"ping")
        world.udp["balanced"].socket.sendto(b"pong", source)
        assert balancer.recvfrom(100) == (b"pong", ("127.0.0.1", port))
