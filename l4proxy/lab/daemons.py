"""Real daemons in the lab's PoPs, started and asked by the very commands that users have."""

import json
import subprocess
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import yaml

from l4proxy.lab import programs
from l4proxy.lab.network import LabError, Network

READY_TIMEOUT_S = 30.0
COMMAND_TIMEOUT_S = 20.0
POLL_S = 0.25

Answer = TypeVar("Answer")


def start_fleet(network: Network) -> None:
    """Write the fleet's files, make its CA and identities, start a daemon in every PoP, wait until all are ready."""
    folder, plan = network.run.folder, network.plan
    if not plan.pops:
        return
    fleet, apps = folder / "fleet.yaml", folder / "apps.yaml"
    fleet.write_text(yaml.safe_dump(plan.fleet, sort_keys=False))
    apps.write_text(yaml.safe_dump_all(plan.apps, sort_keys=False))
    _run("pki", "init", "--dir", str(folder / "ca"), "--fleet", plan.name)
    files = [*([str(apps)] if plan.apps else []), *plan.app_files]
    for pop in plan.pops:
        (folder / pop.name).mkdir()
        _run(
            "pki",
            "issue",
            pop.name,
            "--dir",
            str(folder / "ca"),
            "--out",
            str(folder / pop.name / "identity"),
        )
        start_daemon(network, pop.name, files)
    for pop in plan.pops:
        ready = partial(is_ready, network, pop.name)
        wait_until(f"{pop.name}: the daemon is ready", ready, READY_TIMEOUT_S)


def start_daemon(network: Network, pop: str, files: Sequence[str]) -> None:
    """Start (or start again) the daemon of one PoP; its log is `<run>/<pop>/log`."""
    folder = network.run.folder
    workers = network.plan.workers.get(pop)
    command = [
        *programs.l4proxy("run", *files),
        "--fleet", str(folder / "fleet.yaml"), "--pop", pop, "--identity", str(folder / pop / "identity"),
        "--state-dir", str(folder / pop / "state"), "--socket", str(socket_of(network, pop)),
        *(["--workers", str(workers)] if workers else []),
    ]  # fmt: skip
    with (folder / pop / "log").open("ab") as log:
        network.start(pop, command, "daemon", log)


def socket_of(network: Network, pop: str) -> Path:
    """Return the socket of a PoP's daemon; LabError if there is no such PoP."""
    if pop not in {host.name for host in network.plan.pops}:
        raise LabError(f"there is no PoP {pop}")
    return network.run.folder / pop / "l4proxy.sock"


def is_ready(network: Network, pop: str) -> bool:
    """Whether a PoP's daemon says that it is ready. LabError, with its log, if it has ended."""
    if network.run.state.find("daemon", pop) is None:
        log = (network.run.folder / pop / "log").read_text(errors="replace")
        raise LabError(f"the daemon of {pop} ended:\n{log[-4000:]}")
    try:
        return bool(ask(network, pop, "status")["ready"])
    except LabError:
        return False


def ask(network: Network, pop: str, *command: str) -> Any:
    """Run a reading command against a PoP's daemon; return its JSON. LabError if it fails."""
    return json.loads(_run(*command, "--json", "--socket", str(socket_of(network, pop)), ok=(0, 5)))


def tell(network: Network, pop: str, *command: str) -> str:
    """Run a changing command against a PoP's daemon; return what it printed. LabError if it fails."""
    return _run(*command, "--socket", str(socket_of(network, pop)))


def wait_until(what: str, condition: Callable[[], Answer], timeout_s: float) -> Answer:
    """Return the first true answer; LabError with `what` after `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while not (answer := condition()):
        if time.monotonic() > deadline:
            raise LabError(f"{what}: not within {timeout_s:.0f} s")
        time.sleep(POLL_S)
    return answer


def _run(*command: str, ok: Sequence[int] = (0,)) -> str:
    try:
        done = subprocess.run(
            programs.l4proxy(*command), capture_output=True, text=True, timeout=COMMAND_TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise LabError(f"l4proxy {' '.join(command)}: no answer within {COMMAND_TIMEOUT_S:.0f} s") from error
    if done.returncode not in ok:
        said = (done.stderr or done.stdout).strip()
        raise LabError(f"l4proxy {' '.join(command)}: exit code {done.returncode}: {said}")
    return done.stdout
