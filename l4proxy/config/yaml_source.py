"""YAML text → plain values, with the position of every key and value. It knows nothing of apps and fleets.

YAML can do more than a configuration should: aliases that expand without end, tags that construct objects, nesting that crashes the C
parser, `22:22` that means 1342, `no` that means false, duplicate keys of which the last wins. So neither PyYAML's composer nor its
constructor is used: values are built straight from the parser's events, which are bounded in size, depth and number, and only `true`,
`false`, `null`, decimal integers and decimals are anything but text. Keys are always text.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NoReturn

import yaml

from l4proxy.config.yaml_words import explain
from l4proxy.errors import Fault

MAX_BYTES = 1 << 20
"""A fleet of 1,000 PoPs with 10,000 links takes half of it."""

MAX_DEPTH = 32
"""Our files are never deeper than 5. PyYAML's C composer dies with a segmentation fault somewhere below 50,000."""

MAX_EVENTS = 200_000
"""About what 1 MiB of sensible YAML makes; `[,,,,` makes more from less."""

MAX_FAULTS = 100
"""A file with more is not of this kind, and nobody reads on."""

Path = tuple[str | int, ...]

_Parser = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

# What the parser counts as the end of a line (YAML 1.1 section 4.1.3), so that its line numbers are ours.
_LINE_BREAK = re.compile("\r\n|[\r\n\x85\u2028\u2029]")

# YAML 1.1 section 4.1.1: what may stand in a file. The byte order mark is allowed at its beginning only.
_FORBIDDEN = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff]")

_BYTE_ORDER_MARKS = ((b"\xff\xfe", "UTF-16"), (b"\xfe\xff", "UTF-16"), (b"\x00\x00\xfe\xff", "UTF-32"))

# More digits than these are no number of ours, and Python refuses to convert more than 4,300.
_INTEGER = re.compile(r"-?(?:0|[1-9][0-9]{0,17})")
_DECIMAL = re.compile(r"-?(?:0|[1-9][0-9]{0,17})\.[0-9]{1,18}")
_WORDS = {"true": True, "false": False, "null": None, "~": None, "": None}


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
    refused: set[Path] = field(default_factory=set)
    """What stands here was refused already; its value means nothing."""

    def fault(
        self,
        path: Path,
        reason: str,
        *,
        at_key: bool = False,
        got: str | None = None,
        hint: str | None = None,
    ) -> Fault:
        """Return a fault at the value of `path`, at its key, or at the nearest thing that exists."""
        known = path
        places = self.keys if at_key else self.values
        while known and known not in places:
            known, places = known[:-1], self.values
        place = places.get(known, Place(1, 1))
        line = self.lines[place.line - 1] if place.line <= len(self.lines) else ""
        return Fault(self.file, place.line, place.column, dotted(path), reason, line, place.width, got, hint)


@dataclass(frozen=True, slots=True)
class Source:
    """A file's documents, and what is wrong with its YAML. Faults that end the reading leave no documents."""

    documents: list[Document]
    faults: list[Fault]


class SourceError(Exception):
    """The text is refused before it means anything."""

    def __init__(self, faults: list[Fault]) -> None:
        self.faults = faults
        super().__init__(str(faults))


def dotted(path: Path) -> str:
    """Return `limits.flows` or `origins[0]` for a path; nothing for the whole document."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else (f".{part}" if text else part)
    return text


def read_documents(file: str, data: bytes) -> list[Document]:
    """Parse a file's bytes. Raises SourceError with every fault of its YAML."""
    source = scan(file, data)
    if source.faults:
        raise SourceError(source.faults)
    return source.documents


def scan(file: str, data: bytes) -> Source:
    """Parse a file's bytes; never raises. Empty documents are left out."""
    reader = _Reader(file)
    try:
        reader.read(data)
    except _Stop:
        return Source([], reader.faults)
    return Source(reader.documents, reader.faults)


