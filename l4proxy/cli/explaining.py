"""Prints the answers of `route explain` and `route gain`: candidates with their terms, what the rules said, changes, and what is gained."""

from typing import Any

from l4proxy.cli.output import (
    age,
    clean,
    coloured,
    console,
    milliseconds,
    note,
    path_text,
    print_table,
    ratio,
)

_STYLES = {"chosen": "green", "backup": "cyan", "not usable": "red", "removed": "red"}


def print_explanation(answer: dict[str, Any]) -> None:
    """Print one block per protocol of the app."""
    if not answer["routes"]:
        note(f"no route for {answer['app']} yet: the daemon has no table")
        return
    out = console()
    for route in answer["routes"]:
        head = f"{route['app']} {route['protocol']} from {route['ingress']}, smart routing {route['smart_routing']}"
        out.print(clean(head), style="bold", markup=False)
        out.print(f"  takes {path_text(route['path'])} because: {clean(route['reason'])}", markup=False)
        out.print(
            f"  cost {milliseconds(route['cost_ms'])} ms, off would cost {milliseconds(route['direct_cost_ms'])} ms,"
            f" gain {milliseconds(route['gain_ms'])} ms",
            markup=False,
        )
        print_table(
            ("  PATH", "LINKS", ">PATH MS", ">ORIGIN MS", ">COST MS", "VERDICT"),
            [_row(candidate) for candidate in route["candidates"]],
            "no candidates",
        )
        if (limit := route.get("egress_max")) is not None:
            few = ", ".join(limit["egresses"])
            said = f"egress_max: {few} may dial the origin ({limit['decided_by']} decided), which costs flows from here"
            mean = limit["mean_lost_ms"]
            rest = "" if mean is None else f", {milliseconds(mean)} ms in the mean over all PoPs"
            out.print(f"  {clean(said)} {milliseconds(limit['lost_ms'])} ms{rest}", markup=False)
        if (why_not := route.get("why_not")) is not None:
            out.print(f"  why not {path_text(why_not['path'])}: {clean(why_not['because'])}", markup=False)
        for said in _said(route["candidates"]):
            out.print(f"  {clean(said)}", markup=False)
        links = {link["name"]: link for candidate in route["candidates"] for link in candidate["links"]}
        if any("rtt_ms" in link for link in links.values()):
            columns = ("  LINK", ">RTT MS", ">JITTER MS", ">LOSS", ">COST MS", ">AGE")
            print_table(columns, [_terms(link) for link in links.values()], "no links")
    changes = answer.get("changes", [])
    if changes:
        out.print("last changes, the newest first", style="bold", markup=False)
        print_table(("  AGO", "PROTO", "FROM", "TO", "BECAUSE"), [_change(c) for c in changes], "none")


def print_gain(answer: dict[str, Any]) -> None:
    """Print one line a pair and policy."""
    rows = [
        (
            pair["to"],
            pair["policy"],
            path_text(pair["path"]),
            *(milliseconds(pair[which][key]) for which in ("direct", "chosen") for key in _QUANTILES),
            ratio(pair["direct"]["loss_ratio"]),
            ratio(pair["chosen"]["loss_ratio"]),
            milliseconds(pair["gain_ms"]),
            milliseconds(pair["chosen"]["times_light"]),
        )
        for pair in answer["pairs"]
    ]
    columns = (
        "TO", "POLICY", "PATH", ">DIRECT P50", ">P95", ">CHOSEN P50", ">P95", ">DIRECT LOSS", ">CHOSEN LOSS", ">GAIN MS",
        ">× LIGHT",
    )  # fmt: skip
    print_table(columns, rows, "no pairs: no app has a policy, or there is no table yet")


_QUANTILES = ("rtt_ms_p50", "rtt_ms_p95")


def _said(candidates: list[dict[str, Any]]) -> list[str]:
    """What switching, the guard and the disqualifier said of the candidates, in their order, each once."""
    found: dict[str, None] = {}
    for candidate in candidates:
        path = path_text(candidate["path"])
        if candidate.get("decided") and candidate["verdict"] in ("chosen", "not chosen"):
            found[f"to {candidate['egress']}: {candidate['decided']}"] = None
        guard = candidate.get("guard")
        if guard is not None:
            middle, tail = milliseconds(guard["ms_p50"]), milliseconds(guard["ms_p95"])
            found[f"guard: {path} cost {middle} ms in the median, {tail} ms at the 95th percentile"] = None
        if candidate.get("removed"):
            found[f"egress {candidate['egress']} is not used: {candidate['removed']}"] = None
        for link in candidate["links"]:
            if link.get("removed"):
                found[f"link {link['name']} is not used: {link['removed']}"] = None
    return list(found)


def _terms(link: dict[str, Any]) -> tuple[object, ...]:
    age_ms = link["age_ms"]
    return (
        f"  {link['name']}",
        milliseconds(link["rtt_ms"]),
        milliseconds(link["jitter_ms"]),
        ratio(link["loss_ratio"]),
        milliseconds(link["cost_ms"]),
        age(None if age_ms is None else age_ms / 1000),
    )


def _change(change: dict[str, Any]) -> tuple[object, ...]:
    before, after = path_text(change["before"]), path_text(change["after"])
    return f"  {age(change['age_ms'] / 1000)}", change["protocol"], before, after, change["reason"]


def _row(candidate: dict[str, Any]) -> tuple[object, ...]:
    links = ", ".join(f"{link['name']} {milliseconds(link['cost_ms'])}" for link in candidate["links"])
    verdict = str(candidate["verdict"])
    return (
        f"  {path_text(candidate['path'])}",
        links or "local",
        milliseconds(candidate["path_cost_ms"]),
        milliseconds(candidate["origin_cost_ms"]),
        milliseconds(candidate["cost_ms"]),
        coloured(verdict, _STYLES.get(verdict, "")),
    )
