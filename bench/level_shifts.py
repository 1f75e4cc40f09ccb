"""Does the slow estimate of a link follow labelled level shifts at once, and nothing else? Recorded traces, and what each constant does.

25 round-trip series of RIPE Atlas, 4 minutes between samples, change points marked by hand (tests/data/ripe_atlas_labelled).
"""

import argparse
import json
import sys
from dataclasses import asdict, fields, replace
from pathlib import Path

from l4proxy.bench.figures import record, table
from l4proxy.bench.level_shifts import (
    IN_TIME,
    MIN_SHIFT_MS,
    MIN_SHIFT_RATIO,
    NEAR,
    Score,
    Trace,
    labels,
    read_traces,
    score,
    shifts,
)
from l4proxy.core.estimate.level import RULES, LevelRules

RESULTS = Path(__file__).with_name("RESULTS.md")
TRACES = Path(__file__).parents[1] / "tests" / "data" / "ripe_atlas_labelled" / "traces.csv.xz"

MIN_DETECTED = 0.95
MAX_FALSE_PER_DAY = 1.0

DEFINITIONS = ((2.0, 0.0), (5.0, 0.0), (2.0, 0.05), (10.0, 0.05), (20.0, 0.05))
"""Least changes, ms and share, by which a label counts as a level shift, in the table that shows what the choice does."""


def changed(name: str, factor: float) -> LevelRules:
    """Return the rules with one constant times a factor; whole numbers stay whole, and one at least."""
    value = getattr(RULES, name)
    return replace(
        RULES, **{name: max(1, round(value * factor)) if isinstance(value, int) else value * factor}
    )


def total(scores: list[Score]) -> list[str]:
    """Return the figures of one table row."""
    wanted, found = sum(one.shifts for one in scores), sum(one.detected for one in scores)
    days = sum(one.days for one in scores)
    false, lasting = sum(one.false_moves for one in scores), sum(one.lasting for one in scores)
    rates = [one.false_moves / one.days for one in scores]
    return [
        f"{found}/{wanted} = {found / wanted:.1%}",
        f"{false / days:.2f} ({lasting / days:.2f})",
        f"{max(rates):.2f}",
        f"{sum(rate <= MAX_FALSE_PER_DAY for rate in rates)}/{len(rates)}",
        f"{sum(one.error_ms * one.days for one in scores) / days:.2f}",
    ]


HEADER = ("", "detected in time", "false moves a day (lasting)", "worst trace", "traces ≤ 1", "error, ms")


def by_definition(traces: list[Trace]) -> str:
    """Return the table of what counts as a shift."""
    rows = []
    for least_ms, least_ratio in DEFINITIONS:
        scores = [score(trace, wanted=shifts(trace, least_ms, least_ratio)) for trace in traces]
        rows.append([f"max({least_ms:g} ms, {least_ratio:.0%})", *total(scores)])
    scores = [score(trace, wanted=shifts(trace, is_clear=True)) for trace in traces]
    rows.append([f"max({MIN_SHIFT_MS:g} ms, {MIN_SHIFT_RATIO:.0%}), middle halves apart", *total(scores)])
    return table(HEADER, rows)


def sensitivity(traces: list[Trace]) -> str:
    """Return the table of each constant halved and doubled."""
    rows = [["as it is", *total([score(trace) for trace in traces])]]
    for constant in fields(LevelRules):
        for factor in (0.5, 2.0):
            rules = changed(constant.name, factor)
            value = getattr(rules, constant.name)
            rows.append([f"{constant.name} {value:g}", *total([score(trace, rules) for trace in traces])])
    return table(HEADER, rows)


def main() -> int:
    """Print the figures; return whether the bars are held."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="every trace, as JSON")
    parser.add_argument("--record", action="store_true", help="add a dated section to RESULTS.md")
    options = parser.parse_args()
    traces = read_traces(TRACES)
    scores = [score(trace) for trace in traces]
    wanted, found = sum(one.shifts for one in scores), sum(one.detected for one in scores)
    days = sum(one.days for one in scores)
    false = sum(one.false_moves for one in scores) / days
    is_held = found >= MIN_DETECTED * wanted and false <= MAX_FALSE_PER_DAY
    if options.json:
        body = {"shifts": wanted, "detected": found, "false_per_trace_and_day": false, "held": is_held}
        sys.stdout.write(json.dumps(body | {"traces": [asdict(one) for one in scores]}, indent=1) + "\n")
        return not is_held
    smoothed = sum(one.smoothed_error_ms * one.days for one in scores) / days
    samples = sum(len(trace.samples) for trace in traces)
    marks = sum(len(labels(trace)) for trace in traces)
    text = (
        f"{len(traces)} traces, {days:.0f} days, {samples} answered samples, {marks} labels. A level shift: a label with a change of "
        f"median of more than max({MIN_SHIFT_MS:g} ms, {MIN_SHIFT_RATIO:.0%}) within an hour before and after, with three samples or "
        f"more on either side. In time: a move by the sample {IN_TIME} after the labelled one. False: no label within {NEAR} samples; "
        f"lasting: the next three samples stayed near the new level. Error: mean distance of the estimate from the next sample (a "
        f"smoothed round trip, weight 1/8: {smoothed:.2f} ms).\n\n"
        f"{by_definition(traces)}\n\nEach constant halved and doubled:\n\n{sensitivity(traces)}"
    )
    sys.stdout.write(f"{text}\n")
    if options.record:
        record(RESULTS, "Level shifts", text, "python bench/level_shifts.py")
    return not is_held


if __name__ == "__main__":
    raise SystemExit(main())
