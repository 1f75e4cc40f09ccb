"""Every exception of ours that a caller can meet. Attributes carry the facts; the message is for people."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


class L4ProxyError(Exception):
    """Something that an operator should read; the message says what and where."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong in one file. Line and column count from 1; `path` names the field, as in `limits.flows`."""

    file: str
    line: int
    column: int
    path: str
    """Empty: the file as a whole."""
    reason: str
    source_line: str = ""
    """The text of the line, for showing the place."""
    width: int = 1
    """How many characters the caret underlines."""
    got: str | None = None
    """What stands there, as it is shown to people; None: nothing does."""
    hint: str | None = None
    """What to write instead."""

    def __str__(self) -> str:
        path = f"{self.path}: " if self.path else ""
        got = "" if self.got is None else f" (got {self.got})"
        return f"{self.file}:{self.line}:{self.column}: {path}{self.reason}{got}"


class ConfigError(L4ProxyError):
    """A configuration that is not valid: every fault at once, in the order of files and lines.

    `more` is how many faults were found beyond those that are kept.
    """

    def __init__(self, faults: Sequence[Fault], more: int = 0) -> None:
        self.faults = tuple(faults)
        self.more = more
        lines = [f"{fault}; {fault.hint}" if fault.hint else str(fault) for fault in self.faults]
        super().__init__("\n".join([*lines, f"and {more} more"] if more else lines))


class IdentityError(L4ProxyError):
    """A certificate or key that cannot be used. `file` is the one to look at, `fix` what to do about it."""

    def __init__(self, file: Path, reason: str, fix: str) -> None:
        self.file = file
        self.reason = reason
        self.fix = fix
        super().__init__(f"{file}: {reason}; {fix}")


class DataPlaneError(L4ProxyError):
    """The engine refused, died, or broke its protocol."""


class DaemonUnreachableError(L4ProxyError):
    """No daemon answers at its socket."""
