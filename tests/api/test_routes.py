"""The API as a client meets it: over its socket, byte for byte."""

import json
import socket
from pathlib import Path
from typing import Any

import pytest

from l4proxy.api.backend import RequestRefused, Toggle
from l4proxy.api.routes import MAX_BODY_BYTES
from l4proxy.api.server import ServeError, unix_listener
from tests.api.backend import FLOW, STATUS, FakeBackend


def ask(
    path: Path, method: str, target: str, body: bytes = b"", headers: str = ""
) -> tuple[int, dict[str, str], bytes]:
    """Send one request, return status, headers and body."""
    head = f"{method} {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {len(body)}\r\n{headers}\r\n"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(5)
        connection.connect(str(path))
        connection.sendall(head.encode() + body)
        answer = b""
        while piece := connection.recv(65_536):
            answer += piece
    first, _, rest = answer.partition(b"\r\n\r\n")
    lines = first.decode().split("\r\n")
    fields = dict(line.lower().split(": ", 1) for line in lines[1:])
    return int(lines[0].split()[1]), fields, rest


def ask_json(path: Path, method: str, target: str, document: Any = None) -> tuple[int, Any]:
    body = b"" if document is None else json.dumps(document).encode()
    status, _, answer = ask(path, method, target, body)
    return status, json.loads(answer)


def test_only_this_user_may_speak_to_the_socket(admin_socket: Path) -> None:
    assert admin_socket.stat().st_mode & 0o777 == 0o600


def test_status_is_the_backends(admin_socket: Path) -> None:
    status, headers, body = ask(admin_socket, "GET", "/v1/status")
    assert (status, headers["content-type"]) == (200, "application/json")
    assert json.loads(body) == STATUS


@pytest.mark.parametrize(
    ("target", "key"),
    [
        ("/v1/apps", "apps"),
        ("/v1/pops", "pops"),
        ("/v1/links", "links"),
        ("/v1/routes", "routes"),
        ("/v1/routes?app=minecraft", "routes"),
        ("/v1/flows", "flows"),
    ],
)
def test_lists(admin_socket: Path, target: str, key: str) -> None:
    status, answer = ask_json(admin_socket, "GET", target)
    assert status == 200
    assert len(answer[key]) >= 1


def test_flows_are_filtered_and_limited(admin_socket: Path) -> None:
    assert ask_json(admin_socket, "GET", "/v1/flows?app=minecraft&limit=1") == (
        200,
        {"flows": [FLOW], "total": 1},
    )
    assert ask_json(admin_socket, "GET", "/v1/flows?app=other") == (200, {"flows": [], "total": 0})
    for wrong in ("0", "-1", "x", "100001", "1e3", ""):
        status, answer = ask_json(admin_socket, "GET", f"/v1/flows?limit={wrong}")
        assert (status, answer["error"]["code"]) == (400, "usage")


def test_an_unknown_app_is_said_so(admin_socket: Path) -> None:
    status, answer = ask_json(admin_socket, "GET", "/v1/routes?app=nope")
    assert (status, answer) == (404, {"error": {"code": "unknown_app", "message": "no app is called 'nope'"}})


def test_explain_wants_an_app(admin_socket: Path) -> None:
    assert ask_json(admin_socket, "GET", "/v1/explain")[0] == 400
    assert ask_json(admin_socket, "GET", "/v1/explain?app=minecraft&from=sin")[1]["ingress"] == "sin"


def test_the_toggle_reaches_the_backend(admin_socket: Path, backend: FakeBackend) -> None:
    body = {"mode": "off", "apps": ["minecraft"], "pop": "ams"}
    assert ask_json(admin_socket, "POST", "/v1/smart-routing", body)[0] == 200
    assert ask_json(admin_socket, "POST", "/v1/smart-routing", {"mode": "default"})[0] == 200
    assert backend.done == [Toggle("off", ["minecraft"], "ams"), Toggle("default", None, None)]


@pytest.mark.parametrize(
    ("document", "code"),
    [
        ({}, "usage"),
        ({"mode": "maybe"}, "usage"),
        ({"mode": "on", "move_flows": True}, "not_supported"),
        ({"mode": "on", "apps": []}, "usage"),
        ({"mode": "on", "apps": "minecraft"}, "usage"),
        ({"mode": "on", "apps": [1]}, "usage"),
        ({"mode": "on", "pop": 3}, "usage"),
        ({"mode": "on", "app": ["x"]}, "usage"),
        ([], "usage"),
    ],
)
def test_a_wrong_toggle_changes_nothing(
    admin_socket: Path, backend: FakeBackend, document: Any, code: str
) -> None:
    status, answer = ask_json(admin_socket, "POST", "/v1/smart-routing", document)
    assert (status, answer["error"]["code"]) == (400, code)
    assert backend.done == []


def test_reload_says_what_changed_or_why_nothing_did(admin_socket: Path, backend: FakeBackend) -> None:
    assert ask_json(admin_socket, "POST", "/v1/reload") == (
        200,
        {"generation": 5, "added": ["ssh"], "changed": [], "removed": []},
    )
    backend.refuse = RequestRefused(
        422, "config_invalid", "apps.yaml:1:1: no", {"errors": ["apps.yaml:1:1: no"]}
    )
    status, answer = ask_json(admin_socket, "POST", "/v1/reload")
    assert (status, answer["error"]["errors"]) == (422, ["apps.yaml:1:1: no"])


