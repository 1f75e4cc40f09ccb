"""Files of access lists: one address or prefix a line, `#` begins a comment. Read whole and checked, or refused with the places.

Tools write them, with a million lines, so each line is read by hand: `ipaddress` takes ten times as long. A file that is written
while it is read is not taken: what was there before stays until the tool is done.
"""

import os
import socket
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from l4proxy.config.yaml_source import MAX_FAULTS
from l4proxy.core.access_list import AccessList
from l4proxy.core.app import App
from l4proxy.errors import ConfigError, Fault

MAX_PREFIXES = 2_000_000
"""As the engine takes them: docs/engine-protocol.md, `access_list`."""

MAX_BYTES = 128 << 20
"""Room for as many lines of the longest sort, and for comments."""

MAX_SHOWN = 60
"""Characters of a line that are shown."""

Signature = tuple[int, int, int, int]
"""Device, inode, size and time of the last change: what tells one version of a file from another."""


class FileIsChangingError(ConfigError):
    """The file was written while it was read; later it may be whole."""


@dataclass(frozen=True, slots=True)
class ListFile:
    """One version of a file, and what it says."""

    signature: Signature
    contents: AccessList


ListFiles = Mapping[str, ListFile]
"""What lies in each file, by its path."""


def signature_of(path: str) -> Signature:
    """Return which version of a file is there; OSError."""
    return _signature(Path(path).stat())


def _signature(found: os.stat_result) -> Signature:
    return (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)


def read_list(path: str) -> ListFile:
    """Read a file, or raise ConfigError with everything that is wrong. Blocking, a microsecond a line."""
    try:
        with Path(path).open("rb") as file:
            before = _signature(os.fstat(file.fileno()))
            data = file.read(MAX_BYTES + 1)
            after = _signature(os.fstat(file.fileno()))
    except OSError as error:
        raise ConfigError([_fault(path, 1, f"cannot be read: {error.strerror or error}")]) from error
    if len(data) > MAX_BYTES:
        raise ConfigError([_fault(path, 1, f"is larger than {MAX_BYTES >> 20} MiB")])
    if before != after:
        raise FileIsChangingError([_fault(path, 1, "was written while it was read")])
    return ListFile(before, parse(path, data))


def parse(name: str, data: bytes) -> AccessList:
    """Return the list that a text says, or raise ConfigError: `name` is the file's, for the places."""
    v4, v6 = bytearray(), bytearray()
    faults: list[Fault] = []
    count = more = 0
    for number, line in enumerate(data.split(b"\n"), start=1):
        text = line.partition(b"#")[0].strip()
        if not text:
            continue
        packed = _pack(text)
        if isinstance(packed, bytes):
            (v6 if len(packed) > 5 else v4).extend(packed)
            count += 1
        elif len(faults) < MAX_FAULTS:
            faults.append(_fault_of(name, number, line, text, packed))
        else:
            more += 1
    if count > MAX_PREFIXES:
        faults.insert(0, _fault(name, 1, f"has {count:,} prefixes, and {MAX_PREFIXES:,} are possible"))
    if faults:
        raise ConfigError(faults, more)
    return AccessList.of(bytes(v4), bytes(v6))


@dataclass(frozen=True, slots=True)
class _Wrong:
    reason: str
    hint: str | None = None


def _pack(text: bytes) -> bytes | _Wrong:
    """Return a prefix as the engine takes it, or what is wrong with it."""
    address, slash, length_text = text.partition(b"/")
    family = socket.AF_INET6 if b":" in address else socket.AF_INET
    try:
        packed = socket.inet_pton(family, address.decode("ascii"))
    except (OSError, ValueError):
        return _NO_PREFIX
    bits = len(packed) * 8
    length = bits
    if slash:
        # Only digits: Python's own idea of a number is wider.
        if not length_text.isdigit() or len(length_text) > 3 or (length := int(length_text)) > bits:
            return _NO_PREFIX
        behind = int.from_bytes(packed) & ((1 << bits - length) - 1)
        if behind:
            first = (int.from_bytes(packed) - behind).to_bytes(len(packed))
            return _Wrong(
                "has bits set to the right of its prefix", f"write {socket.inet_ntop(family, first)}/{length}"
            )
    return packed + bytes([length])


_NO_PREFIX = _Wrong("is not an address or prefix; write 198.51.100.7, 198.51.100.0/24 or 2001:db8::/32")


def _fault_of(name: str, number: int, line: bytes, text: bytes, wrong: _Wrong) -> Fault:
    shown = line.rstrip().decode("utf-8", "backslashreplace")[:MAX_SHOWN]
    shown = "".join(letter if letter.isprintable() else "?" for letter in shown)
    column = line.index(text) + 1
    width = max(1, min(len(text), MAX_SHOWN - column + 1))
    return Fault(name, number, column, "", wrong.reason, shown, width, hint=wrong.hint)


def _fault(name: str, line: int, reason: str) -> Fault:
    return Fault(name, line, 1, "", reason)


def files_of(apps: Iterable[App]) -> tuple[str, ...]:
    """Return the files that apps name, each once."""
    return tuple(dict.fromkeys(path for app in apps for path in app.access.files))


def read_all(apps: Iterable[App]) -> ListFiles:
    """Read every file that these apps name, or raise ConfigError with what is wrong in all of them. Blocking."""
    found: dict[str, ListFile] = {}
    faults: list[Fault] = []
    more = 0
    for path in files_of(apps):
        try:
            found[path] = read_list(path)
        except ConfigError as error:
            faults += error.faults
            more += error.more
    if faults:
        raise ConfigError(faults, more)
    return found
