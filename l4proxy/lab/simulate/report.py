"""The result of a simulation as rows for people: what was simulated, what flows got, and what must never be and was."""

from typing import Any

Json = dict[str, Any]


def rows(document: Json) -> list[tuple[str, str]]:
    """Return what to print, name and value."""
    faults = sum(document["faults"].values())
    repair = document["repair_s"]
    control = document["control_bits_s_a_pop"]
    gain = document["gain_ratio"]
    most = document["most_changes_of_a_path"]
    gained = (
        "–"
        if gain is None
        else f"{100 * gain:.2f} % of cost; better for {_share(document, 'better')} of the time"
    )
    worse = f"{_share(document, 'worse')} of the time, {_s(document['longest_worse_s'])} at most"
    longest = f"p99 {_s(repair['p99'])}, longest {_s(repair['max'])}"
    told = (
        "not sent in this kind"
        if control is None
        else f"{control['mean'] / 1e3:.1f} kbit/s a PoP, {control['max'] / 1e3:.1f} at most"
    )
    found = [
        ("how", document["kind"]),
        ("fleet", f"{len(document['pops'])} PoPs, {document['links_a_pair']} links a pair"),
        ("time", f"{document['simulated_s'] / 3_600:.2f} h, seed {document['seed']}"),
        ("faults", f"{faults} of {len(document['faults'])} kinds"),
        ("availability", f"{100 * document['availability']:.5f} % of the time in which there was a way"),
        ("interruptions", f"{document['interruptions']}"),
        ("time to repair", f"p50 {_s(repair['p50'])}, p95 {_s(repair['p95'])}, {longest}"),
        ("gain against direct", gained),
        ("clearly worse than direct", worse),
        (
            "changes",
            f"{document['changes_per_path_hour']:.2f} a path and hour"
            + ("" if most is None else f", {most} of one path at most"),
        ),
        ("control traffic", told),
    ]
    violation = document["violation"]
    if violation is None:
        found.append(("invariants", "held"))
    else:
        where = f"at {violation['at_s']:.3f} s, {violation['source']} to {violation['end']}"
        what = f"{violation['invariant']} {where}: {violation['what']} (seed {violation['seed']})"
        found.append(("BROKEN", what))
    return found


def _s(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f} s"


def _share(document: Json, word: str) -> str:
    return f"{100 * document[f'{word}_than_direct_ratio']:.2f} %"
