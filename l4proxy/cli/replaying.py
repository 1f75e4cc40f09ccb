"""`l4proxy route replay`: what smart routing would have been worth on recorded matrices. Needs no daemon; numpy is loaded on call."""

import csv
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from l4proxy.cli import exits
from l4proxy.cli.options import JsonOption
from l4proxy.cli.output import count, note, print_json, print_table

if TYPE_CHECKING:
    from l4proxy.config.histories import HistorySlices
    from l4proxy.config.slices import Recorded
    from l4proxy.core.replay import Figures, Judged
    from l4proxy.core.replay_policies import Settings


class TrafficClass(StrEnum):
    """Cost formulas."""

    BULK = "bulk"
    GAME = "game"
    VOIP = "voip"
    RTT = "rtt"


class PolicyName(StrEnum):
    """Names of `core.replay_policies.POLICIES`; a test holds them against each other."""

    OURS = "ours"
    LAST = "last"
    EWMA = "ewma"
    EWMA_HYSTERESIS = "ewma-hysteresis"
    DIRECT = "direct"
    ORACLE = "oracle"


DEFINITIONS = """
A slice is a CSV with the header from,to,rtt_ms and, if known, jitter_ms,loss_ratio, in any order; one row a directed pair of PoPs.
A pair without a row was not measured; a row with loss_ratio 1 or without rtt_ms did not answer. Slices come in time order,
--interval apart. Of a recorded history (`route record`) the first moment of each interval is a slice. The table for a slice is
decided from the earlier slices alone, by the rules of `--policy`. The first slice is only learnt from.

All sums are over pairs and judged slices, of pairs whose direct path and whose chosen path were measured in the slice; RTTs of
paths include --hop-ms a transit PoP.

regret_ratio: sum of the chosen RTTs over the sum of the best RTTs of the same slices, minus 1. The best is that of at most
--max-transits transit PoPs.

direct_regret_ratio: the same for direct paths: all that there is to gain.

clairvoyant_regret_ratio: the same for tables that were chosen knowing all slices, with no more changes than the judged ones made:
the best that any table with this hysteresis could have had. They choose from each slice's best path, the best over all slices,
the direct one and the judged ones; clairvoyant_pairs_ratio is the share of pairs that it was computed on.

gain_captured_ratio: (direct - chosen) over (direct - best), as sums of RTTs.

changed_ratio: pairs whose path differs from the one in the table before, over pairs that have one in both.
changed_without_need_ratio: those of them whose former path could still be used, was not refused by the guard, and was in the
slice before no slower than the new one by more than 5 % and 2 ms. Policies other than ours do not tell: all count.

worse_than_direct_ratio: pairs whose chosen path was slower than direct by more than 5 % and 2 ms in the slice.

loss_removed_ratio: of pairs that lost 1 % or more on the direct path in the slice, the share of that loss which the chosen paths
do not have. lossy_rtt_ratio: their chosen over their direct RTT.

unmeasured, unanswered, unrouted: pairs and slices that do not count because a link of the chosen path was not measured or did not
answer, or because the table had no path.
"""

POLICY_HELP = (
    "ours: guard and switching as the daemon has them, over levels of slices (docs/routing.md). "
    "last, ewma, ewma-hysteresis: best path of the last slice, of a mean with weight 0.25, and that one "
    "left only for a path that is better by 5 % and 2 ms. direct: never a detour. oracle: the best path of the slice itself."
)
PATHS_HELP = (
    "Write slice,from,to,path: every pair of every judged slice, PoPs joined by >. Slices count from 1."
)


