"""systemd is told what it needs, and only where it asks."""

import os
import socket
from pathlib import Path

from l4proxy.daemon.notify import Notifier


def test_without_systemd_nothing_happens() -> None:
    notifier = Notifier({})
    notifier.ready("x")
    notifier.watchdog()
    assert notifier.watchdog_interval_s is None


def test_what_systemd_hears(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.settimeout(5)
        notifier = Notifier({"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "20000000"})
        notifier.ready("pop=ams\napps=3")
        assert systemd.recv(1000).decode() == f"READY=1\nSTATUS=pop=ams apps=3\nMAINPID={os.getpid()}"
        notifier.reloading()
        assert systemd.recv(1000).startswith(b"RELOADING=1\nMONOTONIC_USEC=")
        notifier.stopping("draining 3 flows")
        assert systemd.recv(1000) == b"STOPPING=1\nSTATUS=draining 3 flows"
        notifier.watchdog()
        assert systemd.recv(1000) == b"WATCHDOG=1"
        assert notifier.watchdog_interval_s == 10.0


def test_an_abstract_address() -> None:
    name = f"l4proxy-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(f"\0{name}")
        systemd.settimeout(5)
        Notifier({"NOTIFY_SOCKET": f"@{name}"}).watchdog()
        assert systemd.recv(100) == b"WATCHDOG=1"


def test_a_systemd_that_is_gone_is_no_problem(tmp_path: Path) -> None:
    Notifier({"NOTIFY_SOCKET": str(tmp_path / "nobody")}).ready("x")


def test_another_process_watchdog_is_not_ours() -> None:
    assert Notifier({"WATCHDOG_USEC": "1000000", "WATCHDOG_PID": "1"}).watchdog_interval_s is None
