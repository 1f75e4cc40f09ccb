"""The document of a run, and how people read it. Pure: measurements in, plain data and text out."""

from collections.abc import Mapping, Sequence
from typing import Any

from l4proxy.bench.bars import OURS, Figures, Judged, judge
from l4proxy.bench.figures import table as markdown_table
from l4proxy.bench.judged import Measured, bars_cell, judged_row, met_cell, summary
from l4proxy.bench.overlay import rows


def figures_of(row: rows.Row, measured: Measured) -> dict[str, Figures]:
    """Return every arm's values of a row."""
    arms = measured.get(row.load, {})
    found = {}
    for name, repeats in arms.items():
        if values := [one[row.figure] for one in repeats if row.figure in one]:
            loss = [one["loss"] for one in repeats if "loss" in one]
            found[name] = Figures(values, (), loss)
    return found


def document(
    keys: Sequence[str], measured: Measured, skipped: Mapping[str, str], about: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the whole run as plain data: `about` (date, machine, command …) and a row for each of `keys`."""
    figures = {key: figures_of(row, measured) for key, row in rows.ROWS.items()}
    ours = {key: arms[OURS].median for key, arms in figures.items() if OURS in arms}
    found = []
    for key in keys:
        row = rows.ROWS[key]
        reason = skipped.get(key) or skipped.get(row.load)
        if OURS not in figures[key]:
            found.append(_skipped(row, reason or "not measured"))
            continue
        judged = judge(row.bars, figures[key], ours)
        made = judged_row(row, figures[key], judged, measured.get(row.load, {}))
        if reason:
            made["why"] = f"skipped: {reason}"
        found.append(made)
    return {**about, "summary": summary(found), "rows": found}


def _skipped(row: rows.Row, reason: str) -> dict[str, Any]:
    return judged_row(row, {}, Judged(why=f"skipped: {reason}"), {})


def merged(older: Mapping[str, Any] | None, newer: Mapping[str, Any]) -> dict[str, Any]:
    """Return the record after another run: rows that it measured take the place of the same rows of before.

    So a long programme can be run in pieces. Every row says when and with which command it was measured.
    """
    origin = {name: newer[name] for name in ("date", "command", "seconds", "repeats")}
    by_key = {row["key"]: row for row in (older or {}).get("rows", ())}
    by_key |= {
        row["key"]: {**row, **origin} for row in newer["rows"] if row["arms"] or row["key"] not in by_key
    }
    found = [by_key[key] for key in rows.ROWS if key in by_key]
    return {**newer, "summary": summary(found), "rows": found}


# -- for people ------------------------------------------------------------------------------------------------------


def cell(row: Mapping[str, Any]) -> str:
    """Return our figure with its spread, and what was lost if that is not nothing; "–" without one."""
    if OURS not in row["arms"]:
        return "–"
    arm, digits = row["arms"][OURS], row["digits"]
    text = f"{arm['median']:.{digits}f} ({arm['least']:.{digits}f}–{arm['most']:.{digits}f})"
    if arm.get("loss", 0.0) >= 0.0005:
        text += f" −{arm['loss']:.1%}"
    return text


def references_cell(row: Mapping[str, Any]) -> str:
    """Return whom our figure stands beside, with theirs."""
    others = [(name, arm) for name, arm in row["arms"].items() if name != OURS]
    return ", ".join(f"{name} {arm['median']:.{row['digits']}f}" for name, arm in others) or "–"


def table(found: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Return header and rows of the table for people."""
    body = [
        [
            f"{row['title']}, {row['unit']}" if row["unit"] else row["title"],
            references_cell(row),
            cell(row),
            bars_cell(row) or "–",
            met_cell(row) if row["arms"] else "skipped",
        ]
        for row in found
    ]
    return ["what", "reference", OURS, "bars", "met"], body


def notes(found: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return what is to be said beside the table: why a row was not judged, or a bar of it."""
    return [f"{row['title']}: {row['why']}" for row in found if row["why"]]


def markdown(document: Mapping[str, Any]) -> str:
    """Return what goes into the file of results, of a record whose rows say where they come from."""
    header, body = table(document["rows"])
    lines = [document["machine"], "", markdown_table(header, body), ""]
    lines += ["Medians (least–most), arms in turn; `bench/overlay.json` has every value.", ""]
    runs: dict[tuple[str, str], list[str]] = {}
    for row in document["rows"]:
        if row["arms"]:
            how = f"{row['repeats']} × {row['seconds']:g} s, `{row['command']}`"
            runs.setdefault((row["date"], how), []).append(row["key"])
    lines += [f"- {date}, {how}: {', '.join(keys)}" for (date, how), keys in runs.items()]
    lines += [f"- {line}" for line in notes(document["rows"])]
    return "\n".join(lines)
