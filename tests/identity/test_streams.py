"""TCP: origins and balancers that are HAProxy and nginx, and strict ones of our own."""

import http.client
import ipaddress
import socket
import ssl
from pathlib import Path

import pytest

from tests.edge import client, port_of
from tests.identity import balancers
from tests.identity.conftest import World, exactly
from tests.identity.headers import APP, AUTHORITY, CRC32C, SSL, UNIQUE_ID
from tests.tls.origins import DEADLINE_S

CLIENT = "127.0.0.5"
"""Loopback has many addresses: a client's is not that of the balancer."""


def fetch(world: World, app: str) -> tuple[int, list[str]]:
    """Ask a web server behind an app; return our port and what it says that the header said."""
    connection = http.client.HTTPConnection("127.0.0.1", world.edge.ports[app], DEADLINE_S, (CLIENT, 0))
    connection.request("GET", "/")
    port = port_of(connection.sock)
    words = connection.getresponse().read().decode().split()
    connection.close()
    return port, words


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_a_server_is_told_who_its_client_is(world: World, server: str, version: str) -> None:
    app = f"{server}-{version}"
    port, words = fetch(world, app)
    assert words[:4] == [CLIENT, str(port), "127.0.0.1", str(world.edge.ports[app])]


@pytest.mark.parametrize("server", ["haproxy"], indirect=True)
def test_haproxy_reads_the_flows_id_and_its_checksum(world: World, server: str) -> None:
    """HAProxy refuses a header whose checksum is wrong, and gives the unique id as it came."""
    port, words = fetch(world, f"{server}-v2")
    record = world.edge.record(f"{server}-v2", port)
    assert words[4] == record["flow"]


def test_what_version_2_says_beside_the_addresses(world: World) -> None:
    with world.edge.dial("binary", CLIENT) as connection:
        port = port_of(connection)
        connection.sendall(b"hello")
        assert exactly(connection, 5) == b"hello"
        said = world.heard("binary", (CLIENT, port))
    assert said.proxy == ("127.0.0.1", world.edge.ports["binary"])
    assert said.transport == "stream"
    assert set(said.values) == {UNIQUE_ID, APP, CRC32C}
    assert said.values[APP] == b"binary"
    assert said.values[UNIQUE_ID].decode() == world.edge.record("binary", port)["flow"]


def test_an_origin_that_speaks_version_1_gets_one_line(world: World) -> None:
    with world.edge.dial("line", CLIENT) as connection:
        connection.sendall(b"hello")
        assert exactly(connection, 5) == b"hello"
        assert world.heard("line", (CLIENT, port_of(connection))).proxy[1] == world.edge.ports["line"]


def test_a_chain_tells_the_last_server_of_the_first_client(world: World, server: str, tmp_path: Path) -> None:
    """A client, HAProxy, us, and HAProxy or nginx: each in the middle tells the next what it was told."""
    port = world.edge.ports[f"{server}-behind"]
    with balancers.haproxy_that_tells(tmp_path / "balancer", port, "send-proxy-v2") as balancer:
        connection = http.client.HTTPConnection("127.0.0.1", balancer, DEADLINE_S, (CLIENT, 0))
        connection.request("GET", "/")
        client_port = port_of(connection.sock)
        words = connection.getresponse().read().decode().split()
        connection.close()
    assert words[:2] == [CLIENT, str(client_port)]


def test_a_server_is_told_of_a_client_of_ipv6(world: World, server: str) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", world.edge.ports[f"{server}-behind"], DEADLINE_S)
    connection.connect()
    connection.sock.sendall(b"PROXY TCP6 2001:db8::7 2001:db8::1 1234 25565\r\n")
    connection.request("GET", "/")
    words = connection.getresponse().read().decode().split()
    connection.close()
    assert words[:2] == ["2001:db8::7", "1234"]


def test_a_balancer_that_knows_no_client_stands_for_itself(world: World) -> None:
    with world.edge.dial("binary-behind") as connection:
        connection.sendall(b"PROXY UNKNOWN\r\nhello")
        assert exactly(connection, 5) == b"hello"
        assert world.heard("binary", ("127.0.0.1", port_of(connection))).version == 2


@pytest.mark.parametrize("how", ["send-proxy", "send-proxy-v2", "send-proxy-v2-ssl-cn",
                                 "send-proxy-v2 proxy-v2-options crc32c,unique-id,authority"])  # fmt: skip
@pytest.mark.parametrize("app", ["line-behind", "binary-behind"])
def test_haproxys_client_is_the_client_for_records_and_origins(
    world: World, tmp_path: Path, how: str, app: str
) -> None:
    with (
        balancers.haproxy_that_tells(tmp_path / "haproxy", world.edge.ports[app], how) as balancer,
        socket.create_connection(("127.0.0.1", balancer), DEADLINE_S, (CLIENT, 0)) as connection,
    ):
        port = port_of(connection)
        connection.sendall(b"hello")
        assert exactly(connection, 5) == b"hello"
        world.heard(app.removesuffix("-behind"), (CLIENT, port))
        found = world.edge.command("whois", f"{CLIENT}:{port}", "--json")
        assert found.returncode == 0, found.stderr
    assert world.edge.record(app, port)["client_ip"] == CLIENT


