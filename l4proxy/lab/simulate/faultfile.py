"""Reads a file of faults: a list of `{kind, at, for, where}`; every mistake with file, line and what to write instead.

faults:
  - {kind: cut, at: 10m, for: 2m, where: ams-fra}
  - {kind: pop-kill, at: 30m, for: 5m, where: fra}
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from l4proxy.config import units
from l4proxy.config.render import nearest
from l4proxy.config.yaml_source import Document, SourceError, read_documents
from l4proxy.core.ids import LinkName, PopName
from l4proxy.core.topology import Fleet
from l4proxy.errors import ConfigError, Fault
from l4proxy.lab.simulate import faults as models

FIELDS = ("kind", "at", "for", "where")

MAX_FAULTS = 10_000
"""One in nine seconds of a day."""


def load(file: Path, fleet: Fleet, duration_s: float) -> tuple[models.Fault, ...]:
    """Return the faults of a file for a fleet, none longer than the simulation. ConfigError has every mistake."""
    try:
        documents = read_documents(str(file), file.read_bytes())
    except SourceError as error:
        raise ConfigError(error.faults) from error
    except OSError as error:
        raise ConfigError([Fault(str(file), 1, 1, "(file)", f"cannot be read: {error.strerror}")]) from error
    value = documents[0].value if len(documents) == 1 else None
    if not isinstance(value, dict) or not isinstance(value.get("faults"), list):
        hint = "begin it with `faults:`, and one `- {kind: cut, at: 10m, for: 2m, where: ams-fra}` a fault"
        raise ConfigError(
            [Fault(str(file), 1, 1, "(document)", "a file of faults is a list under `faults`", hint=hint)]
        )
    reader = _Reader(documents[0], fleet, duration_s)
    for name in value:
        if name != "faults":
            reader.refuse((name,), "unknown field", "only `faults` stands here")
    entries = value["faults"]
    if len(entries) > MAX_FAULTS:
        reader.refuse(("faults",), f"{len(entries)} faults, at most {MAX_FAULTS}", "make several files")
        entries = entries[:0]
    found = [reader.fault(number, entry) for number, entry in enumerate(entries)]
    if reader.refused:
        raise ConfigError(reader.refused)
    return tuple(one for one in found if one is not None)


class _Reader:
    """Checks one document."""

    def __init__(self, document: Document, fleet: Fleet, duration_s: float) -> None:
        self.document, self.fleet, self.duration_s = document, fleet, duration_s
        self.refused: list[Fault] = []

    def refuse(self, path: tuple[str | int, ...], reason: str, hint: str) -> None:
        self.refused.append(self.document.fault(path, reason, hint=hint))

    def fault(self, number: int, entry: Any) -> models.Fault | None:
        at = ("faults", number)
        before = len(self.refused)
        if not isinstance(entry, dict):
            self.refuse(at, "a fault is a mapping", "write {kind: cut, at: 10m, for: 2m, where: ams-fra}")
            return None
        for name in entry:
            if name not in FIELDS:
                self.refuse(
                    (*at, name), f"unknown field{nearest(str(name), FIELDS)}", "one of " + ", ".join(FIELDS)
                )
        for name in ("kind", "at", "where"):
            if name not in entry:
                self.refuse(at, f"`{name}` is missing", f"add {name}: {_EXAMPLES[name]}")
        kind = str(entry.get("kind"))
        if "kind" in entry and kind not in models.KINDS:
            known = ", ".join(models.KINDS)
            self.refuse((*at, "kind"), f"is no kind of fault{nearest(kind, models.KINDS)}", f"one of {known}")
        at_s = self._time((*at, "at"), entry.get("at", "0s"))
        for_s = self._time((*at, "for"), entry["for"]) if "for" in entry else self.duration_s
        for_s = max(0.0, min(for_s, self.duration_s - at_s))
        if len(self.refused) > before:
            return None
        return self._placed(at, models.KINDS[kind].where, kind, at_s, for_s, entry["where"])

    def _time(self, path: tuple[str | int, ...], text: object) -> float:
        try:
            return units.duration_ms(text) / 1e3
        except ValueError as error:
            self.refuse(path, str(error).split(";")[0], "write a number with a unit: 30s, 10m, 1h")
            return 0.0

    def _placed(
        self, at: tuple[str | int, ...], needs: str, kind: str, at_s: float, for_s: float, where: Any
    ) -> models.Fault | None:
        names = where if isinstance(where, list) else [where]
        place: Callable[[str], tuple[LinkName, ...] | None] = self._links
        if needs == "pop":
            place = self._pop
        found: list[Any] = []
        for number, name in enumerate(names):
            here = (*at, "where", number) if isinstance(where, list) else (*at, "where")
            named = place(str(name))
            if named is None:
                self._unknown(here, str(name), needs)
                return None
            found.append(named)
        flat = tuple(dict.fromkeys(one for named in found for one in named))
        if needs == "pop":
            return models.Fault(kind, at_s, for_s, pops=tuple(PopName(name) for name in flat))
        if needs in ("half", "region") and all(name in self.fleet.pops for name in names):
            flat = models.links_across(self.fleet, tuple(PopName(name) for name in names))
        return models.Fault(kind, at_s, for_s, flat)

    def _unknown(self, path: tuple[str | int, ...], name: str, needs: str) -> None:
        pops = list(self.fleet.pops)
        if needs == "pop":
            self.refuse(path, f"no PoP {name!r} here{nearest(name, pops)}", "one of " + ", ".join(pops))
            return
        example = next(iter(self.fleet.links))
        hint = f"a PoP ({pops[0]}), a pair ({pops[0]}-{pops[1]}), a transit (a) or a link ({example})"
        self.refuse(path, f"no PoP, pair, transit or link {name!r} here{nearest(name, pops)}", hint)

    def _pop(self, name: str) -> tuple[Any, ...] | None:
        return (PopName(name),) if name in self.fleet.pops else None

    def _links(self, name: str) -> tuple[LinkName, ...] | None:
        """Links by what people call them."""
        fleet = self.fleet
        if name in fleet.links:
            return (LinkName(name),)
        if name in fleet.pops:
            return tuple(link for link, ends in fleet.links.items() if name in (ends.from_pop, ends.to_pop))
        one, dash, other = name.partition("-")
        if dash and one in fleet.pops and other in fleet.pops and one != other:
            return models.links_between(fleet, PopName(one), PopName(other))
        return models.links_of_transit(fleet, name) or None


_EXAMPLES = {"kind": "cut", "at": "10m", "where": "ams-fra"}
