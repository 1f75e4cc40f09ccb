"""Hosts for benchmarks: network namespaces joined by plain veth pairs, programs pinned to cores, and their CPU time.

As root, or as root of a user namespace of one's own (`enter_user_namespace`). Everything made here has a name of this
process and is removed at the end, also after Ctrl-C. Nothing here knows what is measured.
"""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from l4proxy.bench import usage
from l4proxy.errors import L4ProxyError

PYTHON = [sys.executable]
L4PROXY = [*PYTHON, "-c", "from l4proxy.cli import main; main()"]
"""The command, run by the interpreter that runs the benchmark: the same checkout, the same extension."""

SETTINGS = {
    "net.ipv4.tcp_no_metrics_save": "1",
    "net.ipv4.ip_forward": "1",
    "net.ipv4.tcp_tw_reuse": "1",
    "net.ipv4.ip_local_port_range": "1024 65000",
}
"""In every namespace: what one run learns about a path (window, threshold) must not help the next, and ports that wait after
a close must not run out. The congestion control stays the system's default, for all arms alike: few kernels let a
namespace have its own."""


INSIDE = "L4PROXY_BENCH_INSIDE"
"""Set in the copy of ourselves that runs in its own user namespace."""

_USER_NAMESPACE = ["unshare", "--user", "--map-root-user", "--net", "--mount", "--"]


class BenchmarkError(L4ProxyError):
    """Something that a benchmark needs is missing or failed."""


