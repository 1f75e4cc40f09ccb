"""`l4proxy lab demo` as a user runs it: real daemons, real flows, and nothing left behind."""

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest

from l4proxy.lab import loopback, privilege, programs, state

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(privilege.detect().mode is None, reason="neither root nor user namespaces"),
]

DEMO_TIMEOUT_S = 240


@pytest.fixture(autouse=True)
def runtime(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path_factory.mktemp("d") / "lab"
    monkeypatch.setenv(state.RUNTIME, str(folder))
    return folder


def test_the_demo_shows_what_it_claims_and_leaves_nothing(runtime: Path) -> None:
    command = programs.l4proxy("lab", "demo", "--once", "--json")
    done = subprocess.run(command, capture_output=True, text=True, timeout=DEMO_TIMEOUT_S, check=False)
    assert done.stdout, done.stderr
    report = json.loads(done.stdout)
    assert (report["failed"], report["ok"], done.returncode) == ([], True, 0), done.stderr
    off, on, cut, _ = report["steps"]
    assert on["path_rtt_ms"] < off["path_rtt_ms"]
    assert on["udp"]["rtt_ms_p50"] < off["udp"]["rtt_ms_p50"] - 80, "110 ms on the map"
    assert cut["tcp"]["resets"] == 0
    assert cut["udp"]["received"] > 0
    assert list(runtime.iterdir()) == []


def test_ctrl_c_ends_it_and_leaves_nothing(runtime: Path) -> None:
    command = programs.l4proxy("lab", "demo")
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, start_new_session=True
    ) as demo:
        assert demo.stderr is not None
        for line in demo.stderr:
            if "daemons are ready" in line:
                break
        (run,) = state.runs()
        demo.send_signal(signal.SIGINT)
        try:
            assert demo.wait(timeout=60) == 130
        finally:
            demo.kill()
    assert run.living() == []
    assert list(runtime.iterdir()) == []
    if os.geteuid() == 0:
        assert not [
            entry for entry in Path("/run/netns").iterdir() if entry.name.startswith(f"l4lab-{run.state.run}")
        ]


def test_without_namespaces_one_pop_on_loopback_is_shown() -> None:
    told = []
    report = loopback.tell(lambda _: None, lambda document, run: told.append((document, run)))
    assert (report["failed"], report["ok"]) == ([], True)
    assert told == [(report, None)]
    (step,) = report["steps"]
    assert step["tcp"]["received"] == step["tcp"]["sent"] > 200
    assert step["udp"]["received"] > 200
