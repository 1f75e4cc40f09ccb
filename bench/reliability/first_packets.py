"""A million first packets of QUIC under a PoP's own address: what is established loses nothing, and memory stays within bounds.

Four namespaces: a client at ams, whose datagrams go through a tunnel to iad and an origin there. The client's host also sends forged
first packets to ams which say that they are from iad: each would begin a handshake. Needs root.
"""

import json
import os
import re
import secrets
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(1, str(Path(__file__).resolve().parents[2]))

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.hmac import HMAC
from harness import parser, report

from l4proxy.daemon.options import DEFAULT_METRICS
from tests.e2e.network import network, start_fleet, wait_until, why_not

ECHO = Path(__file__).resolve().parents[2] / "tests" / "e2e" / "echo.py"
PORT, OVERLAY_PORT = 7003, 4600
RATE = 500.0
MIN_DELIVERED, MAX_ADDED_MB = 0.999, 64.0
KINDS = 2_000
"""Different packets, sent over and over. What is not begun is not remembered: a packet seen before is as good as a new one."""

METRICS = f"http://{DEFAULT_METRICS.address}:{DEFAULT_METRICS.port}/metrics"
SALT = bytes.fromhex("38762cf7f55934b34d179ae6a4c80cadccbb7f0a")
"""Of initial keys (RFC 9001, section 5.2)."""


def hmac(key: bytes, data: bytes) -> bytes:
    """HMAC-SHA256."""
    made = HMAC(key, SHA256())
    made.update(data)
    return made.finalize()


def expand(secret: bytes, label: str, length: int) -> bytes:
    """HKDF-Expand-Label of one block (RFC 8446, section 7.1)."""
    name = b"tls13 " + label.encode()
    return hmac(secret, struct.pack("!HB", length, len(name)) + name + b"\0\x01")[:length]


def extension(kind: int, body: bytes) -> bytes:
    """One extension of a ClientHello."""
    return struct.pack("!HH", kind, len(body)) + body


def listed(body: bytes, width: int = 2) -> bytes:
    """A list with its length before it."""
    return len(body).to_bytes(width, "big") + body


def client_hello(source: bytes) -> bytes:
    """A ClientHello (RFC 8446, section 4.1.2) that asks for our protocol."""
    alpn = listed(listed(b"l4proxy/1", 1))
    share = listed(struct.pack("!HH", 0x001D, 32) + secrets.token_bytes(32))
    parameters = bytes([0x0F, len(source)]) + source
    extensions = b"".join(
        [
            extension(0x000A, listed(b"\x00\x1d")),
            extension(0x000D, listed(b"\x04\x03\x08\x04\x08\x07")),
            extension(0x0010, alpn),
            extension(0x002B, listed(b"\x03\x04", 1)),
            extension(0x0033, share),
            extension(0x0039, parameters),
        ]
    )
    body = (
        b"\x03\x03" + secrets.token_bytes(32) + b"\0" + listed(b"\x13\x01") + b"\x01\0" + listed(extensions)
    )
    return b"\x01" + listed(body, 3)


def first_packet() -> bytes:
    """A first packet of its own (RFC 9000, section 17.2.2) of 1,200 bytes, for worker 0."""
    destination, source = b"\0" + secrets.token_bytes(7), secrets.token_bytes(8)
    hello = client_hello(source)
    frames = b"\x06\x00" + struct.pack("!H", 0x4000 | len(hello)) + hello
    head = b"\xc3\0\0\0\x01" + listed(destination, 1) + listed(source, 1) + b"\0"
    length = 1_200 - len(head) - 2
    head += struct.pack("!H", 0x4000 | length) + bytes(4)
    secret = expand(hmac(SALT, destination), "client in", 32)
    key, iv, mask_key = (
        expand(secret, name, size) for name, size in [("quic key", 16), ("quic iv", 12), ("quic hp", 16)]
    )
    sealed = AESGCM(key).encrypt(iv, frames.ljust(length - 4 - 16, b"\0"), head)
    mask = Cipher(algorithms.AES(mask_key), modes.ECB()).encryptor().update(sealed[:16])  # noqa: S305 (one block, RFC 9001 section 5.4.3)
    first = head[0] ^ (mask[0] & 0x0F)
    number = bytes(byte ^ masked for byte, masked in zip(head[-4:], mask[1:5], strict=True))
    return bytes([first]) + head[1:-4] + number + sealed