def test_drain_takes_a_time_limit(admin_socket: Path, backend: FakeBackend) -> None:
    assert ask_json(admin_socket, "POST", "/v1/drain", {"timeout_s": 2.5})[0] == 202
    for wrong in (-1, "x", True, 1e9):
        assert ask_json(admin_socket, "POST", "/v1/drain", {"timeout_s": wrong})[0] == 400
    assert backend.done == [("drain", 2.5)]


@pytest.mark.parametrize(
    ("target", "status"), [("/v1/smart-routing", 200), ("/v1/reload", 405), ("/v1/drain", 405)]
)
def test_a_get_changes_nothing(admin_socket: Path, backend: FakeBackend, target: str, status: int) -> None:
    assert ask_json(admin_socket, "GET", target)[0] == status
    assert backend.done == []


@pytest.mark.parametrize("body", [b"{", b"\xff\xfe", b'"text"', b"[" * 60_000])
def test_a_body_that_is_no_object_is_refused(admin_socket: Path, backend: FakeBackend, body: bytes) -> None:
    status, _, answer = ask(admin_socket, "POST", "/v1/smart-routing", body)
    assert (status, json.loads(answer)["error"]["code"]) == (400, "usage")
    assert backend.done == []


def test_a_long_body_is_refused(admin_socket: Path, backend: FakeBackend) -> None:
    status, _, answer = ask(admin_socket, "POST", "/v1/reload", b" " * (MAX_BODY_BYTES + 1))
    assert (status, json.loads(answer)["error"]["code"]) == (413, "too_large")
    assert backend.done == []


def test_over_tcp_there_is_only_health_and_metrics(metrics_socket: Path, backend: FakeBackend) -> None:
    """The TCP port has no password: nothing behind it may change anything or name a client."""
    assert ask_json(metrics_socket, "GET", "/health") == (200, {"alive": True})
    assert ask_json(metrics_socket, "GET", "/ready") == (200, {"ready": True})
    backend.ready = False
    assert ask_json(metrics_socket, "GET", "/ready") == (503, {"ready": False})
    assert ask_json(metrics_socket, "GET", "/health")[0] == 200
    for target in ("/v1/status", "/v1/flows", "/v1/drain", "/"):
        assert ask_json(metrics_socket, "GET", target)[0] == 404
        assert ask_json(metrics_socket, "POST", target)[0] == 404


def test_metrics_by_content_negotiation(metrics_socket: Path) -> None:
    status, headers, body = ask(metrics_socket, "GET", "/metrics")
    assert (status, headers["content-type"], body) == (200, "text/plain; charset=utf-8", b"l4proxy_up 1\n")
    _, headers, _ = ask(metrics_socket, "GET", "/metrics", headers="Accept: application/openmetrics-text\r\n")
    assert headers["content-type"].startswith("application/openmetrics-text")


def test_a_bug_is_an_answer_not_a_hang(
    admin_socket: Path, backend: FakeBackend, caplog: pytest.LogCaptureFixture
) -> None:
    backend.refuse = RuntimeError("secret detail")  # type: ignore[assignment]
    status, answer = ask_json(admin_socket, "POST", "/v1/reload")
    assert (status, answer["error"]) == (500, {"code": "internal", "message": "internal error: RuntimeError"})
    assert "secret detail" in caplog.text


def test_a_file_that_is_no_socket_is_not_removed(tmp_path: Path) -> None:
    """--socket /etc/passwd must not cost a file."""
    (tmp_path / "file").write_text("precious")
    with pytest.raises(ServeError, match="is no socket"):
        unix_listener(tmp_path / "file")
    assert (tmp_path / "file").read_text() == "precious"


def test_a_path_that_is_too_long_is_explained(tmp_path: Path) -> None:
    with pytest.raises(ServeError, match="longer than 107 bytes"):
        unix_listener(tmp_path / ("x" * 120))


@pytest.mark.parametrize("address", ["198.51.100.7:50000", "[::ffff:198.51.100.7]:50000"])
def test_whois_finds_a_client(admin_socket: Path, address: str) -> None:
    status, answer = ask_json(admin_socket, "GET", f"/v1/whois?address={address}")
    assert (status, answer) == (
        200,
        {"address": "198.51.100.7:50000", "flows": [FLOW | {"is": "client"}], "total": 1},
    )


def test_whois_knows_what_an_origin_sees(admin_socket: Path) -> None:
    _, answer = ask_json(admin_socket, "GET", "/v1/whois?address=203.0.113.1:41234")
    assert [flow["is"] for flow in answer["flows"]] == ["source"]
    _, answer = ask_json(admin_socket, "GET", "/v1/whois?address=[2001:DB8:0::7]:1")
    assert answer == {"address": "[2001:db8::7]:1", "flows": [], "total": 0}


@pytest.mark.parametrize(
    "address",
    ["", "198.51.100.7", "198.51.100.7:0", "198.51.100.7:65536", "2001:db8::7:50000", "[1.2.3.4]:5", "x:1"],
)
def test_whois_wants_an_address_with_a_port(admin_socket: Path, address: str) -> None:
    status, answer = ask_json(admin_socket, "GET", f"/v1/whois?address={address}")
    assert (status, answer["error"]["code"]) == (400, "usage")
    assert "198.51.100.7:50000" in answer["error"]["message"]
