"""What a lab made, written down before it is made, so that it can be found and removed after any death of ours.

Each run has a folder `<runtime>/<run>/` with `state.json`, and a random marker in the environment of every process
that it starts (their children inherit it). A process belongs to a run if it carries the marker, or if its pid *and*
start time are recorded. Nothing else is ever signalled, so a pid that was given to somebody else is safe.
"""

import contextlib
import json
import os
import secrets
import shutil
import signal
import stat
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

from l4proxy.errors import L4ProxyError
from l4proxy.lab import namespaces

MARKER = "L4PROXY_LAB_RUN"
RUNTIME = "L4PROXY_LAB_RUNTIME"
STATE_FILE = "state.json"
VERSION = 1
GONE_TIMEOUT_S = 5.0
"""How long killed processes may take to go. A process in an uninterruptible call can take longer; it is reported."""


class LabStateError(L4ProxyError):
    """A run's folder is unreadable, unsafe or not of this version. Nothing of it was touched."""


@dataclass(frozen=True, slots=True)
class Process:
    """One process, told apart from a later one with the same pid by when it started."""

    pid: int
    start_ticks: int
    """Field 22 of `/proc/PID/stat`: clock ticks since boot."""
    role: str
    """`holder`, `emulator`, `daemon`, `origin`, `client`, `command` or `owner`."""
    host: str | None = None

    @classmethod
    def of(cls, pid: int, role: str, host: str | None = None) -> Self:
        """Describe a process that runs; ProcessLookupError if it does not."""
        ticks = start_ticks(pid)
        if ticks is None:
            raise ProcessLookupError(f"process {pid} ({role}) has ended")
        return cls(pid, ticks, role, host)

    def is_alive(self) -> bool:
        """Whether this very process runs."""
        return start_ticks(self.pid) == self.start_ticks


@dataclass(slots=True)
class State:
    """Everything one run made."""

    run: str
    marker: str
    name: str
    mode: str
    """`root` or `userns`."""
    wire: str
    """`tun` or `veth`."""
    owner: Process | None
    """Who removes it at its end; None for a lab that stays after `lab up`."""
    document: dict[str, Any]
    """The lab file."""
    processes: list[Process] = field(default_factory=list)
    namespaces: dict[str, str] = field(default_factory=dict)
    """Names under /run/netns by host; written before they are made. Empty in a user namespace."""
    version: int = VERSION

    def find(self, role: str, host: str | None = None) -> Process | None:
        """Return the recorded process of this role (and host), if it runs."""
        for process in reversed(self.processes):
            if process.role == role and host in (None, process.host) and process.is_alive():
                return process
        return None

    def is_live(self) -> bool:
        """Whether somebody still uses or keeps this lab."""
        return self.owner.is_alive() if self.owner else self.find("emulator") is not None

    def to_json(self) -> str:
        """Return the text of the state file."""
        return json.dumps(asdict(self), indent=1)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read a state file's text; LabStateError if it is none of ours."""
        try:
            fields = json.loads(text)
            if fields.get("version") != VERSION:
                raise LabStateError(f"version {fields.get('version')} is not {VERSION}")
            owner = fields.pop("owner")
            processes = [Process(**process) for process in fields.pop("processes")]
            return cls(owner=Process(**owner) if owner else None, processes=processes, **fields)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise LabStateError(f"not a lab's state: {error}") from error


