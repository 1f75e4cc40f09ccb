"""What this machine lets us make: namespaces as root, in a user namespace of our own, or not at all. Tried, not guessed."""

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from l4proxy.lab import programs, state

INSIDE = "L4PROXY_LAB_INSIDE"
"""Set in the copy of ourselves that runs in our own user namespace."""

PROBE_TIMEOUT_S = 10.0

_OPEN_TUN = """
import fcntl, struct
with open("/dev/net/tun", "r+b", buffering=0) as tun:
    fcntl.ioctl(tun, 0x400454CA, struct.pack("16sH22x", b"lab%d", 0x1001))
"""
"""TUNSETIFF with IFF_TUN | IFF_NO_PI, in a namespace that is thrown away."""

_USER_NAMESPACE = ["unshare", "--user", "--map-root-user", "--net", "--"]


@dataclass(frozen=True, slots=True)
class Access:
    """How a lab can be made here. `mode` None: not at all, and `missing` says why and what to do."""

    mode: str | None
    """`root`, `userns` or None."""
    wire: str
    """`tun`, or `veth` where TUN is refused."""
    missing: tuple[str, ...] = ()


def detect() -> Access:
    """Try what is allowed here, the better way first."""
    problems: list[str] = []
    inside_already = INSIDE in os.environ
    if os.geteuid() == 0 or inside_already:
        mode = "userns" if inside_already else "root"
        if (why := _try(["unshare", "--net", "--"], "pass")) is None:
            return Access(mode, _wire(["unshare", "--net", "--"]))
        problems.append(f"as root: no network namespace ({why})")
    if (why := _try(_USER_NAMESPACE, "pass")) is None:
        return Access("userns", _wire(_USER_NAMESPACE))
    problems.append(f"no user namespace ({why})")
    return Access(None, "tun", (*problems, *_advice()))


def reenter(arguments: Sequence[str]) -> None:
    """Replace this process by a copy of itself, root in a user namespace of its own. Returns only if it is there already."""
    if INSIDE in os.environ:
        return
    environment = os.environ | {INSIDE: "1", state.RUNTIME: str(state.runtime_root())}
    command = [*_USER_NAMESPACE, *programs.l4proxy("lab", *arguments)]
    os.execvpe(command[0], command, environment)  # noqa: S606 - a fixed program, found on PATH


def _wire(prefix: list[str]) -> str:
    return "veth" if _try(prefix, _OPEN_TUN) else "tun"


def _try(prefix: list[str], code: str) -> str | None:
    """Run a line of Python behind a prefix; return why it failed, or None."""
    try:
        done = subprocess.run(
            [*prefix, sys.executable, "-I", "-S", "-c", code],
            capture_output=True, text=True, timeout=PROBE_TIMEOUT_S, check=False,
        )  # fmt: skip
    except FileNotFoundError:
        return "the program unshare is not there: install util-linux"
    except subprocess.TimeoutExpired:
        return f"no answer within {PROBE_TIMEOUT_S:.0f} s"
    said = done.stderr.strip().splitlines()
    return None if done.returncode == 0 else (said[-1] if said else f"exit code {done.returncode}")


def _advice() -> tuple[str, ...]:
    """Say what an operator can do, from what this kernel says about itself."""
    found = []
    for name, blocked, fix in (
        ("kernel/unprivileged_userns_clone", "0", "sysctl kernel.unprivileged_userns_clone=1"),
        (
            "kernel/apparmor_restrict_unprivileged_userns",
            "1",
            "sysctl kernel.apparmor_restrict_unprivileged_userns=0",
        ),
        ("user/max_user_namespaces", "0", "sysctl user.max_user_namespaces=15000"),
        ("user/max_net_namespaces", "0", "sysctl user.max_net_namespaces=15000"),
    ):
        try:
            if Path("/proc/sys", name).read_text().strip() == blocked:
                found.append(f"an administrator can allow it: {fix}")
        except OSError:
            continue
    found.append(
        "or run it as root; in a container: --cap-add NET_ADMIN --cap-add SYS_ADMIN --device /dev/net/tun"
    )
    return tuple(found)
