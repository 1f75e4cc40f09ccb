"""The relays that are compared: how each is configured at its best and started. Pure but for the files that it writes and `find`."""

import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from l4proxy.bench.relay.tls_load import write_certificate
from l4proxy.bench.testbed import L4PROXY, PYTHON

FILES = 20_000
"""Descriptors that every relay may have: what a usual hard limit allows."""
MAX_TCP_FLOWS = 4_500
"""For those that want a number: `rows.IDLE_FLOWS` and some. HAProxy takes two descriptors a flow and two a pipe: 18,000 of 20,000."""
MAX_SOZU_FLOWS = 9_900
"""Of TCP and UDP together; it refuses to start when two descriptors for each are not there."""

TLS_OFFSET = 25
"""From a relay's TCP port to the one where it ends TLS."""

SOZU_UDP_OFFSET = 50
"""From its TCP port to its UDP port."""

NGINX_STREAM_MODULE = Path("/usr/lib/nginx/modules/ngx_stream_module.so")


@dataclass(frozen=True, slots=True)
class Place:
    """Where a relay listens, where the origin is, and its folder for files."""

    listen: str
    port: int
    origin: str
    origin_port: int
    folder: Path
    workers: int = 1

    @property
    def listens(self) -> str:
        """`ADDR:PORT` of the relay."""
        return f"{self.listen}:{self.port}"

    @property
    def goes_to(self) -> str:
        """`ADDR:PORT` of the origin."""
        return f"{self.origin}:{self.origin_port}"

    @property
    def listens_tls(self) -> str:
        """`ADDR:PORT` where the relay ends TLS."""
        return f"{self.listen}:{self.port + TLS_OFFSET}"

    def write(self, name: str, text: str) -> str:
        """Write a file of configuration and return its path."""
        file = self.folder / name
        file.write_text(text)
        return str(file)


@dataclass(frozen=True, slots=True)
class Arm:
    """One relay."""

    start: Callable[[Place], list[str]]
    """Write its configuration and return its command."""
    protocols: tuple[str, ...]
    program: str | None = None
    """What has to be installed; None: comes with us."""
    version: tuple[str, ...] = ()
    """What prints its version."""
    udp_offset: int = 0
    """From the port that it has over TCP to the one over UDP."""
    alone: bool = False
    """Its idle flows disturb the others: it runs only while it is measured."""


def l4proxy(place: Place) -> list[str]:
    """Return how l4proxy starts: the daemon as an operator runs it."""
    pem = write_certificate(place.folder)
    app = place.write(
        "relay.yaml",
        f"name: relay\nlisten: [tcp/{place.listens}, udp/{place.listens}]\norigins: ['{place.goes_to}']\n---\n"
        f"name: relay-tls\nlisten: tcp/{place.listens_tls}\norigins: ['{place.goes_to}']\n"
        f"tls: {{mode: flexible, certificate: {pem.with_name('cert.pem')}, key: {pem.with_name('key.pem')}}}\n",
    )
    places = ["--state-dir", str(place.folder / "state"), "--socket", str(place.folder / "l4proxy.sock")]
    return [*L4PROXY, "run", app, "--workers", str(place.workers), "--metrics", "off", *places]


def haproxy(splice: bool) -> Callable[[Place], list[str]]:
    """Return how HAProxy starts, with one thread, with or without splice."""

    def start(place: Place) -> list[str]:
        pipes = f"  maxpipes {MAX_TCP_FLOWS}\n" if splice else ""
        options = "  option splice-request\n  option splice-response\n" if splice else ""
        pem = write_certificate(place.folder)
        config = (
            f"global\n  nbthread 1\n  maxconn {MAX_TCP_FLOWS}\n{pipes}"
            f"defaults\n  mode tcp\n  maxconn {MAX_TCP_FLOWS}\n"
            "  timeout connect 5s\n  timeout client 10m\n  timeout server 10m\n"
            f"listen relay\n  bind {place.listens} backlog 4096\n{options}  server origin {place.goes_to}\n"
            f"listen relay-tls\n  bind {place.listens_tls} backlog 4096 ssl crt {pem}\n  server origin {place.goes_to}\n"
        )
        return ["haproxy", "-db", "-f", place.write("haproxy.cfg", config)]

    return start


def nginx(place: Place) -> list[str]:
    """Return how nginx starts, with one worker and 64 kB buffers (its default of 16 kB doubles the CPU of bulk)."""
    module = f"load_module {NGINX_STREAM_MODULE};\n" if NGINX_STREAM_MODULE.exists() else ""
    server = f"proxy_pass {place.goes_to}; proxy_buffer_size 64k;"
    pem = write_certificate(place.folder)
    tls = f"ssl_certificate {pem}; ssl_certificate_key {pem}; ssl_protocols TLSv1.3;"
    config = (
        # Root of a user namespace can be no other user.
        f"{module}user root root;\ndaemon off;\nworker_processes 1;\npid {place.folder}/nginx.pid;\nerror_log stderr crit;\n"
        f"worker_rlimit_nofile {FILES};\nevents {{ worker_connections {FILES}; }}\nstream {{\n"
        "  access_log off;\n"
        f"  server {{ listen {place.listens} reuseport backlog=4096; {server} }}\n"
        f"  server {{ listen {place.listens_tls} ssl reuseport backlog=4096; {tls} {server} }}\n"
        f"  server {{ listen {place.listens} udp reuseport; {server} }}\n}}\n"
    )
    return ["nginx", "-c", place.write("nginx.conf", config)]


