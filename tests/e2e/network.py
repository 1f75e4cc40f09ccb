"""Hosts for end-to-end tests: network namespaces joined by one router namespace, and daemons started in them by hand.

This is deliberately not the lab: no emulator, no TUN, nothing of `l4proxy.lab`. What works here works on machines.
Every host has one veth to the router, an IPv4 and an IPv6 address; a link between two hosts is cut by a rule of the router.
"""

import contextlib
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import IO, Any

from l4proxy import pki

L4PROXY = Path(sys.executable).with_name("l4proxy")
READY_TIMEOUT_S = 15.0


def why_not() -> str | None:
    """Say why namespaces cannot be made here, or None."""
    if os.geteuid() != 0:
        return "needs root: it makes network namespaces"
    if shutil.which("ip") is None:
        return "needs the ip command (Debian package iproute2)"
    probe = subprocess.run(["ip", "netns", "add", f"l4t{os.getpid()}probe"], capture_output=True, text=True)
    if probe.returncode != 0:
        return f"cannot make a network namespace: {probe.stderr.strip()}"
    subprocess.run(["ip", "netns", "del", f"l4t{os.getpid()}probe"], check=True)
    return None


def run(*command: str, check: bool = True, timeout_s: float = 30.0) -> subprocess.CompletedProcess[str]:
    """Run a command to its end; a failure shows what it printed."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s)
    if check and done.returncode != 0:
        raise AssertionError(f"{' '.join(command)} exited {done.returncode}\n{done.stdout}\n{done.stderr}")
    return done


def wait_until(what: str, condition: Any, timeout_s: float = READY_TIMEOUT_S, interval_s: float = 0.1) -> Any:
    """Return the first true answer of `condition`; fail with `what` after `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    last: object = None
    while time.monotonic() < deadline:
        try:
            if answer := condition():
                return answer
        except (AssertionError, OSError, ValueError, KeyError) as error:
            last = error
        time.sleep(interval_s)
    raise AssertionError(f"{what}: not within {timeout_s} s (last: {last})")


@dataclass
class Host:
    """One namespace: `ipv4` and `ipv6` are its addresses."""

    name: str
    namespace: str
    ipv4: str
    ipv6: str

    def command(self, *command: str) -> list[str]:
        """Return the command line that runs `command` in this host."""
        return ["ip", "netns", "exec", self.namespace, *command]

    def run(
        self, *command: str, check: bool = True, timeout_s: float = 60.0
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in this host to its end."""
        return run(*self.command(*command), check=check, timeout_s=timeout_s)


@dataclass
class Network:
    """Hosts around one router. Use `network()`; it removes everything at the end."""

    prefix: str
    hosts: dict[str, Host] = field(default_factory=dict)
    processes: list[subprocess.Popen[Any]] = field(default_factory=list)
    namespaces: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.router = self._namespace("router")
        for name in ("net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"):
            run("ip", "netns", "exec", self.router, "sysctl", "-qw", f"{name}=1")

    def _namespace(self, name: str) -> str:
        namespace = f"{self.prefix}{name}"
        run("ip", "netns", "add", namespace)
        self.namespaces.append(namespace)
        run("ip", "-n", namespace, "link", "set", "lo", "up")
        return namespace

    def add(self, name: str) -> Host:
        """Make a host and join it to the router."""
        number = len(self.hosts) + 1
        namespace = self._namespace(name)
        host = Host(name, namespace, f"10.77.{number}.2", f"fd77:{number}::2")
        run(
            "ip",
            "-n",
            self.router,
            "link",
            "add",
            name,
            "type",
            "veth",
            "peer",
            "name",
            "eth0",
            "netns",
            namespace,
        )
        for where, device, v4, v6 in (
            (self.router, name, f"10.77.{number}.1/24", f"fd77:{number}::1/64"),
            (namespace, "eth0", f"{host.ipv4}/24", f"{host.ipv6}/64"),
        ):
            run("ip", "-n", where, "addr", "add", v4, "dev", device)
            run("ip", "-n", where, "addr", "add", v6, "dev", device, "nodad")
            run("ip", "-n", where, "link", "set", device, "up")
        run("ip", "-n", namespace, "route", "add", "default", "via", f"10.77.{number}.1")
        run("ip", "-n", namespace, "-6", "route", "add", "default", "via", f"fd77:{number}::1")
        self.hosts[name] = host
        return host

    def __getitem__(self, name: str) -> Host:
        return self.hosts[name]

    def cut(self, a: str, b: str, *, one_way: bool = False) -> None:
        """Drop everything from `a` to `b`, and back unless `one_way`."""
        self._rule("add", a, b)
        if not one_way:
            self._rule("add", b, a)

    def mend(self, a: str, b: str, *, one_way: bool = False) -> None:
        """Undo `cut`."""
        self._rule("del", a, b)
        if not one_way:
            self._rule("del", b, a)

    def spoil(self, a: str, b: str, *rule: str) -> None:
        """Drop what goes from `a` to `b` and is matched by a rule of nftables, such as `numgen random mod 100 < 20`, until `heal`."""
        table = ("nft", "add", "table", "inet", "faults")
        chain = ("nft", "add", "chain", "inet", "faults", "drops", "{ type filter hook forward priority 0; }")
        enter = ("ip", "netns", "exec", self.router)
        for command in (table, chain):
            run(*enter, *command)
        addresses = ("ip", "saddr", self[a].ipv4, "ip", "daddr", self[b].ipv4)
        run(*enter, "nft", "add", "rule", "inet", "faults", "drops", *addresses, *rule, "counter", "drop")

    def heal(self) -> None:
        """Undo every `spoil`."""
        run("ip", "netns", "exec", self.router, "nft", "delete", "table", "inet", "faults", check=False)

    def _rule(self, verb: str, a: str, b: str) -> None:
        for family, source, target in (
            ("-4", self[a].ipv4, self[b].ipv4),
            ("-6", self[a].ipv6, self[b].ipv6),
        ):
            rule = ("from", source, "to", target, "blackhole", "pref", "10")
            run("ip", "-n", self.router, family, "rule", verb, *rule)

    def start(
        self, host: str, *command: str, output: IO[Any] | int = subprocess.DEVNULL
    ) -> subprocess.Popen[Any]:
        """Start a program in a host; it is ended with the network."""
        process = subprocess.Popen(
            self[host].command(*command),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
        self.processes.append(process)
        return process

    def close(self) -> None:
        """End what was started here, and remove the namespaces."""
        for process in reversed(self.processes):
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
                process.wait(timeout=10)
        for namespace in reversed(self.namespaces):
            for pid in run("ip", "netns", "pids", namespace, check=False).stdout.split():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
            run("ip", "netns", "del", namespace, check=False)


_numbers = itertools.count(1)


@contextlib.contextmanager
def network(*names: str) -> Iterator[Network]:
    """Give a network with hosts of these names."""
    net = Network(f"l4t{os.getpid()}n{next(_numbers)}")
    try:
        for name in names:
            net.add(name)
        yield net
    finally:
        net.close()


@dataclass
class Daemon:
    """One `l4proxy run` in a host of a network, with its own folders."""

    net: Network
    host: str
    folder: Path
    arguments: Sequence[str]
    process: subprocess.Popen[Any] | None = None
    prefix: Sequence[str] = ()
    """A command that runs it, such as one that takes rights away."""

    @property
    def socket(self) -> Path:
        """Where it listens for commands."""
        return self.folder / "run" / "l4proxy.sock"

    @property
    def log(self) -> Path:
        """What it printed."""
        return self.folder / "log"

    def start(self) -> "Daemon":
        """Start it and wait for its ready line."""
        (self.folder / "run").mkdir(parents=True, exist_ok=True)
        before = self.log.stat().st_size if self.log.exists() else 0
        with self.log.open("ab") as output:
            self.process = self.net.start(
                self.host,
                *self.prefix, str(L4PROXY), "run", *self.arguments,
                "--socket", str(self.socket), "--state-dir", str(self.folder / "state"),
                output=output,
            )  # fmt: skip

        def is_ready() -> bool:
            assert self.process is not None
            assert self.process.poll() is None, (
                f"{self.host}: the daemon ended\n{self.log.read_text()[before:]}"
            )
            return " ready" in self.log.read_text()[before:]

        wait_until(f"{self.host}: ready line in {self.log}", is_ready)
        return self

    def ask(self, *command: str) -> Any:
        """Run a reading command against this daemon; return its JSON."""
        done = run(str(L4PROXY), *command, "--json", "--socket", str(self.socket), check=False)
        assert done.returncode in (0, 5), (
            f"l4proxy {command}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        )
        return json.loads(done.stdout)

    def tell(self, *command: str) -> str:
        """Run a changing command against this daemon; return what it printed."""
        return run(str(L4PROXY), *command, "--socket", str(self.socket)).stdout

    def engine_pid(self) -> int:
        """Pid of its engine process."""
        for pid in run("ip", "netns", "pids", self.net[self.host].namespace).stdout.split():
            command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            if b"l4proxy.engine" in command:
                return int(pid)
        raise AssertionError(f"{self.host}: no engine runs")


def start_fleet(
    net: Network,
    folder: Path,
    apps: str,
    *,
    links: str = "",
    pops: Sequence[str] = ("ams", "iad", "sin"),
    fields: Mapping[str, str] | None = None,
    flow_logs: bool = False,
    issuer: str | None = None,
    lifetime: timedelta | None = None,
) -> dict[str, Daemon]:
    """Start one daemon in each host of `pops`, from a fleet file written here, with identities of a new CA.

    `fields`: what the fleet file says of a PoP, where that is more than its IPv4 address. With `flow_logs` each writes its ended flows to
    `flows.json` in its folder. `issuer` renews the certificates;
    `lifetime`: how long they are valid, from their making.
    """
    said = {pop: f"transits: {{a: {net[pop].ipv4}:4600}}" for pop in pops} | dict(fields or {})
    lines = ["fleet: e2e"] + ([f"issuer: {issuer}"] if issuer else []) + ["pops:"]
    lines += [f"  {pop}: {{{said[pop]}}}" for pop in pops]
    (folder / "fleet.yaml").write_text("\n".join(lines) + "\n" + (f"links:\n{links}" if links else ""))
    (folder / "apps.yaml").write_text(apps)
    run(str(L4PROXY), "pki", "init", "--fleet", "e2e", "--dir", str(folder / "ca"))
    daemons = {}
    for pop in pops:
        ca, out = folder / "ca", folder / f"id-{pop}"
        if lifetime is None:
            run(str(L4PROXY), "pki", "issue", pop, "--dir", str(ca), "--out", str(out))
        else:
            pki.issue(ca, pop, out, datetime.now(UTC), lifetime)
        arguments = [str(folder / "apps.yaml"), "--fleet", str(folder / "fleet.yaml"), "--pop", pop]
        arguments += ["--identity", str(folder / f"id-{pop}")]
        if pop == issuer:
            arguments += ["--ca", str(folder / "ca")]
            if lifetime is not None:
                arguments += ["--certificate-lifetime", f"{lifetime.total_seconds():.0f}s"]
        if flow_logs:
            (folder / pop).mkdir()
            arguments += ["--flow-log", str(folder / pop / "flows.json")]
        daemons[pop] = Daemon(net, pop, folder / pop, arguments)
    for daemon in daemons.values():
        daemon.start()
    return daemons
