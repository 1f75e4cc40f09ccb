"""`l4proxy bench` as a user runs it, against a reflector on loopback."""

import json
import os
import re
import signal
import subprocess
import sys

import pytest

from l4proxy.cli.root import run_command
from tests.bench.conftest import target

__all__ = ["target"]


@pytest.mark.parametrize(
    ("arguments", "fields"),
    [
        (
            ["rtt", "--rate", "200", "--size", "100", "--flows", "2"],
            {
                "sent", "received", "rate_pps", "rtt_us", "loss_ratio", "reordered", "duplicates", "late_sends",
            },
        ),
        (["rtt", "--protocol", "tcp"], {"rtt_us"}),
        (["throughput", "--bytes", "100000"], {"bytes", "seconds", "mbit_s", "flows"}),
        (["throughput", "--reverse"], {"bytes", "seconds", "mbit_s", "flows"}),
        (["connect", "--rate", "50"], {"connections", "per_second", "errors", "latency_us"}),
    ],
)  # fmt: skip
def test_each_command_prints_a_table_or_json(
    arguments: list[str], fields: set[str], target: str, capsys: pytest.CaptureFixture[str]
) -> None:
    name, *options = arguments
    assert run_command(["bench", name, target, "--duration", "0.1", "--json", *options]) == 0
    assert fields <= set(json.loads(capsys.readouterr().out))
    assert run_command(["bench", name, target, "--duration", "0.1", *options]) == 0
    assert len(capsys.readouterr().out.splitlines()) >= 2


def test_the_table_of_a_model_fleet_is_measured_and_follows_its_changes(
    capsys: pytest.CaptureFixture[str],
) -> None:
    options = ["bench", "table", "--pops", "12", "--links", "2", "--repeats", "5"]
    assert run_command([*options, "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    names = {"full_ms", "incremental_ms", "one_ingress_ms", "one_transit_ms", "two_transits_ms", "peak_mb"}
    assert all(answer[name] > 0 for name in names)
    assert answer["directed_links"] == 12 * 11 * 2
    assert answer["incremental_is_full"] is True
    assert run_command([*options, "--class", "bulk"]) == 0
    assert "INCREMENTAL MS" in capsys.readouterr().out
    assert run_command(["bench", "table", "--pops", "1"]) == 2


def test_exit_codes_tell_silence_refusal_and_misuse_apart(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["bench", "rtt", "127.0.0.1:1", "--duration", "0.01", "--linger", "0"]) == 1
    assert "nothing came back" in capsys.readouterr().err
    assert run_command(["bench", "throughput", "127.0.0.1:1"]) == 1
    assert "cannot connect" in capsys.readouterr().err
    assert run_command(["bench", "connect", "127.0.0.1:1", "--duration", "0.01"]) == 1
    for wrong in (["rtt", "nowhere"], ["rtt", "127.0.0.1:1", "--size", "1"], ["reflect", "--listen", "x"]):
        assert run_command(["bench", *wrong]) == 2


def test_a_reflector_is_ended_by_a_signal_and_tells_what_it_did() -> None:
    program = "import sys; from l4proxy.cli.root import run_command; sys.exit(run_command(sys.argv[1:]))"
    command = [sys.executable, "-c", program, "bench", "reflect", "--listen", "127.0.0.1:0", "--json"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ.copy()
    ) as reflector:
        assert reflector.stderr is not None
        address = re.search(r"127\.0\.0\.1:\d+", reflector.stderr.readline())
        assert address is not None
        code = run_command(["bench", "connect", address[0], "--rate", "100", "--duration", "0.1"])
        reflector.send_signal(signal.SIGTERM)
        output, errors = reflector.communicate(timeout=30)
    assert (code, reflector.returncode, errors) == (0, 0, "")
    assert json.loads(output)["connections"] == 10
