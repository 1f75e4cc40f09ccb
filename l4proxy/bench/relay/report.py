"""The document of a run, and how people read it. Pure: measurements in, plain data and text out."""

import random
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from l4proxy.bench.figures import table as markdown_table
from l4proxy.bench.relay import rows
from l4proxy.bench.relay.bars import OURS, PEERS, Figures, Judged, Verdict, best_peer, judge

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


def figures_of(row: rows.Row, measured: Measured) -> dict[str, Figures]:
    """Return every arm's values of a row. With `added` what routing takes is taken away, repeat by repeat."""
    arms = measured.get(row.load, {})
    routed = arms.get(rows.ROUTED, ()) if row.added else ()
    base = [one[row.figure] for one in routed if row.figure in one]
    found = {}
    for name, repeats in arms.items():
        if name == rows.ROUTED and row.added:
            continue
        values = [one[row.figure] for one in repeats if row.figure in one]
        if not values or (row.added and not base):
            continue
        if row.added:
            values = [value - routed for value, routed in zip(values, base, strict=False)]
        loss = [one["loss"] for one in repeats if "loss" in one]
        machine = [one["machine"] for one in repeats if "machine" in one] if row.figure == "cpu" else []
        found[name] = Figures(values, machine, loss)
    return found


def document(
    keys: Sequence[str], measured: Measured, workers: Mapping[str, Any] | None, about: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the whole run as plain data: `about` (date, machine, command …) and a row for each of `keys`."""
    figures = {key: figures_of(row, measured) for key, row in rows.ROWS.items()}
    ours = {key: arms[OURS].median for key, arms in figures.items() if OURS in arms}
    found = []
    for key in keys:
        if key == rows.WORKERS_KEY:
            found.append(_workers(workers or {"why": "not measured"}))
            continue
        row = rows.ROWS[key]
        found.append(_row(row, figures[key], judge(row.bars, figures[key], ours), measured.get(row.load, {})))
    return {**about, "summary": _summary(found), "rows": found}


def _summary(found: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    judged = [row["met"] for row in found]
    return {"met": judged.count(True), "not_met": judged.count(False), "not_judged": judged.count(None)}


def merged(older: Mapping[str, Any] | None, newer: Mapping[str, Any]) -> dict[str, Any]:
    """Return the record after another run: its rows take the place of the same rows of before, the others stay.

    So a long programme can be run in pieces. Every row says when and with which command it was measured.
    """
    origin = {name: newer[name] for name in ("date", "command", "seconds", "repeats")}
    rows_by_key = {row["key"]: row for row in (older or {}).get("rows", ())}
    rows_by_key |= {row["key"]: {**row, **origin} for row in newer["rows"]}
    found = [rows_by_key[key] for key in (*rows.ROWS, rows.WORKERS_KEY) if key in rows_by_key]
    failed = {**(older or {}).get("failed", {}), **newer["failed"]}
    versions = {**(older or {}).get("versions", {}), **newer["versions"]}
    absent = [name for name in newer["not_installed"] if name not in versions]
    return {
        **newer,
        "versions": versions,
        "not_installed": absent,
        "failed": failed,
        "summary": _summary(found),
        "rows": found,
    }


def _row(
    row: rows.Row,
    arms: Mapping[str, Figures],
    judged: Judged,
    repeats: Mapping[str, Sequence[Measurement]],
) -> dict[str, Any]:
    return {
        "key": row.key,
        "title": row.title,
        "unit": row.unit,
        "digits": row.digits,
        "arms": {name: _arm(figures) | {"also": _also(repeats[name])} for name, figures in arms.items()},
        "best_peer": best_peer(arms),
        "ratios": {
            name: round(arms[OURS].median / figures.median, 3)
            for name, figures in arms.items()
            if OURS in arms and name != OURS and figures.median > 0
        },
        "bars": [_verdict(verdict) for verdict in judged.verdicts],
        "met": judged.met,
        "stretch_met": judged.stretch_met,
        "why": judged.why,
    }


def _also(repeats: Sequence[Measurement]) -> dict[str, float]:
    """Return the median of everything that a load has measured, for whoever asks why."""
    names = dict.fromkeys(name for one in repeats for name in one)
    return {name: round(statistics.median(one[name] for one in repeats if name in one), 5) for name in names}


def _arm(figures: Figures) -> dict[str, Any]:
    arm: dict[str, Any] = {
        "median": figures.median,
        "least": min(figures.values),
        "most": max(figures.values),
        "values": list(figures.values),
    }
    if figures.machine:
        arm["machine"] = statistics.median(figures.machine)
    if figures.loss:
        arm["loss"] = figures.loss_median
    return arm


def _verdict(verdict: Verdict) -> dict[str, Any]:
    ratio = None if verdict.ratio is None else round(verdict.ratio, 4)
    return {
        "bar": verdict.bar.text,
        "against": verdict.against,
        "ratio": ratio,
        "stretch": verdict.bar.stretch,
        "met": verdict.met,
    }


def _workers(measured: Mapping[str, Any]) -> dict[str, Any]:
    ratio = measured.get("ratio")
    met = None if ratio is None else ratio >= rows.WORKERS_BAR.limit
    return {
        "key": rows.WORKERS_KEY,
        "title": rows.WORKERS_TITLE,
        "unit": "×",
        "digits": 2,
        "arms": {} if ratio is None else {OURS: _arm(Figures(measured["values"]))},
        "best_peer": None,
        "ratios": {},
        "bars": [{"bar": rows.WORKERS_BAR.text, "against": "", "ratio": ratio, "stretch": False, "met": met}],
        "met": met,
        "stretch_met": None,
        "why": measured.get("why", ""),
    }


# -- for people ------------------------------------------------------------------------------------------------------

ORDER = (OURS, rows.SPLICE, rows.COPY, rows.UDP, *PEERS, rows.ROUTED)


def columns(found: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the arms that appear in any row, in a fixed order; the three floors share a column."""
    present = {name for row in found for name in row["arms"]}
    names = ["floor" if name.startswith("floor-") else name for name in ORDER if name in present]
    return list(dict.fromkeys(names))


def cell(row: Mapping[str, Any], column: str) -> str:
    """Return an arm's figure, the whole machine's behind it, and what it lost if that is not nothing; "–" without one."""
    is_floor = column == "floor"
    arm = next(
        (
            arm
            for name, arm in row["arms"].items()
            if name == column or (is_floor and name.startswith("floor-"))
        ),
        None,
    )
    if arm is None:
        return "–"
    text = f"{arm['median']:.{row['digits']}f}"
    if "machine" in arm:
        text += f" ({arm['machine']:.{row['digits']}f})"
    if arm.get("loss", 0.0) >= 0.0005 and row["unit"] != "share":
        text += f" −{arm['loss']:.1%}"
    return text


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


def table(found: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Return header and rows of the table for people."""
    arms = columns(found)
    header = ["what", *arms, "bars", "met"]
    body = [
        [f"{row['title']}, {row['unit']}", *(cell(row, arm) for arm in arms), bars_cell(row), met_cell(row)]
        for row in found
    ]
    return header, body


def notes(found: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return what is to be said beside the table: why a row was not judged, or a bar of it."""
    return [f"{row['title']}: {row['why']}" for row in found if row["why"]]


def markdown(document: Mapping[str, Any]) -> str:
    """Return what goes into the file of results, of a record whose rows say where they come from."""
    header, body = table(document["rows"])
    versions = ", ".join(f"{name} {version}" for name, version in document["versions"].items())
    lines = [
        f"{document['machine']}",
        "",
        markdown_table(header, body),
        "",
        f"Medians, arms in turn; the relay on one core. In brackets: the whole machine. {versions or 'No peers'}.",
        "",
    ]
    runs: dict[tuple[str, str], list[str]] = {}
    for row in document["rows"]:
        how = f"{row['repeats']} × {row['seconds']:g} s, `{row['command']}`"
        runs.setdefault((row["date"], how), []).append(row["key"])
    lines += [f"- {date}, {how}: {', '.join(keys)}" for (date, how), keys in runs.items()]
    lines += [f"- {line}" for line in notes(document["rows"])]
    lines += [f"- Left out: {what}: {why}" for what, why in document["failed"].items()]
    if document["not_installed"]:
        lines.append(f"- Not installed: {', '.join(document['not_installed'])}.")
    return "\n".join(lines)
