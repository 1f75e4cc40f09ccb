"""A lab that stands: made from a plan, changed while it runs, removed. Joins namespaces, emulator and state."""

import json
import os
import select
import socket
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Self

from l4proxy.errors import L4ProxyError
from l4proxy.lab import emulator, namespaces, programs
from l4proxy.lab.plan import Plan, make_plan
from l4proxy.lab.privilege import INSIDE
from l4proxy.lab.spec import LabSpec
from l4proxy.lab.state import Process, Run

EMULATOR_TIMEOUT_S = 15.0
CONTROL_TIMEOUT_S = 5.0

HOST_SETTINGS = {
    # A namespace is a fresh machine: a flow must not begin with what an earlier one learned about the path.
    "net/ipv4/tcp_no_metrics_save": "1",
    # Every process of a host may send ICMP echo, as `ping` needs.
    "net/ipv4/ping_group_range": "0 0",
    # Addresses are ours alone; without this they are unusable for a second.
    "net/ipv6/conf/all/accept_dad": "0",
    "net/ipv6/conf/default/accept_dad": "0",
}


class LabError(L4ProxyError):
    """A lab could not be made, reached or changed. The text says what to do where something can be done."""


class Network:
    """Hosts joined by the emulator. Use `up` or `attach`."""

    def __init__(self, run: Run, plan: Plan) -> None:
        self.run = run
        self.plan = plan
        self._children: list[subprocess.Popen[bytes]] = []

    @classmethod
    def up(cls, document: Mapping[str, Any], *, mode: str, wire: str, precise: bool = False) -> Self:
        """Make every host and link of a lab file. On failure nothing is left behind."""
        spec = LabSpec.model_validate(document)
        network = cls(Run.create(spec.name, mode, wire, dict(document)), make_plan(spec))
        try:
            network._make(precise=precise)
        except BaseException:
            network.down()
            raise
        return network

    @classmethod
    def attach(cls, run: Run) -> Self:
        """Use a lab that another process made."""
        return cls(run, make_plan(LabSpec.model_validate(run.state.document)))

    def _make(self, *, precise: bool) -> None:
        run, plan = self.run, self.plan
        if run.state.mode == "root":
            run.state.namespaces = {name: f"l4lab-{run.state.run}-{name}" for name in plan.hosts}
            run.save()
        holders = {name: self._hold(name) for name in plan.hosts}
        for name, namespace in run.state.namespaces.items():
            namespaces.attach_name(namespace, holders[name])
        hub = None
        if run.state.wire == "veth":
            hub = self._hold("hub")
            for host in plan.hosts.values():
                namespaces.make_veth(hub, host, holders[host.name])
        self._start_emulator(holders, hub, precise=precise)
        for host in plan.hosts.values():
            namespaces.configure(host, holders[host.name], plan.mtu)

    def _hold(self, host: str) -> int:
        process = namespaces.hold(self.run.environment(), settings=HOST_SETTINGS)
        self._children.append(process)
        self.run.record(Process.of(process.pid, "holder", host))
        return process.pid

    def _start_emulator(self, holders: dict[str, int], hub: int | None, *, precise: bool) -> None:
        folder = self.run.folder
        given = emulator.config(self.plan, holders, hub, precise=precise)
        (folder / "emulator.json").write_text(json.dumps(given))
        command = programs.module("emulator", str(folder / "emulator.json"), str(self.socket))
        with (folder / "emulator.log").open("wb") as log:
            process = subprocess.Popen(
                command, env=self.run.environment(), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log,
                start_new_session=True,
            )  # fmt: skip
        self._children.append(process)
        self.run.record(Process.of(process.pid, "emulator"))
        if not _says_ready(process):
            said = (folder / "emulator.log").read_text(errors="replace").strip()
            raise LabError(f"the emulator did not start: {said or 'no word within its time'}")

    # -- changing it ---------------------------------------------------------------------------------------------

    @property
    def socket(self) -> Path:
        """The emulator's control socket."""
        return self.run.folder / "emulator.sock"

    def tell(self, command: Mapping[str, Any]) -> dict[str, Any]:
        """Send one command to the emulator; LabError if it refuses or cannot be reached."""
        try:
            with socket.socket(socket.AF_UNIX) as client:
                client.settimeout(CONTROL_TIMEOUT_S)
                client.connect(str(self.socket))
                client.sendall(json.dumps(command).encode() + b"\n")
                with client.makefile("rb") as lines:
                    answer: dict[str, Any] = json.loads(
                        lines.readline() or b'{"error": "it closed the connection"}'
                    )
        except OSError as error:
            raise LabError(f"the emulator of lab {self.run.state.run} does not answer: {error}") from error
        if "error" in answer:
            raise LabError(f"the emulator refused: {answer['error']}")
        return answer

    def set(
        self, a: str, b: str | None = None, *, one_way: bool = False, **properties: Any
    ) -> tuple[str, ...]:
        """Change properties (names as in `plan.Properties`) of the links that `a` and `b` mean; return their names."""
        try:
            links = self.plan.find_links(a, b, one_way=one_way)
        except LookupError as error:
            raise LabError(str(error)) from error
        self.tell({"do": "set", "links": links, "properties": properties})
        return links

    def cut(self, a: str, b: str | None = None, *, one_way: bool = False) -> tuple[str, ...]:
        """Turn links into black holes: nothing passes, nobody is told. Return their names."""
        return self.set(a, b, one_way=one_way, cut=True)

    def mend(self, a: str, b: str | None = None, *, one_way: bool = False) -> tuple[str, ...]:
        """Undo `cut`. Return the links' names."""
        return self.set(a, b, one_way=one_way, cut=False)

    def stats(self, *, reset: bool = False) -> dict[str, Any]:
        """Return the emulator's counters and lateness; with `reset`, lateness begins anew."""
        answer = self.tell({"do": "stats", "reset": reset})
        answer["overruns"] += sum(
            namespaces.dropped_by_device(holder.pid)
            for name in self.plan.hosts
            if (holder := self.run.state.find("holder", name))
        )
        return answer

    # -- running programs in it ----------------------------------------------------------------------------------

    def command(self, host: str, arguments: Sequence[str]) -> list[str]:
        """Return the command line that runs a program in a host. LabError if there is no such host."""
        holder = self.run.state.find("holder", host)
        if holder is None or host not in self.plan.hosts:
            raise LabError(f"lab {self.run.state.run} has no host {host}: {', '.join(self.plan.hosts)}")
        user = [f"--user=/proc/{holder.pid}/ns/user", "--preserve-credentials"] if self._is_outside() else []
        return ["nsenter", *user, f"--net={namespaces.path(holder.pid)}", "--", *arguments]

    def _is_outside(self) -> bool:
        """Whether the lab stands in a user namespace and we do not."""
        return self.run.state.mode == "userns" and INSIDE not in os.environ

    def start(
        self, host: str, arguments: Sequence[str], role: str, output: IO[bytes] | int = subprocess.DEVNULL
    ) -> "subprocess.Popen[bytes]":
        """Start a program in a host, in a session of its own. It ends with the lab."""
        process = subprocess.Popen(
            self.command(host, arguments),
            env=self.run.environment(), stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True,
        )  # fmt: skip
        self._children.append(process)
        self.run.record(Process.of(process.pid, role, host))
        return process

    def down(self) -> None:
        """End everything and remove every trace. LabError names processes that would not go."""
        stuck = self.run.remove()
        for child in self._children:
            if child.pid not in stuck:
                child.wait()
            for stream in (child.stdout, child.stderr):
                if stream:
                    stream.close()
        self._children.clear()
        if stuck:
            raise LabError(f"these processes did not end: {stuck}; `l4proxy lab down` tries again")

    def leave(self) -> None:
        """Let the lab stand when this process ends."""
        self.run.state.owner = None
        self.run.save()
        self._children.clear()


def _says_ready(process: "subprocess.Popen[bytes]") -> bool:
    """Whether a program prints `ready` in time."""
    if process.stdout is None:
        return False
    with process.stdout as output:
        readable, _, _ = select.select([output], [], [], EMULATOR_TIMEOUT_S)
        return bool(readable) and output.readline() == b"ready\n"
