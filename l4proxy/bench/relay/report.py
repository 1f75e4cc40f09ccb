"""The document of a run, and how people read it. Pure: measurements in, plain data and text out."""

from collections.abc import Mapping, Sequence
from typing import Any

from l4proxy.bench.bars import OURS, Figures, judge
from l4proxy.bench.figures import table as markdown_table
from l4proxy.bench.judged import Measured, arm, bars_cell, judged_row, met_cell, summary
from l4proxy.bench.relay import rows
from l4proxy.bench.relay.rows import PEERS


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
        found.append(
            judged_row(
                row,
                figures[key],
                judge(row.bars, figures[key], ours, PEERS),
                measured.get(row.load, {}),
                PEERS,
            )
        )
    return {**about, "summary": summary(found), "rows": found}


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
        "summary": summary(found),
        "rows": found,
    }


def _workers(measured: Mapping[str, Any]) -> dict[str, Any]:
    ratio = measured.get("ratio")
    met = None if ratio is None else ratio >= rows.WORKERS_BAR.limit
    return {
        "key": rows.WORKERS_KEY,
        "title": rows.WORKERS_TITLE,
        "unit": "×",
        "digits": 2,
        "arms": {} if ratio is None else {OURS: arm(Figures(measured["values"]))},
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
