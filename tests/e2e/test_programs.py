"""Real clients and servers through local, direct and transit paths."""

import hashlib
import json
import os
import sys
from pathlib import Path

import pytest

from tests.e2e.conftest import VARIANTS, FleetUnderTest
from tests.e2e.network import wait_until
from tests.e2e.programs import Ssh, need, path_of, start_iperf3, start_nginx, wait_for_port

pytestmark = pytest.mark.e2e

DATA = Path(__file__).parent / "data"


def port_of(variant: str, offset: int) -> str:
    """Return the listener port of a program in the app of this variant."""
    return str(10_000 + 1_000 * VARIANTS.index(variant) + offset)


@pytest.fixture(scope="session")
def iperf3(fleet: FleetUnderTest) -> None:
    """One iperf3 server for all tests: it serves one client at a time."""
    need("iperf3")
    start_iperf3(fleet.net, "origin")


@pytest.fixture(scope="session")
def ssh(fleet: FleetUnderTest, tmp_path_factory: pytest.TempPathFactory) -> Ssh:
    """One sshd for all tests."""
    need("ssh", "sshd")
    return Ssh(fleet.net, "origin", tmp_path_factory.mktemp("ssh") / "keys")


def measure_iperf3(fleet: FleetUnderTest, variant: str, *options: str) -> dict[str, dict[str, float]]:
    """Run an iperf3 client against the ingress PoP; return the end part of its report."""
    command = ["iperf3", "-c", fleet.net["ams"].ipv4, "-p", port_of(variant, 201), "-J", *options]

    def report() -> dict[str, object]:
        answer: dict[str, object] = json.loads(fleet.net["client"].run(*command, check=False).stdout)
        assert "error" not in answer, answer["error"]
        return answer

    end = wait_until(f"iperf3 {options}", report, timeout_s=30, interval_s=1)["end"]
    assert isinstance(end, dict)
    return end


@pytest.mark.usefixtures("iperf3")
@pytest.mark.parametrize("options", [(), ("-R",), ("-P", "8")], ids=["one-flow", "reverse", "eight-flows"])
def test_iperf3_tcp(fleet: FleetUnderTest, variant: str, options: tuple[str, ...]) -> None:
    end = measure_iperf3(fleet, variant, "-t", "2", *options)

    # What is still in buffers on the way when the time is up is not counted as received: on a busy machine, more than half.
    assert end["sum_received"]["bits_per_second"] > 10e6


@pytest.mark.usefixtures("iperf3")
def test_iperf3_udp(fleet: FleetUnderTest, variant: str) -> None:
    end = measure_iperf3(fleet, variant, "-u", "-b", "5M", "-l", "1200", "-t", "2")

    assert end["sum"]["packets"] > 900
    assert end["sum"]["lost_percent"] < 1


def test_sockperf_ping_pong(fleet: FleetUnderTest, variant: str) -> None:
    need("sockperf")
    origin = fleet.net["origin"]
    server = fleet.net.start("origin", "sockperf", "server", "-i", origin.ipv4, "-p", "11111")
    wait_for_port(fleet.net, "origin", 11111, "udp")

    done = fleet.net["client"].run(
        "sockperf",
        "ping-pong",
        "-i",
        fleet.net["ams"].ipv4,
        "-p",
        port_of(variant, 111),
        "-t",
        "2",
        "-m",
        "160",
    )

    server.kill()
    server.wait(timeout=5)
    assert "# dropped messages = 0; # duplicated messages = 0; # out-of-order messages = 0" in done.stdout


def test_sftp_carries_200_mb_unchanged(fleet: FleetUnderTest, ssh: Ssh, variant: str, tmp_path: Path) -> None:
    source, back = tmp_path / "source", tmp_path / "back"
    source.write_bytes(os.urandom(1_000_000) * 200)
    batch = tmp_path / "batch"
    batch.write_text(f"put {source} {tmp_path}/there\nget {tmp_path}/there {back}\n")

    fleet.net["client"].run(
        "sftp",
        *ssh.options,
        "-P",
        port_of(variant, 22),
        "-b",
        str(batch),
        f"root@{fleet.net['ams'].ipv4}",
        timeout_s=120,
    )

    assert hashlib.sha256(back.read_bytes()).digest() == hashlib.sha256(source.read_bytes()).digest()
    for name in ("source", "there", "back"):
        (tmp_path / name).unlink()


