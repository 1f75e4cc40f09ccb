"""Real namespaces and the real emulator: what the lab file says is what packets meet; what a lab made goes with it."""

import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from l4proxy.lab import privilege, programs, state
from l4proxy.lab.network import LabError, Network

PROBE = str(Path(__file__).with_name("echo_probe.py"))
ACCESS = privilege.detect()
ATTEMPTS = 3
"""A measurement during which the emulator was late says nothing about it: taken again, at most this often."""

DOCUMENT: dict[str, Any] = {
    "lab": "test",
    "hosts": {"a": {}, "b": {}},
    "links": [{"between": ["a", "b"], "rtt": "50ms"}],
}

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(
        os.geteuid() != 0 or ACCESS.mode != "root", reason="needs root: it makes network namespaces"
    ),
]


@pytest.fixture(autouse=True)
def runtime(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path_factory.mktemp("r") / "lab"
    monkeypatch.setenv(state.RUNTIME, str(folder))
    return folder


@pytest.fixture(scope="module", params=["tun", "veth"])
def standing(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Network]:
    if request.param == "tun" and ACCESS.wire != "tun":
        pytest.skip("TUN is refused here")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(state.RUNTIME, str(tmp_path_factory.mktemp("standing") / "lab"))
        made = Network.up(DOCUMENT, mode="root", wire=request.param)
    try:
        for address in (made.plan.hosts["b"].ipv4, made.plan.hosts["b"].ipv6):
            made.start("b", [sys.executable, PROBE, "echo", address], "origin")
        deadline = time.monotonic() + 10
        while not (probe(made, 1) and probe(made, 1, family=6)):
            assert time.monotonic() < deadline, "no echo"
        yield made
    finally:
        made.down()


@pytest.fixture
def network(standing: Network) -> Iterator[Network]:
    """Give the network as the lab file made it, whatever the test before changed."""
    yield standing
    for link in standing.plan.links.values():
        standing.set(link.name, **asdict(link.properties))
    before = None
    while before != (before := counters(standing)) or standing.stats()["under_way"]:
        time.sleep(0.2)  # longer than any delay here: what the test sent has arrived


def probe(network: Network, count: int, interval_s: float = 0.01, family: int = 4) -> list[float]:
    host = network.plan.hosts["b"]
    address = host.ipv4 if family == 4 else host.ipv6
    command = network.command("a", [sys.executable, PROBE, "probe", address, str(count), str(interval_s)])
    rtts: list[float] = json.loads(
        subprocess.run(command, capture_output=True, check=True, timeout=60).stdout
    )
    return rtts


def measured(network: Network, count: int, interval_s: float = 0.01, family: int = 4) -> list[float]:
    """Probe while the emulator is on time."""
    for _ in range(ATTEMPTS):
        network.stats(reset=True)
        rtts = probe(network, count, interval_s, family)
        if network.stats()["lateness"]["p99_us"] < 1_000:
            return rtts
    pytest.skip("this machine was too busy to emulate delays")


@pytest.mark.parametrize("family", [4, 6])
def test_the_configured_rtt_is_what_hosts_see(network: Network, family: int) -> None:
    rtts = measured(network, 100, family=family)
    assert len(rtts) == 100
    assert min(rtts) >= 50.0
    assert statistics.median(rtts) == pytest.approx(50.0, abs=2.0)


def test_loss_delay_and_rate_can_be_changed_while_packets_flow(network: Network) -> None:
    network.set("a", "b", loss_ratio=0.3, delay_ns=5_000_000)
    rtts = measured(network, 500, 0.004)
    # There and back 49 % arrive: 245 of 500, give or take five standard deviations of 11.
    assert 190 <= len(rtts) <= 300
    assert statistics.median(rtts) == pytest.approx(10.0, abs=2.0)
    network.set("a>b", loss_ratio=0.0)
    network.set("b>a", loss_ratio=0.0)
    assert len(probe(network, 50, 0.004)) == 50


def test_a_cut_is_a_black_hole_until_it_is_mended(network: Network) -> None:
    assert network.cut("a", "b") == ("a>b", "b>a")
    assert probe(network, 5) == []
    network.mend("a", "b")
    assert len(probe(network, 20)) == 20


def test_a_one_way_cut_lets_packets_arrive_and_answers_die(network: Network) -> None:
    network.cut("b", "a", one_way=True)
    before = counters(network)
    assert probe(network, 5) == []
    after = counters(network)
    assert after["a>b"]["delivered"] - before["a>b"]["delivered"] == 5
    assert after["b>a"]["dropped_cut"] - before["b>a"]["dropped_cut"] == 5
    network.mend("b>a")
    assert len(probe(network, 5)) == 5


def test_what_leads_nowhere_is_counted(network: Network) -> None:
    before = network.stats()["unknown_destination"]
    code = "import socket; socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('192.0.2.1', 9))"
    subprocess.run(network.command("a", [sys.executable, "-W", "ignore", "-c", code]), check=True)
    deadline = time.monotonic() + 5
    while network.stats()["unknown_destination"] != before + 1:
        assert time.monotonic() < deadline, network.stats()


FLOOD = """
import socket, sys
endpoints = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(60)]
for endpoint in endpoints:
    endpoint.setblocking(False)
    try:
        for _ in range(400):
            endpoint.sendto(b"x", (sys.argv[1], 10))
    except BlockingIOError:
        pass
"""
"""More than any queue holds, from many sockets, since what one may have under way is bounded as well."""


def test_what_a_stopped_emulator_does_not_read_is_counted(network: Network) -> None:
    """The devices' queues are bounded; a packet that found them full must not vanish without a trace."""
    holder = network.run.state.find("emulator")
    assert holder is not None
    before = network.stats()["overruns"]
    os.kill(holder.pid, signal.SIGSTOP)
    try:
        command = network.command(
            "a", [sys.executable, "-W", "ignore", "-c", FLOOD, network.plan.hosts["b"].ipv4]
        )
        subprocess.run(command, check=True, timeout=30)
    finally:
        os.kill(holder.pid, signal.SIGCONT)
    deadline = time.monotonic() + 10
    while network.stats()["overruns"] <= before:
        assert time.monotonic() < deadline, network.stats()
        probe(network, 1)


def test_a_wrong_value_is_refused_and_the_link_stays(network: Network) -> None:
    with pytest.raises(LabError, match="not a ratio"):
        network.set("a", "b", loss_ratio=1.5)
    with pytest.raises(LabError, match="no link joins a and z"):
        network.cut("a", "z")
    assert len(probe(network, 5)) == 5


def counters(network: Network) -> dict[str, dict[str, int]]:
    return {link["name"]: link for link in network.stats()["links"]}


def named_namespaces() -> set[str]:
    folder = Path("/run/netns")
    return {entry.name for entry in folder.iterdir()} if folder.exists() else set()


def lab(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        programs.l4proxy("lab", *arguments), capture_output=True, text=True, timeout=60, check=False
    )


def test_the_commands_make_use_and_remove_a_lab(tmp_path: Path) -> None:
    before = named_namespaces()
    file = tmp_path / "lab.yaml"
    file.write_text(json.dumps(DOCUMENT))
    assert lab("down").returncode == 0
    made = lab("up", str(file))
    assert made.returncode == 0, made.stderr
    run = made.stderr.split()[1]
    assert named_namespaces() - before == {f"l4lab-{run}-a", f"l4lab-{run}-b"}
    assert lab("exec", "a", "sh", "-c", "exit 7").returncode == 7
    assert lab("cut", "a", "b", "--one-way").stderr == "cut: a>b\n"
    assert lab("set", "a", "b", "--rtt", "20ms", "--loss", "1%").stderr == "changed: a>b\nchanged: b>a\n"
    status = json.loads(lab("status", "--json").stdout)
    assert [(link["name"], link["cut"], link["delay_ns"]) for link in status["links"]] == [
        ("a>b", True, 10_000_000),
        ("b>a", False, 10_000_000),
    ]
    assert lab("set", "a", "b", "--rtt", "20").returncode == 2
    assert lab("cut", "a", "z").returncode == 1
    assert lab("exec", "z", "true").returncode == 1
    assert lab("down").stderr == f"lab {run} is down\n"
    assert named_namespaces() == before
    assert lab("status").returncode == 1


@pytest.mark.skipif(shutil.which("setpriv") is None, reason="needs setpriv (Debian package util-linux)")
def test_without_the_rights_of_root_a_lab_stands_in_a_user_namespace(tmp_path: Path) -> None:
    """From outside it is commanded, entered and removed as any other."""
    file = tmp_path / "lab.yaml"
    file.write_text(json.dumps(DOCUMENT))
    before = named_namespaces()

    def unprivileged(*arguments: str) -> subprocess.CompletedProcess[str]:
        bounds = "--bounding-set=-sys_admin,-net_admin,-net_raw,-sys_nice"
        command = ["setpriv", bounds, *programs.l4proxy("lab", *arguments)]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    if (
        subprocess.run(["unshare", "--user", "--net", "true"], capture_output=True, check=False).returncode
        != 0
    ):
        pytest.skip("user namespaces are refused here")
    made = unprivileged("up", str(file))
    assert made.returncode == 0, made.stderr
    run = state.Run.load(state.runtime_root() / made.stderr.split()[1])
    assert run.state.mode == "userns"
    assert named_namespaces() == before
    assert "10.77.1.1" in unprivileged("exec", "a", "cat", "/proc/net/fib_trie").stdout
    assert unprivileged("cut", "a", "b").returncode == 0
    assert len(json.loads(unprivileged("status", "--json").stdout)["links"]) == 2
    assert unprivileged("down").returncode == 0
    assert run.living() == []


def test_a_killed_lab_is_removed_by_the_next_and_foreign_namespaces_stay(runtime: Path) -> None:
    foreign = f"l4lab-not-ours-{os.getpid()}"
    code = (
        "import json, sys, time; from l4proxy.lab.network import Network;"
        "n = Network.up(json.loads(sys.argv[1]), mode='root', wire=sys.argv[2]);"
        "print(n.run.state.run, flush=True); time.sleep(60)"
    )
    subprocess.run(["ip", "netns", "add", foreign], check=True)
    try:
        command = [sys.executable, "-c", code, json.dumps(DOCUMENT), ACCESS.wire]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as victim:
            assert victim.stdout is not None
            run = victim.stdout.readline().strip()
            left = state.Run.load(runtime / run)
            victim.send_signal(signal.SIGKILL)
        assert len(left.living()) == 3, "two holders and the emulator outlive their owner"
        assert {f"l4lab-{run}-a", f"l4lab-{run}-b", foreign} <= named_namespaces()
        assert state.remove_dead_runs() == [run]
        assert left.living() == []
        assert not {name for name in named_namespaces() if name.startswith(f"l4lab-{run}")}
        assert foreign in named_namespaces()
        assert not (runtime / run).exists()
    finally:
        subprocess.run(["ip", "netns", "del", foreign], check=True)


def test_a_lab_that_cannot_be_made_leaves_nothing(runtime: Path) -> None:
    before = named_namespaces()
    document = DOCUMENT | {"links": [{"between": ["a", "b"], "rtt": "50ms", "burst_loss": "90%", "burst": 2}]}
    with pytest.raises(LabError, match="bursts of 2 packets cannot lose"):
        Network.up(document, mode="root", wire=ACCESS.wire)
    assert named_namespaces() == before
    assert list(runtime.iterdir()) == []