class _Stop(Exception):  # noqa: N818 (control flow inside this module)
    """Nothing sensible can be read from here on."""


class _Reader:
    """Builds the documents of one file from the parser's events, noting what is wrong."""

    def __init__(self, file: str) -> None:
        self.documents: list[Document] = []
        self.faults: list[Fault] = []
        self._file = file
        self._lines: list[str] = []
        self._document = Document(file, None, [])
        self._depth = 0

    def read(self, data: bytes) -> None:
        text = self._decode(data)
        self._lines = _LINE_BREAK.split(text)
        self._refuse_control_characters(text)
        events = self._events(text)
        for event in events:
            if isinstance(event, yaml.DocumentStartEvent):
                self._document = Document(self._file, None, self._lines)
                self._document.value = self._node(next(events), events, ())
                if self._document.value is not None or self._document.refused:
                    self.documents.append(self._document)

    def _decode(self, data: bytes) -> str:
        if len(data) > MAX_BYTES:
            self._stop(1, 1, f"the file is larger than {MAX_BYTES >> 20} MiB")
        for mark, encoding in _BYTE_ORDER_MARKS:
            if data.startswith(mark):
                self._stop(1, 1, f"is {encoding}", hint="save it as UTF-8")
        try:
            return data.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            good = _LINE_BREAK.split(error.object[: error.start].decode("utf-8"))
            self._stop(
                len(good),
                len(good[-1]) + 1,
                "is not UTF-8",
                got=f"byte 0x{error.object[error.start]:02x}",
                hint="save it as UTF-8",
                line_text=good[-1],
            )

    def _refuse_control_characters(self, text: str) -> None:
        if (bad := _FORBIDDEN.search(text)) is not None:
            before = _LINE_BREAK.split(text[: bad.start()])
            got = f"U+{ord(bad[0]):04X}"
            self._stop(len(before), len(before[-1]) + 1, "is a character that YAML does not allow", got=got)

    def _events(self, text: str) -> Iterator[Any]:
        number = 0
        try:
            for event in yaml.parse(text, Loader=_Parser):
                number += 1
                if number > MAX_EVENTS:
                    mark: Any = event.start_mark
                    self._stop(mark.line + 1, mark.column + 1, f"there are more than {MAX_EVENTS} values")
                yield event
        except yaml.MarkedYAMLError as error:
            line, column, reason, hint = explain(error, self._lines)
            self._stop(line, column, f"is not YAML: {reason}", hint=hint)
        except yaml.YAMLError as error:
            self._stop(1, 1, f"is not YAML: {str(error).splitlines()[0]}")

    def _node(self, event: Any, events: Iterator[Any], path: Path, key: Place | None = None) -> Any:
        """Build the value that begins with `event`; `key` is where its key stands, if it has one."""
        is_block = isinstance(event, yaml.CollectionStartEvent) and not event.flow_style
        # A block begins at its first entry, on a line of its own; what is said about the whole belongs to its key.
        self._document.values[path] = key if key is not None and is_block else _place(event)
        self._refuse_extras(event, path)
        if isinstance(event, yaml.AliasEvent):
            return None
        if isinstance(event, yaml.ScalarEvent):
            return _scalar(event)
        if self._depth == MAX_DEPTH:
            mark = event.start_mark
            self._stop(mark.line + 1, mark.column + 1, f"is nested deeper than {MAX_DEPTH} levels")
        self._depth += 1
        build = self._sequence if isinstance(event, yaml.SequenceStartEvent) else self._mapping
        value, end = build(events, path)
        self._depth -= 1
        if not is_block:
            self._widen(path, end.end_mark)
        return value

    def _sequence(self, events: Iterator[Any], path: Path) -> tuple[list[Any], Any]:
        items: list[Any] = []
        while not isinstance(event := next(events), yaml.SequenceEndEvent):
            items.append(self._node(event, events, (*path, len(items))))
        return items, event

    def _mapping(self, events: Iterator[Any], path: Path) -> tuple[dict[str, Any], Any]:
        mapping: dict[str, Any] = {}
        while not isinstance(event := next(events), yaml.MappingEndEvent):
            name = self._key(event, events, path)
            here = (*path, name)
            if name in mapping:
                first = self._document.keys[here].line
                self._note(_place(event), here, "is given twice", hint=f"the first is in line {first}")
                self._skip(next(events), events)
                continue
            self._document.keys[here] = place = _place(event)
            mapping[name] = self._node(next(events), events, here, place)
        return mapping, event

    def _widen(self, path: Path, end: Any) -> None:
        """Let the place of a `[list]` or `{mapping}` end where it ends, if that is on the same line."""
        place = self._document.values[path]
        if end.line + 1 == place.line:
            self._document.values[path] = Place(place.line, place.column, end.column + 1 - place.column)

    def _key(self, event: Any, events: Iterator[Any], path: Path) -> str:
        """Return the text of a key; something that cannot be one is noted, and stands under a name of its own."""
        place = _place(event)
        if isinstance(event, yaml.ScalarEvent) and event.value:
            self._refuse_extras(event, (*path, event.value))
            return str(event.value)
        self._skip(event, events)
        if isinstance(event, yaml.ScalarEvent):
            self._note(place, path, "a key must not be empty")
        elif isinstance(event, yaml.CollectionStartEvent):
            hint = "text that begins with [ or { stands in quotes, also an IPv6 address"
            self._note(place, path, "a key must be a word", hint=hint)
        name = f"?{place.line}:{place.column}"
        # A mapping inside another may be no mapping at all, but a bracket that should have been in quotes.
        self._document.refused.add(path or (name,))
        return name

    def _skip(self, event: Any, events: Iterator[Any]) -> None:
        """Read over a value that nobody wants, with an eye on what it must not contain."""
        kept, self._document = self._document, Document(self._file, None, self._lines)
        self._node(event, events, ())
        self._document = kept

    def _refuse_extras(self, event: Any, path: Path) -> None:
        """Note aliases, anchors and tags."""
        if isinstance(event, yaml.AliasEvent) or event.anchor:
            reason = "anchors and aliases (& and *) are not allowed"
            hint = "write the value out; text that begins with & or * stands in quotes"
        elif event.tag:
            reason = "tags (!) are not allowed"
            hint = "leave it out; text that begins with ! stands in quotes"
        else:
            return
        self._note(_place(event), path, reason, hint=hint)
        self._document.refused.add(path)

    def _note(self, place: Place, path: Path, reason: str, *, hint: str | None = None) -> None:
        line = self._lines[place.line - 1]
        self.faults.append(
            Fault(self._file, place.line, place.column, dotted(path), reason, line, place.width, hint=hint)
        )
        if len(self.faults) == MAX_FAULTS:
            self._stop(place.line, place.column, f"is the {MAX_FAULTS}th mistake: nothing more is read")

    def _stop(
        self,
        line: int,
        column: int,
        reason: str,
        *,
        got: str | None = None,
        hint: str | None = None,
        line_text: str | None = None,
    ) -> NoReturn:
        if line_text is None:
            line_text = self._lines[line - 1] if line <= len(self._lines) else ""
        self.faults.append(Fault(self._file, line, column, "", reason, line_text, 1, got, hint))
        raise _Stop


def _place(event: Any) -> Place:
    start, end = event.start_mark, event.end_mark
    width = end.column - start.column if start.line == end.line else 1
    return Place(start.line + 1, start.column + 1, max(1, width))


def _scalar(event: Any) -> Any:
    text: str = event.value
    is_plain = event.implicit[0]
    if not is_plain:
        return text
    if text in _WORDS:
        return _WORDS[text]
    if _INTEGER.fullmatch(text):
        return int(text)
    if _DECIMAL.fullmatch(text):
        return float(text)
    return text
