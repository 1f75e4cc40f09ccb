"""A daemon of a fleet against the fake engine: identity, probes, control messages, toggles of other PoPs."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest

from l4proxy import pki
from l4proxy.core import bus
from l4proxy.core.bus import Message, ToggleState
from l4proxy.core.ids import AppName, LinkName, PopName, path_id
from l4proxy.daemon.options import DaemonOptions
from l4proxy.errors import ConfigError, IdentityError
from tests.daemon.harness import Running, options_for, running, write_app
from tests.daemon.support import until
from tests.fake_engine import FakeEngine, fake_engine

pytestmark = pytest.mark.anyio

FLEET = """\
fleet: demo
pops:
  ams: {{transits: {{a: "127.0.0.1:{port}"}}}}
  iad: {{transits: {{a: "127.0.0.2:4600"}}}}
"""


@pytest.fixture
def anyio_backend() -> object:
    return ("asyncio", {"use_uvloop": True})


@pytest.fixture
def folder(tmp_path: Path, free_port: int) -> Path:
    write_app(tmp_path / "apps", "game", free_port)
    (tmp_path / "fleet.yaml").write_text(FLEET.format(port=free_port))
    now = datetime.now(UTC)
    pki.init(tmp_path / "ca", "demo", now)
    for pop in ("ams", "iad"):
        pki.issue(tmp_path / "ca", pop, tmp_path / f"id-{pop}", now)
    (tmp_path / "run").mkdir()
    return tmp_path


def options_of(folder: Path, pop: str = "ams", identity: str = "id-ams") -> DaemonOptions:
    return options_for(folder, fleet=folder / "fleet.yaml", pop=pop, identity=folder / identity)


@asynccontextmanager
async def ams(folder: Path) -> AsyncIterator[tuple[Running, FakeEngine]]:
    """Give the daemon of ams and its engine."""
    async with (
        fake_engine(folder / "run" / "engine.sock", pop="ams") as engine,
        running(options_of(folder)) as subject,
    ):
        await subject.ready()
        yield subject, engine


async def test_the_identity_comes_before_the_first_snapshot(folder: Path) -> None:
    async with ams(folder) as (_, engine):
        assert engine.received == ["hello", "identity", "socket", "socket", "apply"]
        assert engine.identity is not None
        assert (engine.identity["fleet"], engine.identity["pop"]) == ("demo", "ams")
        assert engine.identity["key_pem"] == (folder / "id-ams" / "key.pem").read_bytes()
        assert engine.snapshot is not None
        assert [peer["name"] for peer in engine.snapshot["peers"]] == ["iad"]


@pytest.mark.parametrize(("line", "mode"), [("", "channel"), ("datagrams: quic\n", "quic")])
async def test_the_engine_is_told_what_carries_datagrams(folder: Path, line: str, mode: str) -> None:
    fleet = folder / "fleet.yaml"
    fleet.write_text(fleet.read_text() + line)
    async with ams(folder) as (_, engine):
        assert engine.snapshot is not None
        assert engine.snapshot["datagrams"] == mode


@pytest.mark.parametrize(("rate", "bytes_per_s"), [("", 0), (", transit_rate: 200Mbit/s", 25_000_000)])
async def test_the_engine_is_told_how_much_others_may_send_through_here(
    folder: Path, rate: str, bytes_per_s: int
) -> None:
    fleet = folder / "fleet.yaml"
    fleet.write_text(fleet.read_text().replace("}}", f"}}{rate}}}"))
    async with ams(folder) as (_, engine):
        assert engine.snapshot is not None
        assert engine.snapshot["transit_bytes_per_s"] == bytes_per_s


async def test_what_each_pop_has_sent_through_here_stands_beside_it(folder: Path) -> None:
    async with ams(folder) as (subject, engine):
        assert all("forwarded" not in pop for pop in subject.backend.pops()["pops"])
        passed = {"packets": 13, "bytes": 14_000, "drops": {"transit_rate": 2, "outer_tag": 1}}
        engine.transit = [{"previous_hop": "iad", **passed}]
        await engine.say_counters()
        await until(lambda: "forwarded" in subject.backend.pops()["pops"][1])
        here, there = subject.backend.pops()["pops"]
        assert "forwarded" not in here
        assert there["forwarded"] == passed


async def test_an_identity_that_was_renewed_reaches_the_engine_with_a_reload(folder: Path) -> None:
    async with ams(folder) as (subject, engine):
        pki.issue(folder / "ca", "ams", folder / "renewed", datetime.now(UTC))
        for name in ("cert.pem", "key.pem"):
            (folder / "renewed" / name).replace(folder / "id-ams" / name)
        assert (await subject.backend.reload())["changed"] == ["identity"]
        await until(lambda: engine.received.count("identity") == 2)
        assert engine.identity is not None
        assert engine.identity["cert_pem"] == (folder / "id-ams" / "cert.pem").read_bytes()


async def say_samples(engine: FakeEngine, count: int) -> None:
    """Say what probes of the one link find, 80 ms each."""
    for sequence in range(1, count + 1):
        at_ns = sequence * 10**9
        sample = {"link": "ams/a>iad/a", "sequence": sequence, "sent_ns": at_ns, "rtt_ns": 80_000_000}
        received = {"received_ns": at_ns + 40_000_000, "peer_received": sequence}
        await engine.say("samples", {"samples": [sample | received]})


async def test_samples_become_estimates(folder: Path) -> None:
    async with ams(folder) as (subject, engine):
        await say_samples(engine, 4)
        await until(lambda: subject.backend.links()["links"][0]["samples"] == 4)
        link = subject.backend.links()["links"][0]
        assert (link["name"], link["up"], link["rtt_ms"]) == ("ams/a>iad/a", True, 80.0)
        text = subject.backend.metrics("")[1].decode()
        assert 'l4proxy_link_rtt_seconds{link="ams/a>iad/a"} 0.08' in text
        assert 'l4proxy_link_probes_total{link="ams/a>iad/a",result="answered"} 4.0' in text


async def test_a_link_with_traffic_that_no_hello_is_heard_of_is_probed_five_times_a_second(
    folder: Path,
) -> None:
    async with ams(folder) as (subject, engine):
        await say_samples(engine, 4)
        await until(lambda: subject.backend.links()["links"][0]["up"])
        use = {"primary_alive": True, "in_use": True, "connections": 1, "path_rtt_us": None}
        path = path_id((LinkName("ams/a>iad/a"),))
        engine.handles = [{"peer": "iad", "policy": "off", "active_path": path, **use}]

        async def is_probed_every(interval_ms: int) -> None:
            await engine.say_counters()
            await until(
                lambda: (
                    engine.snapshot is not None
                    and engine.snapshot["links"][0]["probe_interval_ms"] == interval_ms
                )
            )

        event = {"at_ns": 1, "peer": "iad", "path_id": path, "links": ["ams/a>iad/a"]}
        await engine.say("events", {"events": [event | {"kind": "path_dead"}]})
        await is_probed_every(200)
        await engine.say("events", {"events": [event | {"kind": "path_alive"}]})
        await is_probed_every(1_000)


async def test_a_neighbour_that_comes_is_told_what_there_is_and_gets_what_it_asks_for(folder: Path) -> None:
    async with ams(folder) as (subject, engine):
        await say_samples(engine, 4)
        await engine.say("events", {"events": [{"at_ns": 1, "kind": "tunnel_up", "peer": "iad"}]})
        await until(lambda: engine.bus)
        peer, payload = engine.bus[0]
        assert peer == "iad"
        assert list(bus.decode(payload).digest or {}) == ["ams"]
        want = bus.encode(Message(want={PopName("ams"): (0, 0)}))
        await engine.say("bus", {"peer": "iad", "payload": want})
        await until(lambda: any(bus.decode(said).records for _, said in engine.bus))
        (record,) = next(found for _, said in engine.bus if (found := bus.decode(said).records))
        assert (record.owner, [state.link for state in record.links]) == ("ams", ["ams/a>iad/a"])
        (here, there) = subject.backend.pops()["pops"]
        assert (here["self"], there["name"], there["connected"]) == (True, "iad", True)
        engine.peers = [{"name": "iad", "connected": False, "since_ns": 0}]
        await engine.say_counters()
        await until(lambda: not subject.backend.pops()["pops"][1]["connected"])


async def test_a_toggle_of_another_pop_is_followed(folder: Path) -> None:
    async with ams(folder) as (subject, engine):
        toggle = ToggleState(AppName("game"), None, "off", 7, PopName("iad"))
        await engine.say("bus", {"peer": "iad", "payload": bus.encode(Message(toggles=(toggle,)))})
        await until(lambda: subject.backend.smart_routing()["apps"][0]["in_force"] == "off")
        (override,) = subject.backend.smart_routing()["apps"][0]["overrides"]
        assert override == {"pop": "all", "value": "off", "writer": "iad"}


async def test_garbage_on_the_bus_is_counted_and_nothing_else(folder: Path) -> None:
    async with ams(folder) as (subject, engine):
        controller = subject.daemon.control.controller
        assert controller is not None
        await engine.say("bus", {"peer": "iad", "payload": b"\xc1garbage"})
        await until(lambda: controller.counters.bus_malformed == 1)
        assert subject.daemon.control.internal_errors == 0


async def test_an_internal_error_is_survived_and_counted(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One input that the control plane cannot digest must not take the PoP's routing down."""
    async with ams(folder) as (subject, engine):
        controller = subject.daemon.control.controller
        assert controller is not None

        def fail(*_: object) -> None:
            raise ZeroDivisionError

        monkeypatch.setattr(controller, "handle_bus", fail)
        await engine.say("bus", {"peer": "iad", "payload": b""})
        await until(lambda: subject.daemon.control.internal_errors == 1)
        assert subject.backend.status()["ready"]
        assert "l4proxy_internal_errors_total" in subject.backend.metrics("")[1].decode()