def start_ticks(pid: int) -> int | None:
    """Return when a process started, in clock ticks since boot; None if it is gone (a zombie is)."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    # The name, in brackets, may hold anything; the fields begin after the last bracket with the state.
    fields = text[text.rindex(")") + 2 :].split()
    return None if fields[0] in "ZX" else int(fields[19])


def runtime_root() -> Path:
    """Return the folder of all runs, made with mode 0700 if need be. LabStateError if somebody else owns it."""
    if given := os.environ.get(RUNTIME):
        root = Path(given)
    elif os.geteuid() == 0:
        root = Path("/run/l4proxy/lab")
    elif xdg := os.environ.get("XDG_RUNTIME_DIR"):
        root = Path(xdg) / "l4proxy" / "lab"
    else:
        root = Path(f"/tmp/l4proxy-{os.geteuid()}/lab")  # noqa: S108 - checked for its owner below
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    about = root.stat()
    if about.st_uid != os.geteuid() or stat.S_IMODE(about.st_mode) & 0o022:
        raise LabStateError(f"{root} belongs to another user or can be written by others: remove it")
    return root


class Run:
    """The folder of one run and its state file. Every change is written at once."""

    def __init__(self, folder: Path, state: State) -> None:
        self.folder = folder
        self.state = state

    @classmethod
    def create(cls, name: str, mode: str, wire: str, document: dict[str, Any]) -> Self:
        """Begin a run that this process owns."""
        run = secrets.token_hex(4)
        folder = runtime_root() / run
        folder.mkdir(mode=0o700)
        owner = Process.of(os.getpid(), "owner")
        made = cls(folder, State(run, f"{run}-{secrets.token_hex(8)}", name, mode, wire, owner, document))
        made.save()
        return made

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read a run's folder; LabStateError if it is not one."""
        try:
            text = (folder / STATE_FILE).read_text()
        except OSError as error:
            raise LabStateError(f"{folder}: {error.strerror}") from error
        return cls(folder, State.from_json(text))

    def save(self) -> None:
        """Write the state file whole: a reader sees the old or the new."""
        new = self.folder / f"{STATE_FILE}.new"
        new.write_text(self.state.to_json())
        new.replace(self.folder / STATE_FILE)

    def record(self, process: Process) -> None:
        """Note a process that was started for this run."""
        self.state.processes.append(process)
        self.save()

    def environment(self) -> dict[str, str]:
        """Return the environment for a process of this run."""
        return os.environ | {MARKER: self.state.marker}

    def living(self) -> list[int]:
        """Return the pids of every process of this run that runs, this one excepted."""
        recorded = {process.pid for process in self.state.processes if process.is_alive()}
        return sorted((recorded | set(_marked(self.state.marker))) - {os.getpid()})

    def remove(self) -> list[int]:
        """End every process of this run, remove its namespaces and its folder. Return the pids that would not go."""
        deadline = time.monotonic() + GONE_TIMEOUT_S
        while (pids := self.living()) and time.monotonic() < deadline:
            for pid in pids:
                self._kill(pid)
            _wait_gone(pids, deadline)
        for name in self.state.namespaces.values():
            namespaces.remove_name(name)
        if not pids:
            shutil.rmtree(self.folder)
        return pids

    def _kill(self, pid: int) -> None:
        """Kill a process of this run. The descriptor pins the process between the check and the signal."""
        with contextlib.suppress(ProcessLookupError):
            descriptor = os.pidfd_open(pid)
            try:
                if pid in self.living():
                    signal.pidfd_send_signal(descriptor, signal.SIGKILL)
            finally:
                os.close(descriptor)


def runs(root: Path | None = None) -> Iterator[Run]:
    """Give every readable run, oldest first. Folders that are not runs are left alone."""
    folders = [folder for folder in (root or runtime_root()).iterdir() if folder.is_dir()]
    for folder in sorted(folders, key=lambda folder: folder.stat().st_mtime_ns):
        with contextlib.suppress(LabStateError):
            yield Run.load(folder)


def remove_dead_runs(root: Path | None = None) -> list[str]:
    """Remove what killed labs left behind; return their runs. Labs in use are left alone."""
    dead = [run for run in runs(root) if not run.state.is_live()]
    for run in dead:
        run.remove()
    return [run.state.run for run in dead]


def _marked(marker: str) -> Iterator[int]:
    """Give the pids of all processes that carry the marker in their environment."""
    needle = f"{MARKER}={marker}".encode()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):  # it ended meanwhile, or belongs to somebody else
                environment = (entry / "environ").read_bytes().split(b"\0")
                if needle in environment and start_ticks(int(entry.name)) is not None:
                    yield int(entry.name)


def _wait_gone(pids: list[int], deadline: float) -> None:
    while any(start_ticks(pid) is not None for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.005)
