"""Asks the daemon over its Unix socket: just enough HTTP for one request and its answer.

The standard library's client costs a tenth of what a command may take to start, and none of it is needed here: the
other end is our own server, asked to close after one answer.
"""

import json
import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from l4proxy.errors import DaemonUnreachableError, L4ProxyError

TIMEOUT_S = 30.0
"""How long the daemon may take; a reload with thousands of sockets is the slowest request."""

MAX_ANSWER_BYTES = 256 * 1024 * 1024
"""A list of every flow of a busy PoP, several times over."""


class RequestFailed(L4ProxyError):  # noqa: N818 (what the daemon said, not a mistake of this program)
    """The daemon said no. `status` is the HTTP status, `code` a word for programs, `details` the rest of its answer."""

    def __init__(self, status: int, code: str, message: str, details: Mapping[str, Any]) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.details = details


def default_socket() -> Path:
    """Return where the daemon's socket is by default, or by L4PROXY_SOCKET."""
    from l4proxy.cli.places import runtime_directory

    named = os.environ.get("L4PROXY_SOCKET")
    return Path(named) if named else runtime_directory() / "l4proxy.sock"


def get(path: Path, target: str, **query: str | int | None) -> Any:
    """Return the JSON document at `target`."""
    parameters = {name: value for name, value in query.items() if value is not None}
    return _request(path, "GET", f"{target}?{urlencode(parameters)}" if parameters else target, b"")


def post(path: Path, target: str, body: Mapping[str, Any]) -> Any:
    """Have the daemon do something, return its answer."""
    return _request(path, "POST", target, json.dumps(body).encode())


def _request(path: Path, method: str, target: str, body: bytes) -> Any:
    head = (
        f"{method} {target} HTTP/1.1\r\nHost: l4proxy\r\nConnection: close\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    try:
        answer = _exchange(path, head.encode("ascii") + body)
    except TimeoutError as error:
        raise DaemonUnreachableError(
            f"the daemon at {path} does not answer within {TIMEOUT_S:.0f} s"
        ) from error
    except OSError as error:
        raise DaemonUnreachableError(f"no daemon at {path}: {error.strerror or error}") from error
    return _parse(path, answer)


def _exchange(path: Path, request: bytes) -> bytes:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(TIMEOUT_S)
        connection.connect(str(path))
        connection.sendall(request)
        chunks = []
        size = 0
        while chunk := connection.recv(1 << 20):
            chunks.append(chunk)
            size += len(chunk)
            if size > MAX_ANSWER_BYTES:
                raise OSError(f"the answer is longer than {MAX_ANSWER_BYTES} bytes")
        return b"".join(chunks)


def _parse(path: Path, answer: bytes) -> Any:
    head, separator, body = answer.partition(b"\r\n\r\n")
    words = head.split(b"\r\n", 1)[0].split(b" ", 2)
    if not separator or len(words) < 2 or not words[1].isdigit():
        raise DaemonUnreachableError(f"what listens at {path} is not a daemon of l4proxy")
    status = int(words[1])
    try:
        document = json.loads(body)
    except ValueError as error:
        raise DaemonUnreachableError(f"the daemon at {path} broke off in its answer") from error
    if status >= 400:
        details = document.get("error", {}) if isinstance(document, dict) else {}
        message = str(details.get("message", f"the daemon answered {status}"))
        raise RequestFailed(status, str(details.get("code", "failed")), message, details)
    return document
