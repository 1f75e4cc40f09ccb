"""What a daemon knows of its origins: names become targets and checks, troubles become problems, and both outlive a restart."""

from pathlib import Path

import anyio
import pytest

from l4proxy.core.app import App, Listen, Origin
from l4proxy.core.ids import AppName
from l4proxy.core.policy import ClientAddress
from l4proxy.core.resolution import Failed, Found, Nothing, OriginName, Outcome, Question, Service
from l4proxy.core.resolution import Target as Resolved
from l4proxy.daemon import origins, saved_names
from l4proxy.daemon.checker import Checker, CheckResult, Target, check
from l4proxy.daemon.configuration import LONE_POP, Configuration, lone_fleet
from l4proxy.daemon.origins import Origins, check_targets
from l4proxy.daemon.resolver import Targets
from l4proxy.daemon.saved_names import MalformedNames, SavedOrigins
from l4proxy.daemon.state import StateDirectory, StateKeeper

pytestmark = pytest.mark.anyio

GAME = Origin("mc.example.net:25565", "mc.example.net", 25565, "name")
NAME = OriginName("name", "mc.example.net", 25565)
A = Question("mc.example.net", "A")


def app(*given: Origin, private: bool = False, protocol: str = "tcp", **more: object) -> App:
    """Return an app with these origins."""
    listen = Listen(protocol, "::", 7000, 7000)  # type: ignore[arg-type]
    return App(AppName("game"), (listen,), given, allow_private_origins=private, **more)  # type: ignore[arg-type]


def configuration(*apps: App) -> Configuration:
    """Return the configuration of a lone PoP."""
    return Configuration(apps, lone_fleet(), LONE_POP, None)


class World:
    """Origins over a fake DNS and a real state directory."""

    def __init__(self, folder: Path, zone: dict[Question, Outcome]) -> None:
        self.zone = zone
        self.told: list[Targets] = []
        self.results: list[CheckResult] = []
        self.state = StateKeeper(StateDirectory(folder))
        self.subject = Origins(Checker(self.on_result), self.state, self.lookup, self.told.append)

    async def lookup(self, question: Question) -> Outcome:
        """Answer from the table."""
        return self.zone.get(question, Nothing(60, "no such name"))

    async def on_result(self, result: CheckResult) -> None:
        """Take the result of a check."""
        self.results.append(result)


async def test_a_start_waits_for_its_names_and_a_restart_without_dns_has_them_still(tmp_path: Path) -> None:
    config = configuration(app(GAME))
    first = World(tmp_path, {A: Found(60, ("198.41.0.4",))})
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(first.subject.run)
        await first.subject.prepare(config)
        first.subject.use(config)
        tasks.cancel_scope.cancel()
    assert first.subject.names == {NAME: (Resolved("198.41.0.4", 25565),)}
    assert first.subject.problems() == {}
    await first.state.flush()

    second = World(
        tmp_path, {A: Failed("timed out"), Question("mc.example.net", "AAAA"): Failed("timed out")}
    )
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(second.subject.run)
        await second.subject.prepare(config)
        second.subject.use(config)
        await anyio.sleep(0.01)
        tasks.cancel_scope.cancel()
    assert second.subject.names == first.subject.names
    assert second.subject.source_key == first.subject.source_key


