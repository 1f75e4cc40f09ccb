"""The family `virtual`: what is measured in virtual time, by examples of the Rust crates: hours in seconds, the same for each seed.

`interop`: the QUIC interop runner's cases between two PoPs' tunnels; `false-alarms`: how often handles move although no path is broken.
"""

import json
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from l4proxy.bench.bars import OURS
from l4proxy.bench.overlay import cargo
from l4proxy.bench.overlay.context import Context, Found
from l4proxy.bench.overlay.rows import Load
from l4proxy.bench.testbed import BenchmarkError

SOURCE = Path("rust_ext")
"""Below the current directory: it is part of a checkout."""
SEEDS, HOURS = 20, 4
"""Of one measurement; another one goes on with other seeds."""
TIMEOUT_S = 600.0


def measure(context: Context, loads: list[Load]) -> Iterator[Found]:
    """Run each load's example with seeds of its own in every repeat."""
    for load in loads:
        package, example = load.options["package"], load.options["example"]
        what = f"the example {example} of {package}"
        program = cargo.build(what, SOURCE, f"examples/{example}", "--package", package, "--example", example)
        for repeat in range(context.repeats):
            count = SEEDS if load.key == "interop" else HOURS
            found = _run(program, 1 + repeat * count, count)
            yield load.key, OURS, cases(found) if load.key == "interop" else moves(found)


def cases(found: list[Mapping[str, Any]]) -> dict[str, float]:
    """Return how many runs of all cases there were and how many failed, and the longest of any."""
    passed, runs = sum(case["passed"] for case in found), sum(case["of"] for case in found)
    return {
        "failed": runs - passed,
        "runs": runs,
        "cases": len(found),
        "longest_s": max(case["longest_s"] for case in found),
    }


def moves(found: list[Mapping[str, Any]]) -> dict[str, float]:
    """Return needless moves an hour by kind of loss, and the suspicions that came to nothing."""
    figures: dict[str, float] = {}
    for kind in found:
        figures[kind["loss"]] = kind["moves"] / kind["hours"]
        figures[f"{kind['loss']}_suspicions"] = kind["suspicions"] / kind["hours"]
    return figures


def _run(program: str, first: int, count: int) -> list[Mapping[str, Any]]:
    try:
        done = subprocess.run(
            [program, str(first), str(count)], capture_output=True, text=True, timeout=TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise BenchmarkError(f"{program} did not end within {TIMEOUT_S:.0f} s") from error
    if done.returncode != 0:
        raise BenchmarkError(f"{program}: {done.stderr.strip()[-300:]}")
    return [json.loads(line) for line in done.stdout.splitlines()]
