"""From measurements to the document: what is judged, what is skipped, and what a second run leaves of the first."""

from typing import Any

from l4proxy.bench.overlay import report

ABOUT = {"date": "today", "machine": "this", "command": "l4proxy bench overlay", "seconds": 1.0, "repeats": 3}
KEYS = ["transit-160", "transit-1200", "transit-rate", "transit-wireguard", "interop"]
MEASURED = {
    "transit-160": {"l4proxy": [{"cpu": 0.35, "mpps": 2.9, "loss": 0.0}] * 2 + [{"cpu": 9.0, "mpps": 0.1}]},
    "transit-1200": {
        "l4proxy": [{"cpu": 0.6, "loss": 0.01}] * 3,
        "wireguard-go": [{"cpu": 3.1}] * 3,
    },
}


def run(measured: Any = MEASURED, skipped: dict[str, str] | None = None) -> dict[str, dict[str, Any]]:
    found = report.document(KEYS, measured, skipped or {}, ABOUT)
    return {row["key"]: row for row in found["rows"]}


def test_medians_are_held_against_their_bars() -> None:
    rows = run()
    assert (rows["transit-160"]["met"], rows["transit-160"]["stretch_met"]) == (True, False)
    assert rows["transit-1200"]["met"] is False
    assert rows["transit-rate"]["met"] is True
    assert (rows["transit-wireguard"]["met"], rows["transit-wireguard"]["ratios"]) == (
        True,
        {"wireguard-go": 0.194},
    )
    assert report.references_cell(rows["transit-wireguard"]) == "wireguard-go 3.100"
    assert report.cell(rows["transit-1200"]) == "0.600 (0.600–0.600) −1.0%"


def test_a_row_that_cannot_run_says_why_and_has_no_figure() -> None:
    rows = run({}, {"transit-160": "no cores"})
    assert (rows["transit-160"]["met"], rows["transit-160"]["why"]) == (None, "skipped: no cores")
    assert rows["transit-rate"]["why"] == "skipped: no cores", "both are figures of one load"
    assert rows["transit-1200"]["why"] == "skipped: not measured"
    header, body = report.table(list(rows.values()))
    assert {line[header.index("met")] for line in body} == {"skipped"}


def test_without_its_reference_a_row_has_a_figure_and_no_verdict() -> None:
    ours = {"transit-1200": {"l4proxy": MEASURED["transit-1200"]["l4proxy"]}}
    row = run(ours, {"transit-wireguard": "wg is not installed"})["transit-wireguard"]
    assert (row["met"], row["why"]) == (None, "skipped: wg is not installed")
    assert row["arms"]["l4proxy"]["median"] == 0.6


def test_a_run_of_some_rows_leaves_the_others_as_they_were() -> None:
    older = report.merged(None, report.document(KEYS, MEASURED, {}, ABOUT))
    later = {**ABOUT, "date": "tomorrow"}
    newer = report.document(
        ["transit-160", "transit-1200"], {"transit-160": MEASURED["transit-160"]}, {}, later
    )
    rows = {row["key"]: row for row in report.merged(older, newer)["rows"]}
    assert [rows[key]["date"] for key in KEYS] == ["tomorrow", "today", "today", "today", "today"]
    assert rows["transit-1200"]["arms"], "what was skipped later does not wipe out what was measured"
    text = report.markdown({**ABOUT, "rows": list(rows.values())})
    assert "- tomorrow, 3 × 1 s, `l4proxy bench overlay`: transit-160" in text
