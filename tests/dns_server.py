"""A name server of a few lines for tests: UDP, one zone held in a table, nothing but A, AAAA, SRV, CNAME and denials.

Run as a program it serves a JSON file (read again for every question) until it is ended:
`python tests/dns_server.py ADDRESS PORT FILE`, with `{"mc.example.net": {"A": ["192.0.2.1"]}, …}`.
"""

import json
import socket
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Self

import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset

Zone = Mapping[str, Mapping[str, list[str]]]

SOA = "ns.example.net. admin.example.net. 1 60 60 600 7"
"""The last number is how long denials hold."""


def respond(packet: bytes, zone: Zone, ttl: int) -> bytes | None:
    """Return the answer to a query; None for what is no query."""
    query = dns.message.from_wire(packet)
    response = dns.message.make_response(query)
    response.flags |= dns.flags.AA
    question = query.question[0]
    name, kind = question.name.to_text(omit_final_dot=True).lower(), dns.rdatatype.to_text(question.rdtype)
    records = zone.get(name)
    if records is not None and "SILENT" in records:
        return None
    if records is not None and "FAIL" in records:
        response.set_rcode(dns.rcode.SERVFAIL)
        return response.to_wire()
    if records is not None and "CNAME" in records and kind != "CNAME":
        alias = records["CNAME"][0]
        response.answer.append(dns.rrset.from_text(name + ".", ttl, "IN", "CNAME", alias + "."))
        name, records = alias, zone.get(alias)
    if records is None:
        response.set_rcode(dns.rcode.NXDOMAIN)
    elif kind in records:
        response.answer.append(dns.rrset.from_text(name + ".", ttl, "IN", kind, *records[kind]))
        return response.to_wire()
    response.authority.append(dns.rrset.from_text("example.net.", 60, "IN", "SOA", SOA))
    return response.to_wire()


def serve(sock: socket.socket, zone: Callable[[], Zone], ttl: int, ended: threading.Event) -> None:
    """Answer until it has ended."""
    sock.settimeout(0.05)
    while not ended.is_set():
        try:
            packet, client = sock.recvfrom(4096)
        except TimeoutError:
            continue
        answer = respond(packet, zone(), ttl)
        if answer is not None:
            sock.sendto(answer, client)


class DnsServer:
    """A name server on a thread, on a loopback port that the kernel chose. `zone` may be changed at any time."""

    def __init__(self, zone: Zone, ttl: int = 42) -> None:
        self.zone = zone
        self._sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._sock.bind(("127.0.0.1", 0))
        self.port = int(self._sock.getsockname()[1])
        self._ended = threading.Event()
        arguments = (self._sock, lambda: self.zone, ttl, self._ended)
        self._thread = threading.Thread(target=serve, args=arguments)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        self._sock.close()


def main() -> None:
    """Serve a file."""
    address, port, file = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.bind((address, port))
        serve(sock, lambda: json.loads(file.read_text()), 5, threading.Event())


if __name__ == "__main__":
    main()
