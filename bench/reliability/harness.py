"""One PoP on loopback for the reliability programmes: a daemon with its engine in a folder of its own, free ports, questions, results."""

import argparse
import contextlib
import json
import resource
import select
import shlex
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from l4proxy.bench.figures import record, table
from l4proxy.cli.client import RequestFailed, get, post
from l4proxy.lab.ports import free_port

RESULTS = Path(__file__).parents[1] / "RESULTS.md"
L4PROXY = [sys.executable, "-c", "from l4proxy.cli import main; main()"]
START_S = 60.0
PATIENCE_S = 60.0
"""How long a machine that is busy with other things may take for what needs a millisecond."""


def app(name: str, listen: str, origin_port: int, more: str = "") -> str:
    """Return an app document."""
    return f"---\nname: {name}\nlisten: {listen}\norigins: ['127.0.0.1:{origin_port}']\n{more}"


class Pop:
    """A running daemon."""

    def __init__(self, folder: Path, process: subprocess.Popen[bytes]) -> None:
        self.folder = folder
        self.process = process
        self.socket = folder / "l4proxy.sock"

    @property
    def apps(self) -> Path:
        """The file that it reads."""
        return self.folder / "apps.yaml"

    def status(self) -> dict[str, Any]:
        """Return `l4proxy status`."""
        answer: dict[str, Any] = get(self.socket, "/v1/status")
        return answer

    def reload(self) -> dict[str, Any]:
        """Have it read its file again; RequestFailed when it refuses."""
        answer: dict[str, Any] = post(self.socket, "/v1/reload", {})
        return answer

    def drops(self) -> dict[str, int]:
        """Return what was refused or thrown away, by reason."""
        found: dict[str, int] = self.status()["drops"]
        return found


@contextlib.contextmanager
def pop(apps: str, *, descriptors: int | None = None, workers: int = 1) -> Iterator[Pop]:
    """Run a daemon while the context lasts; `descriptors`: the most that it and its engine may have each."""
    with tempfile.TemporaryDirectory(prefix="l4proxy-") as name:
        folder = Path(name)
        (folder / "apps.yaml").write_text(apps)
        command = [*L4PROXY, "run", str(folder / "apps.yaml"), "--socket", str(folder / "l4proxy.sock")]
        command += ["--state-dir", str(folder / "state"), "--metrics", "off", "--workers", str(workers)]
        command += ["--drain-timeout", "1s"]

        def limit() -> None:
            if descriptors is not None:
                resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors, descriptors))

        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log, preexec_fn=limit)
            try:
                yield _ready(Pop(folder, process))
            finally:
                process.terminate()
                try:
                    process.wait(PATIENCE_S)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()


def _ready(found: Pop) -> Pop:
    until = time.monotonic() + START_S
    while time.monotonic() < until:
        if found.process.poll() is not None:
            break
        with contextlib.suppress(Exception):
            if found.socket.exists() and found.status()["ready"]:
                return found
        time.sleep(0.05)
    raise SystemExit(f"the daemon did not start: {(found.folder / 'log').read_text()[-1000:]}")


class Echo:
    """An origin on a thread that sends back what comes, over any number of connections."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=4096)
        self.port: int = self._listener.getsockname()[1]
        self._open: dict[int, socket.socket] = {}
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        poll = select.epoll()
        poll.register(self._listener, select.EPOLLIN)
        while True:
            for number, _ in poll.poll():
                if number == self._listener.fileno():
                    with contextlib.suppress(OSError):
                        accepted, _ = self._listener.accept()
                        self._open[accepted.fileno()] = accepted
                        poll.register(accepted, select.EPOLLIN)
                elif not self._answer(self._open[number]):
                    poll.unregister(number)
                    self._open.pop(number).close()

    @staticmethod
    def _answer(connection: socket.socket) -> bool:
        try:
            data = connection.recv(65_536)
            connection.sendall(data)
        except OSError:
            return False
        return bool(data)


def ask(connection: socket.socket, message: bytes) -> bool:
    """Whether a message comes back over a connection within the patience that a busy machine needs."""
    connection.settimeout(PATIENCE_S)
    try:
        connection.sendall(message)
        answer = b""
        while len(answer) < len(message):
            piece = connection.recv(len(message) - len(answer))
            if not piece:
                return False
            answer += piece
    except OSError:
        return False
    return answer == message


def many_descriptors() -> int:
    """Raise this process's own limit as far as it goes; return it."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def parser(text: str | None) -> argparse.ArgumentParser:
    """Return a parser with what every programme has."""
    found = argparse.ArgumentParser(description=text)
    found.add_argument("--json", action="store_true", help="one JSON document instead of a table")
    found.add_argument("--record", action="store_true", help="add the table to bench/RESULTS.md")
    return found


def report(
    args: argparse.Namespace, title: str, figures: dict[str, Any], bounds: Sequence[tuple[str, bool]]
) -> int:
    """Print figures and whether each bound holds; return the exit code."""
    met = all(holds for _, holds in bounds)
    if args.json:
        print(json.dumps({**figures, "bounds": dict(bounds), "met": met}))  # noqa: T201
        return 0 if met else 1
    rows = [(name.replace("_", " "), f"{value}") for name, value in figures.items()]
    rows += [(name, "holds" if holds else "DOES NOT HOLD") for name, holds in bounds]
    text = table(("what", "measured"), rows)
    print(text)  # noqa: T201
    if args.record:
        script = Path(sys.argv[0]).name
        record(RESULTS, title, text, shlex.join(["python", f"bench/reliability/{script}", *sys.argv[1:]]))
    return 0 if met else 1


__all__ = [
    "Echo",
    "Pop",
    "RequestFailed",
    "app",
    "ask",
    "free_port",
    "many_descriptors",
    "parser",
    "pop",
    "report",
]
