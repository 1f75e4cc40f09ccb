"""The order of a run, and what becomes of a family that fails: its own rows say why, the others are measured."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest

from l4proxy.bench.overlay import programme, replay
from l4proxy.bench.overlay.context import Context, Found, Skipped
from l4proxy.bench.overlay.rows import Load
from l4proxy.bench.testbed import BenchmarkError
from l4proxy.cli.root import run_command
from l4proxy.errors import L4ProxyError


def take(family: programme.Family, *, quick: bool = False) -> tuple[programme.Outcome, list[str]]:
    said: list[str] = []
    options = programme.Options(["transit-160", "transit-1200"], 1.0, 2, quick)
    return programme.run(options, said.append, {"transit": family}), said


def test_measurements_are_kept_by_load_and_arm() -> None:
    def family(context: Context, loads: list[Load]) -> Iterator[Found]:
        assert context.folder.is_dir()
        for repeat in range(context.repeats):
            for load in loads:
                yield load.key, "l4proxy", {"cpu": float(repeat)}

    outcome, said = take(family)
    assert outcome.measured == {
        key: {"l4proxy": [{"cpu": 0.0}, {"cpu": 1.0}]} for key in ("transit-160", "transit-1200")
    }
    assert outcome.skipped == {}
    assert said[0] == "transit-160, transit-1200"


@pytest.mark.parametrize("problem", [Skipped("no TUN"), BenchmarkError("it has ended")])
def test_a_family_that_breaks_off_has_no_figures(problem: L4ProxyError) -> None:
    def family(_context: Context, loads: list[Load]) -> Iterator[Found]:
        yield loads[0].key, "l4proxy", {"cpu": 1.0}
        raise problem

    outcome, _ = take(family)
    assert outcome.measured == {}
    assert outcome.skipped == dict.fromkeys(("transit-160", "transit-1200"), str(problem))


def test_it_says_what_this_machine_lacks(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0})
    assert run_command(["bench", "overlay"]) == 1
    errors = capsys.readouterr().err
    assert "bench overlay: it takes root" in errors
    assert "bench overlay: it takes two cores" in errors


def test_what_makes_no_sense_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["bench", "overlay", "--rows", "nowhere"]) == 2
    assert "no rows nowhere; there are" in capsys.readouterr().err


def test_replay_reads_what_a_packet_carries() -> None:
    udp = (4600).to_bytes(2) * 2 + (8 + 3).to_bytes(2) + bytes(2) + b"abc"
    ip = bytes([0x45]) + bytes(8) + bytes([socket.IPPROTO_UDP]) + bytes(10)
    frame = bytes(12) + b"\x08\x00" + ip + udp
    assert replay.payload(frame + b"padding") == b"abc"
    assert replay.payload(bytes(12) + b"\x86\xdd" + ip + udp) is None
    assert replay.payload(frame[:23] + b"\x06" + frame[24:]) is None


LACKING = programme.missing()


@pytest.mark.e2e
@pytest.mark.skipif(bool(LACKING), reason="; ".join(LACKING) or "can run")
def test_a_transit_is_measured_with_real_pops() -> None:
    command = [sys.executable, "-c", "from l4proxy.cli import main; main()", "bench", "overlay"]
    options = ["--rows", "transit-160", "--seconds", "0.3", "--repeats", "1", "--json"]
    done = subprocess.run([*command, *options], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    [row] = json.loads(done.stdout)["rows"]
    assert row["arms"]["l4proxy"]["median"] > 0, done.stderr
    assert row["arms"]["l4proxy"]["also"]["loss"] < 0.5
    assert row["met"] in (True, False)
