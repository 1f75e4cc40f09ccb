"""Prints the answer of `route explain`: the chosen route, every candidate with its numbers, and the rule that decided."""

from typing import Any

from l4proxy.cli.output import clean, coloured, console, milliseconds, note, path_text, print_table

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
        for said in _removed(route["candidates"]):
            out.print(f"  {clean(said)}", markup=False)


def _removed(candidates: list[dict[str, Any]]) -> list[str]:
    """What the disqualifier took out, each once, in the order of the candidates."""
    said: dict[str, None] = {}
    for candidate in candidates:
        if candidate.get("removed"):
            said[f"egress {candidate['egress']} is not used: {candidate['removed']}"] = None
        for link in candidate["links"]:
            if link.get("removed"):
                said[f"link {link['name']} is not used: {link['removed']}"] = None
    return list(said)


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
