"""A daemon's life against the fake engine: start, reload, take-over, loss of its engine, drain, full disk."""

import contextlib
import json
import os
import signal
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import pytest

import l4proxy
from l4proxy.api.backend import RequestRefused, Toggle
from l4proxy.daemon import state
from l4proxy.daemon.engine_messages import PROTOCOL_VERSION
from l4proxy.daemon.notify import Notifier
from l4proxy.errors import ConfigError
from tests.daemon.harness import engine_ends_afterwards, options_for, running, write_app
from tests.daemon.support import FAKE_ENGINE, until
from tests.fake_engine import fake_engine

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> object:
    """The loop of production; the controller itself is tested in virtual time."""
    return ("asyncio", {"use_uvloop": True})


@pytest.fixture
async def folder(tmp_path: Path, free_port: int) -> AsyncIterator[Path]:
    """A folder with one app, `game`, on a free port."""
    write_app(tmp_path / "apps", "game", free_port)
    async with engine_ends_afterwards(tmp_path):
        yield tmp_path


async def can_connect(port: int) -> bool:
    try:
        async with await anyio.connect_tcp("127.0.0.1", port):
            return True
    except OSError:
        return False


async def test_the_ready_line_comes_once_when_clients_are_served(folder: Path, free_port: int) -> None:
    async with running(options_for(folder)) as subject:
        await subject.ready()
        assert await can_connect(free_port)
        (line,) = subject.said
        assert line == (
            f"l4proxy {l4proxy.__version__} ready: pop=local apps=1 generation=1 socket={folder}/run/l4proxy.sock"
        )
        status = subject.backend.status()
        assert (status["state"], status["ready"], status["apps"], status["generation"]) == ("ok", True, 1, 1)
        assert status["problems"] == []
        assert status["flows"] == {"tcp": 0, "udp": 0}


async def test_systemd_hears_ready_and_stopping(folder: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(folder / "notify"))
        systemd.setblocking(False)
        notifier = Notifier({"NOTIFY_SOCKET": str(folder / "notify"), "WATCHDOG_USEC": "1000000"})
        async with running(options_for(folder), notifier) as subject:
            await subject.ready()
            subject.daemon.begin_drain(1)
            await until(lambda: subject.is_over)
        heard = []
        with contextlib.suppress(BlockingIOError):
            while True:
                heard.append(systemd.recv(1000).decode().splitlines()[0])
        assert [word for word in heard if word != "WATCHDOG=1"] == ["READY=1", "STOPPING=1"]
        assert "WATCHDOG=1" in heard


async def test_reload_applies_the_difference(folder: Path, free_port: int) -> None:
    async with running(options_for(folder)) as subject:
        await subject.ready()
        with socket.create_server(("127.0.0.1", 0)) as probe:
            other = probe.getsockname()[1]
        write_app(folder / "apps", "second", other)
        assert await subject.backend.reload() == {
            "generation": 2,
            "added": ["second"],
            "changed": [],
            "removed": [],
        }
        assert await can_connect(free_port)
        assert await can_connect(other)
        (folder / "apps" / "game.yaml").unlink()
        assert (await subject.backend.reload())["removed"] == ["game"]
        await until(lambda: len(subject.daemon.session.listeners.held) == 1)
        assert not await can_connect(free_port)
        assert await can_connect(other)


async def test_a_reload_without_a_change_makes_no_generation(folder: Path) -> None:
    async with running(options_for(folder)) as subject:
        await subject.ready()
        assert await subject.backend.reload() == {"generation": 1, "added": [], "changed": [], "removed": []}


async def test_a_bad_file_changes_nothing_and_says_why(folder: Path, free_port: int) -> None:
    async with running(options_for(folder)) as subject:
        await subject.ready()
        (folder / "apps" / "game.yaml").write_text("name: game\nlisten: tpc/22\norigins: [127.0.0.1:9]\n")
        with pytest.raises(RequestRefused, match=r"game.yaml:2:9") as refused:
            await subject.backend.reload()
        assert (refused.value.status, refused.value.code) == (422, "config_invalid")
        assert refused.value.details["faults"][0]["line"] == 2
        assert await can_connect(free_port)
        status = subject.backend.status()
        assert status["state"] == "degraded"
        assert "game.yaml:2:9" in status["problems"][0]["what"]
        write_app(folder / "apps", "game", free_port)
        await subject.backend.reload()
        assert subject.backend.status()["state"] == "ok"