def replay(
    slices: Annotated[
        list[Path],
        typer.Argument(
            metavar="SLICE…",
            help="CSV files in time order, two or more; or the history that a daemon recorded: its folder, or files of it.",
        ),
    ],
    traffic: Annotated[
        TrafficClass, typer.Option("--class", help="The cost formula that paths are chosen by.")
    ] = TrafficClass.BULK,
    interval: Annotated[str, typer.Option(metavar="TIME", help="Time between slices: 600s, 15m.")] = "600s",
    hop_ms: Annotated[float, typer.Option(metavar="MS", min=0, help="Charged for each transit PoP.")] = 1.0,
    max_transits: Annotated[int, typer.Option(metavar="N", min=0, max=3, help="Transit PoPs of a path.")] = 2,
    min_gain: Annotated[
        str, typer.Option(metavar="TIME", help="What a detour must gain before direct is left.")
    ] = "0ms",
    policy: Annotated[PolicyName, typer.Option(help=POLICY_HELP)] = PolicyName.OURS,
    paths: Annotated[
        Path | None,
        typer.Option(
            metavar="OUT.csv",
            help=PATHS_HELP,
        ),
    ] = None,
    locations: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="CSV with pop,latitude,longitude: RTTs below light in fibre are skipped."
        ),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Replay recorded matrices: what the table would have been before each slice, and what that was worth in it."""
    from l4proxy.config.histories import HistorySlices, is_history, read_history
    from l4proxy.config.slices import Recorded, read_locations, read_slices
    from l4proxy.config.units import WrongValue, duration_ms
    from l4proxy.core.replay import Tally, replayed
    from l4proxy.core.replay_policies import Settings

    try:
        interval_ms = duration_ms(interval)
    except WrongValue as error:
        raise typer.BadParameter(f"{interval!r} {error}", param_hint="--interval") from None
    try:
        min_gain_ms = duration_ms(min_gain)
    except WrongValue as error:
        raise typer.BadParameter(f"{min_gain!r} {error}", param_hint="--min-gain") from None
    if interval_ms <= 0:
        raise typer.BadParameter("slices need some time between them", param_hint="--interval")
    settings = Settings(
        traffic=traffic.value,
        interval_ns=round(interval_ms * 1e6),
        hop_ms=hop_ms,
        max_transits=max_transits,
        min_gain_ms=min_gain_ms,
        policy=policy.value,
    )
    recorded: Recorded | HistorySlices
    if any(is_history(path) for path in slices):
        recorded = HistorySlices.of(read_history(slices), interval_ms / 1e3)
    else:
        recorded = read_slices(slices, read_locations(locations) if locations else None)
    if len(recorded) < 2:
        raise typer.BadParameter("two slices or more: the first is only learnt from", param_hint="SLICE…")
    _tell_skipped(recorded)
    tally = Tally(settings, len(recorded.pops), len(recorded))
    each: list[dict[str, Any]] = []
    with _paths_writer(paths, recorded.pops) as write:
        for one in replayed(recorded.slices(), settings):
            tally.add(one)
            each.append(_slice_document(one, recorded.labels))
            write(one)
    found = tally.figures()
    if json:
        print_json(_document(found, each, settings, recorded))
    else:
        _print(found, each)
    if found.regret_ratio is None:
        note(
            "nothing could be judged: no slice after the first has a pair with a direct and a chosen path that were measured"
        )
        raise typer.Exit(exits.FAILED)


def _tell_skipped(recorded: "Recorded | HistorySlices") -> None:
    for reason, number in recorded.skipped.counts.items():
        note(f"skipped {count(number, 'row')}: {reason}; first {recorded.skipped.first[reason]}")


def _write_nothing(_one: "Judged") -> None:
    """No file was asked for."""


@contextmanager
def _paths_writer(path: Path | None, pops: Sequence[str]) -> "Iterator[Callable[[Judged], None]]":
    """Writes the table of each judged slice as it comes; into nothing without a file."""
    if path is None:
        yield _write_nothing
        return
    from l4proxy.core.routing.dense import pops_of

    with path.open("w", newline="", encoding="utf-8") as text:
        out = csv.writer(text, lineterminator="\n")
        out.writerow(["slice", "from", "to", "path"])
        names = [*pops, ""]

        def write(one: "Judged") -> None:
            some = one.routed_pairs
            for row in pops_of(one.rows[some], len(pops)).tolist():
                path_pops = [names[number] for number in row if number >= 0]
                out.writerow([one.number + 1, path_pops[0], path_pops[-1], ">".join(path_pops)])

        yield write


def _slice_document(one: "Judged", labels: Sequence[str]) -> dict[str, Any]:
    return {
        "slice": one.number + 1,
        "file": labels[one.number],
        "pairs": one.pairs,
        "regret_ratio": one.chosen_ms / one.best_ms - 1 if one.best_ms else None,
        "direct_regret_ratio": one.direct_ms / one.best_ms - 1 if one.best_ms else None,
        "changed_ratio": one.changed / one.routed if one.routed else None,
        "worse_than_direct_ratio": one.worse / one.pairs if one.pairs else None,
        "unmeasured": one.unmeasured,
        "unanswered": one.unanswered,
        "unrouted": one.unrouted,
    }


def _document(
    found: "Figures", each: list[dict[str, Any]], settings: "Settings", recorded: "Recorded | HistorySlices"
) -> dict[str, Any]:
    settled = {
        "policy": settings.policy,
        "class": settings.traffic,
        "interval_s": settings.interval_ns / 1e9,
        "hop_ms": settings.hop_ms,
        "max_transits": settings.max_transits,
        "min_gain_ms": settings.min_gain_ms,
    }
    skipped = [
        {"reason": reason, "rows": number, "first": recorded.skipped.first[reason]}
        for reason, number in recorded.skipped.counts.items()
    ]
    return {
        **asdict(found),
        "pops": len(recorded.pops),
        **settled,
        "rows": recorded.answered,
        "skipped": skipped,
        "each": each,
    }


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.2f} %"


def _print(found: "Figures", each: list[dict[str, Any]]) -> None:
    print_table(
        ("SLICE", ">PAIRS", ">REGRET", ">DIRECT", ">CHANGED", ">WORSE"),
        [
            (
                one["slice"],
                one["pairs"],
                _percent(one["regret_ratio"]),
                _percent(one["direct_regret_ratio"]),
                _percent(one["changed_ratio"]),
                _percent(one["worse_than_direct_ratio"]),
            )
            for one in each
        ],
        "no slice was judged",
    )
    rows = [
        ("slices, pairs", f"{found.slices}, {found.pairs}"),
        ("regret", _percent(found.regret_ratio)),
        ("  least possible with so few changes", _percent(found.clairvoyant_regret_ratio)),
        ("  direct paths alone", _percent(found.direct_regret_ratio)),
        ("gain captured", _percent(found.gain_captured_ratio)),
        ("pairs changed a slice", _percent(found.changed_ratio)),
        ("  without need", _percent(found.changed_without_need_ratio)),
        ("pairs worse than direct by 5 % and 2 ms", _percent(found.worse_than_direct_ratio)),
    ]
    if found.lossy_pairs:
        rows += [
            (
                f"loss removed from {count(found.lossy_pairs, 'lossy pair')}",
                _percent(found.loss_removed_ratio),
            ),
            ("  their RTT beside direct", f"{found.lossy_rtt_ratio:.3f}"),
        ]
    left_out = (found.unmeasured, found.unanswered, found.unrouted)
    if any(left_out):
        rows.append(("do not count: not measured, no answer, no path", ", ".join(map(str, left_out))))
    print_table(("WHAT", ">"), rows, "nothing")


# The help keeps line breaks, and a terminal has its own width: a paragraph is one line.
replay.__doc__ = f"{replay.__doc__}\n\n" + "\n\n".join(
    " ".join(part.split()) for part in DEFINITIONS.strip().split("\n\n")
)