async def test_a_name_that_nobody_answers_for_delays_a_start_only_for_a_while(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(origins, "SETTLE_S", 0.01)
    world = World(tmp_path, {})
    config = configuration(app(GAME))
    await world.subject.prepare(config)  # nothing runs that would ask
    world.subject.use(config)
    assert world.subject.names == {NAME: ()}
    assert world.subject.targets == {Target("game", GAME.name, "", None, trouble="unresolved")}


async def test_problems_name_the_origin_the_reason_and_the_fix(tmp_path: Path) -> None:
    world = World(tmp_path, {A: Found(60, ("10.0.0.5", "127.0.0.1", "198.41.0.4"))})
    config = configuration(app(GAME))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(world.subject.run)
        world.subject.use(config)
        await world.subject.prepare(config)
        tasks.cancel_scope.cancel()
    origin = "origin mc.example.net:25565 of app game leads to"
    assert world.subject.problems() == {
        f"{origin} 10.0.0.5, which is private: it is not dialled": (
            "write allow_private_origins: true in the app, if the name is meant to lead there"
        ),
        f"{origin} 127.0.0.1, which is loopback: it is not dialled": (
            "correct the name's records; an address that is meant is written into the app file itself"
        ),
    }
    assert world.subject.targets == {Target("game", GAME.name, "198.41.0.4", 25565)}


async def test_a_denial_and_a_failure_say_what_stays(tmp_path: Path) -> None:
    world = World(tmp_path, {})
    config = configuration(app(GAME))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(world.subject.run)
        world.subject.use(config)
        await world.subject.prepare(config)
        tasks.cancel_scope.cancel()
    (what,) = world.subject.problems()
    assert what == "origin mc.example.net:25565 of app game: no such name; it cannot be reached"


def test_checks_knock_at_the_preferred_addresses_and_never_at_denied_ones() -> None:
    service = Origin("srv:_x._tcp.example.net", "_x._tcp.example.net", None, "srv")
    name = OriginName("srv", "_x._tcp.example.net")
    targets = (
        Resolved("198.41.0.4", 90, 0, 20, 0),
        Resolved("198.41.0.5", 80, 1, 10, 0),
        Resolved("10.0.0.1", 80, 1, 10, 0),
    )
    plain, here = Origin("192.0.2.1", "192.0.2.1", None), Origin("localhost:9", "localhost", 9, "name")
    found = check_targets(configuration(app(service, plain, here)), {name: targets})
    assert found == {
        Target("game", service.name, "198.41.0.5", 80, (("198.41.0.4", 90),)),
        Target("game", "192.0.2.1", "192.0.2.1", 7000),
        Target("game", "localhost:9", "127.0.0.1", 9, (("::1", 9),)),
    }
    private = check_targets(configuration(app(service, private=True)), {name: targets})
    assert {place[0] for target in private for place in target.others} == {"198.41.0.4", "10.0.0.1"}
    pinged = check_targets(configuration(app(plain, protocol="udp")), {})
    assert pinged == {Target("game", "192.0.2.1", "192.0.2.1", None)}
    denied = check_targets(configuration(app(service)), {name: targets[2:]})
    assert denied == {Target("game", service.name, "", None, trouble="denied")}


async def test_a_check_takes_the_address_that_answers(free_port: int) -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as origin:
        port = origin.getsockname()[1]
        target = Target("game", "x", "127.0.0.1", free_port, (("127.0.0.1", port),))
        result = await check(target, 1)
    assert result.reason == ""
    assert result.rtt_ns is not None
    dead = Target("game", "x", "127.0.0.1", free_port, (("127.0.0.1", free_port),))
    assert await check(dead, 1) == CheckResult(dead, None, "refused")
    nowhere = Target("game", "x", "", None, trouble="unresolved")
    assert await check(nowhere, 1) == CheckResult(nowhere, None, "unresolved")


async def test_source_addresses_that_are_not_here_are_a_problem(tmp_path: Path) -> None:
    world = World(tmp_path, {})
    pool = ("127.0.0.1/32", "192.0.2.76/31")
    world.subject.use(configuration(app(Origin("192.0.2.1", "192.0.2.1", None), source_pool=pool)))
    (what,) = world.subject.problems()
    assert what.startswith("source pool of app game: 192.0.2.76 and 1 more are not of this host")
    await world.state.flush()
    kept = saved_names.decode((tmp_path / saved_names.FILE_NAME).read_bytes())
    assert kept.source_key == world.subject.source_key, "written down before anybody was given an address"


@pytest.mark.parametrize("may", [True, False])
async def test_whoever_may_not_speak_for_clients_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, may: bool
) -> None:
    monkeypatch.setattr(origins, "_may_be_transparent", lambda: may)
    world = World(tmp_path, {})
    transparent = ClientAddress("transparent", "transparent")
    world.subject.use(configuration(app(Origin("192.0.2.1", "192.0.2.1", None), client_address=transparent)))
    expected = "app game is transparent, which needs CAP_NET_ADMIN or CAP_NET_RAW: its flows are refused"
    assert list(world.subject.problems()) == ([] if may else [expected])


async def test_what_is_remembered_comes_back_and_nonsense_does_not(tmp_path: Path) -> None:
    names = {
        OriginName("srv", "_x._udp.example.net"): (Resolved("192.0.2.1", 80, 1, 2, 3),),
        OriginName("name", "mc.example.net", 7): (Resolved("2001:db8::1", None),),
    }
    saved = SavedOrigins(bytes(range(16)), names)
    assert saved_names.decode(saved_names.encode(saved)) == saved
    for nonsense in (
        b"", b"[]", b"{}", b'{"version": 2}', b'{"version": 1, "source_key": "00", "names": []}',
        saved_names.encode(saved).replace(b'"srv"', b'"ip"'),
        saved_names.encode(saved).replace(b"80,", b"80000,"),
        b"[" * 100_000,
    ):  # fmt: skip
        with pytest.raises(MalformedNames):
            saved_names.decode(nonsense)
    (tmp_path / saved_names.FILE_NAME).write_bytes(b"nonsense")
    assert len(World(tmp_path, {}).subject.source_key) == 16


async def test_services_are_resolved_to_their_hosts_before_a_start(tmp_path: Path) -> None:
    service = Origin("srv:_x._tcp.example.net", "_x._tcp.example.net", None, "srv")
    zone: dict[Question, Outcome] = {
        Question("_x._tcp.example.net", "SRV"): Found(60, services=(Service(1, 2, 80, "a.example.net"),)),
        Question("a.example.net", "A"): Found(60, ("198.41.0.4",)),
    }
    world = World(tmp_path, zone)
    config = configuration(app(service))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(world.subject.run)
        await world.subject.prepare(config)
        tasks.cancel_scope.cancel()
    world.subject.use(config)
    assert world.subject.names == {
        OriginName("srv", "_x._tcp.example.net"): (Resolved("198.41.0.4", 80, 0, 1, 2),)
    }
