"""Prints answers: JSON for programs, tables for people. rich is imported only for tables.

A table goes to a terminal in its width, and to a pipe unwrapped and without colour. Text from outside is never
taken as markup, and its control characters are escaped.
"""

import json
import os
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

PIPE_WIDTH = 400
"""Columns of a table that nobody looks at: wide enough that no cell is cut."""

# C0 without tab, DEL and C1: what a terminal obeys.
_ESCAPES = {code: f"\\x{code:02x}" for code in (*range(9), *range(10, 32), *range(127, 160))}


def clean(value: object) -> str:
    """Return a value as text that a terminal only shows; None is a dash."""
    return "–" if value is None else str(value).translate(_ESCAPES)


def print_json(document: Any) -> None:
    """Print one JSON document."""
    sys.stdout.write(json.dumps(document, indent=2, ensure_ascii=False) + "\n")


def note(message: str) -> None:
    """Tell the person at the terminal something that is not the answer."""
    sys.stderr.write(f"{clean(message)}\n")


def console() -> "Console":
    """Return where tables are printed."""
    from rich.console import Console

    is_terminal = sys.stdout.isatty()
    return Console(
        width=None if is_terminal else PIPE_WIDTH,
        no_color=bool(os.environ.get("NO_COLOR")) or not is_terminal,
        highlight=False,
        emoji=False,
    )


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]], empty: str) -> None:
    """Print rows under their columns; a column named with a leading `>` is aligned to the right."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for column in columns:
        right = column.startswith(">")
        table.add_column(
            Text(column.removeprefix(">")), justify="right" if right else "left", overflow="fold"
        )
    for row in rows:
        table.add_row(*(cell if isinstance(cell, Text) else Text(clean(cell)) for cell in row))
    if table.row_count == 0:
        note(empty)
        return
    console().print(table)


def coloured(text: object, style: str) -> Any:
    """Return a cell in a style of rich, for a good or a bad word."""
    from rich.text import Text

    return Text(clean(text), style=style)


def milliseconds(value: float | None) -> str:
    """Return `12.3` for a duration in ms, three digits or more where they matter."""
    if value is None:
        return "–"
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def ratio(value: float | None) -> str:
    """Return `0.3%` for a ratio from 0 to 1."""
    if value is None:
        return "–"
    percent = value * 100
    return f"{percent:.0f}%" if percent >= 10 else f"{percent:.2g}%"


def age(seconds: float | None) -> str:
    """Return `3d4h`, `2h05m`, `1m30s` or `12s` for a duration in seconds."""
    if seconds is None:
        return "–"
    total = int(seconds)
    if total < 60:
        return f"{total}s"
    if total < 3600:
        return f"{total // 60}m{total % 60:02d}s"
    if total < 86_400:
        return f"{total // 3600}h{total % 3600 // 60:02d}m"
    return f"{total // 86_400}d{total % 86_400 // 3600}h"


def size(count: float | None) -> str:
    """Return `1.5 MB` for a number of bytes, in powers of 1000."""
    if count is None:
        return "–"
    value = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" or value >= 100 else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"


def count(number: int, what: str) -> str:
    """Return `1 app` or `2 apps`."""
    return f"{number} {what}{'' if number == 1 else 's'}"


def path_text(pops: Sequence[str] | None) -> str:
    """Return `ams › iad › sin`."""
    return " › ".join(pops) if pops else "–"
