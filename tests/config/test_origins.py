"""Origins that are names, source pools, and what they may lead to, as operators write them."""

import pytest

from l4proxy.core.app import Origin
from l4proxy.core.resolution import OriginName, Target
from tests.config.support import APP, Files


def origin(files: Files, text: str) -> Origin:
    """Return the only origin of an app."""
    (found,) = files.app(APP.replace("203.0.113.10", text)).origins
    return found


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("play.example.net", OriginName("name", "play.example.net")),
        ("play.example.net:80", OriginName("name", "play.example.net", 80)),
        ("'srv:_game._tcp.example.net'", OriginName("srv", "_game._tcp.example.net")),
        ("{address: play.example.net}", OriginName("name", "play.example.net")),
        ("203.0.113.10:80", None),
        ("'[2001:db8::1]:80'", None),
        ("localhost:80", None),
        ("db.localhost:80", None),
    ],
)
def test_what_is_asked_of_dns(files: Files, text: str, expected: OriginName | None) -> None:
    assert origin(files, text).to_resolve == expected


def test_where_an_origin_is(files: Files) -> None:
    targets = (Target("192.0.2.1", 80), Target("2001:db8::1", 80))
    name = OriginName("name", "play.example.net", 80)
    assert origin(files, "play.example.net:80").targets({name: targets}) == targets
    assert origin(files, "play.example.net:80").targets({}) == ()
    assert origin(files, "203.0.113.10").targets({}) == (Target("203.0.113.10", None),)
    assert origin(files, "localhost:9").targets({}) == (Target("127.0.0.1", 9), Target("::1", 9))


@pytest.mark.parametrize("listen", ["tcp/25565", "tcp/127.0.0.1:25565", "tcp/[::1]:25565"])
def test_localhost_at_an_own_port_is_a_circle(files: Files, listen: str) -> None:
    faults = files.faults(f"name: app\nlisten: '{listen}'\norigins: [localhost]\n")
    assert faults == [f"3: origins[0]: is the app's own listener {listen}: flows would go round in a circle"]
    assert files.faults("name: app\nlisten: tcp/25565\norigins: [play.example.net]\n") == []


def test_a_pool_of_source_addresses(files: Files) -> None:
    app = files.app(APP + "source: {pool: [203.0.113.1, 203.0.113.8/29, '2001:db8::/120']}\n")
    assert app.source_pool == ("203.0.113.1/32", "203.0.113.8/29", "2001:db8::/120")
    assert files.app(APP).source_pool == ()


@pytest.mark.parametrize(
    ("pool", "fault"),
    [
        ("[10.0.0.0/22, 10.1.0.1]", "has 1025 addresses together, and 1024 are possible"),
        ("['2001:db8::/64']", "has 18446744073709551616 addresses together, and 1024 are possible"),
        ("[]", "must name at least one address"),
        ("[10.0.0.1, 10.0.0.1]", "names 10.0.0.1/32 twice"),
    ],
)
def test_a_pool_is_bounded(files: Files, pool: str, fault: str) -> None:
    assert files.faults(APP + f"source: {{pool: {pool}}}\n") == [f"4: source.pool: {fault}"]


def test_private_networks_are_opened_by_a_word(files: Files) -> None:
    assert files.app(APP + "allow_private_origins: true\n").allow_private_origins
    assert not files.app(APP).allow_private_origins
    assert files.faults(APP + "allow_private_origins: 1\n") != []
