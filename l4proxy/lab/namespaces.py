"""Hosts as network namespaces: making them, their one device, their addresses and routes.

A namespace lives as long as its holder, a process that sleeps in it; so killing the holder removes it and
everything in it. As root it also gets a name under /run/netns, so that `ip netns exec` works.
"""

import contextlib
import ctypes
import fcntl
import os
import socket
import struct
import subprocess
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from l4proxy.lab.plan import Host

if TYPE_CHECKING:
    from pyroute2 import IPRoute  # imported where it is used: it takes longer than most lab commands do

DEVICE = "wan0"
"""The one device of every host that leads out of it."""

QUEUE_PACKETS = 10_000
"""Packets that wait in a device while the emulator is not reading: 150 ms at 1 Gbit/s."""

HOLDER_TIMEOUT_S = 5.0
_ETHTOOL = 0x8946  # SIOCETHTOOL
_OFFLOADS = {
    "tx checksums": 0x17,
    "tso": 0x1F,
    "gso": 0x24,
    "gro": 0x2C,
}  # ETHTOOL_STXCSUM, _STSO, _SGSO, _SGRO
_NODAD = 0x02  # IFA_F_NODAD: an address counts at once; nobody else can have it
_UP_NOARP = 0x01 | 0x80  # IFF_UP and IFF_NOARP: there is nobody to ask for hardware addresses

Result = TypeVar("Result")


def path(holder: int) -> str:
    """Return the file that stands for the namespace of a process."""
    return f"/proc/{holder}/ns/net"


def hold(environment: Mapping[str, str], *, settings: Mapping[str, str]) -> "subprocess.Popen[bytes]":
    """Start a process in a new network namespace; it does nothing there. OSError if it cannot."""
    write = "".join(f"echo '{value}' > /proc/sys/{name}; " for name, value in settings.items())
    process = subprocess.Popen(
        ["unshare", "--net", "--", "sh", "-c", f"{write}exec sleep infinity"],
        env=dict(environment), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        start_new_session=True,
    )  # fmt: skip
    deadline = time.monotonic() + HOLDER_TIMEOUT_S
    while not _is_asleep(process.pid):
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            said = process.communicate()[1].decode(errors="replace").strip()
            raise OSError(f"cannot make a network namespace: {said or 'not within its time'}")
        time.sleep(0.002)
    if process.stderr:
        process.stderr.close()
    return process


def _is_asleep(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/comm").read_text() == "sleep\n"
    return False


def attach_name(name: str, holder: int) -> None:
    """Give a namespace a name under /run/netns."""
    from pyroute2 import netns

    netns.attach(name, holder)


def remove_name(name: str) -> None:
    """Take a name off again; one that is not there is fine."""
    from pyroute2 import netns

    with contextlib.suppress(FileNotFoundError):
        netns.remove(name)


def inside(holder: int, work: "Callable[[IPRoute], Result]") -> Result:
    """Run `work` in a namespace, in a thread of its own: only the thread moves, and it ends there."""
    from pyroute2 import IPRoute, netns

    def enter() -> Result:
        netns.setns(path(holder), flags=os.O_RDONLY)
        with IPRoute() as ip:
            return work(ip)

    with ThreadPoolExecutor(max_workers=1) as pool:
        return pool.submit(enter).result()


def mac(host: Host) -> str:
    """Return the hardware address of a host's device (locally administered; only the veth wire uses it)."""
    return f"02:4c:34:50:{host.number >> 8:02x}:{host.number & 0xFF:02x}"


def hub_device(host: Host) -> str:
    """Return the name of the emulator's end of a host's veth pair."""
    return f"lab{host.number}"


def make_veth(hub: int, host: Host, holder: int) -> None:
    """Join a host's namespace to the hub's with a veth pair whose packets are whole: checksummed and not merged."""

    def make(ip: "IPRoute") -> None:
        peer = {"ifname": DEVICE, "net_ns_pid": holder, "address": mac(host)}
        ip.link("add", ifname=hub_device(host), kind="veth", peer=peer)
        index = ip.link_lookup(ifname=hub_device(host))[0]
        ip.link("set", index=index, txqlen=QUEUE_PACKETS, flags=_UP_NOARP, mask=_UP_NOARP)

    inside(hub, make)
    inside(holder, lambda _: _switch_off_offloads(DEVICE))


def configure(host: Host, holder: int, mtu: int) -> None:
    """Bring a host's devices up: loopback, and the one device with all its addresses and the default routes."""

    def work(ip: "IPRoute") -> None:
        ip.link("set", index=ip.link_lookup(ifname="lo")[0], state="up")
        index = ip.link_lookup(ifname=DEVICE)[0]
        ip.link("set", index=index, mtu=mtu, txqlen=QUEUE_PACKETS, flags=_UP_NOARP, mask=_UP_NOARP)
        for address in host.addresses:
            ip.addr("add", index=index, address=address.ipv4, prefixlen=32)
            ip.addr("add", index=index, address=address.ipv6, prefixlen=128, flags=_NODAD)
        ip.route("add", dst="0.0.0.0/0", family=socket.AF_INET, oif=index, prefsrc=host.ipv4)
        ip.route("add", dst="::/0", family=socket.AF_INET6, oif=index, prefsrc=host.ipv6)

    inside(holder, work)


def dropped_by_device(holder: int) -> int:
    """Return how many packets the host's device dropped because the emulator did not read in time."""
    for line in Path(f"/proc/{holder}/net/dev").read_text().splitlines():
        name, _, counters = line.partition(":")
        if name.strip() == DEVICE:
            return int(
                counters.split()[11]
            )  # eight counters of receiving, then bytes, packets, errors, drops of sending
    return 0


def _switch_off_offloads(device: str) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        for command in _OFFLOADS.values():
            value = ctypes.create_string_buffer(struct.pack("II", command, 0))
            request = struct.pack("16sP16x", device.encode(), ctypes.addressof(value))
            with contextlib.suppress(OSError):  # a kernel that does not know one of them has it off
                fcntl.ioctl(control.fileno(), _ETHTOOL, request)
