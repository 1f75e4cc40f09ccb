"""`l4proxy bench relay` as a user runs it: two rows in namespaces, Ctrl-C in the middle, and where it cannot run."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from l4proxy.bench import testbed
from l4proxy.bench.relay import programme
from l4proxy.cli.root import run_command

PROGRAM = [sys.executable, "-c", "from l4proxy.cli import main; main()", "bench", "relay"]
DEADLINE_S = 120.0

LACKING = programme.missing()

needs_namespaces = pytest.mark.skipif(bool(LACKING), reason="; ".join(LACKING) or "can run")

sees_namespaces = pytest.mark.skipif(
    bool(LACKING) or os.geteuid() != 0, reason="only root's namespaces have names that others see"
)


def namespaces(pid: int) -> list[str]:
    listed = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout
    return [line.split()[0] for line in listed.splitlines() if line.startswith(f"l4b{pid}-")]


def pids(namespace: str) -> list[str]:
    listed = ["ip", "netns", "pids", namespace]
    return subprocess.run(listed, capture_output=True, text=True, check=True).stdout.split()


@contextmanager
def running(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [*PROGRAM, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # In a shell's background job the signal would be ignored, and so inherited.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    ) as process:
        try:
            yield process
        finally:
            process.terminate()


@pytest.mark.e2e
@needs_namespaces
def test_two_rows_are_measured_beside_their_floors() -> None:
    arguments = ["--rows", "connect,udp-20k", "--seconds", "0.5", "--repeats", "1", "--peers", "", "--json"]
    with running(*arguments) as process:
        output, errors = process.communicate(timeout=DEADLINE_S)
        assert process.returncode == 0, errors
    document = json.loads(output)
    assert [row["key"] for row in document["rows"]] == ["connect", "udp-20k"]
    for row, floor in zip(document["rows"], ("floor-copy", "floor-udp"), strict=True):
        assert set(row["arms"]) == {"l4proxy", floor}
        assert all(arm["median"] > 0 and arm["machine"] > 0 for arm in row["arms"].values())
    connect, udp = document["rows"]
    assert connect["bars"][0]["met"] in (True, False), "held against the floor of the same run"
    assert (udp["met"], udp["why"]) == (None, "no peer was measured here")
    assert "1/1 l4proxy: cpu" in errors
    if os.geteuid() == 0:
        assert namespaces(process.pid) == []


@pytest.mark.e2e
@sees_namespaces
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_nothing_is_left_behind_when_it_is_ended_early(number: signal.Signals) -> None:
    with running("--rows", "connect", "--seconds", "600", "--repeats", "1", "--peers", "") as process:
        assert process.stderr is not None
        # Before it stands a note, if this machine has other work.
        assert any(line.startswith("connect: ") for line in process.stderr)
        names = namespaces(process.pid)
        assert len(names) == 3
        programs = [pid for name in names for pid in pids(name)]
        assert len(programs) >= 2, "the reflector and the load process"
        process.send_signal(number)
        process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 128 + number
    assert namespaces(process.pid) == []
    assert not [pid for pid in programs if Path(f"/proc/{pid}").exists()]


def test_without_privilege_it_says_what_is_missing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0})
    monkeypatch.setattr(testbed, "_USER_NAMESPACE", ["false"])
    assert run_command(["bench", "relay"]) == 1
    errors = capsys.readouterr().err
    assert (
        "bench relay: network namespaces are refused to you: run it with sudo, or have user namespaces"
        in errors
    )
    assert "bench relay: it takes two cores" in errors


def test_who_is_not_root_becomes_root_of_a_user_namespace(monkeypatch: pytest.MonkeyPatch) -> None:
    """What runs there has a /run of its own, where the names of network namespaces lie, and knows where it is."""
    begun: list[tuple[list[str], str | None]] = []

    def begin(_program: str, command: list[str], environment: dict[str, str]) -> None:
        begun.append((command, environment.get(testbed.INSIDE)))

    monkeypatch.setattr(os, "execvpe", begin)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    testbed.enter_user_namespace(["bench", "relay"])
    assert begun == []
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    testbed.enter_user_namespace(["bench", "relay", "--quick"])
    ((command, inside),) = begun
    assert (command[0], inside) == ("unshare", "1")
    assert command[-3:] == ["bench", "relay", "--quick"]
    assert any("mount -t tmpfs tmpfs /run" in word for word in command)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--rows", "nowhere"], "no rows nowhere; there are"),
        (["--peers", "envoy"], "no peers envoy; there are"),
        (["--repeats", "0"], "--repeats"),
        (["--seconds", "0"], "--seconds"),
    ],
)
def test_what_makes_no_sense_is_refused(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(["bench", "relay", *arguments]) == 2
    assert words in capsys.readouterr().err


def test_a_record_needs_a_checkout(
    tmp_path: object, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(str(tmp_path))
    assert run_command(["bench", "relay", "--record"]) == 2
    assert "run it in a checkout" in capsys.readouterr().err
