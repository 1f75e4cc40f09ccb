"""One edge with apps that tell origins who the client is, and apps that hear it from a balancer."""

import queue
import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from l4proxy.lab.ports import free_port
from tests.edge import Edge, edge
from tests.identity import balancers
from tests.identity.headers import Said, read_binary, read_line
from tests.tls.authority import Authority
from tests.tls.origins import CHUNK, DEADLINE_S, Origin, origin

SERVERS = {"haproxy": balancers.haproxy_that_hears, "nginx": balancers.nginx_that_hears}
"""Other people's programs that read PROXY headers."""


def exactly(connection: socket.socket, count: int) -> bytes:
    """Read so many bytes."""
    data = b""
    while len(data) < count:
        part = connection.recv(count - len(data))
        assert part, f"the connection ended after {data!r}"
        data += part
    return data


def _hear(read: Callable[[Callable[[int], bytes]], Said]) -> Callable[[socket.socket, Origin], None]:
    """Return an origin that reads a header, tells the test of it, and echoes what follows."""

    def serve(connection: socket.socket, subject: Origin) -> None:
        if not (first := connection.recv(1, socket.MSG_PEEK)):
            return  # The daemon's own look, whether somebody is there.
        assert first in (b"P", b"\r"), first
        subject.seen.put(read(lambda count: exactly(connection, count)))
        while data := connection.recv(CHUNK):
            connection.sendall(data)

    return serve


@dataclass
class UdpOrigin:
    """A port for datagrams."""

    socket: socket.socket
    port: int = field(init=False)

    def __post_init__(self) -> None:
        self.socket.bind(("127.0.0.1", 0))
        self.socket.settimeout(DEADLINE_S)
        self.port = self.socket.getsockname()[1]


@dataclass
class World:
    """The edge and what stands behind it."""

    edge: Edge
    folder: Path
    authority: Authority
    tcp: dict[str, Origin]
    udp: dict[str, UdpOrigin]
    servers: dict[str, int]
    """Ports of those servers of :data:`SERVERS` that a test has started."""
    others: dict[str, list[Said]] = field(default_factory=dict)
    """What origins were told of clients that no test has asked for yet."""

    def heard(self, name: str, client: tuple[str, int]) -> Said:
        """Return what an origin was told of a client. What it was told of others is kept: flows come in no order, and a balancer
        that is knocked at knocks, too."""
        others = self.others.setdefault(name, [])
        for said in others:
            if said.client == client:
                others.remove(said)
                return said
        while True:
            try:
                seen = self.tcp[name].next()
            except queue.Empty:
                raise AssertionError(f"{name} was never told of {client}") from None
            if isinstance(seen, Said) and seen.client == client:
                return seen
            if isinstance(seen, Said):
                others.append(seen)


def _secure(context: ssl.SSLContext) -> Callable[[socket.socket, Origin], None]:
    """Return an origin whose header comes in the clear, before TLS."""

    def serve(connection: socket.socket, subject: Origin) -> None:
        if not connection.recv(1, socket.MSG_PEEK):
            return
        subject.seen.put(read_binary(lambda count: exactly(connection, count)))
        with context.wrap_socket(connection, server_side=True) as session:
            while data := session.recv(CHUNK):
                session.sendall(data)

    return serve


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    pytest.importorskip("l4proxy._native", reason="the extension is not built")
    folder = tmp_path_factory.mktemp("identity")
    authority = Authority(folder)
    edge_pair = authority.issue("edge", ["first.test"])
    at_origin = authority.issue("origin", ["127.0.0.1"])
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(at_origin.certificate, at_origin.key)
    with ExitStack() as stack:
        tcp = {
            "line": stack.enter_context(origin(_hear(read_line))),
            "binary": stack.enter_context(origin(_hear(read_binary))),
            "secure": stack.enter_context(origin(_secure(context))),
        }
        udp = {
            name: UdpOrigin(stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)))
            for name in ("every", "first", "spp", "balanced")
        }
        # They are started by the tests that need them: the others run without.
        servers = {name: free_port() for name in SERVERS}
        pair = f"certificate: {edge_pair.certificate}, key: {edge_pair.key}"
        members = f"{pair}, client_ca: {authority.file}"
        trusting = "accept_client_address: [127.0.0.1]\n"

        def app(port: int, words: str, more: str = "") -> str:
            return f"origins: ['127.0.0.1:{port}']\nclient_address: {words}\n{more}"

        apps = {
            "line": app(tcp["line"].port, "proxy-v1"),
            "binary": app(tcp["binary"].port, "proxy-v2"),
            "line-behind": app(tcp["line"].port, "proxy-v1", trusting),
            "binary-behind": app(tcp["binary"].port, "proxy-v2", trusting),
            "limited-behind": app(tcp["binary"].port, "proxy-v2", f"{trusting}limits: {{flows_per_source: 1}}\n"),
            "guarded-behind": app(
                tcp["binary"].port, "proxy-v2", f"{trusting}access: {{default: allow, deny: [127.0.0.77]}}\n"
            ),
            "tls": app(tcp["binary"].port, "proxy-v2", f"tls: {{mode: flexible, {members}}}\n"),
            "strict-behind": app(tcp["secure"].port, "proxy-v2", f"{trusting}tls: {{mode: strict, {pair}}}\n"),
            "full-behind": app(tcp["secure"].port, "proxy-v2", f"{trusting}tls: {{mode: full, {pair}}}\n"),
            **{f"{name}-{words[-2:]}": app(port, words) for name, port in servers.items() for words in ("proxy-v1", "proxy-v2")},
            **{f"{name}-behind": app(port, "proxy-v2", trusting) for name, port in servers.items()},
            "every": app(udp["every"].port, "proxy-v2-every"),
            "first": app(udp["first"].port, "proxy-v2-first"),
            "spp": app(udp["spp"].port, "spp"),
            "balanced": app(udp["balanced"].port, "spp", trusting),
        }  # fmt: skip
        environment = {"SSL_CERT_FILE": str(authority.file)}
        subject = stack.enter_context(edge(folder / "edge", apps, environment, datagrams=udp))
        yield World(subject, folder, authority, tcp, udp, servers)


@pytest.fixture(scope="module", params=SERVERS)
def server(request: pytest.FixtureRequest, world: World) -> Iterator[str]:
    """Each of the programs that read headers, running."""
    name = str(request.param)
    with SERVERS[name](world.folder / name, world.servers[name]):
        yield name
