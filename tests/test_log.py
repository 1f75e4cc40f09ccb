"""The log is one line per event, cannot drive a terminal, and keeps secrets to itself."""

import io
import json
import logging
from collections.abc import Iterator

import pytest
import structlog

from l4proxy import log


@pytest.fixture(autouse=True)
def _restore() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = handlers, level
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()


def lines(stream: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_json_line() -> None:
    out = io.StringIO()
    log.configure("json", "info", out, pop="ams")
    structlog.get_logger().info("ready", apps=3)
    (line,) = lines(out)
    assert line.pop("timestamp")
    assert line == {"event": "ready", "level": "info", "pop": "ams", "apps": 3}


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_control_characters_are_escaped(log_format: log.Format) -> None:
    """An origin's error text or a peer's name may hold escape sequences."""
    out = io.StringIO()
    log.configure(log_format, "info", out)
    structlog.get_logger().warning("bad\x1b[31m\nname", peer=b"\x1b]0;x\x07", names=["\x9b1m"])
    assert "\x1b" not in out.getvalue()
    assert "\x9b" not in out.getvalue()
    assert len(out.getvalue().splitlines()) == 1


def test_secrets_are_hidden() -> None:
    out = io.StringIO()
    log.configure("json", "info", out)
    structlog.get_logger().info("identity", key_pem=b"-----BEGIN PRIVATE KEY-----", token="abc")
    (line,) = lines(out)
    assert (line["key_pem"], line["token"]) == ("<hidden, 27>", "<hidden, 3>")


def test_the_level_can_change_while_running() -> None:
    out = io.StringIO()
    log.configure("json", "warning", out)
    logger = structlog.get_logger()
    logger.info("one")
    log.set_level("debug")
    logger.debug("two")
    assert [line["event"] for line in lines(out)] == ["two"]


def test_libraries_log_into_the_same_stream() -> None:
    out = io.StringIO()
    log.configure("json", "info", out)
    try:
        raise ValueError("boom")
    except ValueError:
        logging.getLogger("uvicorn.error").exception("in the application")
    (line,) = lines(out)
    assert (line["event"], line["level"], line["library"]) == ("in the application", "error", "uvicorn.error")
    assert "ValueError: boom" in str(line["exception"])
