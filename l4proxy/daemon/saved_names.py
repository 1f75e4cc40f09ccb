"""What is remembered of origins over a restart, as bytes of a file and back: the last good answers, and the key of source pools.

A daemon that starts while DNS is down goes on with the answers; a client keeps its source address because the key stays.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from l4proxy.core.resolution import OriginName, Target

FILE_NAME = "origins.json"
VERSION = 1
KEY_BYTES = 16


class MalformedNames(ValueError):  # noqa: N818 (a file that is wrong, said by its name)
    """A file that cannot be used; the daemon starts as if there were none."""


@dataclass(frozen=True, slots=True)
class SavedOrigins:
    """The content of the file."""

    source_key: bytes
    names: Mapping[OriginName, tuple[Target, ...]] = field(default_factory=dict)


def encode(saved: SavedOrigins) -> bytes:
    """Return the content of the file."""
    names = [
        {
            "kind": name.kind,
            "host": name.host,
            "port": name.port,
            "targets": [[t.address, t.port, t.host, t.priority, t.weight] for t in targets],
        }
        for name, targets in saved.names.items()
    ]
    document = {"version": VERSION, "source_key": saved.source_key.hex(), "names": names}
    return json.dumps(document, indent=1).encode() + b"\n"


def decode(content: bytes) -> SavedOrigins:
    """Return what a file holds."""
    try:
        document = json.loads(content)
        if document["version"] != VERSION:
            raise MalformedNames(f"version {document['version']} is not {VERSION}")
        key = bytes.fromhex(document["source_key"])
        if len(key) != KEY_BYTES:
            raise MalformedNames(f"the key has {len(key)} bytes")
        return SavedOrigins(key, dict(_name(entry) for entry in document["names"]))
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise MalformedNames(f"{type(error).__name__}: {error}") from error


def _name(entry: Any) -> tuple[OriginName, tuple[Target, ...]]:
    kind = entry["kind"]
    if kind not in ("name", "srv"):
        raise MalformedNames(f"{kind!r} is no kind of name")
    name = OriginName(kind, _text(entry["host"]), _port(entry["port"]))
    return name, tuple(_target(*fields) for fields in entry["targets"])


def _target(address: Any, port: Any, host: Any, priority: Any, weight: Any) -> Target:
    return Target(_text(address), _port(port), _number(host), _number(priority), _number(weight))


def _port(value: Any) -> int | None:
    return None if value is None else _number(value)


def _number(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= 65_535:
        raise MalformedNames(f"{value!r} is not a number from 0 to 65535")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise MalformedNames(f"{value!r} is not text")
    return value
