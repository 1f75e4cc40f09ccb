"""Commands run against a scripted daemon behind a real socket."""

from collections.abc import Callable
from pathlib import Path

import pytest

from l4proxy.cli.root import run_command
from tests.api.conftest import admin_socket, backend

__all__ = ["admin_socket", "backend"]

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], admin_socket: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a command against the scripted daemon; return exit code, stdout and stderr."""
    monkeypatch.setenv("L4PROXY_SOCKET", str(admin_socket))

    def invoke(*arguments: str) -> tuple[int, str, str]:
        code = run_command(arguments)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return invoke