async def test_many_faults_are_one_line_of_status(folder: Path) -> None:
    async with running(options_for(folder)) as subject:
        await subject.ready()
        (folder / "apps" / "game.yaml").write_text(
            "name: game\nlisten: tpc/22\norigins: [x:y:z]\ncolour: red\n"
        )
        with pytest.raises(RequestRefused, match="colour"):
            await subject.backend.reload()
        (problem,) = subject.backend.status()["problems"]
        assert "\n" not in problem["what"]
        assert problem["what"].endswith("(and 2 more)")


async def test_a_port_in_use_makes_the_whole_reload_fail(folder: Path, free_port: int) -> None:
    """Half a reload would serve one app with new rules and another with old ones."""
    async with running(options_for(folder)) as subject:
        await subject.ready()
        with socket.create_server(("127.0.0.1", 0)) as other:
            write_app(folder / "apps", "second", other.getsockname()[1])
            (folder / "apps" / "game.yaml").unlink()
            with pytest.raises(RequestRefused, match=rf"in use by .*\(pid {os.getpid()}\)") as refused:
                await subject.backend.reload()
        assert refused.value.status == 409
        assert await can_connect(free_port)
        assert [app["name"] for app in subject.backend.apps()["apps"]] == ["game"]


async def test_a_snapshot_that_the_engine_refuses_is_taken_back(folder: Path, free_port: int) -> None:
    (folder / "run").mkdir()
    async with fake_engine(folder / "run" / "engine.sock") as engine, running(options_for(folder)) as subject:
        await subject.ready()
        engine.refuse = "no"
        write_app(folder / "apps", "game", free_port, "connect_timeout: 1s\n")
        reloading = anyio.Event()

        async def relent() -> None:
            await until(lambda: engine.received.count("apply") >= 3)
            engine.refuse = None
            reloading.set()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(relent)
            with pytest.raises(RequestRefused, match="the engine refused generation 2: no"):
                await subject.backend.reload()
            await reloading.wait()
        assert engine.snapshot is not None
        assert engine.snapshot["apps"][0]["connect_timeout_ms"] == 5000
        assert subject.daemon.config.apps[0].connect_timeout_ms == 5000


async def test_a_new_daemon_takes_the_engine_over(folder: Path, free_port: int) -> None:
    """The daemon crashed; the engine goes on, and the next daemon neither starts one nor passes its sockets again."""
    (folder / "run").mkdir()
    async with fake_engine(folder / "run" / "engine.sock") as engine:
        async with running(options_for(folder)) as first:
            await first.ready()
        assert engine.received == ["hello", "socket", "apply"]
        assert await can_connect(free_port)
        async with running(options_for(folder)) as second:
            await second.ready()
            assert second.daemon.supervisor.starts == 0
            await until(lambda: len(engine.applied) == 2)
            assert engine.received == ["hello", "socket", "apply", "hello", "apply"]
            assert engine.applied == [1, 2]
            assert await can_connect(free_port)
        assert engine.daemons == 2


async def test_without_its_state_a_new_daemon_goes_on_after_the_engines_generation(folder: Path) -> None:
    """A number must never mean two snapshots."""
    (folder / "run").mkdir()
    async with fake_engine(folder / "run" / "engine.sock") as engine:
        engine.generation = 41
        async with running(options_for(folder)) as subject:
            await subject.ready()
            await until(lambda: engine.applied == [42])


async def test_a_killed_engine_is_started_again_with_everything(folder: Path, free_port: int) -> None:
    async with running(options_for(folder)) as subject:
        await subject.ready()
        first = subject.engine_pid
        os.kill(first, signal.SIGKILL)
        # The daemon holds the socket: whoever comes meanwhile waits in the backlog.
        assert await can_connect(free_port)
        await until(
            lambda: subject.daemon.supervisor.starts == 2 and subject.daemon.session.in_force is not None
        )
        assert subject.engine_pid != first
        assert await can_connect(free_port)
        assert subject.backend.status()["state"] == "ok"
        assert len(subject.said) == 1


