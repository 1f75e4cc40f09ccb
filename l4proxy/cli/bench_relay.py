"""`l4proxy bench relay`: the edge beside its peers. Options and tables; what is measured stands in l4proxy/bench/relay."""

import json as json_module
import os
import shlex
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from l4proxy.cli import exits
from l4proxy.cli.options import JsonOption
from l4proxy.cli.output import note, print_json, print_table

if TYPE_CHECKING:
    from l4proxy.bench.relay.programme import Options, Outcome

RESULTS = Path("bench/RESULTS.md")
QUICK = (1.0, 3)
"""Seconds and repeats of a look that is no result."""
WATCH_S = 0.5
TOO_BUSY = 0.1
"""Of all cores. A run's own start is far above, so it is looked at before."""


def relay(
    peers: Annotated[
        str,
        typer.Option(
            metavar="NAME,…", help="Whom to measure beside us; those that are not installed are left out."
        ),
    ] = "haproxy,nginx,sozu,realm,quilkin",
    rows: Annotated[
        str,
        typer.Option(
            metavar="ROW,…", help="Rows, or what their names begin with: connect,udp-20k,bulk. Default: all."
        ),
    ] = "",
    seconds: Annotated[
        float, typer.Option(metavar="SECONDS", help="Of one measurement.", min=0.1, max=600)
    ] = 3.0,
    repeats: Annotated[
        int, typer.Option(metavar="N", help="Of each measurement, arms in turn.", min=1, max=100)
    ] = 5,
    quick: Annotated[bool, typer.Option("--quick", help="1 s and 3 repeats: a look, not a result.")] = False,
    realtime: Annotated[
        bool,
        typer.Option(
            "--realtime", help="Every program at real-time priority: for a machine with other work."
        ),
    ] = False,
    record: Annotated[
        bool,
        typer.Option(
            "--record",
            help=f"Write these rows into relay.json and the table of {RESULTS} below the current directory.",
        ),
    ] = False,
    json: JsonOption = False,
) -> None:
    """Measure what relaying costs: ours, HAProxy, nginx and others, and the least that it can cost, in one run.

    Three network namespaces, one core for the relay, the rest for the load. The table says of each row whether our figure
    is as good as it has to be; smaller is better. As root; other users get a user namespace of their own where that is allowed,
    and the row of kernel memory, which only root may read, is left out.
    """  # fmt: skip
    from l4proxy.bench import testbed, usage
    from l4proxy.bench.relay import arms, programme
    from l4proxy.bench.relay import rows as table_rows
    from l4proxy.bench.testbed import BenchmarkError

    if quick:
        seconds, repeats = QUICK
    try:
        asked = arms.peers_of(_names(peers))
        keys = table_rows.chosen(_names(rows))
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    if record and not RESULTS.is_file():
        raise typer.BadParameter(f"--record: no {RESULTS} here; run it in a checkout")
    if lacking := programme.missing():
        for line in lacking:
            note(f"bench relay: {line}")
        raise typer.Exit(exits.FAILED)
    testbed.enter_user_namespace(sys.argv[1:])
    if testbed.INSIDE in os.environ:
        note("not root: in a user namespace; kernel memory is not measured, real-time priority cannot be had")
    there = [name for name in asked if arms.is_installed(name)]
    absent = [name for name in asked if name not in there]
    for name in absent:
        note(f"{name}: not installed, left out")
    busy = usage.busy_share(WATCH_S)
    if busy > TOO_BUSY:
        note(f"this machine is {busy:.0%} busy with something else: the figures will say little")
    # SIGTERM must tidy up as Ctrl-C does.
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        options = programme.Options(there, keys, seconds, repeats, realtime)
        document = _document(options, programme.run(options, note), absent, busy)
    except BenchmarkError as error:
        note(f"bench relay: {error}")
        raise typer.Exit(exits.FAILED) from error
    finally:
        signal.signal(signal.SIGTERM, before)
    if json:
        print_json(document)
    else:
        _print(document)
    if record:
        _record(document)


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _document(options: "Options", outcome: "Outcome", absent: list[str], busy: float) -> dict[str, Any]:
    from l4proxy.bench import figures
    from l4proxy.bench.relay import arms, report

    about = {
        "date": figures.now(),
        "machine": figures.machine(),
        "command": shlex.join(["l4proxy", *sys.argv[1:]]),
        "busy_before": round(busy, 3),
        "seconds": options.seconds,
        "repeats": options.repeats,
        "versions": {name: arms.version(name) for name in options.peers},
        "not_installed": absent,
        "failed": outcome.failed,
    }
    return report.document(options.rows, outcome.measured, outcome.workers, about)


def _print(document: dict[str, Any]) -> None:
    from l4proxy.bench.relay import report

    header, body = report.table(document["rows"])
    columns = [name if name in ("what", "bars", "met") else f">{name}" for name in header]
    print_table([column.upper() for column in columns], body, "nothing")
    for line in report.notes(document["rows"]):
        note(line)
    summary = document["summary"]
    note(f"{summary['met']} met, {summary['not_met']} not met, {summary['not_judged']} not judged")


def _record(document: dict[str, Any]) -> None:
    from l4proxy.bench import figures
    from l4proxy.bench.relay import report

    file = RESULTS.with_name("relay.json")
    older = json_module.loads(file.read_text()) if file.exists() else None
    record = report.merged(older, document)
    file.write_text(json_module.dumps(record, indent=1, ensure_ascii=False) + "\n")
    figures.replace(RESULTS, "The edge beside its peers", report.markdown(record))
