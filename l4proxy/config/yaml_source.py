"""YAML text → plain values, with the position of every key and value. It knows nothing of apps and fleets.

YAML can do more than a configuration should: aliases that expand without end, tags that construct objects, nesting that crashes the C
parser, `22:22` that means 1342, `no` that means false, duplicate keys of which the last wins. The events are checked before any
node is built, so that none of that is reached; only true, false, null, decimal integers and decimals are anything but text.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import yaml

from l4proxy.errors import Fault

MAX_BYTES = 1 << 20
MAX_DEPTH = (
    32  # PyYAML recurses once a level and its C parser crashes below 50,000; ours are never deeper than 5
)
MAX_EVENTS = 200_000

Path = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Place:
    """Where something stands; counts from 1."""

    line: int
    column: int
    width: int = 1


@dataclass
class Document:
    """One YAML document: its value and where each part of it stands."""

    file: str
    value: Any
    lines: list[str]
    values: dict[Path, Place] = field(default_factory=dict)
    keys: dict[Path, Place] = field(default_factory=dict)

    def fault(self, path: Path, reason: str, *, at_key: bool = False) -> Fault:
        """Return a fault at the value of `path`, at its key, or at the nearest thing that exists."""
        known = path
        places = self.keys if at_key else self.values
        while known and known not in places:
            known, places = known[:-1], self.values
        place = places.get(known, Place(1, 1))
        line = self.lines[place.line - 1] if place.line <= len(self.lines) else ""
        return Fault(self.file, place.line, place.column, dotted(path), reason, line, place.width)


def dotted(path: Path) -> str:
    """Return `limits.flows` or `origins[0]` for a path."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else (f".{part}" if text else part)
    return text or "(document)"


class _Loader(yaml.SafeLoader):
    """SafeLoader without the YAML 1.1 surprises."""


_Loader.yaml_implicit_resolvers = {}
for _tag, _pattern, _first in (
    ("tag:yaml.org,2002:bool", r"true|false", "tf"),
    ("tag:yaml.org,2002:null", r"null|~|", "n~\0"),
    ("tag:yaml.org,2002:int", r"-?(?:0|[1-9][0-9]*)", "-0123456789"),
    ("tag:yaml.org,2002:float", r"-?(?:0|[1-9][0-9]*)\.[0-9]+", "-0123456789"),
):
    _Loader.add_implicit_resolver(
        _tag, re.compile(f"^(?:{_pattern})$"), list(_first.replace("\0", "")) or None
    )
_Loader.yaml_implicit_resolvers.setdefault("", []).append(("tag:yaml.org,2002:null", re.compile(r"^$")))


class SourceError(Exception):
    """The text is refused before it means anything."""

    def __init__(self, faults: list[Fault]) -> None:
        self.faults = faults
        super().__init__(str(faults))


def read_documents(file: str, data: bytes) -> list[Document]:
    """Parse a file's bytes. Raises SourceError with every fault that stops it from being read."""
    if len(data) > MAX_BYTES:
        raise _refuse(file, [], 1, 1, f"the file is larger than 1 MiB ({len(data)} bytes)")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise _refuse(file, [], line, 1, f"is not UTF-8 (byte {error.start})") from None
    lines = text.splitlines()
    try:
        _scan_events(file, text, lines)
        nodes = list(_compose(text))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
        raise _refuse(file, lines, line, column, f"is not YAML: {error.problem or error.context}") from None
    except yaml.YAMLError as error:
        raise _refuse(file, lines, 1, 1, f"is not YAML: {str(error).splitlines()[0]}") from None
    documents = []
    faults: list[Fault] = []
    for node in nodes:
        document = Document(file, None, lines)
        document.value = _build(node, (), document, faults)
        documents.append(document)
    if faults:
        raise SourceError(faults)
    return documents


def _refuse(file: str, lines: list[str], line: int, column: int, reason: str) -> SourceError:
    source = lines[line - 1] if 0 < line <= len(lines) else ""
    return SourceError([Fault(file, line, column, "(document)", reason, source)])


def _scan_events(file: str, text: str, lines: list[str]) -> None:
    depth = 0
    for number, event in enumerate(yaml.parse(text, Loader=yaml.SafeLoader)):
        mark = event.start_mark
        where = (file, lines, mark.line + 1 if mark else 1, mark.column + 1 if mark else 1)
        if number > MAX_EVENTS:
            raise _refuse(*where, f"has more than {MAX_EVENTS} elements")
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            raise _refuse(*where, "anchors and aliases (& and *) are not allowed; write the value out")
        tag = getattr(event, "tag", None)
        if tag and isinstance(event, yaml.ScalarEvent | yaml.CollectionStartEvent):
            raise _refuse(*where, f"tags ({tag}) are not allowed")
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > MAX_DEPTH:
                raise _refuse(*where, f"is nested deeper than {MAX_DEPTH} levels")
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1


def _compose(text: str) -> Iterator[yaml.Node]:
    loader = _Loader(text)
    try:
        while loader.check_node():
            node = loader.get_node()
            if node is not None:
                yield node
    finally:
        loader.dispose()


def _place(node: yaml.Node) -> Place:
    width = node.end_mark.column - node.start_mark.column if node.end_mark.line == node.start_mark.line else 1
    return Place(node.start_mark.line + 1, node.start_mark.column + 1, max(1, width))


def _build(node: yaml.Node, path: Path, document: Document, faults: list[Fault]) -> Any:
    document.values[path] = _place(node)
    if isinstance(node, yaml.SequenceNode):
        return [_build(item, (*path, index), document, faults) for index, item in enumerate(node.value)]
    if isinstance(node, yaml.MappingNode):
        mapping: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = key_node.value if isinstance(key_node, yaml.ScalarNode) else None
            here = (*path, key if key is not None else "?")
            if key is None:
                document.keys[here] = _place(key_node)
                faults.append(document.fault(here, "a key must be plain text", at_key=True))
            elif key in mapping:
                first = document.keys[here].line
                document.keys[here] = _place(key_node)
                faults.append(document.fault(here, f"is given twice (first in line {first})", at_key=True))
            else:
                document.keys[here] = _place(key_node)
                mapping[key] = _build(value_node, here, document, faults)
        return mapping
    return _scalar(node)


def _scalar(node: yaml.Node) -> Any:
    match node.tag.rpartition(":")[2]:
        case "bool":
            return node.value == "true"
        case "null":
            return None
        case "int":
            return int(node.value) if len(node.value) <= 18 else node.value
        case "float":
            return float(node.value)
        case _:
            return node.value
