"""A hop of WireGuard's, as one runs it in user space: the peer that a transit PoP is held against.

Three namespaces with wireguard-go each; the middle one takes packets out of one tunnel, the kernel routes them, and it puts them into the
other. It has a core for itself. Its time is that of its wireguard-go, per packet that its device gave out.
"""

import json
import os
import shutil
import sys
import time
from pathlib import Path

from l4proxy.bench.judged import Measurement
from l4proxy.bench.overlay.context import Skipped
from l4proxy.bench.testbed import PYTHON, Host, Program, Testbed, run, wait_for

PORT = 51820
AROUND = 28 + 32
"""What UDP/IPv4 inside and WireGuard's data message add to a payload: the packet on the wire carries so many bytes more."""
UP_S = 20.0

_FLOOD = """
import socket, sys, time
from l4proxy.bench.usage import Meter
address, size, seconds, pid = sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4])
out = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
out.connect((address, 9))
payload = bytes(size)
def flood(seconds):
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        for _ in range(64):
            try:
                out.send(payload)
            except OSError:
                time.sleep(0.001)
flood(0.3)
with Meter([pid]) as meter:
    flood(seconds)
    time.sleep(0.2)
print(meter.cpu_ns)
"""


class Row:
    """Three hosts in a row with tunnels between neighbours. Ends with the testbed."""

    def __init__(self, bed: Testbed, folder: Path, core: int, other: int) -> None:
        """Make it. Skipped when the programs are not installed or the machine has no TUN devices."""
        for name, package in (("wireguard-go", "wireguard-go"), ("wg", "wireguard-tools")):
            if shutil.which(name) is None:
                raise Skipped(f"{name} is not installed: Debian's package {package} has it")
        if not Path("/dev/net/tun").exists():
            raise Skipped("this machine has no /dev/net/tun")
        self._hosts = [bed.host(f"wg{index}", one) for index, one in enumerate((other, core, other))]
        keys = [_key() for _ in self._hosts]
        left, hop, right = self._hosts
        bed.cable(left, "10.215.0.1/24", hop, "10.215.0.2/24")
        bed.cable(hop, "10.215.1.2/24", right, "10.215.1.3/24")
        self._programs = [
            self._start(bed, folder, index, host, keys[index][0]) for index, host in enumerate(self._hosts)
        ]
        inside = "10.216.0.1", "10.216.0.2", "10.216.0.3"
        for index, (host, address) in enumerate(zip(self._hosts, inside, strict=True)):
            host.run("ip", "address", "add", f"{address}/24", "dev", _device(index))
            host.run("ip", "link", "set", _device(index), "up")
            # In and out by one device: the kernel would tell the sender of a better way with every packet.
            for device in ("all", _device(index)):
                host.run("sysctl", "--quiet", "--write", f"net.ipv4.conf.{device}.send_redirects=0")
        _peer(left, 0, keys[1][1], "10.216.0.0/24", "10.215.0.2")
        _peer(right, 2, keys[1][1], "10.216.0.0/24", "10.215.1.2")
        _peer(hop, 1, keys[0][1], f"{inside[0]}/32", "10.215.0.1")
        _peer(hop, 1, keys[2][1], f"{inside[2]}/32", "10.215.1.3")
        self._target = inside[2]
        wait_for("wireguard-go carries a packet", self._programs, self._answers, UP_S)

    @staticmethod
    def _start(bed: Testbed, folder: Path, index: int, host: Host, private: str) -> Program:
        device = _device(index)
        program: Program = bed.enter(
            host.program("wireguard-go", "--foreground", device, log=folder / f"wireguard-{index}.log")
        )
        key = folder / f"wireguard-{index}.key"
        key.touch(mode=0o600)
        key.write_text(private)

        def is_there() -> bool:
            devices: list[str] = json.loads(host.run("ip", "-json", "link"))
            return any(one["ifname"] == device for one in devices)  # type: ignore[index]

        wait_for("wireguard-go has made its device", [program], is_there, UP_S)
        host.run("wg", "set", device, "listen-port", str(PORT), "private-key", str(key))
        return program

    def _answers(self) -> bool:
        """Whether the hop gives out what is sent through it."""
        before = self._sent()
        send = f"import socket;s=socket.socket(2,2);[s.sendto(bytes(64),('{self._target}',9)) for _ in range(10)]"
        self._hosts[0].run(*PYTHON, "-c", send)
        time.sleep(0.2)
        return self._sent() - before >= 10

    def _sent(self) -> int:
        """Return how many packets the hop's tunnels have put out: to the left nothing goes but keep-alives."""
        text = self._hosts[1].run("cat", "/proc/net/dev")
        [line] = [line for line in text.splitlines() if line.strip().startswith(f"{_device(1)}:")]
        return int(line.partition(":")[2].split()[9])

    def measure(self, size: int, seconds: float) -> Measurement:
        """Return CPU µs a packet of `size` bytes in UDP on the wire, as fast as one sender goes."""
        before = self._sent()
        hop = self._programs[1]
        payload = str(size - AROUND)
        command = [sys.executable, "-c", _FLOOD, self._target, payload, str(seconds), str(hop.process.pid)]
        cpu_ns = int(self._hosts[0].run(*command))
        # The warm-up's packets are in the count and not in the time.
        packets = max(1.0, (self._sent() - before) * seconds / (seconds + 0.3))
        return {"cpu": cpu_ns / 1e3 / packets, "mpps": packets / (cpu_ns / 1e3), "pps": packets / seconds}


def _device(index: int) -> str:
    """Return a device's name: the control sockets of wireguard-go lie in one folder, whatever the namespace."""
    return f"wgb{os.getpid() % 1_000_000}{'abc'[index]}"


def _key() -> tuple[str, str]:
    private = run(["wg", "genkey"]).strip()
    public = run(["sh", "-c", 'printf %s "$1" | wg pubkey', "sh", private]).strip()
    return private, public


def _peer(host: Host, index: int, public: str, allowed: str, endpoint: str) -> None:
    command = ["wg", "set", _device(index), "peer", public, "allowed-ips", allowed]
    host.run(*command, "endpoint", f"{endpoint}:{PORT}", "persistent-keepalive", "5")