def sozu(place: Place) -> list[str]:
    """Return how sozu starts, with one worker; built with its `splice` feature it splices by itself.

    Its TCP and UDP listeners may not share an address, and what a cluster carries follows from its listener.
    """
    udp = f"{place.listen}:{place.port + SOZU_UDP_OFFSET}"
    config = (
        f'command_socket = "{place.folder}/sozu.sock"\nworker_count = 1\nworker_automatic_restart = false\n'
        f"max_connections = {MAX_SOZU_FLOWS}\nmax_buffers = {2 * MAX_SOZU_FLOWS}\n"
        'log_level = "error"\nlog_target = "stdout"\nactivate_listeners = true\n'
        f'[[listeners]]\nprotocol = "tcp"\naddress = "{place.listens}"\n'
        f'[[listeners]]\nprotocol = "udp"\naddress = "{udp}"\n'
    )
    for name, address in (("tcp", place.listens), ("udp", udp)):
        config += (
            f'[clusters.{name}]\nprotocol = "tcp"\n'
            f'frontends = [{{ address = "{address}" }}]\nbackends = [{{ address = "{place.goes_to}" }}]\n'
        )
    return ["sozu", "start", "--config", place.write("sozu.toml", config)]


def realm(place: Place) -> list[str]:
    """Return how realm starts, TCP and UDP."""
    config = (
        '[log]\nlevel = "error"\n[network]\nno_tcp = false\nuse_udp = true\n'
        f'[[endpoints]]\nlisten = "{place.listens}"\nremote = "{place.goes_to}"\n'
    )
    return ["realm", "-c", place.write("realm.toml", config)]


def quilkin(place: Place) -> list[str]:
    """Return how Quilkin starts: its UDP service with one worker and the origin as the one endpoint."""
    service = ["--service.udp", "--service.udp.port", str(place.port), "--service.udp.workers", "1"]
    return [
        "quilkin", "--quiet", "--config", str(place.folder / "quilkin.yaml"), "--admin.enabled=false",
        *service, "--provider.static.endpoints", place.goes_to,
    ]  # fmt: skip


def floor(name: str) -> Callable[[Place], list[str]]:
    """Return how a floor starts."""

    def start(place: Place) -> list[str]:
        module = [*PYTHON, "-m", "l4proxy.bench.floor", "--floor", name]
        return [*module, "--listen", place.listens, "--origin", place.goes_to]

    return start


ARMS = {
    "l4proxy": Arm(l4proxy, ("tcp", "udp", "tls")),
    "haproxy-splice": Arm(haproxy(splice=True), ("tcp",), "haproxy", ("haproxy", "-v")),
    "haproxy": Arm(haproxy(splice=False), ("tcp", "tls"), "haproxy", ("haproxy", "-v")),
    "nginx": Arm(nginx, ("tcp", "udp", "tls"), "nginx", ("nginx", "-v")),
    "sozu": Arm(sozu, ("tcp", "udp"), "sozu", ("sozu", "--version"), SOZU_UDP_OFFSET),
    "realm": Arm(realm, ("tcp", "udp"), "realm", ("realm", "--version")),
    "quilkin": Arm(quilkin, ("udp",), "quilkin", ("quilkin", "--version"), alone=True),
    "floor-splice": Arm(floor("splice"), ("tcp",)),
    "floor-copy": Arm(floor("copy"), ("tcp",)),
    "floor-udp": Arm(floor("udp"), ("udp",)),
}

CHOICES = ("haproxy", "nginx", "sozu", "realm", "quilkin")
"""What `--peers` knows; `haproxy` is two arms."""


def peers_of(names: list[str]) -> list[str]:
    """Return the arms that the names of programs mean. ValueError for an unknown one."""
    if unknown := [name for name in names if name not in CHOICES]:
        raise ValueError(f"no peers {', '.join(unknown)}; there are {', '.join(CHOICES)}")
    return [name for name, arm in ARMS.items() if arm.program in names]


def is_installed(name: str) -> bool:
    """Whether a relay can be started here."""
    program = ARMS[name].program
    return program is None or shutil.which(program) is not None


def version(name: str) -> str:
    """Return what a peer says of its version, in a word; "?" when it does not."""
    try:
        done = subprocess.run(ARMS[name].version, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return "?"
    found = re.search(r"\d+(?:\.\d+)+[\w.+-]*", done.stdout + done.stderr)
    return found[0] if found else "?"
