"""The daemon's half of docs/engine-protocol.md, against the fake engine, on both event loops."""

import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest

from l4proxy.daemon import engine_client
from l4proxy.daemon.engine_client import MAX_FRAME_BYTES, EngineClient, EngineGone, FrameReader, encode_frame
from l4proxy.daemon.engine_messages import (
    ApplyResult,
    BusMessage,
    Counters,
    MalformedMessage,
    ProbeSample,
    Samples,
    SocketKey,
    UpMessage,
    decode,
)
from tests.daemon.support import until
from tests.fake_engine import FakeEngine, fake_engine

pytestmark = pytest.mark.anyio

EMPTY = {"generation": 1, "apps": [], "links": [], "links_in": [], "peers": [], "handles": []}


@asynccontextmanager
async def connected(path: Path) -> AsyncIterator[tuple[EngineClient, FakeEngine, list[UpMessage]]]:
    """Give a client whose reader runs, the engine at the other end, and what came unasked."""
    heard: list[UpMessage] = []

    async def hear(message: UpMessage) -> None:
        heard.append(message)

    async with fake_engine(path / "engine.sock", workers=2, pop="ams") as engine:
        client = await EngineClient.connect(path / "engine.sock")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(client.run, hear)
            try:
                yield client, engine, heard
            finally:
                client.close()


async def test_hello_tells_who_the_engine_is(tmp_path: Path) -> None:
    async with connected(tmp_path) as (client, _, _):
        hello = await client.hello()
        assert (hello.pop, hello.workers, hello.generation, hello.has_identity) == ("ams", 2, 0, False)
        assert hello.sockets == frozenset()


async def test_a_socket_arrives_as_the_same_socket_under_its_key(tmp_path: Path) -> None:
    """A descriptor that went to the wrong key would serve one app's clients with another's origin."""
    async with connected(tmp_path) as (client, engine, _):
        for worker in range(2):
            with socket.create_server(("127.0.0.1", 0)) as listener:
                port = listener.getsockname()[1]
                key = SocketKey("listener", "tcp", "127.0.0.1", port, worker)
                await client.send_socket(key, listener)
            await until(lambda key=key: key in engine.sockets)
            assert engine.sockets[key].getsockname() == ("127.0.0.1", port)


async def test_a_thousand_sockets_all_arrive(tmp_path: Path) -> None:
    """A port range is thousands of descriptors in a row, more than a Unix socket holds unread."""
    async with connected(tmp_path) as (client, engine, _):
        with socket.create_server(("127.0.0.1", 0)) as listener:
            for port in range(1000):
                await client.send_socket(SocketKey("listener", "tcp", "::", port, 0), listener)
        await until(lambda: len(engine.sockets) == 1000)


async def test_apply_returns_the_engines_answer(tmp_path: Path) -> None:
    async with connected(tmp_path) as (client, engine, _):
        assert await client.apply(EMPTY) == ApplyResult(1)
        engine.refuse = "no such handle 7"
        assert await client.apply({**EMPTY, "generation": 2}) == ApplyResult(2, "no such handle 7")
        assert engine.applied == [1]


async def test_flow_lists_do_not_mix(tmp_path: Path) -> None:
    async with connected(tmp_path) as (client, engine, _):
        engine.flows = [{"app": "a", "id": "01"}, {"app": "b", "id": "02"}, {"app": "b", "id": "03"}]
        answers = {}

        async def ask(app: str | None, limit: int) -> None:
            answers[app] = await client.list_flows(app, limit)

        async with anyio.create_task_group() as tasks:
            for app, limit in ((None, 10), ("a", 10), ("b", 1)):
                tasks.start_soon(ask, app, limit)
        assert [flow["id"] for flow in answers[None].flows] == ["01", "02", "03"]
        assert [flow["id"] for flow in answers["a"].flows] == ["01"]
        assert ([flow["id"] for flow in answers["b"].flows], answers["b"].total) == (["02"], 2)


