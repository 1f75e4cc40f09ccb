"""Every exception of ours that a caller can meet. Attributes carry the facts; the message is for people."""

from collections.abc import Sequence
from dataclasses import dataclass


class L4ProxyError(Exception):
    """Something that an operator should read; the message says what and where."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong in one file. Line and column count from 1; `path` names the field, as in `limits.flows`."""

    file: str
    line: int
    column: int
    path: str
    reason: str
    source_line: str = ""
    """The text of the line, for showing the place."""
    width: int = 1
    """How many characters the caret underlines."""


class ConfigError(L4ProxyError):
    """A configuration that is not valid: every fault at once, or one sentence where there is no place to name."""

    def __init__(self, faults: Sequence[Fault]) -> None:
        self.faults = tuple(faults)
        super().__init__(
            "\n".join(f"{f.file}:{f.line}:{f.column}: {f.path}: {f.reason}" for f in self.faults)
        )


class IdentityError(L4ProxyError):
    """A certificate or key that cannot be used; the message names the file and the fix."""


class DataPlaneError(L4ProxyError):
    """The engine refused, died, or broke its protocol."""


class DaemonUnreachableError(L4ProxyError):
    """No daemon answers at its socket."""
