"""Figures of benchmarks: medians of interleaved repeats, tables, and the dated record in a file of results."""

import datetime
import platform
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path


def interleaved(arms: Mapping[str, Callable[[], float]], repeats: int) -> dict[str, list[float]]:
    """Run every arm once, `repeats` times over, so that whatever else the machine does meets all of them alike."""
    values: dict[str, list[float]] = {name: [] for name in arms}
    for turn in range(repeats):
        for name, measure in arms.items():
            values[name].append(measure())
            say(f"  {turn + 1}/{repeats} {name}: {values[name][-1]:.4g}")
    return values


def spread(values: Sequence[float], digits: int = 1) -> str:
    """Return `median (least–most)`."""
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f}–{max(values):.{digits}f})"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table that also reads well as it is."""
    widths = [max(len(row[column]) for row in (header, *rows)) for column in range(len(header))]

    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)) + " |"

    rule = "| " + " | ".join("-" * width for width in widths) + " |"
    return "\n".join((line(header), rule, *map(line, rows)))


def machine() -> str:
    """Return what figures depend on: processor, cores, kernel, system, congestion control."""
    cpu = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    model = cpu[0].partition(":")[2].strip() if cpu else platform.machine()
    system = platform.freedesktop_os_release().get("PRETTY_NAME", "Linux")
    control = Path("/proc/sys/net/ipv4/tcp_congestion_control").read_text().strip()
    return f"{len(cpu)} × {model}, Linux {platform.release()}, {system}, {control}"


def now() -> str:
    """Return the date and the minute."""
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")


def record(results: Path, title: str, body: str, command: str) -> None:
    """Add a dated section to a file of results, with the machine and the command, newest first."""
    section = f"## {title}\n\n{now()} · {machine()} · `{command}`\n\n{body}\n"
    head, mark, rest = results.read_text().partition("\n## ")
    results.write_text(f"{head.rstrip()}\n\n{section}" + (f"\n## {rest}" if mark else ""))


def replace(results: Path, title: str, body: str) -> None:
    """Write the section of this title anew; the first time it becomes the first one."""
    section = f"## {title}\n\n{body}\n"
    head, *sections = results.read_text().split("\n## ")
    titles = [text.partition("\n")[0] for text in sections]
    if title in titles:
        sections[titles.index(title)] = section.removeprefix("## ")
    else:
        sections.insert(0, section.removeprefix("## "))
    results.write_text("\n\n## ".join(text.strip() for text in (head, *sections)) + "\n")


def say(text: str) -> None:
    """Print progress."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()
