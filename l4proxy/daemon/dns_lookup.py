"""One question to this host's names: /etc/hosts first, then DNS as /etc/resolv.conf says. Remembers nothing, retries nothing.

Both files are read for every question, so that an edit needs no restart; questions are few, and the files are small. Of
nsswitch.conf nothing is read: mDNS, LDAP and their like are not asked.
"""

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from l4proxy.core.resolution import MIN_TTL_S, Failed, Found, Nothing, Outcome, Question, RecordType, Service

if TYPE_CHECKING:
    import dns.asyncresolver
    import dns.resolver

LIFETIME_S = 6.0
"""For one question, all name servers and retries included."""

MAX_HOSTS_BYTES = 1024 * 1024
"""Of a hosts file that are read: block lists of that size exist, and an origin is seldom at the end of one."""

MAX_REASON = 200
"""Characters of a reason that are kept: an error may quote what a server sent."""


@dataclass(frozen=True, slots=True)
class NameServer:
    """A name server that is asked instead of those in resolv.conf."""

    address: str
    port: int


class DnsLookup:
    """Asks. Works on any loop that anyio runs on."""

    def __init__(
        self,
        servers: Iterable[NameServer] = (),
        *,
        resolv_conf: Path = Path("/etc/resolv.conf"),
        hosts: Path = Path("/etc/hosts"),
    ) -> None:
        self._servers = tuple(servers)
        self._resolv_conf = resolv_conf
        self._hosts = hosts

    async def __call__(self, question: Question) -> Outcome:
        """Return what is known of a question. Never raises for what files, servers or answers do."""
        if question.kind != "SRV":
            known = find_in_hosts(self._read_hosts(), question.name)
            if known:
                wanted = tuple(address for address in known if (":" in address) == (question.kind == "AAAA"))
                return Found(MIN_TTL_S, wanted)
        return await self._ask(question)

    def _read_hosts(self) -> str:
        try:
            with self._hosts.open("rb") as file:
                return file.read(MAX_HOSTS_BYTES).decode("utf-8", "replace")
        except OSError:
            return ""

    async def _ask(self, question: Question) -> Outcome:
        import dns.asyncbackend
        import dns.exception
        import dns.resolver

        try:
            # Said each time: dnspython would remember the loop that asked first.
            backend = dns.asyncbackend.get_backend(dns.asyncbackend.sniff())
            resolver = self._resolver()
            answer = await resolver.resolve(
                question.name,
                question.kind,
                raise_on_no_answer=False,
                search=True,
                lifetime=LIFETIME_S,
                backend=backend,
            )
        except dns.resolver.NXDOMAIN as error:
            return Nothing(_negative_ttl_s(error), "no such name")
        except dns.resolver.LifetimeTimeout:
            return Failed("no name server answered in time")
        except dns.resolver.NoNameservers:
            return Failed("no name server gave a usable answer")
        except dns.resolver.NoResolverConfiguration:
            return Failed(f"{self._resolv_conf} names no name server")
        except (dns.exception.DNSException, OSError, ValueError) as error:
            return Failed(f"{type(error).__name__}: {error}"[:MAX_REASON])
        ttl_s = float(answer.chaining_result.minimum_ttl)
        if answer.rrset is None:
            return Nothing(ttl_s, f"no {question.kind} records")
        return _found(question.kind, ttl_s, answer)

    def _resolver(self) -> "dns.asyncresolver.Resolver":
        import dns.asyncresolver
        import dns.nameserver

        if not self._servers:
            return dns.asyncresolver.Resolver(str(self._resolv_conf))
        resolver = dns.asyncresolver.Resolver(configure=False)
        resolver.nameservers = [
            dns.nameserver.Do53Nameserver(server.address, server.port) for server in self._servers
        ]
        return resolver


def _found(kind: RecordType, ttl_s: float, answer: "dns.resolver.Answer") -> Found:
    if kind == "SRV":
        services = tuple(
            Service(record.priority, record.weight, record.port, record.target.to_text(omit_final_dot=True))
            for record in answer
        )
        return Found(ttl_s, services=services)
    return Found(ttl_s, tuple(record.address for record in answer))


def _negative_ttl_s(error: "dns.resolver.NXDOMAIN") -> float:
    """Return how long the denial holds: of all names that were tried, the shortest."""
    responses = error.responses()  # type: ignore[no-untyped-call]  # dnspython has no types there
    ttls = [response.resolve_chaining().minimum_ttl for response in responses.values()]
    return float(min(ttls, default=0))


def find_in_hosts(text: str, name: str) -> tuple[str, ...]:
    """Return the addresses that a hosts file gives a name, in order."""
    wanted = name.lower().removesuffix(".")
    found = []
    for line in text.splitlines():
        address, *names = line.partition("#")[0].split() or [""]
        if wanted in (known.lower().removesuffix(".") for known in names):
            try:
                found.append(str(ipaddress.ip_address(address)))
            except ValueError:
                continue  # as the C library does: a line that is broken is no line
    return tuple(found)
