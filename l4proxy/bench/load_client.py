"""The load process of a measurement, in a namespace of its own (`l4proxy.bench.relay.load`): asked over pipes, a line each way."""

import json
import selectors
import subprocess
from pathlib import Path
from typing import Any

from l4proxy.bench.testbed import PYTHON, BenchmarkError, Host, Program

PATIENCE_S = 60.0
"""What a measurement may take beyond its own seconds: opening 10,000 flows, waiting for what is lost."""


class LoadClient:
    """The load process in the client's namespace."""

    def __init__(self, host: Host, log: Path) -> None:
        self._log = log.open("wb")
        self._process = subprocess.Popen(
            host.command(*PYTHON, "-m", "l4proxy.bench.relay.load"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            start_new_session=True,
        )
        self._log_path = log

    def ask(self, kind: str, target: str, program: Program | None, **options: Any) -> dict[str, float]:
        """Have a load done. BenchmarkError when it fails or takes too long."""
        pids = [] if program is None else [program.process.pid]
        request = {"kind": kind, "target": target, "pids": pids, "options": options}
        assert self._process.stdin is not None  # noqa: S101 - asked for above
        try:
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            self._process.stdin.flush()
            answer = json.loads(self._line(options.get("seconds", 0.0) + PATIENCE_S))
        except (OSError, ValueError) as error:
            words = self._log_path.read_text(errors="replace").strip()[-300:]
            raise BenchmarkError(f"{kind}: the load process failed: {error} {words}") from error
        if "error" in answer:
            raise BenchmarkError(f"{kind} to {target}: {answer['error']}")
        figures: dict[str, float] = answer["figures"]
        return figures

    def _line(self, timeout_s: float) -> bytes:
        assert self._process.stdout is not None  # noqa: S101 - asked for above
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            if not selector.select(timeout_s):
                raise BenchmarkError(f"no answer within {timeout_s:.0f} s")
        # One answer is one write of less than a pipe's size, so what begins to come comes whole.
        line: bytes = self._process.stdout.readline()
        return line

    def __enter__(self) -> "LoadClient":
        return self

    def __exit__(self, *_: object) -> None:
        Program(self._process, None).end()
        for stream in (self._process.stdin, self._process.stdout, self._log):
            if stream is not None:
                stream.close()