async def test_unasked_messages_come_typed_and_in_order(tmp_path: Path) -> None:
    async with connected(tmp_path) as (client, engine, heard):
        await client.hello()
        sample = {"link": "ams/a>iad/b", "sequence": 5, "sent_ns": 1, "rtt_ns": None, "received_ns": None}
        await engine.say("samples", {"samples": [sample | {"peer_received": None, "a_later_key": 1}]})
        await engine.say("bus", {"peer": "iad", "payload": b"\x00\xff"})
        engine.counter_values = {"tcp_accepted": 3}
        await engine.say_counters()
        await until(lambda: len(heard) == 3)
        assert heard[0] == Samples((ProbeSample("ams/a>iad/b", 5, 1, None, None, None),))
        assert heard[1] == BusMessage("iad", b"\x00\xff")
        assert isinstance(heard[2], Counters)
        assert heard[2].values == {"tcp_accepted": 3}


async def test_whoever_waits_is_told_when_the_engine_goes_away(tmp_path: Path) -> None:
    """A waiting API request must end with an error, never hang."""
    async with connected(tmp_path) as (client, engine, _):
        await client.hello()
        engine.answers_drain = False
        raised = []

        async def wait_for_drain() -> None:
            try:
                await client.drain(1000)
            except EngineGone as error:
                raised.append(error)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(wait_for_drain)
            await until(lambda: engine.drain_deadline_ms == 1000)
            engine.disconnect()
        assert len(raised) == 1
        with pytest.raises(EngineGone):
            await client.apply(EMPTY)


@pytest.mark.parametrize(
    ("frame", "why"),
    [
        (struct.pack("!I", MAX_FRAME_BYTES + 1), "over the limit"),
        (b"\x00\x00\x00\x01\xc1", "not msgpack"),
        (encode_frame("gossip", {}), "unknown type 'gossip'"),
        (encode_frame("applied", {"generation": "x"}), "applied: ValueError"),
        (encode_frame("counters", {}), "counters: KeyError"),
        (b"\x00\x00\x00\x01\x90", "a map with one entry"),
    ],
)
async def test_what_is_not_the_protocol_ends_the_connection(tmp_path: Path, frame: bytes, why: str) -> None:
    async with connected(tmp_path) as (client, engine, heard):
        await client.hello()
        await engine.say_bytes(frame)
        await until(lambda: client.is_closed)
        assert why in client.why_closed
        assert heard == []


async def test_an_engine_that_does_not_read_counts_as_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Waiting control messages are bounded and counted; the sender is not held for ever."""
    monkeypatch.setattr(engine_client, "SEND_TIMEOUT_S", 0.2)
    monkeypatch.setattr(engine_client, "MAX_WAITING_BUS", 8)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(tmp_path / "engine.sock"))
        listener.listen(1)
        client = await EngineClient.connect(tmp_path / "engine.sock")
        gone = []

        async def send() -> None:
            try:
                await client.send_bus("iad", bytes(100_000))
            except EngineGone as error:
                gone.append(str(error))

        async with anyio.create_task_group() as tasks:
            for _ in range(40):
                tasks.start_soon(send)
        assert client.is_closed
        assert client.dropped_bus > 0
        assert 0 < len(gone) <= 8
        assert "has not read" in gone[0]


async def test_nobody_listens(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        await EngineClient.connect(tmp_path / "engine.sock")


async def test_frames_survive_any_cut() -> None:
    """A stream socket may deliver a frame in any pieces."""
    stream = encode_frame("drained", {"closed": 1}) + encode_frame("drained", {"closed": 2})
    for cut in range(len(stream) + 1):
        reader = FrameReader()
        frames = reader.feed(stream[:cut]) + reader.feed(stream[cut:])
        assert frames == [{"drained": {"closed": 1}}, {"drained": {"closed": 2}}]


async def test_too_long_a_frame_is_not_sent() -> None:
    with pytest.raises(ValueError, match="over the limit"):
        encode_frame("bus", {"payload": bytes(MAX_FRAME_BYTES)})


async def test_decode_refuses_what_is_no_message() -> None:
    for message in (None, [], {}, {"a": {}, "b": {}}, {1: {}}, {"bus": []}):
        with pytest.raises(MalformedMessage):
            decode(message)
