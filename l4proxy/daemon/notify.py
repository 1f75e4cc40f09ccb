"""Tells systemd how the daemon is (`sd_notify`): nothing happens where NOTIFY_SOCKET is not set.

READY after the first snapshot is in force, RELOADING with the monotonic time that `Type=notify-reload` wants,
STOPPING when draining begins, WATCHDOG from the daemon's own loop: a loop that is stuck does not say it.
"""

import os
import socket
import time
from collections.abc import Mapping


class Notifier:
    """The way to systemd, if there is one."""

    def __init__(self, environment: Mapping[str, str] | None = None) -> None:
        variables = os.environ if environment is None else environment
        self._address = variables.get("NOTIFY_SOCKET", "")
        self.watchdog_interval_s = _watchdog_interval_s(variables)
        """How often WATCHDOG must be said, seconds; None: systemd does not ask."""

    def ready(self, status: str) -> None:
        """Say that clients are served."""
        self._send(f"READY=1\nSTATUS={_one_line(status)}\nMAINPID={os.getpid()}")

    def reloading(self) -> None:
        """Say that a reload began; `ready` ends it."""
        self._send(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self, status: str) -> None:
        """Say that a drain began."""
        self._send(f"STOPPING=1\nSTATUS={_one_line(status)}")

    def watchdog(self) -> None:
        """Say that the loop turns."""
        self._send("WATCHDOG=1")

    def _send(self, message: str) -> None:
        if not self._address:
            return
        # A leading @ is systemd's way to write an abstract address.
        address = f"\0{self._address[1:]}" if self._address.startswith("@") else self._address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
                channel.setblocking(False)
                channel.sendto(message.encode(), address)
        except OSError:
            return  # whether systemd listens must not change what the daemon does


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _watchdog_interval_s(variables: Mapping[str, str]) -> float | None:
    text = variables.get("WATCHDOG_USEC", "")
    if not text.isdigit() or variables.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    return int(text) / 1e6 / 2  # sd_watchdog_enabled(3): notify every half of the time
