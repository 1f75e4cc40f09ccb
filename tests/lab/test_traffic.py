"""The demo's origin and clients talk to each other on loopback."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest

from l4proxy.lab import measure, programs, traffic
from l4proxy.lab.ports import free_port


@pytest.fixture
def origin() -> Iterator[int]:
    port = free_port()
    with subprocess.Popen(programs.module("traffic", "origin", str(port)), stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        yield port
        process.kill()


def test_three_flows_run_until_sigterm_and_every_event_is_written_down(origin: int, tmp_path: Path) -> None:
    record = tmp_path / "record"
    command = programs.module(
        "traffic", "client", "127.0.0.1", str(origin), "--record", str(record), "--rate", "200"
    )
    with subprocess.Popen(command) as client:
        deadline = time.monotonic() + 20
        flows: dict[str, measure.FlowRecord] = {}
        while time.monotonic() < deadline:
            if record.exists():
                with record.open() as lines:
                    flows = measure.read(lines)
            if (
                all(len(flows[f].arrivals) > 20 for f in ("tcp", "udp", "bulk") if f in flows)
                and len(flows) == 3
            ):
                break
            time.sleep(0.05)
        client.send_signal(signal.SIGTERM)
        assert client.wait(timeout=10) == 0
    assert set(flows) == {"tcp", "udp", "bulk"}
    for name in ("tcp", "udp"):
        received = sorted(flows[name].received)
        assert received == list(range(len(received)))
        assert flows[name].local_port is not None
    assert all(not flow.ends for flow in flows.values())


def test_a_refused_connection_is_noted_and_the_other_flows_go_on(tmp_path: Path) -> None:
    record = tmp_path / "record"
    command = programs.module("traffic", "client", "127.0.0.1", str(free_port()), "--record", str(record))
    with subprocess.Popen(command) as client:
        deadline = time.monotonic() + 20
        text = ""
        while text.count('"ended"') < 2 and time.monotonic() < deadline:
            time.sleep(0.05)
            text = record.read_text() if record.exists() else ""
        client.terminate()
        assert client.wait(timeout=10) == 0
    ended = {
        event["flow"]: event["reason"]
        for line in text.splitlines()
        if (event := json.loads(line))["event"] == "ended"
    }
    assert "refused" in ended["tcp"].lower() or "failed" in ended["tcp"].lower()
    assert "bulk" in ended


def test_a_download_brings_every_byte_and_its_rate(origin: int) -> None:
    command = programs.module(
        "traffic", "download", "127.0.0.1", str(origin), "--bytes", "1000003", "--seconds", "20"
    )
    answer = json.loads(subprocess.run(command, capture_output=True, check=True, timeout=60).stdout)
    assert (answer["bytes"], answer["error"]) == (1_000_003, None)
    assert answer["mbit_s"] > 0


def test_a_byte_out_of_place_is_noticed() -> None:
    """The pattern must not repeat within what a relay could shift."""

    async def fetch() -> None:
        async def lie(client: anyio.abc.SocketStream) -> None:
            async with client:
                await client.receive()
                await client.send(traffic.PATTERN[1:100])

        listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
        async with listener, anyio.create_task_group() as tasks:
            tasks.start_soon(listener.serve, lie)
            port = listener.extra(anyio.abc.SocketAttribute.local_port)
            with pytest.raises(ValueError, match="wrong bytes after 0"):
                await traffic.fetch("127.0.0.1", port, 1000, 0, lambda _: None)
            tasks.cancel_scope.cancel()

    anyio.run(fetch)


def test_the_command_line_refuses_what_it_does_not_know() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "l4proxy.lab.traffic", "dance"], capture_output=True, check=False
    )
    assert done.returncode == 2
