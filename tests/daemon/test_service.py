"""The daemon as a process: its lines, signals, lock and sockets, and the commands that speak to it."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import l4proxy
from tests.daemon.harness import kill_engine, write_app
from tests.daemon.support import FAKE_ENGINE, REPOSITORY

RUN = """
import sys
from l4proxy.daemon import engine_process
engine_process.ENGINE_COMMAND = {engine!r}
from l4proxy.cli.root import run_command
raise SystemExit(run_command(sys.argv[1:]))
"""
"""The command line, which has no option for another engine, with another engine."""


@dataclass
class Process:
    """One daemon that was started as the command line starts it, with the fake engine in place of the real one."""

    popen: subprocess.Popen[str]
    socket: Path

    def ready_line(self) -> str:
        assert self.popen.stdout is not None
        line = self.popen.stdout.readline()
        assert line, self.popen.stderr.read() if self.popen.stderr else ""
        return line

    def ask(self, *command: str) -> subprocess.CompletedProcess[str]:
        code = "from l4proxy.cli import main; main()"
        arguments = [sys.executable, "-c", code, *command, "--socket", str(self.socket)]
        return subprocess.run(
            arguments, capture_output=True, text=True, check=False, cwd=REPOSITORY, timeout=30
        )

    def end(self, number: int = signal.SIGTERM) -> tuple[int, str, str]:
        self.popen.send_signal(number)
        out, err = self.popen.communicate(timeout=15)
        return self.popen.returncode, out, err


@pytest.fixture
def folder(tmp_path: Path, free_port: int) -> Iterator[Path]:
    write_app(tmp_path / "apps", "game", free_port)
    (tmp_path / "run").mkdir(mode=0o700)
    yield tmp_path
    kill_engine(tmp_path)


@pytest.fixture
def start(folder: Path) -> Iterator[object]:
    started: list[Process] = []

    def begin(*extra: str) -> Process:
        path = folder / "run" / "l4proxy.sock"
        command = [sys.executable, "-c", RUN.format(engine=FAKE_ENGINE), "run", str(folder / "apps")]
        command += ["--socket", str(path), "--state-dir", str(folder / "state"), "--workers", "1", *extra]
        popen = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=REPOSITORY
        )
        started.append(Process(popen, path))
        return started[-1]

    yield begin
    for process in started:
        if process.popen.poll() is None:
            process.popen.kill()
        process.popen.communicate(timeout=10)


def test_a_whole_life(folder: Path, start: object, free_port: int) -> None:
    assert callable(start)
    daemon: Process = start("--metrics", "off")
    assert daemon.ready_line() == (
        f"l4proxy {l4proxy.__version__} ready: pop=local apps=1 generation=1 socket={daemon.socket}\n"
    )
    assert daemon.socket.stat().st_mode & 0o777 == 0o600
    status = daemon.ask("status", "--json")
    assert status.returncode == 0
    assert json.loads(status.stdout)["state"] == "ok"
    with socket.create_connection(("127.0.0.1", free_port), timeout=5):
        pass

    # A good reload, by signal; then a bad one, by command.
    write_app(folder / "apps", "game", free_port, "connect_timeout: 1s\n")
    daemon.popen.send_signal(signal.SIGHUP)
    deadline = time.monotonic() + 10
    while json.loads(daemon.ask("status", "--json").stdout)["generation"] < 2:
        assert time.monotonic() < deadline, "no reload after SIGHUP"
    (folder / "apps" / "game.yaml").write_text("name: game\n")
    failed = daemon.ask("reload")
    assert failed.returncode == 3
    assert "game.yaml" in failed.stderr
    assert daemon.ask("status").returncode == 5

    assert daemon.ask("smart-routing", "off", "--all").returncode == 0
    assert daemon.ask("smart-routing", "on", "nope").returncode == 2
    code, out, err = daemon.end(signal.SIGTERM)
    assert (code, out) == (0, "")
    assert '"event": "drained"' in err
    assert not daemon.socket.exists()
    assert daemon.ask("status").returncode == 4


def test_ctrl_c_ends_with_130(start: object) -> None:
    assert callable(start)
    daemon: Process = start("--metrics", "off")
    daemon.ready_line()
    assert daemon.end(signal.SIGINT)[0] == 130


def test_a_second_daemon_in_the_same_place_is_refused(start: object) -> None:
    assert callable(start)
    first: Process = start("--metrics", "off")
    first.ready_line()
    second: Process = start("--metrics", "off")
    _, err = second.popen.communicate(timeout=15)
    assert second.popen.returncode == 1
    assert f"another daemon (pid {first.popen.pid}) uses" in err
    assert first.ask("status").returncode == 0


def has_ended(pid: int) -> bool:
    """Whether a process has ended; one that nobody has waited for is a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def test_a_killed_daemon_leaves_its_engine_to_the_next_one(start: object, free_port: int) -> None:
    assert callable(start)
    first: Process = start("--metrics", "off")
    first.ready_line()
    engine = json.loads(first.ask("status", "--json").stdout)["engine_pid"]
    with socket.create_connection(("127.0.0.1", free_port), timeout=5) as client:
        first.popen.kill()
        first.popen.communicate(timeout=10)
        os.kill(engine, 0)
        second: Process = start("--metrics", "off")
        second.ready_line()
        assert json.loads(second.ask("status", "--json").stdout)["engine_pid"] == engine
        client.settimeout(0.1)
        with pytest.raises(TimeoutError):  # neither closed nor reset
            client.recv(1)
    assert second.end()[0] == 0
    assert has_ended(engine)


def test_metrics_over_tcp(start: object) -> None:
    assert callable(start)
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    daemon: Process = start("--metrics", f"127.0.0.1:{port}")
    daemon.ready_line()
    with socket.create_connection(("127.0.0.1", port), timeout=5) as client:
        client.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        answer = b""
        while piece := client.recv(65_536):
            answer += piece
    assert b"200 OK" in answer
    assert b'l4proxy_ready{pop="local"} 1.0' in answer


def test_a_metrics_port_in_use_is_an_error_where_it_was_asked_for(start: object) -> None:
    assert callable(start)
    with socket.create_server(("127.0.0.1", 0)) as other:
        daemon: Process = start("--metrics", f"127.0.0.1:{other.getsockname()[1]}")
        _, err = daemon.popen.communicate(timeout=15)
    assert daemon.popen.returncode == 1
    assert "cannot serve metrics on 127.0.0.1" in err
    assert not daemon.socket.exists()


@pytest.mark.parametrize(
    ("text", "code", "expected"),
    [
        ("name: Game!\n", 3, "bad.yaml:1"),
        ("name: bad\nlisten: tcp/1\norigins: [127.0.0.1:1]\ncolour: red\n", 3, "colour"),
    ],
)
def test_wrong_files_give_exit_code_3_with_a_caret(
    folder: Path, start: object, text: str, code: int, expected: str
) -> None:
    assert callable(start)
    (folder / "apps" / "bad.yaml").write_text(text)
    daemon: Process = start()
    out, err = daemon.popen.communicate(timeout=15)
    assert (daemon.popen.returncode, out) == (code, "")
    assert expected in err
    assert "^" in err


def test_a_directory_that_others_can_change_is_refused(folder: Path, start: object) -> None:
    assert callable(start)
    (folder / "run").chmod(0o777)
    daemon: Process = start()
    _, err = daemon.popen.communicate(timeout=15)
    assert daemon.popen.returncode == 2
    assert "can be changed by other users" in " ".join(err.replace("│", " ").split())
