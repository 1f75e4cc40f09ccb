"""One daemon with the real engine on loopback, and clients of its apps."""

import json
import os
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from l4proxy.lab.ports import free_port
from tests.daemon.harness import kill_engine
from tests.daemon.support import REPOSITORY
from tests.tls.origins import DEADLINE_S

MAIN = "from l4proxy.cli import main; main()"


def wait_until(what: str, condition: Callable[[], Any]) -> Any:
    """Return what is true in the end."""
    until = time.monotonic() + DEADLINE_S
    while not (found := condition()):
        assert time.monotonic() < until, what
        time.sleep(0.02)
    return found


def port_of(connection: socket.socket) -> int:
    """Return a client's own port, by which its flow is found."""
    return int(connection.getsockname()[1])


@dataclass
class Edge:
    """A daemon, and the ports of its apps."""

    folder: Path
    ports: Mapping[str, int]

    def command(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command against the daemon."""
        socket_file = str(self.folder / "run" / "l4proxy.sock")
        return subprocess.run(
            [sys.executable, "-c", MAIN, *command, "--socket", socket_file],
            capture_output=True, text=True, cwd=REPOSITORY, timeout=DEADLINE_S, check=False,
        )  # fmt: skip

    def status(self) -> dict[str, Any]:
        """Return what `status` says."""
        done = self.command("status", "--json")
        assert done.returncode in (0, 5), done.stderr
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    def problems(self) -> str:
        """Return what is wrong, as text."""
        return json.dumps(self.status()["problems"])

    def record(self, app: str, client_port: int) -> dict[str, Any]:
        """Return the record of the flow whose client had this port."""

        def find() -> dict[str, Any] | None:
            file = self.folder / "flows.jsonl"
            lines = file.read_text().splitlines(keepends=True) if file.exists() else []
            records = (json.loads(line) for line in reversed(lines) if line.endswith("\n"))
            wanted = (app, client_port)
            return next((found for found in records if (found["app"], found["client_port"]) == wanted), None)

        found: dict[str, Any] = wait_until(f"the record of {app} from {client_port}", find)
        return found

    def dial(self, app: str, source: str = "127.0.0.1") -> socket.socket:
        """Connect to an app without TLS, from an address of loopback."""
        return socket.create_connection(("127.0.0.1", self.ports[app]), DEADLINE_S, (source, 0))

    def connect(
        self,
        app: str,
        context: ssl.SSLContext,
        name: str | None = "first.test",
        session: ssl.SSLSession | None = None,
    ) -> ssl.SSLSocket:
        """Connect to an app with TLS."""
        plain = self.dial(app)
        return context.wrap_socket(plain, server_hostname=name, session=session, suppress_ragged_eofs=False)


def client(
    *,
    version: ssl.TLSVersion | None = None,
    alpn: list[str] | None = None,
    authority: Path | None = None,
    pair: Any = None,
) -> ssl.SSLContext:
    """Return how a client speaks; without an authority it takes every certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if authority is None:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    else:
        context.load_verify_locations(authority)
    if version is not None:
        context.minimum_version = context.maximum_version = version
    if alpn:
        context.set_alpn_protocols(alpn)
    if pair is not None:
        context.load_cert_chain(pair.certificate, pair.key)
    return context


@contextmanager
def edge(
    folder: Path, apps: Mapping[str, str], environment: Mapping[str, str], datagrams: Collection[str] = ()
) -> Iterator[Edge]:
    """Run a daemon with these apps, whose ports are filled in: name to the rest of the app file. `datagrams` names those of UDP."""
    ports = {name: free_port() for name in apps}
    (folder / "run").mkdir(mode=0o700, parents=True)
    documents = [
        f"name: {name}\nlisten: {'udp' if name in datagrams else 'tcp'}/127.0.0.1:{ports[name]}\n{rest}"
        for name, rest in apps.items()
    ]
    (folder / "apps.yaml").write_text("---\n".join(documents))
    command = [sys.executable, "-c", MAIN, "run", str(folder / "apps.yaml"), "--workers", "2"]
    command += ["--metrics", "off", "--flow-log", str(folder / "flows.jsonl")]
    command += ["--socket", str(folder / "run" / "l4proxy.sock"), "--state-dir", str(folder / "state")]
    with (
        (folder / "log").open("w") as log,
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=log, text=True, cwd=REPOSITORY,
            env={**os.environ, **environment},
        ) as popen,
    ):  # fmt: skip
        try:
            assert popen.stdout is not None
            ready = popen.stdout.readline()
            assert " ready: " in ready, (folder / "log").read_text()
            yield Edge(folder, ports)
        finally:
            popen.kill()
            popen.communicate(timeout=DEADLINE_S)
            kill_engine(folder)
