"""Every exception of ours that a caller can meet, in families: whose fault it is stands in the type.

An error carries what it knows as attributes; its text is made of them and can be shown to an operator as it is.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path


class L4ProxyError(Exception):
    """Something that an operator should read; the message says what and where."""


@dataclass(frozen=True, slots=True)
class Excerpt:
    """The line of a file that an error is about, and which of its characters are meant."""

    text: str
    """The whole line, without its end."""
    start: int
    """First character meant, from 0."""
    length: int
    """How many characters are meant, 1 or more."""


class ConfigError(L4ProxyError):
    """One thing that is wrong in the configuration.

    `file` is the file as it was named, `line` and `column` count from 1, `path` is the field (`pops.ams.transits.a`),
    `got` what stands there, `hint` what to write instead. What is not known is None, or empty for `path`.
    """

    def __init__(
        self,
        reason: str,
        *,
        file: str | None = None,
        line: int | None = None,
        column: int | None = None,
        path: str = "",
        got: str | None = None,
        hint: str | None = None,
        excerpt: Excerpt | None = None,
    ) -> None:
        super().__init__(reason)
        self.reason = reason
        self.file = file
        self.line = line
        self.column = column
        self.path = path
        self.got = got
        self.hint = hint
        self.excerpt = excerpt

    @property
    def errors(self) -> tuple["ConfigError", ...]:
        """Each single error: this one."""
        return (self,)

    @property
    def place(self) -> str:
        """`file:line:column`, as far as it is known."""
        parts = (self.file, self.line, self.column)
        return ":".join(str(part) for part in parts if part is not None)

    def __str__(self) -> str:
        where = [part for part in (self.place, self.path) if part]
        got = "" if self.got is None else f" (got {self.got})"
        return ": ".join([*where, self.reason]) + got


class ConfigErrors(ConfigError):
    """Everything that is wrong, at once, in the order of files and lines; its own attributes are those of the first.

    `more` counts errors that were found and not kept.
    """

    def __init__(self, errors: Iterable[ConfigError], more: int = 0) -> None:
        collected = tuple(single for error in errors for single in error.errors)
        if not collected:
            raise ValueError("no error to report")
        first = collected[0]
        super().__init__(
            first.reason,
            file=first.file,
            line=first.line,
            column=first.column,
            path=first.path,
            got=first.got,
            hint=first.hint,
            excerpt=first.excerpt,
        )
        self._errors = collected
        self.more = more

    @property
    def errors(self) -> tuple[ConfigError, ...]:
        """Each single error."""
        return self._errors

    def __str__(self) -> str:
        lines = [f"{error}{f'; {error.hint}' if error.hint else ''}" for error in self._errors]
        if self.more:
            lines.append(f"and {self.more} more")
        return "\n".join(lines)


class IdentityError(L4ProxyError):
    """A certificate or key that cannot be used. `file` is the one to look at, `fix` what to do about it."""

    def __init__(self, file: Path, reason: str, fix: str) -> None:
        super().__init__(f"{file}: {reason}: {fix}")
        self.file = file
        self.reason = reason
        self.fix = fix


class DataPlaneError(L4ProxyError):
    """The engine did not do what it was told, or is not there."""


class DaemonUnreachable(L4ProxyError, ConnectionError):  # noqa: N818 (a state of the world)
    """Nobody answers at the daemon's socket."""
