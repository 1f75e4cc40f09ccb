"""Who comes to a session with whom: versions, certificates by name, resumption, protocols, members, and who does not."""

import contextlib
import socket
import ssl
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.edge import client, port_of
from tests.tls.conftest import World
from tests.tls.origins import CHUNK, DEADLINE_S, read_all

VERSIONS = [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]


def exchange(connection: ssl.SSLSocket, message: bytes = b"hello") -> bytes:
    """Send something and return what comes back."""
    connection.sendall(message)
    answer = b""
    while len(answer) < len(message):
        part = connection.recv(CHUNK)
        assert part, "the connection ended"
        answer += part
    return answer


def refusal(world: World, app: str, context: ssl.SSLContext) -> dict[str, Any]:
    """Connect to an app that must not let us in, and return the flow's record."""
    with world.edge.dial(app) as plain:
        port = port_of(plain)
        with (  # noqa: PT012
            pytest.raises(OSError),  # noqa: PT011 (an alert or a reset)
            context.wrap_socket(
                plain, server_hostname="first.test", suppress_ragged_eofs=False
            ) as connection,
        ):
            connection.sendall(b"let me in")
            # In TLS 1.3 a client believes that it is in before the server has looked at its certificate.
            raise AssertionError(f"was let in: {connection.recv(CHUNK)!r}")
    return world.edge.record(app, port)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    ("asked", "shown"),
    [
        ("first.test", "first"),
        ("exact.wild.test", "exact"),
        ("other.wild.test", "wild"),
        ("deep.other.wild.test", "first"),
        ("nobody.test", "first"),
        (None, "first"),
    ],
)
def test_a_client_is_shown_the_certificate_of_the_name_that_it_asks_for(
    world: World, version: ssl.TLSVersion, asked: str | None, shown: str
) -> None:
    with world.edge.connect("flexible", client(version=version), asked) as connection:
        pair = getattr(world, shown)
        assert connection.getpeercert(binary_form=True) == ssl.PEM_cert_to_DER_cert(
            pair.certificate.read_text()
        )
        assert connection.version() == {VERSIONS[0]: "TLSv1.2", VERSIONS[1]: "TLSv1.3"}[version]
        assert exchange(connection) == b"hello"


def test_a_client_that_checks_is_content(world: World) -> None:
    context = client(authority=world.authority.file)
    with world.edge.connect("flexible", context) as connection:
        assert exchange(connection) == b"hello"


@pytest.mark.parametrize("version", VERSIONS)
def test_sessions_are_resumed_by_whichever_worker_is_met(world: World, version: ssl.TLSVersion) -> None:
    context, session = client(version=version), None
    for round_number in range(8):
        with world.edge.connect("flexible", context, session=session) as connection:
            assert connection.session_reused == (round_number > 0)
            assert exchange(connection) == b"hello"
            session = connection.session


@pytest.mark.parametrize(
    ("app", "offered", "chosen"),
    [
        ("full", ["one", "two"], "two"),
        ("full", ["one"], "one"),
        ("strict", ["one", "two"], "two"),
        ("full-silent", ["one"], None),
        ("flexible", ["one"], None),
        ("full", None, None),
    ],
)
def test_the_origin_chooses_among_the_protocols_of_the_client(
    world: World, app: str, offered: list[str] | None, chosen: str | None
) -> None:
    with world.edge.connect(app, client(alpn=offered)) as connection:
        assert connection.selected_alpn_protocol() == chosen
        assert exchange(connection) == b"hello"


@pytest.mark.parametrize("alpn", [None, ["one"]])
@pytest.mark.parametrize(
    ("app", "reason"),
    [
        ("strict-other", "origin_tls_certificate"),
        ("strict-misnamed", "origin_tls_certificate"),
        ("full-plain", "origin_tls_failed"),
    ],
)
def test_an_origin_that_is_not_what_it_must_be_gets_nothing(
    world: World, app: str, reason: str, alpn: list[str] | None
) -> None:
    record = refusal(world, app, client(alpn=alpn))
    assert (record["code"], record["reason"], record["closed_by"]) == (609, reason, "origin")
    assert record["bytes_to_origin"] == 0


@pytest.mark.parametrize("app", ["members", "members-full"])
@pytest.mark.parametrize("version", VERSIONS)
def test_members_come_in_every_time_anew(world: World, app: str, version: ssl.TLSVersion) -> None:
    context, session = client(version=version, pair=world.member, alpn=["one"]), None
    for _ in range(2):
        with world.edge.connect(app, context, session=session) as connection:
            assert exchange(connection) == b"hello"
            assert not connection.session_reused
            session = connection.session