async def test_a_flood_of_events_fills_no_disk(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async with ams(folder) as (subject, engine):
        moved = {
            "at_ns": 1,
            "kind": "handle_moved",
            "peer": "iad",
            "policy": "off",
            "from": [],
            "to": [],
            "gap_us": 5,
        }
        await engine.say("events", {"events": [moved] * 1000})
        await until(lambda: subject.daemon.control.path_changes["engine"] == 1000)
        assert 1 <= capsys.readouterr().out.count("handle_moved") <= 100


async def test_a_wrong_identity_is_refused_before_anything_is_touched(folder: Path) -> None:
    with pytest.raises(IdentityError, match="is the identity of l4proxy://demo/iad"):
        async with running(options_of(folder, identity="id-iad")):
            raise AssertionError("the daemon must not run")


async def test_a_pop_that_the_fleet_has_not_is_refused(folder: Path) -> None:
    with pytest.raises(ConfigError, match="there is no PoP fra; the fleet has ams, iad"):
        async with running(options_of(folder, pop="fra")):
            raise AssertionError("the daemon must not run")


async def test_what_flows_got_is_judged_and_said(folder: Path) -> None:
    link = "ams/a>iad/a"
    path = {
        "peer": "iad", "policy": "off", "path_id": 7, "links": [link],
        "rtt_us": 80_500, "packets": 90, "lost": 9, "bytes_out": 1_000, "bytes_in": 2_000,
    }  # fmt: skip
    async with ams(folder) as (subject, engine):
        assert subject.backend.status()["removed"] == []
        here = {"app": "game", "egress": None, "links": [], "counts": {"tried": 1, "refused": 1, "later": 1}}
        await engine.say_outcomes([here], elapsed_ms=2_000, links={link: 500}, paths=[path])
        await until(lambda: subject.backend.status()["removed"] != [])
        (removed,) = subject.backend.status()["removed"]
        assert (removed["app"], removed["egress"], removed["link"]) == ("game", "ams", None)
        assert (removed["reason"], removed["on_trial"]) == ("1 of 1 connects failed (1 refused)", False)
        controller = subject.daemon.control.controller
        assert controller is not None
        assert controller.link_load_bits_s == {link: 2_000}
        (quality,) = controller.path_quality.values()
        assert (quality.rtt_ms, quality.loss_ratio) == (80.5, 0.1)
        there = {"app": "game", "egress": "iad", "links": [link], "counts": {"timed_out": 1}}
        await engine.say_outcomes([there])
        await until(lambda: subject.backend.status()["removed"] == [])
        problems = [problem["what"] for problem in subject.backend.status()["problems"]]
        assert "app game: connects to the origin fail through every egress" in problems
        subject.daemon.control.handle_engine_gone()
        assert not controller.path_quality
