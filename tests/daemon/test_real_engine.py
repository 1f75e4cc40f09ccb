"""`l4proxy run` with the real engine on loopback: no root, no namespaces, real TCP and UDP."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.daemon.harness import kill_engine
from tests.daemon.support import REPOSITORY

pytest.importorskip("l4proxy._native", reason="the extension is not built")

MAIN = "from l4proxy.cli import main; main()"


@pytest.fixture
def origin() -> Iterator[int]:
    """A port at which TCP and UDP come back."""
    with (
        socket.create_server(("127.0.0.1", 0)) as stream,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagram,
    ):
        port = stream.getsockname()[1]
        datagram.bind(("127.0.0.1", port))

        def echo_connections() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = stream.accept()
                    threading.Thread(target=echo_bytes, args=(connection,), daemon=True).start()

        def echo_bytes(connection: socket.socket) -> None:
            with connection, contextlib.suppress(OSError):
                while data := connection.recv(65_536):
                    connection.sendall(data)

        def echo_datagrams() -> None:
            with contextlib.suppress(OSError):
                while True:
                    data, source = datagram.recvfrom(65_535)
                    if not source:  # the end: the socket was shut down
                        return
                    datagram.sendto(data, source)

        threads = [
            threading.Thread(target=target, daemon=True) for target in (echo_connections, echo_datagrams)
        ]
        for thread in threads:
            thread.start()
        yield port
        stream.shutdown(socket.SHUT_RDWR)
        with contextlib.suppress(OSError):
            datagram.shutdown(socket.SHUT_RDWR)
        for thread in threads:
            thread.join(5)


@pytest.fixture
def folder(tmp_path: Path, origin: int, free_port: int) -> Iterator[Path]:
    (tmp_path / "app.yaml").write_text(
        f"name: echo\nlisten: [tcp/127.0.0.1:{free_port}, udp/127.0.0.1:{free_port}]\norigins: ['127.0.0.1:{origin}']\n"
    )
    (tmp_path / "run").mkdir(mode=0o700)
    yield tmp_path
    kill_engine(tmp_path)


@pytest.fixture
def start(folder: Path) -> Iterator[Callable[[], subprocess.Popen[str]]]:
    """Start a daemon, return it once it is ready."""
    started: list[subprocess.Popen[str]] = []

    def begin() -> subprocess.Popen[str]:
        command = [
            sys.executable,
            "-c",
            MAIN,
            "run",
            str(folder / "app.yaml"),
            "--workers",
            "1",
            "--metrics",
            "off",
        ]
        command += ["--socket", str(folder / "run" / "l4proxy.sock"), "--state-dir", str(folder / "state")]
        command += ["--drain-timeout", "1s"]
        popen = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=REPOSITORY
        )
        started.append(popen)
        assert popen.stdout is not None
        assert " ready: " in popen.stdout.readline()
        return popen

    yield begin
    for popen in started:
        if popen.poll() is None:
            popen.kill()
        popen.communicate(timeout=10)


def ask(folder: Path, *command: str) -> dict[str, object]:
    arguments = [
        sys.executable,
        "-c",
        MAIN,
        *command,
        "--json",
        "--socket",
        str(folder / "run" / "l4proxy.sock"),
    ]
    done = subprocess.run(arguments, capture_output=True, text=True, check=False, timeout=30)
    assert done.returncode in (0, 5), done.stderr
    answer = json.loads(done.stdout)
    assert isinstance(answer, dict)
    return answer


def echo(connection: socket.socket, text: bytes) -> None:
    connection.sendall(text)
    received = b""
    while len(received) < len(text):
        piece = connection.recv(65_536)
        assert piece, "the connection ended"
        received += piece
    assert received == text


def test_flows_live_through_reload_and_the_death_of_the_daemon(
    folder: Path, start: Callable[[], subprocess.Popen[str]], free_port: int
) -> None:
    first = start()
    with (
        socket.create_connection(("127.0.0.1", free_port), timeout=5) as stream,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagram,
    ):
        datagram.settimeout(5)
        datagram.connect(("127.0.0.1", free_port))

        def both(text: bytes) -> None:
            echo(stream, text)
            echo(datagram, text)

        both(b"before")
        flows = ask(folder, "flow", "list")["flows"]
        assert isinstance(flows, list)
        assert {(flow["protocol"], tuple(flow["path"]), flow["bytes_to_origin"]) for flow in flows} == {
            ("tcp", ("local",), 6),
            ("udp", ("local",), 6),
        }

        text = (folder / "app.yaml").read_text()
        (folder / "app.yaml").write_text(text + "idle_timeout: {udp: 60s}\n")
        first.send_signal(signal.SIGHUP)
        time.sleep(0.3)
        both(b"after a reload")

        first.send_signal(signal.SIGSTOP)
        both(b"while the daemon is stopped")
        first.kill()
        first.wait(timeout=10)
        both(b"while there is no daemon")
        second = start()
        both(b"after the take-over")
        status = ask(folder, "status")
        assert status["state"] == "ok"
    second.send_signal(signal.SIGTERM)
    assert second.wait(timeout=15) == 0


def test_a_killed_engine_is_replaced_and_clients_come_again(
    folder: Path, start: Callable[[], subprocess.Popen[str]], free_port: int
) -> None:
    start()
    engine = ask(folder, "status")["engine_pid"]
    assert isinstance(engine, int)
    os.kill(engine, signal.SIGKILL)
    # Nobody is refused meanwhile: the daemon holds the listening socket.
    with socket.create_connection(("127.0.0.1", free_port), timeout=15) as stream:
        echo(stream, b"hello again")
    assert ask(folder, "status")["engine_pid"] != engine


def test_what_is_more_than_a_flow_may_carry_is_dropped_and_shown(
    folder: Path, start: Callable[[], subprocess.Popen[str]], free_port: int
) -> None:
    with (folder / "app.yaml").open("a") as app:
        app.write("limits: {bandwidth_per_flow: 8kbit/s}\n")
    start()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagram:
        datagram.settimeout(5)
        datagram.connect(("127.0.0.1", free_port))
        # A burst of 16 kB passes, then a kilobyte a second.
        echo(datagram, b"x" * 1_000)
        deadline = time.monotonic() + 60
        drops: object = {}
        while not isinstance(drops, dict) or not drops.get("bandwidth"):
            assert time.monotonic() < deadline, drops
            for _ in range(50):
                datagram.send(b"x" * 1_000)
            drops = ask(folder, "status")["drops"]
        flows = ask(folder, "flow", "list")["flows"]
        assert isinstance(flows, list)
        (flow,) = flows
        assert flow["dropped"] > 0
        shown = ask(folder, "app", "show", "echo")
        assert "bandwidth_dropped" in json.dumps(shown)
