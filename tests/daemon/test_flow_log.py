"""Ended flows become lines: bounded, rotated, and never a reason to stop."""

import io
import json
from pathlib import Path

import anyio
import pytest

from l4proxy.daemon import flow_log
from l4proxy.daemon.flow_log import FlowLog, to_line
from tests.daemon.support import until

pytestmark = pytest.mark.anyio

KEY = bytes(32)

RECORD = {
    "id": "00ff",
    "app": "game",
    "protocol": "udp",
    "client": "[2001:db8::7]:50000",
    "listener": "[2001:db8::1]:27015",
    "ingress": "ams",
    "egress": "sin",
    "role": "ingress",
    "peer": "sin",
    "policy": "game",
    "path": ["ams/a>iad/a", "iad/a>sin/a"],
    "origin": "203.0.113.10:27015",
    "source": "198.51.100.7:40000",
    "bytes_to_origin": 10,
    "bytes_to_client": 20,
    "datagrams_to_origin": 1,
    "datagrams_to_client": 2,
    "dropped": 0,
    "age_ms": 1500,
    "idle_ms": 3,
    "path_changes": 1,
    "egress_changes": 0,
    "started_ns": 1_700_000_000_000_000_000,
    "ended_ns": 1_700_000_001_500_000_000,
    "connect_ms": None,
    "first_byte_ms": 12,
    "code": 603,
    "reason": "idle",
    "closed_by": "engine",
    "sni": "play.example.net",
    "record_client": "full",
}


async def test_a_line_has_what_operators_know() -> None:
    assert json.loads(to_line(RECORD, ["ams", "iad", "sin"], "ams", 9, is_smart=True, client_key=KEY)) == {
        "ts": "2023-11-14T22:13:21.500Z",
        "event": "flow_ended",
        "pop": "ams",
        "generation": 9,
        "flow": "00ff",
        "client_ip": "2001:db8::7",
        "client_port": 50000,
        "listen": "[2001:db8::1]:27015",
        "source": "198.51.100.7:40000",
        "smart_routing": True,
        "started": "2023-11-14T22:13:20.000Z",
        "duration_ms": 1500,
        "app": "game",
        "protocol": "udp",
        "role": "ingress",
        "ingress": "ams",
        "egress": "sin",
        "path": ["ams", "iad", "sin"],
        "links": ["ams/a>iad/a", "iad/a>sin/a"],
        "policy": "game",
        "origin": "203.0.113.10:27015",
        "bytes_to_origin": 10,
        "bytes_to_client": 20,
        "datagrams_to_origin": 1,
        "datagrams_to_client": 2,
        "dropped": 0,
        "path_changes": 1,
        "egress_changes": 0,
        "connect_ms": None,
        "first_byte_ms": 12,
        "code": 603,
        "reason": "idle",
        "closed_by": "engine",
        "sni": "play.example.net",
    }


@pytest.mark.parametrize("how", ["prefix", "hash", "none"])
async def test_what_hides_the_client_hides_our_address_towards_the_origin(how: str) -> None:
    """With `transparent` it is the client's own, and an address of a pool stands for one client."""
    line = to_line({**RECORD, "record_client": how}, ["ams"], "ams", 9, is_smart=False, client_key=KEY)
    assert json.loads(line)["source"] is None
    assert "50000" not in line
    assert "40000" not in line


async def test_lines_are_written_in_order_and_the_last_ones_before_the_end(tmp_path: Path) -> None:
    log = FlowLog(str(tmp_path / "flows.jsonl"))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(log.run)
        log.put("one\n")
        await until(lambda: log.written == 1)
        log.put("two\n")
        log.put("three\n")
        tasks.cancel_scope.cancel()
    assert (tmp_path / "flows.jsonl").read_text() == "one\ntwo\nthree\n"


def contents(folder: Path) -> dict[str, str]:
    return {file.name: file.read_text() for file in folder.iterdir()}


async def test_the_file_is_rotated_by_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flow_log, "MAX_FILE_BYTES", 10)
    monkeypatch.setattr(flow_log, "MAX_OLD_FILES", 2)
    log = FlowLog(str(tmp_path / "f"))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(log.run)
        for number in range(8):
            log.put(f"line{number}\n")
        await until(lambda: log.written == 8)
        tasks.cancel_scope.cancel()
    assert contents(tmp_path) == {
        "f": "line6\nline7\n",
        "f.1": "line4\nline5\n",
        "f.2": "line2\nline3\n",
    }


async def test_a_moved_file_is_opened_anew(tmp_path: Path) -> None:
    log = FlowLog(str(tmp_path / "f"))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(log.run)
        log.put("old\n")
        await until(lambda: log.written == 1)
        (tmp_path / "f").rename(tmp_path / "f.moved")
        log.reopen()
        log.put("new\n")
        await until(lambda: log.written == 2)
        tasks.cancel_scope.cancel()
    assert (tmp_path / "f").read_text() == "new\n"


async def test_what_does_not_fit_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flow_log, "MAX_WAITING", 3)
    log = FlowLog(str(tmp_path / "missing" / "f"))
    for _ in range(5):
        log.put("x\n")
    assert log.dropped == 2
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(log.run)
        await until(lambda: log.dropped == 5)
        assert log.problem is not None
        assert "cannot write the flow log" in log.problem
        (tmp_path / "missing").mkdir()
        log.put("y\n")
        await until(lambda: log.written == 1)
        assert log.problem is None
        tasks.cancel_scope.cancel()


async def test_a_dash_is_stdout(monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.StringIO()
    monkeypatch.setattr(flow_log.sys, "stdout", out)
    log = FlowLog("-")
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(log.run)
        log.put("x\n")
        await until(lambda: log.written == 1)
        tasks.cancel_scope.cancel()
    assert out.getvalue() == "x\n"


@pytest.mark.parametrize(
    ("how", "ip", "port"),
    [
        ("full", "2001:db8::7", 50_000),
        ("prefix", "2001:db8::/48", None),
        ("hash", "3935dd92dda7e15fae01b1ce37a2d585", None),
        ("none", None, None),
    ],
)
async def test_a_line_says_of_the_client_what_its_app_allows(
    how: str, ip: str | None, port: int | None
) -> None:
    line = to_line(RECORD | {"record_client": how}, [], "ams", 9, is_smart=True, client_key=KEY)
    told = json.loads(line)
    assert (told["client_ip"], told["client_port"]) == (ip, port)
    assert how == "full" or "2001:db8::7" not in line
