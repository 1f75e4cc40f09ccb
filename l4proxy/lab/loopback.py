"""The demo where no namespace can be had: one PoP on loopback, real flows to a real origin. No WAN, so no routes to compare."""

import json
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml

from l4proxy.lab import measure, programs
from l4proxy.lab.demo import Progress
from l4proxy.lab.network import LabError
from l4proxy.lab.ports import free_port
from l4proxy.lab.telling import Told

APP = "echo"
SECONDS = 5.0
GRACE_S = 0.5
READY_TIMEOUT_S = 30.0


def tell(progress: Progress, told: Told) -> dict[str, Any]:
    """Run an origin, a daemon and a client on loopback for some seconds; return the report. LabError if one fails."""
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="l4proxy-lab-") as name:
        processes: list[subprocess.Popen[bytes]] = []
        try:
            document = _tell(Path(name), processes, progress)
        finally:
            for process in reversed(processes):
                process.terminate()
            for process in reversed(processes):
                _end(process)
    document["seconds"] = round(time.monotonic() - started, 1)
    told(document, None)
    return document


def _tell(folder: Path, processes: "list[subprocess.Popen[bytes]]", progress: Progress) -> dict[str, Any]:
    app_port, origin_port = free_port(), free_port()
    app = {
        "name": APP,
        "listen": [f"tcp/{app_port}", f"udp/{app_port}"],
        "origins": [f"127.0.0.1:{origin_port}"],
    }
    (folder / "app.yaml").write_text(yaml.safe_dump(app))
    control, record = folder / "l4proxy.sock", folder / "client.jsonl"
    record.touch()

    def start(name: str, command: list[str]) -> None:
        with (folder / f"{name}.log").open("wb") as log:
            processes.append(
                subprocess.Popen(
                    command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
                )
            )

    start("origin", programs.module("traffic", "origin", str(origin_port)))
    options = (
        "--state-dir",
        str(folder / "state"),
        "--socket",
        str(control),
        "--metrics",
        f"127.0.0.1:{free_port()}",
    )
    start("daemon", programs.l4proxy("run", str(folder / "app.yaml"), *options))
    _wait_ready(control, processes[-1], folder / "daemon.log")
    progress("one daemon is ready")
    start("client", programs.module("traffic", "client", "127.0.0.1", str(app_port), "--record", str(record)))
    time.sleep(1.0)
    start_ns = time.monotonic_ns()
    time.sleep(SECONDS)
    end_ns = time.monotonic_ns()
    time.sleep(GRACE_S)
    with record.open() as lines:
        flows = measure.read(lines)
    step: dict[str, Any] = {"name": "local", "path": [_status(control)["pop"]]}
    for flow in ("tcp", "udp"):
        step[flow] = measure.figures(flows.get(flow, measure.FlowRecord()), start_ns, end_ns).to_json()
    failed = [f"{flow}: nothing came back" for flow in ("tcp", "udp") if not step[flow]["received"]]
    failed += [f"{flow}: {step[flow]['resets']} resets" for flow in ("tcp", "udp") if step[flow]["resets"]]
    progress(f"local: TCP {step['tcp']['rtt_ms_p50']} ms, UDP {step['udp']['rtt_ms_p50']} ms")
    return {
        "topology": {
            "pops": [],
            "links": [],
            "app": APP,
            "source": "one PoP on loopback: nothing is emulated",
        },
        "steps": [step],
        "emulator": {"late_us_p99": 0, "late_us_max": 0, "late_packets": 0, "packets": 0},
        "failed": failed,
        "ok": not failed,
    }


def _wait_ready(control: Path, daemon: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline = time.monotonic() + READY_TIMEOUT_S
    while not _status(control).get("ready"):
        if daemon.poll() is not None or time.monotonic() > deadline:
            raise LabError(f"the daemon is not ready:\n{log.read_text(errors='replace')[-4000:]}")
        time.sleep(0.2)


def _status(control: Path) -> dict[str, Any]:
    done = subprocess.run(
        programs.l4proxy("status", "--json", "--socket", str(control)), capture_output=True, check=False
    )
    try:
        answer: dict[str, Any] = json.loads(done.stdout)
    except ValueError:
        return {}
    return answer


def _end(process: "subprocess.Popen[bytes]") -> None:
    try:
        process.wait(timeout=5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
