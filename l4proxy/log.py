"""Sets up the daemon's log: structured lines on stderr, JSON or for people. Nothing else configures logging.

Values that come from the network may hold anything, so control characters are escaped; fields that hold secrets
are replaced by their length. Libraries that use `logging` end up in the same stream.
"""

import logging
import sys
from collections.abc import Mapping, MutableMapping
from typing import Any, Literal, TextIO

import structlog

Format = Literal["json", "console"]
LEVELS: Mapping[str, int] = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}

SECRET_FIELDS = frozenset({"key_pem", "private_key", "token", "password", "secret"})

# C0 without tab, DEL and C1: what a terminal obeys.
_ESCAPES = {code: f"\\x{code:02x}" for code in (*range(9), *range(10, 32), *range(127, 160))}

_current_level = logging.INFO


def set_level(name: str) -> None:
    """Change the level while running; `name` is a key of LEVELS."""
    global _current_level
    _current_level = LEVELS[name]
    # What libraries tell of themselves in good days is of no use to an operator.
    logging.getLogger().setLevel(logging.DEBUG if name == "debug" else max(_current_level, logging.WARNING))


def _drop_below_level(_logger: Any, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    if LEVELS.get(method, logging.CRITICAL) < _current_level:
        raise structlog.DropEvent
    return event


def escape_controls(text: str) -> str:
    """Return `text` with every control character but tab written as an escape."""
    return text.translate(_ESCAPES)


def _clean(value: Any) -> Any:
    if isinstance(value, bytes):
        value = value.decode(errors="backslashreplace")
    if isinstance(value, str):
        return escape_controls(value)
    if isinstance(value, Mapping):
        return {_clean(key): _clean(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_clean(item) for item in value]
    return value


def _escape_and_hide(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    for key, value in event.items():
        if key in SECRET_FIELDS:
            event[key] = f"<hidden, {len(value) if hasattr(value, '__len__') else 1}>"
        elif key != "exception":  # a traceback needs its lines
            event[key] = _clean(value)
    return event


class _ToStructlog(logging.Handler):
    """Passes what libraries log on to the one stream."""

    def emit(self, record: logging.LogRecord) -> None:
        logger = structlog.get_logger()
        method = logging.getLevelName(record.levelno).lower()
        fields: dict[str, Any] = {"library": record.name}
        if record.exc_info:
            fields["exc_info"] = record.exc_info
        getattr(logger, method if method in LEVELS else "error")(record.getMessage(), **fields)


def configure(log_format: Format, level: str, stream: TextIO | None = None, **context: Any) -> None:
    """Send every log line to `stream` (stderr) from now on; `context` stands on every line."""
    out = stream or sys.stderr
    renderer: Any = structlog.processors.JSONRenderer()
    if log_format == "console":
        colours = out.isatty()
        renderer = structlog.dev.ConsoleRenderer(
            colors=colours, exception_formatter=structlog.dev.plain_traceback
        )
    structlog.configure(
        processors=[
            _drop_below_level,
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            _escape_and_hide,
            renderer,
        ],
        wrapper_class=structlog.BoundLogger,
        logger_factory=structlog.PrintLoggerFactory(out),
        cache_logger_on_first_use=False,
    )
    structlog.contextvars.clear_contextvars()
    structlog.contextvars.bind_contextvars(**context)
    logging.basicConfig(handlers=[_ToStructlog()], level=logging.WARNING, force=True)
    set_level(level)
