"""Origins are connected to or pinged, at their own moments, a bounded number at a time."""

import socket
import struct

import anyio
import pytest

from l4proxy.daemon import checker, ping
from l4proxy.daemon.checker import UNKNOWN, Checker, CheckResult, Target, check
from l4proxy.daemon.ping import checksum, encode_request, is_reply
from tests.daemon.support import until

pytestmark = pytest.mark.anyio


async def test_an_origin_that_accepts_has_a_connect_time() -> None:
    with socket.create_server(("127.0.0.1", 0)) as origin:
        target = Target("ssh", "127.0.0.1:22", "127.0.0.1", origin.getsockname()[1])
        result = await check(target, 1)
    assert result.reason == ""
    assert result.rtt_ns is not None
    assert 0 < result.rtt_ns < 1_000_000_000


async def test_an_origin_that_refuses(free_port: int) -> None:
    assert await check(Target("ssh", "x", "127.0.0.1", free_port), 1) == CheckResult(
        Target("ssh", "x", "127.0.0.1", free_port), None, "refused"
    )


async def test_an_origin_that_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checker, "TIMEOUT_S", 0.05)
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        address = full.getsockname()
        # A backlog of none holds one connection; the next one's SYN is not answered.
        with socket.create_connection(address):
            result = await check(Target("ssh", "x", *address), 1)
            for _ in range(3):
                if result.reason == "timed_out":
                    break
                with socket.socket() as filler:
                    filler.setblocking(False)
                    filler.connect_ex(address)
                    result = await check(Target("ssh", "x", *address), 1)
    assert (result.rtt_ns, result.reason) == (None, "timed_out")


async def test_a_udp_origin_is_pinged_where_that_is_permitted() -> None:
    target = Target("game", "127.0.0.1:27015", "127.0.0.1", None)
    result = await check(target, 7)
    if ping.is_possible(socket.AF_INET):
        assert result.rtt_ns is not None
        assert result.rtt_ns > 0
    else:
        assert (result.rtt_ns, result.reason) == (None, UNKNOWN)


async def test_without_permission_to_ping_the_answer_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    """Unknown is not unhealthy: a PoP that may not ping must not lose its UDP origins."""
    monkeypatch.setattr(ping, "is_possible", lambda _family: False)
    target = Target("game", "x", "127.0.0.1", None)
    assert await check(target, 7) == CheckResult(target, None, UNKNOWN)


async def test_every_target_is_checked_again_and_none_that_was_taken_away() -> None:
    seen: list[CheckResult] = []

    async def report(result: CheckResult) -> None:
        seen.append(result)

    with socket.create_server(("127.0.0.1", 0)) as origin:
        port = origin.getsockname()[1]
        kept, gone = Target("a", "x", "127.0.0.1", port), Target("b", "x", "127.0.0.1", port)
        subject = Checker(report, interval_s=0.02, seed=1)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(subject.run)
            subject.set_targets([kept, gone])
            await until(lambda: {result.target for result in seen} == {kept, gone})
            subject.set_targets([kept])
            seen.clear()
            await until(lambda: len(seen) >= 5)
            tasks.cancel_scope.cancel()
    assert {result.target for result in seen} == {kept}


async def test_checks_under_way_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hundred origins that do not answer must not become a hundred sockets."""
    running = peak = done = 0

    async def slow(target: Target, _sequence: int) -> CheckResult:
        nonlocal running, peak, done
        running += 1
        peak = max(peak, running)
        try:
            await anyio.sleep(0.01)
        finally:
            running -= 1
        done += 1
        return CheckResult(target, None, "timed_out")

    async def report(_result: CheckResult) -> None:
        pass

    monkeypatch.setattr(checker, "check", slow)
    monkeypatch.setattr(checker, "MAX_AT_ONCE", 8)
    subject = Checker(report, interval_s=0.1, seed=1)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(subject.run)
        subject.set_targets(Target("a", str(number), "127.0.0.1", 1) for number in range(100))
        await until(lambda: done >= 200)
        tasks.cancel_scope.cancel()
    assert peak == 8


def test_checksums_are_those_of_rfc_1071() -> None:
    assert checksum(bytes.fromhex("0001f203f4f5f6f7")) == 0x220D
    request = encode_request(socket.AF_INET, 0x1234, 1)
    assert checksum(request) == 0
    assert checksum(request + b"\x00") == 0


def test_replies_are_matched() -> None:
    reply = struct.pack("!BBHHH", 0, 0, 0, 0x1234, 7)
    header = bytes([0x45, *([0] * 19)])
    assert is_reply(socket.AF_INET, reply, 7, 0x1234)
    assert is_reply(socket.AF_INET, header + reply, 7, 0x1234)
    assert is_reply(socket.AF_INET, reply, 7, None)
    assert not is_reply(socket.AF_INET, reply, 8, 0x1234)
    assert not is_reply(socket.AF_INET, reply, 7, 0x1235)
    assert not is_reply(socket.AF_INET, encode_request(socket.AF_INET, 0x1234, 7), 7, 0x1234)
    assert not is_reply(socket.AF_INET6, b"", 7, None)
    assert not is_reply(socket.AF_INET, header, 7, None)
    assert is_reply(socket.AF_INET6, struct.pack("!BBHHH", 129, 0, 0, 1, 7), 7, 1)