FLOODER = """
import socket, struct, sys, time
packets, target, source = sys.argv[1:4]
port, count, seconds = int(sys.argv[4]), int(sys.argv[5]), float(sys.argv[6])
raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
kept = open(packets, "rb").read()
ends = socket.inet_aton(source) + socket.inet_aton(target)
made = []
for at in range(0, len(kept), 1200):
    udp = struct.pack(">HHHH", port, port, 8 + 1200, 0) + kept[at:at + 1200]
    made.append(struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(udp), 0, 0, 64, 17, 0) + ends + udp)
begin = time.monotonic()
for number in range(count):
    raw.sendto(made[number % len(made)], (target, 0))
    if number % 50 == 0:
        time.sleep(max(0.0, begin + number * seconds / count - time.monotonic()))
print(time.monotonic() - begin)
"""


def resident_mb(pid: int) -> float:
    """Resident memory of a process."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def main() -> int:
    """Flood, play, judge."""
    arguments = parser(__doc__)
    arguments.add_argument("--packets", type=int, default=1_000_000)
    arguments.add_argument("--seconds", type=float, default=50.0)
    args = arguments.parse_args()
    if reason := why_not():
        raise SystemExit(reason)
    with (
        tempfile.TemporaryDirectory(prefix="l4proxy-") as name,
        network("ams", "iad", "client", "origin") as net,
    ):
        folder = Path(name)
        (folder / "packets").write_bytes(b"".join(first_packet() for _ in range(KINDS)))
        app = f"---\nname: game\nlisten: udp/{PORT}\norigins: ['{net['origin'].ipv4}:7']\nrouting: {{egress: [iad]}}\n"
        daemons = start_fleet(net, folder, app, pops=("ams", "iad"))
        net.start("origin", sys.executable, str(ECHO), "serve", net["origin"].ipv4, "7")
        ams = daemons["ams"]
        wait_until("a route", lambda: ams.ask("route", "list", "game")["routes"], timeout_s=60)
        fetch = [
            sys.executable,
            "-c",
            f"import urllib.request as r; print(r.urlopen('{METRICS}').read().decode())",
        ]

        def counted(event: str) -> int:
            found = re.search(
                rf'l4proxy_engine_events_total{{[^}}]*name="{event}"[^}}]*}} (\S+)',
                net["ams"].run(*fetch).stdout,
            )
            return 0 if found is None else int(float(found[1]))

        seconds = args.seconds + 6
        echo = [
            sys.executable,
            str(ECHO),
            "udp",
            net["ams"].ipv4,
            str(PORT),
            "--seconds",
            str(seconds),
            "--rate",
            str(RATE),
        ]
        player = subprocess.Popen(net["client"].command(*echo), stdout=subprocess.PIPE, text=True)
        time.sleep(3)
        engine = ams.engine_pid()
        before = most_mb = resident_mb(engine)
        command = [sys.executable, "-c", FLOODER, str(folder / "packets"), net["ams"].ipv4, net["iad"].ipv4]
        command += [str(OVERLAY_PORT), str(args.packets), str(args.seconds)]
        flood = subprocess.Popen(net["client"].command(*command), stdout=subprocess.PIPE, text=True)
        while flood.poll() is None:
            time.sleep(0.5)
            most_mb = max(most_mb, resident_mb(engine))
        took = float(flood.communicate()[0])
        played = json.loads(player.communicate(timeout=seconds + 60)[0])
        retries, handshakes = counted("overlay_retries"), counted("overlay_handshakes_failed")
        drops = {reason: count for reason, count in ams.ask("status")["drops"].items() if count}
    delivered = played["received"] / played["sent"]
    figures = {
        "packets": args.packets,
        "seconds": round(took, 1),
        "delivered_share": round(delivered, 5),
        "datagrams": played["sent"],
        "asked_to_prove": retries,
        "handshakes_failed": handshakes,
        "added_mb": round(most_mb - before, 1),
        "drops": drops,
    }
    bounds = [
        (f"an established tunnel delivers at least {MIN_DELIVERED:.1%}", delivered >= MIN_DELIVERED),
        (f"memory grows by at most {MAX_ADDED_MB:.0f} MB", most_mb - before <= MAX_ADDED_MB),
        ("most senders are asked to prove their address", retries > args.packets // 4),
    ]
    return report(args, "A million forged first packets", figures, bounds)


if __name__ == "__main__":
    sys.exit(main())
