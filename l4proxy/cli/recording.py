"""`l4proxy route record`: the daemon's own history of links: how much there is, and its export as slices that anything can read."""

import csv
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from l4proxy.cli.client import get
from l4proxy.cli.options import JsonOption, SocketOption, socket_path
from l4proxy.cli.output import clean, console, note, print_json, size

if TYPE_CHECKING:
    from l4proxy.config.histories import History


def record(
    export: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Write slices (CSV, one a file, and locations.csv) into this folder; it must be new or empty.",
        ),
    ] = None,
    history: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH", help="A history elsewhere, instead of the daemon's: its folder or a file of it."
        ),
    ] = None,
    since: Annotated[str, typer.Option(metavar="TIME", help="Export the last so much: 6h, 7d.")] = "1d",
    interval: Annotated[str, typer.Option(metavar="TIME", help="Time between exported slices.")] = "600s",
    socket: SocketOption = None,
    json: JsonOption = False,
) -> None:
    """Show what is recorded of links, or export it.

    A daemon writes down once a minute what it knows of every link of the fleet, into its state directory, at most `run --history` MiB.
    `route replay DIR` and `route plan DIR` read it as it is.
    """
    from l4proxy.config.histories import read_history

    state = {} if history is not None else get(socket_path(socket), "/v1/history")
    directory = history if history is not None else Path(state["directory"])
    answer: dict[str, Any] = state | {"directory": str(directory)}
    found = None
    if export is not None or any(directory.glob("*.links")) or directory.is_file():
        found = read_history([directory])
        times = [at_s for segment in found.segments for at_s in segment.times_s]
        answer |= {"moments": len(times), "first": _when(times[0]), "last": _when(times[-1])}
        answer["links"] = len(found.segments[-1].header.links)
    else:
        answer |= {"moments": 0, "first": None, "last": None, "links": 0}
    if export is not None and found is not None:
        answer["exported"] = _export(
            found, export, _seconds(interval, "--interval"), _seconds(since, "--since")
        )
    if json:
        print_json(answer)
        return
    _print(answer)


def _when(at_s: int) -> str:
    return f"{datetime.fromtimestamp(at_s, UTC):%Y-%m-%dT%H:%M:%SZ}"


def _seconds(text: str, option: str) -> float:
    from l4proxy.config.units import WrongValue, duration_ms

    try:
        seconds = duration_ms(text) / 1e3
    except WrongValue as error:
        raise typer.BadParameter(f"{text!r} {error}", param_hint=option) from None
    if seconds <= 0:
        raise typer.BadParameter("must be longer than nothing", param_hint=option)
    return seconds


def _export(found: "History", folder: Path, interval_s: float, since_s: float) -> int:
    """Write the slices; how many."""
    from l4proxy.config.histories import HistorySlices

    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise typer.BadParameter(f"{folder} is there and not an empty folder", param_hint="--export")
    folder.mkdir(parents=True, exist_ok=True)
    recorded = HistorySlices.of(found, interval_s, since_s)
    for label, one in zip(recorded.labels, recorded.slices(), strict=True):
        with (folder / f"{label.replace(':', '').replace('-', '')}.csv").open("w", newline="") as text:
            out = csv.writer(text, lineterminator="\n")
            out.writerow(["from", "to", "rtt_ms", "jitter_ms", "loss_ratio"])
            for start, a in enumerate(recorded.pops):
                for end, b in enumerate(recorded.pops):
                    rtt_ms = float(one.rtt_ms[start, end])
                    if rtt_ms != rtt_ms:  # never measured
                        continue
                    if rtt_ms == float("inf"):
                        out.writerow([a, b, "", "", 1])
                        continue
                    assert one.jitter_ms is not None  # noqa: S101 (histories have both)
                    assert one.loss_ratio is not None  # noqa: S101
                    jitter, loss = float(one.jitter_ms[start, end]), float(one.loss_ratio[start, end])
                    out.writerow([a, b, f"{rtt_ms:.2f}", f"{jitter:.2f}", f"{loss:.5f}"])
    with (folder / "locations.csv").open("w", newline="") as text:
        out = csv.writer(text, lineterminator="\n")
        out.writerow(["pop", "latitude", "longitude"])
        out.writerows([name, *at] for name, at in sorted(found.locations.items()))
    return len(recorded)


def _print(answer: dict[str, Any]) -> None:
    out = console()
    out.print(f"{clean(answer['directory'])}", markup=False)
    if answer["moments"]:
        out.print(
            f"{answer['moments']} moments of {answer['links']} links, from {answer['first']} to {answer['last']}",
            markup=False,
        )
    else:
        out.print("nothing is recorded yet: the first moment comes a minute after the start", markup=False)
    if "max_bytes" in answer:
        out.print(f"{size(answer['bytes'])} of at most {size(answer['max_bytes'])}", markup=False)
        if answer["max_bytes"] == 0:
            note("this daemon records nothing (run --history 0)")
        if answer["moments_lost"]:
            note(
                f"{answer['moments_lost']} moments were lost: {answer['problem'] or 'the disk did not take them'}"
            )
    if "exported" in answer:
        out.print(f"{answer['exported']} slices exported", markup=False)