@pytest.mark.parametrize(("app", "origin"), [("line-behind", "line"), ("binary-behind", "binary")])
def test_a_client_of_ipv6_stays_one_behind_a_listener_of_ipv4(
    world: World, tmp_path: Path, app: str, origin: str
) -> None:
    """Both addresses of a header are of one family, so the listener's is written as a mapped one."""
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError as error:
        pytest.skip(f"this host has no IPv6 on loopback: {error}")
    port = world.edge.ports[app]
    with (
        balancers.haproxy_that_tells(tmp_path / "haproxy", port, "send-proxy-v2", "::1") as balancer,
        socket.create_connection(("::1", balancer), DEADLINE_S) as connection,
    ):
        connection.sendall(b"hello")
        assert exactly(connection, 5) == b"hello"
        client_port = port_of(connection)
        host, asked = world.heard(origin, ("::1", client_port)).proxy
        assert (ipaddress.IPv6Address(host).ipv4_mapped, asked) == (ipaddress.IPv4Address("127.0.0.1"), port)
    assert world.edge.record(app, client_port)["client_ip"] == "::1"


def test_a_health_check_of_the_balancer_stands_for_the_balancer(world: World, tmp_path: Path) -> None:
    """HAProxy's own checks with `send-proxy-v2` are LOCAL, and nothing follows them: no flow may be left of them, nor a refusal."""
    how = "send-proxy-v2 check inter 50ms"
    port = world.edge.ports["binary-behind"]
    with (
        balancers.haproxy_that_tells(tmp_path / "haproxy", port, how) as balancer,
        socket.create_connection(("127.0.0.1", balancer), DEADLINE_S, (CLIENT, 0)) as connection,
    ):
        connection.sendall(b"hello")
        assert exactly(connection, 5) == b"hello"
        world.heard("binary", (CLIENT, port_of(connection)))
    refused = {
        reason: count for reason, count in world.edge.status()["drops"].items() if "proxy_header" in reason
    }
    assert not any(refused.values()), refused


def header(source: str, port: int) -> bytes:
    """Return a header of version 1."""
    return f"PROXY TCP4 {source} 192.0.2.1 {port} 25565\r\n".encode()


def test_limits_and_lists_look_at_the_client_and_not_at_the_balancer(world: World) -> None:
    def come(app: str, source: str) -> socket.socket:
        connection = world.edge.dial(app)
        connection.sendall(header(source, 1234) + b"?")
        return connection

    with come("limited-behind", "192.0.2.7") as first, come("limited-behind", "192.0.2.8") as other:
        for connection, source in ((first, "192.0.2.7"), (other, "192.0.2.8")):
            assert exactly(connection, 1) == b"?"
            world.heard("binary", (source, 1234))
        with come("limited-behind", "192.0.2.7") as second, pytest.raises(ConnectionResetError):
            second.recv(1)
    with come("guarded-behind", "127.0.0.77") as denied, pytest.raises(ConnectionResetError):
        denied.recv(1)
    with come("guarded-behind", "127.0.0.78") as allowed:
        assert exactly(allowed, 1) == b"?"
        world.heard("binary", ("127.0.0.78", 1234))


def test_the_app_ends_tls_and_says_what_was_agreed_on(world: World) -> None:
    member = world.authority.issue("member", ["member.test"])
    context = client(authority=world.authority.file, pair=member, version=ssl.TLSVersion.TLSv1_3)
    with world.edge.connect("tls", context) as connection:
        connection.sendall(b"hello")
        assert exactly(connection, 5) == b"hello"
        said = world.heard("binary", ("127.0.0.1", port_of(connection)))
    assert said.values[AUTHORITY] == b"first.test"
    assert said.values[SSL] == b"\x07\0\0\0\0\x21\0\x07TLSv1.3"


@pytest.mark.parametrize("app", ["full-behind", "strict-behind"])
def test_a_balancers_header_comes_before_tls_and_ours_before_the_origins(
    world: World, tmp_path: Path, app: str
) -> None:
    """HAProxy passes TLS through; it ends here, and the origin gets a header in the clear and then TLS of its own."""
    context = client(authority=world.authority.file)
    port = world.edge.ports[app]
    with (
        balancers.haproxy_that_tells(tmp_path / "haproxy", port, "send-proxy-v2") as balancer,
        socket.create_connection(("127.0.0.1", balancer), DEADLINE_S, (CLIENT, 0)) as plain,
        context.wrap_socket(plain, server_hostname="first.test") as connection,
    ):
        connection.sendall(b"hello")
        assert exactly(connection, 5) == b"hello"
        said = world.heard("secure", (CLIENT, port_of(connection)))
        assert said.values[AUTHORITY] == b"first.test"
        assert said.values[SSL].startswith(b"\x01")
