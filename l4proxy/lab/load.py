"""Reads a lab file: every fault at once, with its place. What the file may say stands in `spec`."""

from pathlib import Path
from typing import Any

from pydantic import ValidationError

from l4proxy.config.render import nearest
from l4proxy.config.yaml_source import Document, SourceError, read_documents
from l4proxy.errors import ConfigError, Fault
from l4proxy.lab.spec import LabSpec, contradictions, fields_at


def load(file: Path) -> dict[str, Any]:
    """Return a lab file's document, checked, with the paths of app files made absolute. ConfigError has every fault."""
    try:
        documents = read_documents(str(file), file.read_bytes())
    except SourceError as error:
        raise ConfigError(error.faults) from error
    except OSError as error:
        raise ConfigError([Fault(str(file), 1, 1, "(file)", f"cannot be read: {error.strerror}")]) from error
    if len(documents) != 1 or not isinstance(documents[0].value, dict):
        raise ConfigError(
            [Fault(str(file), 1, 1, "(document)", "a lab file is one mapping: pops, hosts, links, apps")]
        )
    if faults := _faults(documents[0]):
        raise ConfigError(faults)
    found: dict[str, Any] = documents[0].value
    folder = file.resolve().parent
    found["apps"] = [str(folder / app) if isinstance(app, str) else app for app in found.get("apps", [])]
    return found


def _faults(document: Document) -> list[Fault]:
    try:
        spec = LabSpec.model_validate(document.value)
    except ValidationError as error:
        return [_fault(document, detail["type"], detail["loc"], detail["msg"]) for detail in error.errors()]
    return [document.fault(path, reason) for path, reason in contradictions(spec)]


def _fault(document: Document, kind: str, location: tuple[int | str, ...], message: str) -> Fault:
    path = tuple(part for part in location if part != "[key]")
    if kind == "extra_forbidden":
        hint = nearest(str(path[-1]), fields_at(path[:-1]))
        return document.fault(path, f"unknown field{hint}", at_key=True)
    message = message.removeprefix("Value error, ")
    return document.fault(path, message[:1].lower() + message[1:])
