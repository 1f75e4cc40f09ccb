"""`l4proxy bench overlay`: what the overlay reaches. Options and tables; what is measured stands in l4proxy/bench/overlay."""

import json as json_module
import shlex
import signal
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from l4proxy.cli import exits
from l4proxy.cli.options import JsonOption
from l4proxy.cli.output import note, print_json, print_table

RESULTS = Path("bench/RESULTS.md")
TITLE = "The overlay"
QUICK = (1.0, 3, 8)
"""Seconds, repeats and cuts of a look that is no result."""
WATCH_S, TOO_BUSY = 0.5, 0.1
"""How long the machine is watched before, and which share of its cores' time may be taken."""


def overlay(
    rows: Annotated[
        str,
        typer.Option(
            metavar="ROW,…", help="Rows, or what their names begin with: transit,wan-10m. Default: all."
        ),
    ] = "",
    seconds: Annotated[
        float,
        typer.Option(metavar="SECONDS", help="Of one measurement of processor time.", min=0.1, max=600),
    ] = 3.0,
    repeats: Annotated[
        int, typer.Option(metavar="N", help="Of each measurement, arms in turn.", min=1, max=100)
    ] = 5,
    quick: Annotated[
        bool, typer.Option("--quick", help="1 s and 3 repeats, without long silences: a look, not a result.")
    ] = False,
    cuts: Annotated[
        int, typer.Option(metavar="N", help="How often paths die under live flows.", min=1, max=10_000)
    ] = 30,
    record: Annotated[
        bool,
        typer.Option(
            "--record",
            help=f"Write these rows into overlay.json and the table of {RESULTS} below the current directory.",
        ),
    ] = False,
    json: JsonOption = False,
) -> None:
    """Measure the overlay: transit, datagrams, bulk, downloads over distance, cuts; each beside its reference, in one run.

    Real daemons in network namespaces: on plain cables where processor time counts, in the lab's emulator where time counts. The
    table says of each row whether our figure is as good as it has to be. What cannot be measured here is skipped, with the reason.
    As root.
    """
    from l4proxy.bench import figures, usage
    from l4proxy.bench.overlay import programme, report
    from l4proxy.bench.overlay import rows as table_rows

    if quick:
        seconds, repeats, cuts = QUICK
    try:
        keys = table_rows.chosen([name.strip() for name in rows.split(",") if name.strip()])
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    if record and not RESULTS.is_file():
        raise typer.BadParameter(f"--record: no {RESULTS} here; run it in a checkout")
    if lacking := programme.missing():
        for line in lacking:
            note(f"bench overlay: {line}")
        raise typer.Exit(exits.FAILED)
    busy = usage.busy_share(WATCH_S)
    if busy > TOO_BUSY:
        note(f"this machine is {busy:.0%} busy with something else: the figures will say little")
    # SIGTERM must tidy up as Ctrl-C does.
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        options = programme.Options(keys, seconds, repeats, quick, cuts)
        outcome = programme.run(options, note)
    finally:
        signal.signal(signal.SIGTERM, before)
    about = {
        "date": figures.now(),
        "machine": figures.machine(),
        "command": shlex.join(["l4proxy", *sys.argv[1:]]),
        "busy_before": round(busy, 3),
        "seconds": seconds,
        "repeats": repeats,
    }
    document = report.document(keys, outcome.measured, outcome.skipped, about)
    if json:
        print_json(document)
    else:
        _print(document)
    if record:
        _record(document)


def _print(document: dict[str, Any]) -> None:
    from l4proxy.bench.overlay import report

    header, body = report.table(document["rows"])
    print_table([name.upper() for name in header], body, "nothing")
    for line in report.notes(document["rows"]):
        note(line)
    summary = document["summary"]
    note(f"{summary['met']} met, {summary['not_met']} not met, {summary['not_judged']} not judged")


def _record(document: dict[str, Any]) -> None:
    from l4proxy.bench import figures
    from l4proxy.bench.overlay import report

    file = RESULTS.with_name("overlay.json")
    older = json_module.loads(file.read_text()) if file.exists() else None
    record = report.merged(older, document)
    file.write_text(json_module.dumps(record, indent=1, ensure_ascii=False) + "\n")
    figures.replace(RESULTS, TITLE, report.markdown(record))
