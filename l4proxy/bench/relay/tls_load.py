"""Loads over TLS, and the certificate for them. The client is Python's: what it costs is not counted, only how fast it can be.

Every handshake is a full one, of TLS 1.3 with the server's ECDSA key on P-256; the client does not check it.
"""

import contextlib
import datetime
import socket
import ssl
import time
from collections.abc import Sequence
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from l4proxy.bench.usage import Meter
from l4proxy.errors import L4ProxyError

NAME = "relay.test"
CHUNK = 256 * 1024
"""A call of the client's: many records."""

SOURCE = b"\0L4BNCH\2" + (1 << 40).to_bytes(8, "big")
"""Asks a reflector for more than any run takes (rust_ext/crates/bench/src/mode.rs)."""
SINK = b"\0L4BNCH\1" + bytes(8)
TRAILER = b"\0L4BEND\0"


def write_certificate(folder: Path) -> Path:
    """Write a key and its certificate for `NAME` into `both.pem`, `cert.pem` and `key.pem` of a folder; returns the first."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, NAME)])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=60))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(NAME)]), critical=False)
        .sign(key, hashes.SHA256())
    ).public_bytes(serialization.Encoding.PEM)
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    for file, data in (("cert.pem", certificate), ("key.pem", pem), ("both.pem", certificate + pem)):
        path = folder / file
        path.touch(mode=0o600)
        path.write_bytes(data)
    return folder / "both.pem"


def open_flow(target: str, timeout_s: float) -> ssl.SSLSocket:
    """Connect with a full handshake."""
    host, _, port = target.rpartition(":")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    plain = socket.create_connection((host, int(port)), timeout_s)
    try:
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return context.wrap_socket(plain, server_hostname=NAME)
    except BaseException:
        plain.close()
        raise


def tls_connect(target: str, pids: Sequence[int], *, seconds: float) -> dict[str, float]:
    """Return CPU µs a connection: a full handshake, one byte each way, close; and how many a second one core would do."""
    done = 0
    with Meter(pids) as meter:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            with open_flow(target, seconds) as flow:
                flow.sendall(b"x")
                if flow.recv(1) != b"x":
                    raise L4ProxyError("the echo is none")
                with contextlib.suppress(OSError):
                    flow.unwrap()
            done += 1
    cpu_us = meter.cpu_ns / 1e3 / max(1, done)
    return {
        "cpu": cpu_us,
        "machine": meter.machine_ns / 1e3 / max(1, done),
        "per_second_a_core": 1e6 / max(cpu_us, 1e-9),
    }


def tls_bulk(target: str, pids: Sequence[int], *, seconds: float, reverse: bool) -> dict[str, float]:
    """Return CPU s/GB of one flow, and GB/s beside it."""
    with open_flow(target, seconds + 10.0) as flow, Meter(pids) as meter:
        began = time.monotonic()
        moved = _fetch(flow, began + seconds) if reverse else _send(flow, began + seconds)
        took = time.monotonic() - began
    return {
        "cpu": meter.cpu_ns / moved,
        "machine": meter.machine_ns / moved,
        "gb_s": moved / 1e9 / took,
    }


def _fetch(flow: ssl.SSLSocket, until: float) -> int:
    flow.sendall(SOURCE)
    moved, buffer = 0, bytearray(CHUNK)
    while time.monotonic() < until:
        count = flow.recv_into(buffer)
        if count == 0:
            raise L4ProxyError("the flow ended")
        moved += count
    return moved


def _send(flow: ssl.SSLSocket, until: float) -> int:
    flow.sendall(SINK)
    moved, chunk = 0, bytes(CHUNK)
    while time.monotonic() < until:
        flow.sendall(chunk)
        moved += CHUNK
    flow.sendall(TRAILER + moved.to_bytes(8, "big"))
    answer = b""
    while len(answer) < 8 and (part := flow.recv(8 - len(answer))):
        answer += part
    if int.from_bytes(answer, "big") != moved:
        raise L4ProxyError(f"{moved} bytes were sent, and {int.from_bytes(answer, 'big')} arrived")
    return moved