async def test_drain_lets_the_engine_end_its_flows(folder: Path, free_port: int) -> None:
    async with running(options_for(folder)) as subject:
        await subject.ready()
        pid = subject.engine_pid
        assert await subject.backend.drain(2.0) == {"flows": 0, "timeout_s": 2.0}
        assert (subject.backend.status()["state"], subject.backend.is_ready()) == ("draining", False)
        await until(lambda: subject.is_over)
        assert subject.failure is None
        assert not await can_connect(free_port)
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
        assert not (folder / "run" / "engine.sock").exists()


async def test_the_drain_deadline_reaches_the_engine_and_a_stop_ends_it(folder: Path) -> None:
    (folder / "run").mkdir()
    async with fake_engine(folder / "run" / "engine.sock") as engine:
        engine.answers_drain = False
        async with running(options_for(folder)) as subject:
            await subject.ready()
            subject.daemon.supervisor.pid = None  # the engine is this very process: not to be waited for
            subject.daemon.begin_drain(30)
            await until(lambda: engine.drain_deadline_ms == 30_000)
            with pytest.raises(RequestRefused, match="is draining"):
                await subject.backend.reload()
            subject.daemon.stop()
            await until(lambda: subject.is_over)
        assert engine.received[-1] == "stop"


async def test_a_toggle_survives_a_restart(folder: Path) -> None:
    async with running(options_for(folder)) as subject:
        await subject.ready()
        answer = await subject.backend.set_smart_routing(Toggle("off", ["game"], None))
        assert [(app["app"], app["in_force"]) for app in answer["apps"]] == [("game", "off")]
        subject.daemon.begin_drain(0)
        await until(lambda: subject.is_over)
    async with running(options_for(folder)) as subject:
        await subject.ready()
        (app,) = subject.backend.apps()["apps"]
        assert (app["smart_routing"], app["configured"], app["override"]) == ("off", "on", "off")
        await subject.backend.set_smart_routing(Toggle("default", None, None))
        assert subject.backend.smart_routing()["apps"][0]["in_force"] == "on"


async def test_a_toggle_of_an_unknown_app_or_pop_changes_nothing(folder: Path) -> None:
    async with running(options_for(folder)) as subject:
        await subject.ready()
        for toggle in (Toggle("off", ["game", "nope"], None), Toggle("off", None, "nope")):
            with pytest.raises(RequestRefused, match="nope"):
                await subject.backend.set_smart_routing(toggle)
        assert subject.backend.smart_routing()["apps"][0]["in_force"] == "on"