@pytest.fixture(scope="session")
def web(fleet: FleetUnderTest, tmp_path_factory: pytest.TempPathFactory) -> int:
    """An nginx with one file; returns its size."""
    need("nginx", "curl")
    size = 50_000_000
    start_nginx(fleet.net, "origin", tmp_path_factory.mktemp("nginx") / "site", size)
    return size


def test_curl_fetches_a_file_from_nginx(fleet: FleetUnderTest, web: int, variant: str) -> None:
    url = f"http://{fleet.net['ams'].ipv4}:{port_of(variant, 80)}/blob"

    done = fleet.net["client"].run(
        "curl", "-sS", "--fail", "--output", "/dev/null", "-w", "%{size_download}", url
    )

    assert int(done.stdout) == web


def test_sip_calls_with_rtp_through_a_port_range(fleet: FleetUnderTest, variant: str, tmp_path: Path) -> None:
    """The callee announces the PoP's address and a port of the range for its media, as operators configure it."""
    need("sipp")
    ams, origin, client = fleet.net["ams"].ipv4, fleet.net["origin"].ipv4, fleet.net["client"].ipv4
    callee = (DATA / "sip_callee.xml").read_text().replace("ANNOUNCED", ams)
    (tmp_path / "callee.xml").write_text(callee)
    (tmp_path / "caller.xml").write_text((DATA / "sip_caller.xml").read_text())
    (tmp_path / "voice.ulaw").write_bytes(bytes(8_000))
    media = ["-mi", origin, "-mp", port_of(variant, 500), "-rtp_echo", "-nostdin"]
    server = fleet.net.start(
        "origin", "sipp", "-sf", str(tmp_path / "callee.xml"), "-i", origin, "-p", "5060", *media
    )
    wait_for_port(fleet.net, "origin", 5060, "udp")

    done = fleet.net["client"].run(
        "sh", "-c",
        f"cd {tmp_path} && exec sipp -sf caller.xml {ams}:{port_of(variant, 60)} -i {client} -mi {client} -m 10 -r 5"
        " -nostdin -timeout 30s -trace_err -error_file errors </dev/null",
        check=False,
    )  # fmt: skip

    server.kill()
    server.wait(timeout=5)
    errors = (tmp_path / "errors").read_text() if (tmp_path / "errors").exists() else ""
    assert done.returncode == 0, f"sipp exited {done.returncode}\n{done.stdout[-2000:]}\n{errors[-2000:]}"

    def media_flows() -> list[dict[str, int]]:
        flows = fleet.daemons["ams"].ask("flow", "list", "--app", f"rtp-{variant}")["flows"]
        return [flow for flow in flows if flow["datagrams_to_origin"] >= 40]

    flows = wait_until("RTP flows of the calls", media_flows, timeout_s=3)
    assert all(flow["datagrams_to_client"] > 0.9 * flow["datagrams_to_origin"] for flow in flows)


LUANTI_PROTOCOL = bytes.fromhex("4f457403")
"""What every packet of the Luanti (Minetest) protocol begins with."""

LUANTI_HELLO = LUANTI_PROTOCOL + b"\x00\x00" + b"\x00" + b"\x03\xff\xdc" + b"\x01"
"""A reliable, empty packet of a peer without an id: a client's first; the server answers with the id that it gives."""

ASK_LUANTI = """
import socket, sys
client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
client.settimeout(3)
client.connect((sys.argv[1], int(sys.argv[2])))
client.send(bytes.fromhex(sys.argv[3]))
print(client.recv(2000).hex())
"""


def test_a_luanti_client_is_given_a_peer_id(fleet: FleetUnderTest, variant: str, tmp_path: Path) -> None:
    need("minetestserver")
    command = [
        path_of("minetestserver"),
        "--world",
        str(tmp_path / "world"),
        "--gameid",
        "minetest",
        "--port",
        "30000",
    ]
    server = fleet.net.start(
        "origin", "env", f"HOME={tmp_path}", *command, "--logfile", str(tmp_path / "log")
    )
    wait_for_port(fleet.net, "origin", 30000, "udp")

    done = fleet.net["client"].run(
        sys.executable, "-c", ASK_LUANTI, fleet.net["ams"].ipv4, port_of(variant, 300), LUANTI_HELLO.hex()
    )

    server.kill()
    server.wait(timeout=5)
    answer = bytes.fromhex(done.stdout.strip())
    assert answer.startswith(LUANTI_PROTOCOL + b"\x00\x01"), "from the server, whose peer id is 1"
    assert answer[10:12] == b"\x00\x01", "a control packet that sets the peer id"
