"""The load process: what it answers, against a reflector on loopback."""

import json
import os
import subprocess
import sys

import pytest

from l4proxy.bench.relay import load
from tests.bench.conftest import target

__all__ = ["target"]


@pytest.mark.parametrize(
    ("kind", "options", "figures"),
    [
        ("bulk", {"seconds": 0.1, "flows": 2, "reverse": True}, {"cpu", "machine", "gb_s"}),
        ("connect", {"seconds": 0.1, "in_flight": 4}, {"cpu", "machine", "per_second", "loss"}),
        ("ping_pong", {"seconds": 0.1, "protocol": "tcp", "size": 128}, {"p50", "p99", "cpu_us", "loss"}),
        ("ping_pong", {"seconds": 0.1, "protocol": "udp", "size": 160}, {"p50", "p99", "cpu_us", "loss"}),
        ("udp_rate", {"seconds": 0.1, "flows": 4, "rate": 1000}, {"cpu", "machine", "loss"}),
        ("udp_flood", {"seconds": 0.1, "flows": 4, "window": 2}, {"cpu", "machine", "loss", "per_second"}),
        ("idle", {"seconds": 0.01, "protocol": "tcp", "flows": 5}, {"user_kb"}),
        ("idle", {"seconds": 0.01, "protocol": "udp", "flows": 5}, {"user_kb"}),
        ("probe", {"protocol": "tcp"}, set()),
        ("probe", {"protocol": "udp"}, set()),
    ],
)
def test_every_load_gives_its_figures(
    kind: str, options: dict[str, object], figures: set[str], target: str
) -> None:
    answer = load.answer({"kind": kind, "target": target, "pids": [os.getpid()], "options": options})
    assert figures <= set(answer["figures"]), answer
    assert all(isinstance(value, (int, float)) for value in answer["figures"].values())
    if "cpu" in figures:
        assert answer["figures"]["cpu"] > 0, "the reflector's thread in this process has worked"


def test_nobody_there_is_an_answer_and_the_process_goes_on() -> None:
    request = {"kind": "probe", "target": "127.0.0.1:1", "pids": [], "options": {"protocol": "tcp"}}
    lines = (json.dumps(request) + "\n") * 2
    done = subprocess.run(
        [sys.executable, "-m", "l4proxy.bench.relay.load"],
        input=lines, capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert [list(answer) for answer in answers] == [["error"], ["error"]]
    assert "refused" in answers[0]["error"]