@pytest.mark.parametrize("app", ["members", "members-full"])
@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    ("pair", "reason"),
    [
        (None, "tls_no_certificate"),
        ("expired", "tls_bad_certificate"),
        ("stranger", "tls_bad_certificate"),
    ],
)
def test_others_do_not(
    world: World, app: str, version: ssl.TLSVersion, pair: str | None, reason: str
) -> None:
    shown = None if pair is None else getattr(world, pair)
    record = refusal(world, app, client(version=version, pair=shown, alpn=["one"]))
    assert (record["code"], record["reason"], record["closed_by"]) == (443, reason, "client")
    assert record["bytes_to_origin"] == 0


@pytest.mark.parametrize(
    "garbage",
    [
        b"GET / HTTP/1.1\r\nhost: first.test\r\n\r\n",
        b"\x16\x03\x01\x50\x00" + bytes(0x5000),
        b"\x16\x03\x01\x00\x05\x01\xff\xff\xff\x00",
        b"\x15\x03\x01\x00\x02\x02\x28",
    ],
    ids=["http", "huge record", "huge hello", "alert"],
)
def test_what_is_not_tls_is_told_so_and_counted(world: World, garbage: bytes) -> None:
    with world.edge.dial("flexible") as connection:
        port = port_of(connection)
        connection.sendall(garbage)
        try:
            answer = read_all(connection)
        except ConnectionResetError:
            answer = b""
        assert answer == b"" or answer[:2] == b"\x15\x03", "an alert"
    record = world.edge.record("flexible", port)
    assert record["code"] == 443
    assert record["reason"] in ("tls_handshake_failed", "tls_alert")


def test_a_client_that_does_not_trust_us_says_so(world: World) -> None:
    record = refusal(world, "flexible", client(authority=world.stranger.certificate))
    assert (record["code"], record["reason"]) == (443, "tls_alert")


def test_a_handshake_has_its_time(world: World) -> None:
    with world.edge.dial("flexible") as silent:
        port = port_of(silent)
        silent.sendall(b"\x16\x03\x01\x02\x00\x01")
        assert read_all(silent) == b""
    record = world.edge.record("flexible", port)
    assert (record["code"], record["reason"], record["closed_by"]) == (443, "tls_timeout", "client")
    assert record["duration_ms"] >= 10_000


@pytest.mark.parametrize("version", ["-tls1_2", "-tls1_3"])
def test_openssl_resumes_what_it_has_written_down(world: World, folder: Path, version: str) -> None:
    address = f"127.0.0.1:{world.edge.ports['full']}"
    session = folder / "session"
    for arguments, word in (
        (["-sess_out", str(session)], "New, "),
        (["-sess_in", str(session)], "Reused, "),
    ):
        command = ["openssl", "s_client", "-connect", address, "-servername", "first.test", version]
        with subprocess.Popen(
            [*command, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        ) as popen:
            assert popen.stdin is not None
            assert popen.stdout is not None
            popen.stdin.write(b"ping through openssl\n")
            popen.stdin.flush()
            said = b""
            while b"ping through openssl" not in said:
                part = popen.stdout.read1(CHUNK)  # type: ignore[attr-defined]
                assert part, said
                said += part
            popen.stdin.write(b"Q\n")
            popen.stdin.flush()
            popen.communicate(timeout=DEADLINE_S)
        assert word in said.decode(errors="replace")


def test_the_name_of_tls_that_passes_through_is_in_its_record(world: World) -> None:
    with world.edge.connect("off", client(), "Somebody.Example") as connection:
        port = port_of(connection)
        assert exchange(connection) == b"hello"
        shown = connection.getpeercert(binary_form=True)
        assert shown != ssl.PEM_cert_to_DER_cert(world.first.certificate.read_text())
    record = world.edge.record("off", port)
    assert record["sni"] == "somebody.example"


def test_a_hello_in_pieces_passes_at_once_and_its_name_is_found(world: World) -> None:
    """One byte at a time: nothing is held back, and the origin's answer comes."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    session = client().wrap_bio(incoming, outgoing, server_hostname="pieces.example")
    with pytest.raises(ssl.SSLWantReadError):
        session.do_handshake()
    hello = outgoing.read()
    with world.edge.dial("off") as connection:
        port = port_of(connection)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in hello:
            connection.sendall(bytes([byte]))
        answer = connection.recv(CHUNK)
        assert answer[:2] == b"\x16\x03", "the origin's hello"
    assert world.edge.record("off", port)["sni"] == "pieces.example"


def test_what_is_not_tls_passes_through_without_a_name(world: World) -> None:
    with world.edge.dial("off") as connection:
        port = port_of(connection)
        connection.sendall(b"SSH-2.0-nobody\r\n")
        with contextlib.suppress(ConnectionResetError):
            assert read_all(connection)[:2] in (b"", b"\x15\x03")
    assert world.edge.record("off", port)["sni"] is None


def test_the_name_that_a_session_was_made_for_is_in_its_record(world: World) -> None:
    with world.edge.connect("full", client(), "First.Test") as connection:
        port = port_of(connection)
        assert exchange(connection) == b"hello"
    assert world.edge.record("full", port)["sni"] == "first.test"
