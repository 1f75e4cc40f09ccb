"""Real questions to a real name server on loopback, and the files that come before it."""

from pathlib import Path

import pytest

from l4proxy.core.resolution import MIN_TTL_S, Failed, Found, Nothing, Outcome, Question, Service
from l4proxy.daemon import dns_lookup
from l4proxy.daemon.dns_lookup import DnsLookup, NameServer, find_in_hosts
from tests.dns_server import DnsServer, Zone

pytestmark = pytest.mark.anyio

ZONE: Zone = {
    "mc.example.net": {"A": ["192.0.2.1", "192.0.2.2"], "AAAA": ["2001:db8::1"]},
    "v4.example.net": {"A": ["192.0.2.4"]},
    "alias.example.net": {"CNAME": ["mc.example.net"]},
    "broken.example.net": {"FAIL": []},
    "silent.example.net": {"SILENT": []},
    "_game._tcp.example.net": {"SRV": ["10 5 25565 mc.example.net.", "20 0 25566 v4.example.net."]},
}
TTL = 42
DENIED_TTL = 7


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy machine may keep the name server waiting for longer than a daemon would."""
    monkeypatch.setattr(dns_lookup, "LIFETIME_S", 60.0)


async def ask(folder: Path, name: str, kind: str) -> Outcome:
    """Ask the zone, with no hosts file in the way; servers rotate their records, so they are put in order."""
    with DnsServer(ZONE, TTL) as server:
        lookup = DnsLookup([NameServer("127.0.0.1", server.port)], hosts=folder / "none")
        found = await lookup(Question(name, kind))  # type: ignore[arg-type]
    if isinstance(found, Found):
        return Found(found.ttl_s, tuple(sorted(found.addresses)), tuple(sorted(found.services)))
    return found


@pytest.mark.parametrize(
    ("name", "kind", "expected"),
    [
        ("mc.example.net", "A", Found(TTL, ("192.0.2.1", "192.0.2.2"))),
        ("mc.example.net.", "AAAA", Found(TTL, ("2001:db8::1",))),
        ("alias.example.net", "A", Found(TTL, ("192.0.2.1", "192.0.2.2"))),
        ("v4.example.net", "AAAA", Nothing(DENIED_TTL, "no AAAA records")),
        ("none.example.net", "A", Nothing(DENIED_TTL, "no such name")),
        ("broken.example.net", "A", Failed("no name server gave a usable answer")),
        (
            "_game._tcp.example.net",
            "SRV",
            Found(
                TTL,
                services=(
                    Service(10, 5, 25565, "mc.example.net"),
                    Service(20, 0, 25566, "v4.example.net"),
                ),
            ),
        ),
    ],
)
async def test_each_kind_of_answer(name: str, kind: str, expected: Outcome, tmp_path: Path) -> None:
    assert await ask(tmp_path, name, kind) == expected


async def test_a_server_that_says_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(dns_lookup, "LIFETIME_S", 0.2)
    found = await ask(tmp_path, "silent.example.net", "A")
    assert found == Failed("no name server answered in time")


async def test_a_host_without_name_servers(tmp_path: Path) -> None:
    lookup = DnsLookup(resolv_conf=tmp_path / "none", hosts=tmp_path / "none")
    found = await lookup(Question("mc.example.net", "A"))
    assert found == Failed(f"{tmp_path / 'none'} names no name server")


async def test_the_hosts_file_comes_first_and_speaks_for_both_families(tmp_path: Path) -> None:
    hosts = tmp_path / "hosts"
    hosts.write_text("192.0.2.9 mc.example.net\n")
    with DnsServer(ZONE, TTL) as server:
        lookup = DnsLookup([NameServer("127.0.0.1", server.port)], hosts=hosts)
        assert await lookup(Question("MC.example.net.", "A")) == Found(MIN_TTL_S, ("192.0.2.9",))
        assert await lookup(Question("mc.example.net", "AAAA")) == Found(MIN_TTL_S)
        assert await lookup(Question("v4.example.net", "A")) == Found(TTL, ("192.0.2.4",))
        hosts.write_text("192.0.2.10 mc.example.net\n")
        assert await lookup(Question("mc.example.net", "A")) == Found(MIN_TTL_S, ("192.0.2.10",))


async def test_names_of_one_word_are_completed_as_the_host_says(tmp_path: Path) -> None:
    """Containers find each other by one word and a search domain; only the loopback server's port is not of the usual form."""
    conf = tmp_path / "resolv.conf"
    with DnsServer(ZONE, TTL) as server:
        conf.write_text("nameserver 127.0.0.1\nsearch other.test example.net\n")
        lookup = DnsLookup(resolv_conf=conf, hosts=tmp_path / "none")
        resolver = lookup._resolver()
        resolver.port = server.port
        lookup._resolver = lambda: resolver  # type: ignore[method-assign]
        assert await lookup(Question("v4", "A")) == Found(TTL, ("192.0.2.4",))


def test_lines_of_a_hosts_file() -> None:
    text = """
# comment
192.0.2.1   One one.example # trailing
2001:db8::1\tone
999.1.1.1   one
192.0.2.2
192.0.2.3   two#three
"""
    assert find_in_hosts(text, "one") == ("192.0.2.1", "2001:db8::1")
    assert find_in_hosts(text, "ONE.example.") == ("192.0.2.1",)
    assert find_in_hosts(text, "two") == ("192.0.2.3",)
    assert find_in_hosts(text, "three") == ()
    assert find_in_hosts(text, "") == ()
