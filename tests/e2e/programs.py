"""Servers of real programs, started in a host of a network. Each knows its Debian package, so that a test can say what is missing."""

import shutil
from pathlib import Path

import pytest

from tests.e2e.network import Network, run, wait_until

PACKAGES = {
    "curl": "curl",
    "iperf3": "iperf3",
    "minetestserver": "minetest-server",
    "nginx": "nginx-light",
    "sipp": "sip-tester",
    "sockperf": "sockperf",
    "ssh": "openssh-client",
    "sshd": "openssh-server",
}

SEARCH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/usr/games"


def need(*programs: str) -> None:
    """Skip the test, saying which Debian packages are missing."""
    missing = [PACKAGES[program] for program in programs if shutil.which(program, path=SEARCH) is None]
    if missing:
        pytest.skip(f"needs the Debian packages {' '.join(missing)}")


def path_of(program: str) -> str:
    """Return where a program lies."""
    found = shutil.which(program, path=SEARCH)
    assert found is not None
    return found


def wait_for_port(net: Network, host: str, port: int, protocol: str = "tcp") -> None:
    """Wait until something listens on the port in that host."""
    flag = "-lnt" if protocol == "tcp" else "-lnu"
    wait_until(
        f"{host} listens on {protocol}/{port}", lambda: f":{port} " in net[host].run("ss", flag).stdout
    )


def start_iperf3(net: Network, host: str) -> None:
    """Serve iperf3 on port 5201."""
    net.start(host, path_of("iperf3"), "-s")
    wait_for_port(net, host, 5201)


def start_nginx(net: Network, host: str, folder: Path, size: int) -> None:
    """Serve one file of `size` bytes, /blob, on port 80."""
    (folder / "www").mkdir(parents=True)
    folder.chmod(0o755)
    with (folder / "www" / "blob").open("wb") as blob:
        blob.truncate(size)
    (folder / "nginx.conf").write_text(
        f"daemon off; master_process off; user root; pid {folder}/pid; error_log {folder}/error.log;\n"
        "events { worker_connections 256; }\n"
        f"http {{ access_log off; server {{ listen 80; root {folder}/www; }} }}\n"
    )
    net.start(host, path_of("nginx"), "-c", str(folder / "nginx.conf"))
    wait_for_port(net, host, 80)


class Ssh:
    """An sshd of its own keys on port 22 of a host, and the options with which a client reaches it."""

    def __init__(self, net: Network, host: str, folder: Path) -> None:
        folder.mkdir(parents=True)
        folder.chmod(0o700)
        for name in ("host", "user"):
            run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name))
        shutil.copy(folder / "user.pub", folder / "authorized")
        Path("/run/sshd").mkdir(exist_ok=True)
        (folder / "sshd_config").write_text(
            f"Port 22\nHostKey {folder}/host\nAuthorizedKeysFile {folder}/authorized\nPidFile none\n"
            "UsePAM no\nStrictModes no\nPermitRootLogin prohibit-password\nSubsystem sftp internal-sftp\n"
        )
        net.start(host, path_of("sshd"), "-D", "-f", str(folder / "sshd_config"))
        wait_for_port(net, host, 22)
        self.options = [
            "-i",
            str(folder / "user"),
            "-o",
            "StrictHostKeyChecking=no",
            "-o",
            "UserKnownHostsFile=/dev/null",
        ]
        self.options += ["-o", "BatchMode=yes", "-o", "LogLevel=ERROR"]
