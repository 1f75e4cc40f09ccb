"""Files and folders → `App`s and a `Fleet`, or ConfigError with every fault of all of them at once.

A folder stands for its `*.yaml` and `*.yml` files, not for those in folders inside it; hidden ones are left out.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from l4proxy.config.access_files import read_all
from l4proxy.config.app_checks import Declared, check_apps
from l4proxy.config.convert import to_app
from l4proxy.config.fleet_checks import check_fleet
from l4proxy.config.render import in_order
from l4proxy.config.schema import AppModel, FleetModel, field_names
from l4proxy.config.validate import validate
from l4proxy.config.yaml_source import MAX_BYTES, MAX_FAULTS, Document, scan
from l4proxy.core.app import App
from l4proxy.core.topology import Fleet
from l4proxy.errors import ConfigError, Fault

SUFFIXES = (".yaml", ".yml")

Kind = Literal["app", "fleet", "lab"]

_NOT_HERE = {
    "app": ("an app file where the fleet file belongs", "a fleet has fleet and pops"),
    "fleet": ("a fleet file where an app file belongs", "name it with --fleet"),
    "lab": ("a lab file", "for l4proxy lab up"),
}
"""What to say of a document that stands where another kind belongs."""


@dataclass
class Loaded:
    """What a set of files says, and everything that is wrong with it, in order."""

    apps: tuple[App, ...] = ()
    """In name order."""
    fleets: tuple[Fleet, ...] = ()
    files: int = 0
    faults: list[Fault] = field(default_factory=list)
    more: int = 0
    """Faults beyond the MAX_FAULTS that are kept."""


def load_apps(paths: Iterable[Path | str], fleet: Fleet | None = None) -> tuple[App, ...]:
    """Load every app of these files and folders, in name order. With a fleet, the PoPs that they name must be its own.

    Fleet files in folders are passed over. Raises ConfigError with everything that is wrong.
    """
    loaded = _load(_find_files(paths), fleet, wanted="app")
    return _without_faults(loaded).apps


def load_fleet(path: Path | str) -> Fleet:
    """Load a fleet file. Raises ConfigError with everything that is wrong."""
    loaded = _load([_File(Path(path), is_named=True)], None, wanted="fleet")
    return _without_faults(loaded).fleets[0]


def load_all(apps: Iterable[Path | str], fleet: Path | str | None) -> tuple[tuple[App, ...], Fleet | None]:
    """Load a daemon's files together: apps are held against the fleet, and one ConfigError has the faults of all."""
    if fleet is None:
        return load_apps(apps), None
    fleet_loaded = _load([_File(Path(fleet), is_named=True)], None, wanted="fleet")
    found = None if fleet_loaded.faults else fleet_loaded.fleets[0]
    loaded = _load(_find_files(apps), found, wanted="app")
    loaded.faults += fleet_loaded.faults
    return _without_faults(loaded).apps, found


def check(paths: Iterable[Path | str]) -> Loaded:
    """Check app and fleet files in any mixture, and the files of access lists that they name. Never raises.

    Apps are held against the fleet, if there is one.
    """
    loaded = _load(_find_files(paths), None, wanted=None)
    try:
        read_all(loaded.apps)
    except ConfigError as error:
        loaded.faults += error.faults
        loaded.more += error.more
    return _bounded(loaded)


def kind_of(document: Document) -> Kind | None:
    """Tell what a document is by its fields; None if it could be nothing of ours."""
    if not isinstance(document.value, dict):
        return None
    keys = document.value.keys()
    if "lab" in keys or "hosts" in keys:
        return "lab"
    marks = {
        "fleet": len(keys & {*field_names(FleetModel)} - {"pops"})
        + isinstance(document.value.get("pops"), dict),
        "app": len(keys & {*field_names(AppModel)} - {"pops"}) + isinstance(document.value.get("pops"), list),
    }
    if marks["fleet"] == marks["app"]:
        return None if marks["app"] == 0 else ("fleet" if "fleet" in keys else "app")
    return "fleet" if marks["fleet"] > marks["app"] else "app"


@dataclass(frozen=True, slots=True)
class _File:
    path: Path
    is_named: bool
    """The operator named it, and not only the folder that it is in."""
    problem: str | None = None


