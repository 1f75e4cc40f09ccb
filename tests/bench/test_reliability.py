"""The reliability programmes of bench/reliability, small and quick: what they look for in minutes must hold in seconds as well."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).parents[2] / "bench" / "reliability"

PATIENCE_S = 600


def run(script: str, *arguments: str) -> dict[str, Any]:
    """Run a programme, return its figures. What it says when it fails is what the test says."""
    command = [sys.executable, str(FOLDER / script), "--json", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    assert answer["met"] is True
    assert all(answer["bounds"].values())
    return answer


@pytest.mark.parametrize("silent", [False, True])
def test_flows_are_held_and_the_descriptor_limit_is_a_clean_refusal(silent: bool) -> None:
    figures = run("held.py", "--flows", "150", "--seconds", "1", *(["--silent"] if silent else []))
    assert figures["flows_lost"] == figures["messages_failed"] == 0
    assert figures["beyond_the_limit_refused"] > 0
    assert figures["messages"] > 0


def test_reloads_close_no_flow_and_a_wrong_file_changes_nothing() -> None:
    figures = run("reloads.py", "--reloads", "40", "--flows", "10", "--invalid", "0.25")
    assert figures["messages"] > 0
    assert figures["half_applied"] == 0


def test_bytes_are_exact_or_the_flow_is_reset() -> None:
    figures = run("exact.py", "--flows", "10", "--megabytes", "40", "--conversation-megabytes", "1")
    assert figures["conversations_exact"] > 0
    assert figures["conversations_reset"] > 0


def test_a_window_that_stays_shut_costs_no_byte() -> None:
    if subprocess.run(
        ["unshare", *(() if os.geteuid() == 0 else ("--user", "--map-root-user")), "--net", "true"],
        capture_output=True,
        check=False,
    ).returncode:
        pytest.skip("needs a network namespace: root, or user namespaces")
    figures = run("stalls.py", "--shut-seconds", "0.5", "--no-vanishing")
    assert figures["of_them_exact"] == "4 of 4"


def test_simulated_faults_break_nothing() -> None:
    figures = run("simulated.py", "--kinds", "cut,flap", "--seeds", "1", "--seconds", "20")
    assert figures["runs"] == 2
    assert figures["violations"] == 0
