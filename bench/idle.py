"""What a PoP costs while nothing happens, and what 2,000 idle TCP flows add: resident memory and processor time of daemon and engine.

Three daemons of one fleet run on loopback addresses; the one that is measured has both neighbours connected and probes their links.
"""

import argparse
import json
import os
import resource
import shlex
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from l4proxy.bench.figures import record, table

RESULTS = Path(__file__).with_name("RESULTS.md")
L4PROXY = Path(sys.executable).with_name("l4proxy")
POPS = {"ams": "127.0.77.1", "iad": "127.0.77.2", "sin": "127.0.77.3"}
OVERLAY_PORT, LISTEN_PORT, ORIGIN_PORT = 24_600, 24_601, 24_602
CLOCK_TICKS = os.sysconf("SC_CLK_TCK")

MAX_IDLE_MB = 140
MAX_IDLE_CORE_PERCENT = 1.0
MAX_ADDED_MB = 40
"""What a PoP may cost: a small virtual server has 1 GB and one core, and the proxy is not what it was rented for."""


def resident_bytes(pid: int) -> int:
    """Resident memory of a process."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    return 0


def cpu_seconds(pid: int) -> float:
    """User and system time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / CLOCK_TICKS


def run(*command: str | Path) -> None:
    """Run a command of ours to its end."""
    subprocess.run([L4PROXY, *command], check=True, capture_output=True)


def start_fleet(folder: Path) -> tuple[list[subprocess.Popen[bytes]], Path]:
    """Start the daemons; return them and the socket of the first."""
    lines = ["fleet: idle", "pops:"]
    lines += [f"  {pop}: {{transits: {{a: '{address}:{OVERLAY_PORT}'}}}}" for pop, address in POPS.items()]
    (folder / "fleet.yaml").write_text("\n".join(lines) + "\n")
    app = f"name: idle\nlisten: tcp/127.0.77.1:{LISTEN_PORT}\norigins: ['127.0.0.1:{ORIGIN_PORT}']\npops: [ams]\n"
    (folder / "app.yaml").write_text(app)
    run("pki", "init", "--fleet", "idle", "--dir", folder / "ca")
    daemons = []
    for pop in POPS:
        run("pki", "issue", pop, "--dir", folder / "ca", "--out", folder / f"id-{pop}")
        (folder / pop).mkdir()
        command = [L4PROXY, "run", folder / "app.yaml", "--fleet", folder / "fleet.yaml", "--pop", pop]
        command += ["--identity", folder / f"id-{pop}", "--state-dir", folder / pop / "state"]
        command += ["--socket", folder / pop / "l4proxy.sock", "--metrics", "off"]
        log = (folder / pop / "log").open("wb")
        daemons.append(subprocess.Popen(command, stdout=log, stderr=log))
    return daemons, folder / "ams" / "l4proxy.sock"


def ask(path: Path, *command: str) -> dict[str, object]:
    """Run a reading command."""
    done = subprocess.run(
        [L4PROXY, *command, "--json", "--socket", path], capture_output=True, text=True, check=False
    )
    answer: dict[str, object] = json.loads(done.stdout)
    return answer


def wait_until_connected(path: Path) -> int:
    """Wait until every link is up; return the engine's pid."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        time.sleep(0.5)
        if path.exists():
            links = ask(path, "link", "list")["links"]
            if isinstance(links, list) and len(links) == 6 and all(link["up"] for link in links):
                return int(str(ask(path, "status")["engine_pid"]))
    raise SystemExit("the fleet did not come up within 30 s")


def hold_flows(count: int) -> list[socket.socket]:
    """Open flows through the PoP, each used once and then silent, and keep both ends."""
    listener = socket.create_server(("127.0.0.1", ORIGIN_PORT), backlog=4096)
    held: list[socket.socket] = [listener]

    def accept() -> None:
        held.extend(listener.accept()[0] for _ in range(count))

    acceptor = threading.Thread(target=accept, daemon=True)
    acceptor.start()
    for _ in range(count):
        flow = socket.create_connection(("127.0.77.1", LISTEN_PORT))
        flow.send(b"x")
        held.append(flow)
    acceptor.join(30)
    return held


def measure(pids: dict[str, int], seconds: float) -> dict[str, float]:
    """Resident megabytes now, and per cent of a core over some seconds."""
    before = {name: cpu_seconds(pid) for name, pid in pids.items()}
    time.sleep(seconds)
    found: dict[str, float] = {}
    for name, pid in pids.items():
        found[f"{name}_mb"] = round(resident_bytes(pid) / 1e6, 1)
        found[f"{name}_core_percent"] = round(100 * (cpu_seconds(pid) - before[name]) / seconds, 2)
    found["mb"] = round(sum(found[f"{name}_mb"] for name in pids), 1)
    found["core_percent"] = round(sum(found[f"{name}_core_percent"] for name in pids), 2)
    return found


def report(idle: dict[str, float], busy: dict[str, float], flows: int) -> tuple[str, bool]:
    """Return the table, and whether every bound holds."""
    added = round(busy["mb"] - idle["mb"], 1)
    parts = f"daemon {idle['daemon_mb']} + engine {idle['engine_mb']}"
    rows = [
        ("resident, idle, MB", f"{idle['mb']} ({parts})", f"≤ {MAX_IDLE_MB}"),
        ("of a core, idle, %", f"{idle['core_percent']}", f"< {MAX_IDLE_CORE_PERCENT}"),
        (f"{flows} idle TCP flows add, MB", f"{added}", f"≤ {MAX_ADDED_MB}"),
        ("of a core with them, %", f"{busy['core_percent']}", "–"),
    ]
    met = idle["mb"] <= MAX_IDLE_MB and idle["core_percent"] < MAX_IDLE_CORE_PERCENT and added <= MAX_ADDED_MB
    return table(("what", "measured", "bound"), rows), met


def main() -> int:
    """Measure and print; exit code 1 when a bound is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--flows", type=int, default=2_000)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--record", action="store_true", help="add the table to RESULTS.md")
    args = parser.parse_args()
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with tempfile.TemporaryDirectory() as name:
        daemons, path = start_fleet(Path(name))
        engines: list[int] = []
        try:
            pids = {"daemon": daemons[0].pid, "engine": wait_until_connected(path)}
            engines = [
                int(str(ask(path.parent.parent / pop / "l4proxy.sock", "status")["engine_pid"]))
                for pop in POPS
            ]
            time.sleep(15)
            idle = measure(pids, args.seconds)
            held = hold_flows(args.flows)
            time.sleep(2)
            busy = measure(pids, args.seconds)
            text, met = report(idle, busy, args.flows)
            sys.stdout.write(f"{text}\n")
            if args.record:
                command = shlex.join(["python", "bench/idle.py", *sys.argv[1:]])
                record(RESULTS, "A PoP that does nothing", text, command)
            for one in held:
                one.close()
        finally:
            for pid in [daemon.pid for daemon in daemons] + engines:
                try:
                    os.kill(pid, 9)
                except ProcessLookupError:
                    continue
            for daemon in daemons:
                daemon.wait()
    return 0 if met else 1


if __name__ == "__main__":
    raise SystemExit(main())
