"""How the relays are configured: as they themselves accept it, where they are installed."""

import socket
import subprocess
import tomllib
from pathlib import Path

import pytest

from l4proxy.bench.relay import arms
from l4proxy.bench.relay.arms import Place
from l4proxy.cli.root import run_command


@pytest.fixture
def place(tmp_path: Path) -> Place:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    return Place("127.0.0.1", port, "192.0.2.1", 4000, tmp_path)


def test_our_own_app_file_is_valid(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    command = arms.ARMS["l4proxy"].start(place)
    assert command[command.index("--workers") + 1] == "1"
    assert run_command(["check", command[command.index("run") + 1]]) == 0, capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "check"),
    [
        ("haproxy", ["haproxy", "-c", "-f"]),
        ("haproxy-splice", ["haproxy", "-c", "-f"]),
        ("nginx", ["nginx", "-t", "-q", "-c"]),
    ],
)
def test_a_peer_takes_its_configuration(name: str, check: list[str], place: Place) -> None:
    if not arms.is_installed(name):
        pytest.skip(f"{check[0]} is not installed")
    file = arms.ARMS[name].start(place)[-1]
    done = subprocess.run([*check, file], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert arms.version(name) != "?"


def test_haproxy_splices_with_pipes_enough_and_only_where_it_shall(place: Place) -> None:
    spliced = Path(arms.ARMS["haproxy-splice"].start(place)[-1]).read_text()
    assert "option splice-request\n  option splice-response\n" in spliced
    assert f"maxpipes {arms.MAX_TCP_FLOWS}\n" in spliced
    plain = Path(arms.ARMS["haproxy"].start(place)[-1]).read_text()
    assert "option splice" not in plain
    assert "maxpipes" not in plain


def test_nginx_has_large_buffers_a_socket_a_worker_and_no_log(place: Place) -> None:
    text = Path(arms.ARMS["nginx"].start(place)[-1]).read_text()
    assert text.count("proxy_buffer_size 64k;") == text.count(" reuseport") == 3
    assert "access_log off;" in text


def test_sozu_and_realm_relay_both_protocols_to_the_origin(place: Place) -> None:
    sozu = tomllib.loads(Path(arms.ARMS["sozu"].start(place)[-1]).read_text())
    udp = f"{place.listen}:{place.port + arms.ARMS['sozu'].udp_offset}"
    listeners = {(one["protocol"], one["address"]) for one in sozu["listeners"]}
    assert listeners == {("tcp", place.listens), ("udp", udp)}
    assert {name: (one["frontends"], one["backends"]) for name, one in sozu["clusters"].items()} == {
        name: ([{"address": address}], [{"address": place.goes_to}])
        for name, address in (("tcp", place.listens), ("udp", udp))
    }
    realm = tomllib.loads(Path(arms.ARMS["realm"].start(place)[-1]).read_text())
    assert realm["network"] == {"no_tcp": False, "use_udp": True}
    assert realm["endpoints"] == [{"listen": place.listens, "remote": place.goes_to}]


def test_a_peer_that_is_not_there_is_known_to_be_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    assert not arms.is_installed("nginx")
    assert arms.is_installed("floor-udp")
    assert arms.version("nginx") == "?"
