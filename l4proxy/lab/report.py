"""The demo's report for people: a table of the steps, a picture of each path, how far the figures can be trusted. Pure."""

from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from l4proxy.lab import picture

_TITLES = {
    "smart_routing_off": "smart routing off",
    "smart_routing_on": "smart routing on",
    "cut": "link cut",
    "mend": "link mended",
}

_SHORT = {"smart_routing_off": "off", "smart_routing_on": "on", "mend": "mended"}

TRUST_LIMIT_US = 1_000
"""Above this p99 lateness the emulator's own error is no longer small beside the differences shown."""


def render(report: dict[str, Any], console: Console) -> None:
    """Print the report of `demo.report` to a console."""
    strokes = picture.UNICODE if console.encoding.lower().startswith("utf") else picture.ASCII
    topology = report["topology"]
    cities = {pop["name"]: pop["city"] for pop in topology["pops"]}
    labels = {frozenset(link["between"]): link_label(link) for link in topology["links"]}
    for step in report["steps"] if cities else ():
        console.print()
        console.print(Text(_title(step), style="bold"))
        drawing = picture.draw(list(cities), cities, labels, step["path"], _cuts(step), strokes)
        console.print(Text(drawing), soft_wrap=True)
    console.print()
    console.print(_table(report["steps"]))
    for line in closing(report):
        console.print(Text(line), soft_wrap=True)


def link_label(link: dict[str, Any]) -> str:
    """Return `316 ms, 4.7 % lost`; the loss only where there is some."""
    loss = f", {link['loss_ratio'] * 100:.1f} % lost" if link["loss_ratio"] else ""
    return f"{link['rtt_ms']:.0f} ms{loss}"


def closing(report: dict[str, Any]) -> list[str]:
    """Return the sentences below the table."""
    lines = []
    for step in report["steps"]:
        if step["name"] == "cut":
            lines.append(
                f"Through the cut of {' - '.join(step['cut'])}: {step['tcp']['resets'] + step['bulk']['resets']} resets;"
                f" longest silence TCP {step['tcp']['longest_gap_ms']:.0f} ms,"
                f" UDP {step['udp']['longest_gap_ms']:.0f} ms,"
                f" download {step['bulk']['longest_gap_ms']:.0f} ms; {step['udp']['lost']} datagrams lost."
            )
        if step["name"] == "mend":
            told = (_return(flow.upper(), after_s) for flow, after_s in step["returned_after_s"].items())
            lines.append(f"After the repair {', '.join(told)}.")
    emulator = report["emulator"]
    if not report["topology"]["links"]:
        return [*lines, f"No WAN here: {report['topology']['source']}.", *_failures(report)]
    lines.append(
        f"The emulator handed {emulator['packets']} packets over, {emulator['late_packets']} later than 1 ms"
        f" (p99 {emulator['late_us_p99']} µs late, at most {emulator['late_us_max'] / 1000:.1f} ms)."
    )
    if emulator["late_us_p99"] > TRUST_LIMIT_US:
        lines.append("This machine was too busy to emulate delays exactly: read the RTTs with that in mind.")
    return [*lines, *_failures(report)]


def _return(flow: str, after_s: float | None) -> str:
    return (
        f"{flow} stayed where it was"
        if after_s is None
        else f"{flow} was back on its path within {after_s:.0f} s"
    )


def _failures(report: dict[str, Any]) -> list[str]:
    return [f"NOT AS IT SHOULD BE: {claim}" for claim in report["failed"]]


def _title(step: dict[str, Any]) -> str:
    cut = f": {' - '.join(step['cut'])}" if "cut" in step else ""
    return f"{_TITLES.get(step['name'], step['name'])}{cut}"


def _cuts(step: dict[str, Any]) -> set[frozenset[str]]:
    return {frozenset(step["cut"])} if "cut" in step else set()


def _table(steps: list[dict[str, Any]]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("step", no_wrap=True)
    table.add_column("path", no_wrap=True)
    for name in ("TCP p50", "p99", "UDP p50", "p99", "lost", "Mbit/s"):
        table.add_column(name, justify="right", no_wrap=True)
    for step in steps:
        tcp, udp, download = step["tcp"], step["udp"], step.get("download")
        table.add_row(
            _SHORT.get(step["name"], step["name"]),
            _path(step),
            *(_ms(value) for flow in (tcp, udp) for value in (flow["rtt_ms_p50"], flow["rtt_ms_p99"])),
            f"{udp['loss_ratio'] * 100:.1f} %",
            f"{download['mbit_s']:.1f}" if download else "",
        )
    return table


def _path(step: dict[str, Any]) -> str:
    """The path of TCP, and that of UDP where it differs."""
    udp = step["udp"].get("path", step["path"])
    other = "" if udp == step["path"] else f"\nUDP: {' > '.join(udp)}"
    return f"{' > '.join(step['path'])}{other}"


def _ms(value: float | None) -> str:
    return "none" if value is None else f"{value:.1f} ms" if value < 10 else f"{value:.0f} ms"
