"""HAProxy and nginx as programs of a test, on loopback; skipped by name of the Debian package where they are missing."""

import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from l4proxy.lab.ports import free_port
from tests.edge import wait_until

SEARCH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def need(program: str, package: str) -> str:
    """Return where a program lies, or skip."""
    found = shutil.which(program, path=SEARCH)
    if found is None:
        pytest.skip(f"needs the Debian package {package}")
    return found


@contextmanager
def _running(command: list[str], log: Path, host: str, port: int) -> Iterator[int]:
    with log.open("w") as output, subprocess.Popen(command, stdout=output, stderr=output) as program:
        try:

            def listens() -> bool:
                assert program.poll() is None, log.read_text()
                with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as knock:
                    return knock.connect_ex((host, port)) == 0

            wait_until(f"{command[0]} listens", listens)
            yield port
        finally:
            program.kill()
            program.wait()


@contextmanager
def haproxy_that_tells(folder: Path, to: int, how: str, host: str = "127.0.0.1") -> Iterator[int]:
    """A balancer in front of a port of loopback, with the options `how` on its server line."""
    port = free_port()
    folder.mkdir()
    (folder / "haproxy.cfg").write_text(
        "defaults\n mode tcp\n timeout connect 10s\n timeout client 60s\n timeout server 60s\n"
        f"frontend clients\n bind {host}:{port}\n default_backend relay\n"
        f"backend relay\n server relay 127.0.0.1:{to} {how}\n"
    )
    command = [need("haproxy", "haproxy"), "-db", "-f", str(folder / "haproxy.cfg")]
    with _running(command, folder / "log", host, port):
        yield port


@contextmanager
def haproxy_that_hears(folder: Path, port: int) -> Iterator[int]:
    """An HTTP server that answers with what the PROXY header of the connection said."""
    folder.mkdir()
    words = "%[src] %[src_port] %[dst] %[dst_port] %[fc_pp_unique_id] %[fc_pp_authority]"
    (folder / "haproxy.cfg").write_text(
        "defaults\n mode http\n timeout connect 10s\n timeout client 60s\n timeout server 60s\n"
        f"frontend clients\n bind 127.0.0.1:{port} accept-proxy\n"
        f' http-request return status 200 content-type text/plain lf-string "{words}"\n'
    )
    command = [need("haproxy", "haproxy"), "-db", "-f", str(folder / "haproxy.cfg")]
    with _running(command, folder / "log", "127.0.0.1", port):
        yield port


@contextmanager
def nginx_that_hears(folder: Path, port: int) -> Iterator[int]:
    """The same of nginx, which knows nothing of values beside the addresses."""
    folder.mkdir()
    words = " ".join(f"$proxy_protocol_{word}" for word in ("addr", "port", "server_addr", "server_port"))
    (folder / "nginx.conf").write_text(
        f"daemon off; master_process off; pid {folder}/pid; error_log {folder}/error.log;\n"
        "events { worker_connections 64; }\n"
        f'http {{ access_log off; server {{ listen 127.0.0.1:{port} proxy_protocol; return 200 "{words}"; }} }}\n'
    )
    command = [need("nginx", "nginx-light"), "-c", str(folder / "nginx.conf")]
    with _running(command, folder / "log", "127.0.0.1", port):
        yield port