def run(command: Sequence[str], timeout_s: float = 120.0, ok: Sequence[int] = (0,)) -> str:
    """Run a program to its end and return its output. BenchmarkError with its last words when its exit code is not among `ok`."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BenchmarkError(f"{shlex.join(command)}: {error}") from error
    if done.returncode not in ok:
        words = (done.stderr.strip() or done.stdout.strip())[-500:]
        raise BenchmarkError(f"{shlex.join(command)}: exit code {done.returncode}: {words}")
    return done.stdout


def can_make_namespaces() -> bool:
    """Whether this user can: as root at once, else in a user namespace. Tried, not guessed."""
    command = ["unshare", "--net", "--"] if os.geteuid() == 0 else _USER_NAMESPACE
    return subprocess.run([*command, "true"], capture_output=True, check=False).returncode == 0


def enter_user_namespace(arguments: Sequence[str]) -> None:
    """Replace this process by a copy of itself that is root in a user namespace of its own. Returns when it is root already.

    Names of network namespaces lie in /run/netns, so the copy has a /run of its own as well.
    """
    if os.geteuid() == 0:
        return
    prepare = 'mount -t tmpfs tmpfs /run && exec "$@"'
    command = [*_USER_NAMESPACE, "sh", "-c", prepare, "sh", *L4PROXY, *arguments]
    os.execvpe(command[0], command, os.environ | {INSIDE: "1"})  # noqa: S606 - a fixed program, found on PATH


@dataclass(frozen=True, slots=True)
class Host:
    """One namespace and the core that its programs run on (`"2,3"`: several)."""

    namespace: str
    core: int | str
    realtime: bool = False

    def command(self, *program: str) -> list[str]:
        """Return what runs a program here, pinned; with `realtime` before whatever else the machine has to do."""
        first = ["chrt", "--fifo", "10"] if self.realtime else []
        return [
            "ip",
            "netns",
            "exec",
            self.namespace,
            "taskset",
            "--cpu-list",
            str(self.core),
            *first,
            *program,
        ]

    def run(self, *program: str, timeout_s: float = 120.0) -> str:
        """Run a program here to its end and return its output."""
        return run(self.command(*program), timeout_s)

    def bench(self, *arguments: str, timeout_s: float = 120.0) -> dict[str, Any]:
        """Run `l4proxy bench …` here and return its JSON."""
        answer: dict[str, Any] = json.loads(
            self.run(*L4PROXY, "bench", *arguments, "--json", timeout_s=timeout_s)
        )
        return answer

    @contextmanager
    def program(self, *program: str, log: Path | None = None) -> Iterator["Program"]:
        """Run a program here while the context lasts; its output goes to `log`."""
        target = log.open("wb") if log is not None else subprocess.DEVNULL
        process = subprocess.Popen(
            self.command(*program),
            stdin=subprocess.DEVNULL,
            stdout=target,
            stderr=target,
            start_new_session=True,
        )
        try:
            yield Program(process, log)
        finally:
            Program(process, log).end()
            if not isinstance(target, int):
                target.close()


@dataclass(frozen=True, slots=True)
class Program:
    """A running program and everything that it has started."""

    process: subprocess.Popen[bytes]
    log: Path | None

    def check(self) -> None:
        """Raise BenchmarkError with its last words when it has ended."""
        if self.process.poll() is not None:
            words = self.log.read_text(errors="replace").strip()[-500:] if self.log is not None else ""
            raise BenchmarkError(f"{shlex.join(map(str, self.process.args))} has ended: {words}")  # type: ignore[arg-type]

    def pids(self) -> list[int]:
        """Return its process and all that descend from it."""
        return usage.with_descendants([self.process.pid])

    def cpu_ns(self) -> int:
        """Return the CPU time that its living threads have had, in ns (the scheduler's own count, not ticks)."""
        return usage.cpu_ns(self.pids())

    def end(self) -> None:
        """Ask all of it to end, then insist. Only processes that this benchmark started are meant."""
        pids = self.pids()
        for number, patience_s in ((signal.SIGTERM, 5.0), (signal.SIGKILL, 5.0)):
            for pid in pids:
                with suppress(ProcessLookupError):
                    os.kill(pid, number)
            deadline = time.monotonic() + patience_s
            while time.monotonic() < deadline:
                self.process.poll()
                pids = [pid for pid in pids if Path(f"/proc/{pid}").exists() and not _is_zombie(pid)]
                if not pids:
                    return
                time.sleep(0.02)


def _is_zombie(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def _remove(namespace: str) -> None:
    """Remove a namespace, and first whatever still runs in it: an engine outlives a daemon that has failed."""
    listed = subprocess.run(["ip", "netns", "pids", namespace], capture_output=True, text=True, check=False)
    for pid in listed.stdout.split():
        with suppress(ProcessLookupError):
            os.kill(int(pid), signal.SIGKILL)
    subprocess.run(["ip", "netns", "del", namespace], check=False)


class Testbed:
    """Namespaces and the cables between them, for the time of a `with`."""

    def __init__(self, realtime: bool = False) -> None:
        self._stack = ExitStack()
        self._realtime = realtime
        self._cables = 0

    def __enter__(self) -> Self:
        if os.geteuid() != 0:
            raise BenchmarkError("network namespaces need root here")
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def host(self, role: str, core: int | str) -> Host:
        """Make a namespace; its cables are made by `cable`."""
        name = f"l4b{os.getpid()}-{role}"
        run(["ip", "netns", "add", name])
        self._stack.callback(_remove, name)
        host = Host(name, core, self._realtime)
        host.run("ip", "link", "set", "lo", "up")
        for key, value in SETTINGS.items():
            host.run("sysctl", "--quiet", "--write", f"{key}={value}")
        return host

    def cable(self, a: Host, a_address: str, b: Host, b_address: str, rate: str | None = None) -> None:
        """Join two hosts by a veth pair with these addresses (`10.0.0.1/24`), shaped to a rate (`1gbit`) if given."""
        self._cables += 1
        names = [f"l4b{self._cables}{end}" for end in "ab"]
        ends = (["netns", a.namespace], ["netns", b.namespace])
        run(["ip", "link", "add", names[0], *ends[0], "type", "veth", "peer", "name", names[1], *ends[1]])
        for host, name, address in ((a, names[0], a_address), (b, names[1], b_address)):
            host.run("ip", "address", "add", address, "dev", name)
            host.run("ip", "link", "set", name, "up")
            if rate is not None:
                shape = ["tbf", "rate", rate, "burst", "256kb", "latency", "20ms"]
                host.run("tc", "qdisc", "add", "dev", name, "root", *shape)

    def enter(self, context: Any) -> Any:
        """Enter a context that ends with the testbed, before its namespaces go."""
        return self._stack.enter_context(context)


def wait_for(
    what: str, programs: Sequence[Program], check: Callable[[], bool], timeout_s: float = 20.0
) -> None:
    """Call `check` until it is true. BenchmarkError after `timeout_s`, or as soon as one of the programs has ended."""
    deadline = time.monotonic() + timeout_s
    while not check():
        for program in programs:
            program.check()
        if time.monotonic() > deadline:
            raise BenchmarkError(f"{what}: not within {timeout_s:.0f} s")
        time.sleep(0.1)