def _find_files(paths: Iterable[Path | str]) -> list[_File]:
    found: dict[str, _File] = {}
    for given in paths:
        for file in _files_at(Path(given)):
            # One file reached in two ways is one file: a folder and a file in it, or a link.
            found.setdefault(str(file.path) if file.problem else os.path.realpath(file.path), file)
    return list(found.values())


def _files_at(path: Path) -> list[_File]:
    if "\0" in str(path):
        return [_File(path, is_named=True, problem="is not a path")]
    try:
        if not path.is_dir():
            return [_File(path, is_named=True)]
        names = sorted(entry for entry in path.iterdir() if not entry.name.startswith("."))
    except OSError as error:
        return [_File(path, is_named=True, problem=f"cannot be read: {error.strerror}")]
    files = [_File(name, is_named=False) for name in names if name.suffix in SUFFIXES and name.is_file()]
    return files or [_File(path, is_named=True, problem="is a folder without a .yaml file")]


def _read(file: _File, loaded: Loaded) -> list[Document]:
    name = str(file.path)
    if file.problem is not None:
        loaded.faults.append(Fault(name, 1, 1, "", file.problem))
        return []
    try:
        with file.path.open("rb") as stream:
            source = scan(name, stream.read(MAX_BYTES + 1))
    except OSError as error:
        loaded.faults.append(Fault(name, 1, 1, "", f"cannot be read: {error.strerror or error}"))
        return []
    if not source.documents and not source.faults:
        loaded.faults.append(Fault(name, 1, 1, "", "is empty"))
    loaded.files += 1
    loaded.faults += source.faults
    return source.documents


def _load(files: Sequence[_File], fleet: Fleet | None, wanted: Kind | None) -> Loaded:
    """Read files of one kind, or of both; hold apps against the fleet that is given, else the one among the files."""
    loaded = Loaded()
    apps: list[Declared] = []
    fleet_documents: list[Document] = []
    for file in files:
        for document in _read(file, loaded):
            kind = kind_of(document) or wanted
            if kind == "fleet" and wanted == "app" and not file.is_named:
                continue
            if fault := _wrong_kind(document, kind, wanted):
                loaded.faults.append(fault)
            elif kind == "app":
                if (app := validate(AppModel, document, loaded.faults)) is not None:
                    apps.append(Declared(to_app(app.model, file.path.parent), document))
            else:
                fleet_documents.append(document)
    loaded.fleets = tuple(_fleets(fleet_documents, loaded.faults))
    if fleet is None and len(fleet_documents) == 1 and loaded.fleets:
        (fleet,) = loaded.fleets
    loaded.faults += check_apps(apps, fleet)
    loaded.apps = tuple(sorted((declared.app for declared in apps), key=lambda app: app.name))
    return loaded


def _fleets(documents: Sequence[Document], faults: list[Fault]) -> Iterator[Fleet]:
    for document in documents:
        if document is not documents[0]:
            first = f"the first is in {documents[0].file}:{documents[0].values[()].line}"
            faults.append(document.fault((), "is a second fleet", hint=first))
        valid = validate(FleetModel, document, faults)
        if valid is not None and (fleet := check_fleet(valid, faults)) is not None:
            yield fleet


def _wrong_kind(document: Document, kind: Kind | None, wanted: Kind | None) -> Fault | None:
    if kind is None:
        return document.fault(
            (),
            "is neither an app nor a fleet",
            hint="an app has name, listen and origins; a fleet has fleet and pops",
        )
    if kind == wanted or (wanted is None and kind != "lab"):
        return None
    reason, hint = _NOT_HERE[kind]
    return document.fault((), f"is {reason}", hint=hint)


def _bounded(loaded: Loaded) -> Loaded:
    faults = in_order(loaded.faults)
    loaded.faults, loaded.more = faults[:MAX_FAULTS], loaded.more + len(faults[MAX_FAULTS:])
    return loaded


def _without_faults(loaded: Loaded) -> Loaded:
    if _bounded(loaded).faults:
        raise ConfigError(loaded.faults, loaded.more)
    return loaded
