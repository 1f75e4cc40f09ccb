"""What the rules of route choice reach on slices, beside the simple policies, and how much each constant matters.

    python bench/routing.py [--record] [--only WORD] [--sensitivity]

Runs some minutes on one core. `--sensitivity` halves and doubles each constant. `--record` writes a section of RESULTS.md.
"""

import argparse
import platform
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import slices

from l4proxy.core.replay import Figures, Tally, replayed
from l4proxy.core.replay_policies import Ours, Rules, Settings, Slice

POLICIES = ("last", "ewma", "ewma-hysteresis", "ours")
TRACED = 36
"""Slices over traces: six hours of ten minutes."""


def run(sequence: list[Slice], settings: Settings, rules: Rules | None = None) -> Figures:
    """Replay one sequence; with rules of one's own without the floor, which takes as long as the rest."""
    tally = Tally(settings, len(sequence[0].rtt_ms), len(sequence) if rules is None else 0)
    policy = Ours(settings, rules) if rules is not None else None
    for one in replayed(sequence, settings, policy):
        tally.add(one)
    return tally.figures()


def sequences(only: str) -> Iterator[tuple[str, list[Slice]]]:
    """All sequences whose name has the word."""
    made: dict[str, Callable[[], list[Slice]]] = {"recorded": slices.recorded, "still": slices.still}
    if slices.TRACES.exists():
        made["traces"] = lambda: slices.traced(TRACED, 41)
    else:
        sys.stderr.write(f"traces: {slices.TRACES} is not there\n")
    for name, make in (made | slices.MADE).items():
        if only in name:
            yield name, make()


def percent(value: float | None) -> str:
    """`1.23` for a ratio of 0.0123."""
    return "–" if value is None else f"{100 * value:.2f}"


def table(only: str) -> list[str]:
    """Figures of every sequence, policy and number of transits, as a table in Markdown."""
    lines = [
        "| slices | transits | policy | regret % | floor % | direct % | changed % | without need % | worse % | gain captured % |"
    ]
    lines.append("| --- " * 10 + "|")
    for name, sequence in sequences(only):
        for transits in (1, 2):
            for policy in POLICIES:
                found = run(sequence, Settings(traffic="rtt", max_transits=transits, policy=policy))
                values = (
                    found.regret_ratio,
                    found.clairvoyant_regret_ratio,
                    found.direct_regret_ratio,
                    found.changed_ratio,
                    found.changed_without_need_ratio,
                    found.worse_than_direct_ratio,
                    found.gain_captured_ratio,
                )
                lines.append(f"| {name} | {transits} | {policy} | " + " | ".join(map(percent, values)) + " |")
                sys.stderr.write(lines[-1] + "\n")
    return lines


def lossy() -> list[str]:
    """What becomes of the pairs that lose 5 %, by class."""
    lines = [
        "| class | pairs and runs | loss direct % | loss chosen % | removed % | RTT beside direct |",
        "| --- " * 6 + "|",
    ]
    is_lossy = slices.lossy_pairs()
    for traffic in ("rtt", "bulk", "game", "voip"):
        sequence = slices.recorded()
        settings = Settings(traffic=traffic)  # type: ignore[arg-type]
        sums = np.zeros(5)
        for one in replayed(sequence, settings):
            loss = np.nan_to_num(sequence[one.number].loss_ratio).reshape(-1)  # type: ignore[arg-type]
            for pair in np.flatnonzero(one.counts & is_lossy):
                links = [link for link in one.rows[pair].tolist() if link >= 0]
                rtt_ms = sum(one.costs[link] for link in links) + len(links) - 1
                sums += (
                    1,
                    loss[pair],
                    1 - np.prod([1 - loss[link] for link in links]),
                    one.costs[pair],
                    rtt_ms,
                )
        count, direct, chosen, direct_ms, chosen_ms = sums
        lines.append(
            f"| {traffic} | {count:.0f} | {percent(direct / count)} | {percent(chosen / count)} "
            f"| {percent(1 - chosen / direct)} | {chosen_ms / direct_ms:.3f} |"
        )
    return lines


def sensitivity(only: str) -> list[str]:
    """Regret, changes and pairs worse than direct with each constant halved and doubled, one transit, means over the sequences."""
    every = [sequence for _, sequence in sequences(only)]
    settings = Settings(traffic="rtt", max_transits=1)

    def row(name: str, rules: Rules) -> str:
        found = [run(sequence, settings, rules) for sequence in every]
        means = [
            float(np.mean([getattr(one, what) or 0.0 for one in found]))
            for what in ("regret_ratio", "changed_ratio", "worse_than_direct_ratio")
        ]
        line = f"| {name} | " + " | ".join(map(percent, means)) + " |"
        sys.stderr.write(line + "\n")
        return line

    base = Rules()
    lines = [
        "| constant | regret % | changed % | worse than direct % |",
        "| --- " * 4 + "|",
        row("as they are", base),
    ]
    for group in fields(Rules):
        values = getattr(base, group.name)
        for constant in fields(values) if group.name != "luck" else (None,):
            before = values if constant is None else getattr(values, constant.name)
            name = group.name if constant is None else f"{group.name}.{constant.name}"
            for times in (0.5, 2.0):
                after = type(before)(max(1, before * times) if isinstance(before, int) else before * times)
                changed = after if constant is None else replace(values, **{constant.name: after})
                lines.append(row(f"{name} {before:g} → {after:g}", replace(base, **{group.name: changed})))
    return lines


def main() -> None:
    """Measure, print, and record if asked for."""
    parser = argparse.ArgumentParser(
        prog="bench/routing.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", default="", metavar="WORD", help="sequences with this in their name")
    parser.add_argument(
        "--sensitivity", action="store_true", help="each constant halved and doubled, instead"
    )
    parser.add_argument("--record", action="store_true", help="write into RESULTS.md")
    given = parser.parse_args()
    began = time.monotonic()
    lines = sensitivity(given.only) if given.sensitivity else [*table(given.only), "", *lossy()]
    sys.stdout.write("\n".join(lines) + "\n")
    if given.record:
        title = (
            "Route choice: constants halved and doubled" if given.sensitivity else "Route choice on slices"
        )
        command = "python bench/routing.py " + " ".join(sys.argv[1:])
        when = f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC · {platform.machine()} · `{command}` · {time.monotonic() - began:.0f} s"
        record(title, "\n".join([when, "", *lines]))


def record(title: str, text: str) -> None:
    """Put a section into RESULTS.md, in the place of the one of this title."""
    file = Path(__file__).with_name("RESULTS.md")
    parts = file.read_text().split("\n## ")
    section = f"{title}\n\n{text}\n"
    places = [at for at, part in enumerate(parts) if part.startswith(f"{title}\n")]
    if places:
        parts[places[0]] = section
    else:
        parts.append(section)
    file.write_text("\n## ".join(parts))


if __name__ == "__main__":
    main()
