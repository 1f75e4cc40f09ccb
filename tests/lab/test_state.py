"""What a lab made is found again and removed, and nothing else is."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from l4proxy.lab import state
from l4proxy.lab.state import MARKER, LabStateError, Process, Run, State


@pytest.fixture(autouse=True)
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "run"
    monkeypatch.setenv(state.RUNTIME, str(folder))
    return folder


@pytest.fixture
def run() -> Run:
    return Run.create("test", "root", "tun", {"lab": "test"})


@pytest.fixture
def sleepers() -> Iterator[list["subprocess.Popen[bytes]"]]:
    started: list[subprocess.Popen[bytes]] = []
    yield started
    for process in started:
        process.kill()
        process.wait()


def sleep(environment: dict[str, str] | None = None) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(["sleep", "60"], env=environment, start_new_session=True)


def test_the_state_file_holds_all_of_the_state(run: Run) -> None:
    run.record(Process(1, 2, "daemon", "ams"))
    run.state.namespaces = {"ams": "l4lab-1-ams"}
    run.save()
    again = Run.load(run.folder).state
    assert again == run.state
    assert again.owner is not None
    assert again.owner.pid == os.getpid()


NO_STATES = [
    "",
    "{",
    "[]",
    "null",
    '{"version": 1}',
    '{"version": 2}',
    '{"version": 1, "owner": null, "processes": [1]}',
]


@pytest.mark.parametrize("text", NO_STATES)
def test_a_file_that_is_no_state_is_refused_and_left_alone(text: str, runtime: Path) -> None:
    runtime.mkdir()
    (runtime / "x").mkdir()
    (runtime / "x" / state.STATE_FILE).write_text(text)
    with pytest.raises(LabStateError):
        State.from_json(text)
    assert state.remove_dead_runs() == []
    assert (runtime / "x" / state.STATE_FILE).exists()


def test_a_process_is_told_apart_from_another_with_its_pid() -> None:
    me = Process.of(os.getpid(), "owner")
    assert me.is_alive()
    assert not Process(me.pid, me.start_ticks + 1, "owner").is_alive()
    with pytest.raises(ProcessLookupError):
        Process.of(2**22, "owner")


def test_a_zombie_has_ended(sleepers: list["subprocess.Popen[bytes]"]) -> None:
    process = sleep()
    sleepers.append(process)
    known = Process.of(process.pid, "command")
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert not known.is_alive()


def test_removing_ends_recorded_and_marked_processes_and_no_others(
    run: Run, sleepers: list["subprocess.Popen[bytes]"]
) -> None:
    """A pid that was recorded for a process which has ended may belong to anybody by now."""
    recorded, marked, foreign = sleep(), sleep(run.environment()), sleep()
    other_lab = sleep(os.environ | {MARKER: f"{run.state.marker}0"})
    sleepers += [recorded, marked, foreign, other_lab]
    run.record(Process.of(recorded.pid, "daemon"))
    run.record(Process(foreign.pid, 1, "daemon"))
    assert run.living() == sorted([recorded.pid, marked.pid])
    assert run.remove() == []
    assert (recorded.wait(), marked.wait()) == (-signal.SIGKILL, -signal.SIGKILL)
    assert (foreign.poll(), other_lab.poll()) == (None, None)
    assert not run.folder.exists()


def test_grandchildren_in_sessions_of_their_own_are_found(
    run: Run, sleepers: list["subprocess.Popen[bytes]"]
) -> None:
    """An engine outlives its daemon on purpose; it must not outlive its lab."""
    parent = subprocess.Popen(
        ["sh", "-c", "setsid sleep 60 > /dev/null & echo $!"],
        env=run.environment(),
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    grandchild = int(parent.communicate()[0])
    # Between two programs a process has no environment for a moment.
    until = time.monotonic() + 30
    while run.living() != [grandchild]:
        assert time.monotonic() < until, run.living()
        time.sleep(0.01)
    assert run.remove() == []
    assert state.start_ticks(grandchild) is None
    del sleepers


def test_removing_from_a_shell_inside_the_lab_spares_the_one_who_removes(run: Run) -> None:
    code = "import sys; from pathlib import Path; from l4proxy.lab.state import Run; print(Run.load(Path(sys.argv[1])).remove())"
    done = subprocess.run(
        [sys.executable, "-c", code, str(run.folder)],
        env=run.environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "[]\n"


def test_dead_runs_are_removed_and_live_ones_stay(
    run: Run, sleepers: list["subprocess.Popen[bytes]"]
) -> None:
    dead = Run.create("dead", "root", "tun", {})
    assert dead.state.owner is not None
    dead.state.owner = Process(dead.state.owner.pid, dead.state.owner.start_ticks - 1, "owner")
    dead.save()
    left = Run.create("left", "root", "tun", {})
    emulator = sleep(left.environment())
    sleepers.append(emulator)
    left.record(Process.of(emulator.pid, "emulator"))
    left.state.owner = None
    left.save()
    assert state.remove_dead_runs() == [dead.state.run]
    assert {each.state.run for each in state.runs()} == {run.state.run, left.state.run}
    emulator.kill()
    emulator.wait()
    assert state.remove_dead_runs() == [left.state.run]


def test_a_runtime_folder_that_others_can_write_is_refused(runtime: Path) -> None:
    runtime.mkdir()
    runtime.chmod(0o777)
    with pytest.raises(LabStateError, match="written by others"):
        state.runtime_root()
