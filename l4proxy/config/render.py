"""Faults → what an operator reads: the place, what is wrong, the line, a caret, and the nearest right name."""

from collections.abc import Iterable
from difflib import get_close_matches

from l4proxy.errors import Fault

MAX_LINE = 120


def render(faults: Iterable[Fault]) -> str:
    """Return the faults in the order of their places, each with its line and a caret."""
    ordered = sorted(faults, key=lambda fault: (fault.file, fault.line, fault.column, fault.path))
    return "\n".join(_one(fault) for fault in ordered)


def nearest(name: str, right: Iterable[str]) -> str:
    """Return ` (did you mean …?)` for a name that is nearly right, else nothing."""
    matches = get_close_matches(name, list(right), n=1, cutoff=0.6)
    return f"; did you mean {matches[0]}?" if matches else ""


def _one(fault: Fault) -> str:
    head = f"{fault.file}:{fault.line}:{fault.column}: {fault.path}: {fault.reason}"
    line = "".join(c if c.isprintable() else " " for c in fault.source_line)
    if not line.strip() or fault.column > MAX_LINE:
        return head
    width = max(1, min(fault.width, len(line) - fault.column + 1, MAX_LINE - fault.column + 1))
    return f"{head}\n  {line[:MAX_LINE]}\n  {' ' * (fault.column - 1)}{'^' * width}"
