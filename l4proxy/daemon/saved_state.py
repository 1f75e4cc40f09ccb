"""The controller's saved state as bytes of a file, and back. Anything that is not one of these files is refused."""

import json
from typing import Any

from l4proxy.core.bus import ToggleState
from l4proxy.core.controller import SavedState
from l4proxy.core.ids import AppName, LinkName, PopName

FILE_NAME = "state.json"
VERSION = 1


class MalformedState(ValueError):  # noqa: N818 (a file that is wrong, said by its name)
    """A state file that cannot be used; the daemon starts as if there were none."""


def encode(state: SavedState) -> bytes:
    """Return the content of the file."""
    document = {
        "version": VERSION,
        "epoch": state.epoch,
        "generation": state.generation,
        "labels": [[link, label] for link, label in state.labels],
        "toggles": [[t.app, t.pop, t.value, t.counter, t.writer] for t in state.toggles],
    }
    return json.dumps(document, indent=1).encode() + b"\n"


def decode(content: bytes) -> SavedState:
    """Return what a file holds."""
    try:
        document = json.loads(content)
        if document["version"] != VERSION:
            raise MalformedState(f"version {document['version']} is not {VERSION}")
        return SavedState(
            epoch=_number(document["epoch"]),
            generation=_number(document["generation"]),
            labels=tuple((LinkName(_text(link)), _number(label)) for link, label in document["labels"]),
            toggles=tuple(_toggle(*fields) for fields in document["toggles"]),
        )
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise MalformedState(f"{type(error).__name__}: {error}") from error


def _toggle(app: Any, pop: Any, value: Any, counter: Any, writer: Any) -> ToggleState:
    where = None if pop is None else PopName(_text(pop))
    return ToggleState(AppName(_text(app)), where, _text(value), _number(counter), PopName(_text(writer)))


def _number(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise MalformedState(f"{value!r} is not a number")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise MalformedState(f"{value!r} is not text")
    return value