async def test_a_full_disk_costs_no_client_and_is_seen_in_status(
    folder: Path, free_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_space(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(state.os, "fsync", no_space)
    async with running(options_for(folder)) as subject:
        await subject.ready()
        await subject.backend.set_smart_routing(Toggle("off", ["game"], None))
        assert await can_connect(free_port)
        status = subject.backend.status()
        assert status["state"] == "degraded"
        (problem,) = status["problems"]
        assert problem["what"] == f"cannot write {folder}/state/state.json: No space left on device"
        assert subject.backend.apps()["apps"][0]["smart_routing"] == "off"
        monkeypatch.undo()
        await subject.daemon.look_after()
        assert subject.backend.status()["state"] == "ok"
    assert json.loads((folder / "state" / "state.json").read_text())["toggles"][0][2] == "off"


async def test_a_state_file_that_is_garbage_is_said_and_ignored(folder: Path) -> None:
    (folder / "state").mkdir()
    (folder / "state" / "state.json").write_text('{"version": 1, "epoch": "x"}')
    async with running(options_for(folder)) as subject:
        await subject.ready()
        assert subject.backend.apps()["apps"][0]["smart_routing"] == "on"


async def test_a_port_in_use_at_start_ends_the_daemon_with_the_reason(folder: Path, free_port: int) -> None:
    with socket.create_server(("127.0.0.1", free_port)):
        async with running(options_for(folder)) as subject:
            await until(lambda: subject.is_over, timeout_s=15)
            assert f"cannot listen on tcp/127.0.0.1:{free_port}: the port is in use by" in str(
                subject.failure
            )
            assert subject.said == []
    assert not (folder / "run" / "engine.sock").exists()  # no engine is left behind


async def test_a_wrong_file_at_start_touches_nothing(folder: Path) -> None:
    (folder / "apps" / "game.yaml").write_text("name: Game!\n")
    with pytest.raises(ConfigError):
        async with running(options_for(folder)):
            raise AssertionError("the daemon must not run")
    assert not (folder / "run" / "engine.sock").exists()


async def test_an_engine_that_never_starts_ends_the_daemon(folder: Path) -> None:
    async with running(options_for(folder, engine_command=("false",))) as subject:
        await until(lambda: subject.is_over, timeout_s=15)
        assert "the engine ended with status 1 before it was ready" in str(subject.failure)


async def test_an_engine_of_another_build_ends_the_daemon_at_once(folder: Path) -> None:
    """A stale extension beside newer files: no snapshot is sent that it would misread, and nobody waits."""
    command = (*FAKE_ENGINE, "--protocol", "1")
    async with running(options_for(folder, engine_command=command)) as subject:
        await until(lambda: subject.is_over, timeout_s=15)
        assert "(protocol 1)" in str(subject.failure)
        assert f"(protocol {PROTOCOL_VERSION})" in str(subject.failure)
        assert "make build" in str(subject.failure)
        assert subject.daemon.supervisor.starts == 1
        assert not (folder / "run" / "engine.sock").exists()


async def test_an_engine_that_cannot_read_the_first_snapshot_ends_the_daemon(folder: Path) -> None:
    command = (*FAKE_ENGINE, "--hangs-up", "missing field `colour`")
    async with running(options_for(folder, engine_command=command)) as subject:
        await until(lambda: subject.is_over, timeout_s=15)
        assert "left before it was ready: the engine hung up: missing field `colour`" in str(subject.failure)
        assert not (folder / "run" / "engine.sock").exists()


async def test_metrics_of_a_daemon_that_runs(folder: Path) -> None:
    (folder / "run").mkdir()
    async with fake_engine(folder / "run" / "engine.sock") as engine, running(options_for(folder)) as subject:
        await subject.ready()
        counts = ("opened", "closed", "bytes_to_origin", "bytes_to_client")
        per_app = {f"{transport}_{count}": 7 for transport in ("tcp", "udp") for count in counts}
        per_app |= {"tcp_opened": 10, "datagrams_to_origin": 1, "datagrams_to_client": 2, "flows_refused": 3}
        engine.app_counters = {"game": per_app | {"origin_errors": 4}}
        engine.counter_values = {"worker_panics": 1, "tcp_accepted": 10}
        engine.drops = {"fd_limit": 2, "udp_truncated": 5}
        engine.peers = [{"name": "iad", "connected": False, "since_ns": 0}]
        engine.ended_flows = [{"app": "game", "protocol": "tcp", "code": 200, "flows": 1}]
        await engine.say_counters()
        await until(
            lambda: subject.daemon.control.counters is not None and subject.daemon.control.counters.ended
        )
        content_type, body = subject.backend.metrics("")
        assert content_type.startswith("text/plain")
        text = body.decode()
        assert 'l4proxy_connections_active{app="game",pop="local",transport="tcp"} 3.0' in text
        assert (
            'l4proxy_connections_closed_total{app="game",code="200",pop="local",transport="tcp"} 1.0' in text
        )
        assert 'l4proxy_connections_rejected_total{pop="local",reason="fd_limit"} 2.0' in text
        assert 'l4proxy_datagrams_dropped_total{pop="local",reason="udp_truncated"} 5.0' in text
        assert "l4proxy_flow_table_capacity" in text


async def test_ended_flows_go_to_the_flow_log(folder: Path) -> None:
    (folder / "run").mkdir()
    options = options_for(folder, flow_log=str(folder / "flows.jsonl"))
    async with fake_engine(folder / "run" / "engine.sock") as engine, running(options) as subject:
        await subject.ready()
        record = {
            "id": "00ff",
            "app": "game",
            "protocol": "tcp",
            "client": "127.0.0.1:50000",
            "listener": "127.0.0.1:25565",
            "ingress": "local",
            "egress": "local",
            "path": [],
            "started_ns": 1,
            "ended_ns": 2_000_001,
            "record_client": "full",
            "code": 200,
        }
        await engine.say("records", {"records": [record]})
        await until(lambda: subject.daemon.flow_log is not None and subject.daemon.flow_log.written == 1)
    line = json.loads((folder / "flows.jsonl").read_text())
    assert (line["flow"], line["path"], line["code"], line["smart_routing"]) == ("00ff", ["local"], 200, True)


async def test_whois_asks_the_engine_and_says_which_address_it_was(folder: Path) -> None:
    (folder / "run").mkdir()
    async with fake_engine(folder / "run" / "engine.sock") as engine, running(options_for(folder)) as subject:
        await subject.ready()
        flow = {
            "id": "01",
            "app": "game",
            "ingress": "local",
            "egress": "local",
            "age_ms": 1,
            "idle_ms": 0,
            "path": [],
        }
        engine.flows = [flow | {"client": "192.0.2.7:5", "source": "192.0.2.1:6"}]
        for address, which in (("192.0.2.7:5", ["client"]), ("192.0.2.1:6", ["source"]), ("192.0.2.7:6", [])):
            answer = await subject.backend.whois(address)
            assert [found["is"] for found in answer["flows"]] == which
            assert (answer["address"], answer["total"]) == (address, len(which))


async def test_flows_are_listed_as_the_contract_says(folder: Path) -> None:
    (folder / "run").mkdir()
    async with fake_engine(folder / "run" / "engine.sock") as engine, running(options_for(folder)) as subject:
        await subject.ready()
        engine.flows = [
            {"id": "01", "app": "game", "ingress": "ams", "egress": "sin", "age_ms": 1500, "idle_ms": 20}
            | {"path": ["ams/a>iad/b", "iad/b>sin/a"]}
        ]
        answer = await subject.backend.flows(None, 10)
        assert answer == {
            "flows": [
                {
                    "id": "01",
                    "app": "game",
                    "ingress": "ams",
                    "egress": "sin",
                    "path": ["ams", "iad", "sin"],
                    "links": ["ams/a>iad/b", "iad/b>sin/a"],
                    "source": None,
                    "age_s": 1.5,
                    "idle_s": 0.02,
                }
            ],
            "total": 1,
        }
        with pytest.raises(RequestRefused, match="no app 'nope'"):
            await subject.backend.flows("nope", 10)


async def test_access_lists_go_to_the_engine_and_follow_their_file(tmp_path: Path, free_port: int) -> None:
    bad = tmp_path / "bad.txt"
    bad.write_text("198.51.100.0/24\n")
    write_app(tmp_path / "apps", "game", free_port, f"access: {{deny: ['file:{bad}', 192.0.2.1]}}\n")
    path = tmp_path / "run" / "engine.sock"
    options = options_for(tmp_path)
    async with fake_engine(path) as engine, running(options) as subject:
        await subject.ready()

        def lists() -> list[bytes]:
            assert engine.snapshot is not None
            named = engine.snapshot["apps"][0]["access"]["lists"]
            assert all(found["verdict"] == "deny" for found in named)
            return [b"".join(piece["v4"] for piece in engine.access_lists[found["id"]]) for found in named]

        own, first = bytes([192, 0, 2, 1, 32]), bytes([198, 51, 100, 0, 24])
        assert lists() == [own, first]
        sent = engine.received.count("access_list")
        bad.write_text("198.51.100.0/24\n203.0.113.0/24\n")
        for _ in range(2):
            await subject.daemon.access.look()
        second = first + bytes([203, 0, 113, 0, 24])
        await until(lambda: lists() == [own, second])
        assert engine.received.count("access_list") == sent + 1, "what the engine has is not sent again"

        bad.write_text("nonsense\n")
        with pytest.raises(ConfigError, match="is not an address or prefix"):
            await subject.daemon.reload()
        assert lists() == [own, second]
        for _ in range(2):
            await subject.daemon.access.look()
        status = subject.daemon.reporter.status()
        assert status["state"] == "degraded"
        assert any(str(bad) in problem["what"] for problem in status["problems"])

        bad.write_text("203.0.113.7\n")
        done = await subject.daemon.reload()
        assert done.difference.changed == ("game",)
        assert lists() == [own, bytes([203, 0, 113, 7, 32])]
