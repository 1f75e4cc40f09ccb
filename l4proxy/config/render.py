"""Faults → what an operator reads: the place, what is wrong, the line with carets, and what to write instead."""

from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any
from unicodedata import combining, east_asian_width

from l4proxy.errors import Fault

MAX_LINE = 100
"""Characters of a source line that are shown; of a longer one the part around the carets."""

MAX_SHOWN = 60
"""Characters of a value that are shown."""

_BOLD, _RED, _BLUE, _GREEN, _PLAIN = "\x1b[1m", "\x1b[1;31m", "\x1b[34m", "\x1b[32m", "\x1b[0m"


def in_order(faults: Iterable[Fault]) -> list[Fault]:
    """Return the faults in the order of files, lines and columns."""
    return sorted(faults, key=lambda fault: (fault.file, fault.line, fault.column, fault.path, fault.reason))


def render(faults: Iterable[Fault], *, colour: bool = False) -> str:
    """Return the faults in order, each with its line and carets; `colour`: with ANSI colours for a terminal."""
    return "\n".join(_one(fault, colour) for fault in in_order(faults))


def nearest_name(name: str, right: Iterable[str]) -> str | None:
    """Return the right name that a wrong one is most like, None if it is like none."""
    by_lower = {word.lower(): word for word in right}
    matches = get_close_matches(name.lower(), by_lower, n=1, cutoff=0.6)
    return by_lower[matches[0]] if matches else None


def nearest(name: str, right: Iterable[str]) -> str:
    """Return `; did you mean …?` for a name that is nearly right, else nothing."""
    found = nearest_name(name, right)
    return f"; did you mean {found}?" if found else ""


def _one(fault: Fault, colour: bool) -> str:
    def paint(text: str, code: str) -> str:
        return f"{code}{text}{_PLAIN}" if colour and text else text

    where = f"{fault.file}:{fault.line}:{fault.column}:"
    what = str(fault).removeprefix(where)
    head = paint(printable(where), _BOLD) + paint(printable(what), _RED)
    if not fault.source_line.strip():
        return f"{head}\n  {paint(f'help: {fault.hint}', _GREEN)}" if fault.hint else head
    text, before, marked = _cut(fault)
    number = str(fault.line)
    margin = " " * len(number)
    hint = f" {paint(printable(fault.hint), _GREEN)}" if fault.hint else ""
    carets = paint("^" * max(1, _columns(marked)), _RED)
    return (
        f"{head}\n"
        f"  {paint(f'{number} |', _BLUE)} {printable(text)}\n"
        f"  {paint(f'{margin} |', _BLUE)} {' ' * _columns(before)}{carets}{hint}"
    )


def _cut(fault: Fault) -> tuple[str, str, str]:
    """Return the line, short enough to be shown, its part before the marked characters, and those."""
    start = fault.column - 1
    line = fault.source_line.rstrip().ljust(min(start, len(fault.source_line)))
    end = min(start + fault.width, max(len(line), start + 1))
    if len(line) <= MAX_LINE:
        return line, line[:start], line[start:end]
    left = max(0, min(start - MAX_LINE // 3, len(line) - MAX_LINE))
    right = left + MAX_LINE
    lead = "…" if left else ""
    tail = "…" if right < len(line) else ""
    return lead + line[left:right] + tail, lead + line[left:start], line[start : min(end, right)]


def shown(value: Any) -> str:
    """Return a value of a document as it is shown to people: short, in one line, without control characters."""
    match value:
        case str():
            text = value if len(value) <= MAX_SHOWN else f"{value[: MAX_SHOWN - 1]}…"
            return f"'{printable(text)}'"
        case dict() | list():
            text = printable(_flow(value))
            what = "list" if isinstance(value, list) else "mapping"
            if not value:
                return f"an empty {what}"
            return text if len(text) <= MAX_SHOWN else f"a {what}"
        case _:
            return _flow(value)


def _flow(value: Any, depth: int = 3) -> str:
    """Return a value as YAML writes it in one line; what is deep or long is left out, for it will not be shown."""
    match value:
        case None:
            return "nothing"
        case bool():
            return "true" if value else "false"
        case dict() | list() if depth == 0 or len(value) > MAX_SHOWN // 3:
            return "…" * (MAX_SHOWN + 1)
        case dict():
            return "{" + ", ".join(f"{key}: {_flow(item, depth - 1)}" for key, item in value.items()) + "}"
        case list():
            return "[" + ", ".join(_flow(item, depth - 1) for item in value) + "]"
        case _:
            return str(value)


def printable(text: str) -> str:
    """Return text that a terminal only shows: nothing in it moves the cursor or turns the writing round."""
    return "".join(c if c.isprintable() else "    " if c == "\t" else repr(c)[1:-1] for c in text)


def _columns(text: str) -> int:
    """Return how many columns of a terminal a text takes."""
    shown = printable(text)
    return sum(0 if combining(c) else 2 if east_asian_width(c) in "WF" else 1 for c in shown)
