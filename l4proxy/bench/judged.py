"""Judged rows as plain data, and the cells that they make: what the documents of all benchmarks share. Pure."""

import random
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from l4proxy.bench.bars import OURS, Figures, Judged, Verdict, best_peer

Measurement = Mapping[str, float]
"""What one arm gave for one load in one repeat: its figures by name, and `machine` and `loss` where they exist."""
Measured = Mapping[str, Mapping[str, Sequence[Measurement]]]
"""By load and arm, a measurement a repeat."""

SEED = 4
"""Of the order in which arms take turns: the same in every run, another in every repeat."""


def turns(arms: Sequence[str], repeat: int) -> list[str]:
    """Return the order of the arms in a repeat, so that none always comes after the same."""
    order = list(arms)
    random.Random(SEED * 1_000 + repeat).shuffle(order)  # noqa: S311 - an order, no secret
    return order


def judged_row(
    row: Any,
    arms: Mapping[str, Figures],
    judged: Judged,
    repeats: Mapping[str, Sequence[Measurement]],
    peers: Sequence[str] = (),
) -> dict[str, Any]:
    """Return a row of the table (`key`, `title`, `unit` and `digits` say which) with its arms, ratios and verdicts."""
    return {
        "key": row.key,
        "title": row.title,
        "unit": row.unit,
        "digits": row.digits,
        "arms": {
            name: arm(figures) | {"also": also(repeats.get(name, ()))} for name, figures in arms.items()
        },
        "best_peer": best_peer(arms, peers),
        "ratios": {
            name: round(arms[OURS].median / figures.median, 3)
            for name, figures in arms.items()
            if OURS in arms and name != OURS and figures.median > 0
        },
        "bars": [verdict_json(verdict) for verdict in judged.verdicts],
        "met": judged.met,
        "stretch_met": judged.stretch_met,
        "why": judged.why,
    }


def summary(found: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Return how many rows are met, not met, not judged."""
    judged = [row["met"] for row in found]
    return {"met": judged.count(True), "not_met": judged.count(False), "not_judged": judged.count(None)}


def also(repeats: Sequence[Measurement]) -> dict[str, float]:
    """Return the median of everything that a load has measured, for whoever asks why."""
    names = dict.fromkeys(name for one in repeats for name in one)
    return {name: round(statistics.median(one[name] for one in repeats if name in one), 5) for name in names}


def arm(figures: Figures) -> dict[str, Any]:
    """Return an arm's values, least, most and median."""
    found: dict[str, Any] = {
        "median": figures.median,
        "least": min(figures.values),
        "most": max(figures.values),
        "values": list(figures.values),
    }
    if figures.machine:
        found["machine"] = statistics.median(figures.machine)
    if figures.loss:
        found["loss"] = figures.loss_median
    return found


def verdict_json(verdict: Verdict) -> dict[str, Any]:
    """Return a verdict as the document has it."""
    ratio = None if verdict.ratio is None else round(verdict.ratio, 4)
    return {
        "bar": verdict.bar.text,
        "against": verdict.against,
        "ratio": ratio,
        "stretch": verdict.bar.stretch,
        "met": verdict.met,
    }


def bars_cell(row: Mapping[str, Any]) -> str:
    """Return every bar with the ratio that was reached."""
    parts = []
    for bar in row["bars"]:
        reached = "" if bar["ratio"] is None else f"{bar['ratio']:.2f} "
        mark = {True: "✓", False: "✗", None: "?"}[bar["met"]]
        against = f" ({bar['against']})" if "best peer" in bar["bar"] and bar["against"] else ""
        wish = "stretch " if bar["stretch"] else ""
        parts.append(f"{mark} {wish}{reached}{bar['bar']}{against}")
    return ", ".join(parts)


def met_cell(row: Mapping[str, Any]) -> str:
    """Return the verdict in a word."""
    if row["met"] is None:
        return "not measurable" if not row["arms"] else "not judged"
    if row["met"]:
        return "met, stretch too" if row["stretch_met"] else "met"
    return "NOT MET"
