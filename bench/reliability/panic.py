"""A worker that panicked accepts again within a tenth of a second.

Only a test can make a worker panic, so this runs one of the engine's (release profile) and reads the figures that it prints. That the
other workers and their flows do not notice is in `make test` (`a_panic_costs_the_workers_flows_and_nothing_else`).
"""

import re
import subprocess
from pathlib import Path

from harness import parser, report

ROOT = Path(__file__).parents[2]
TEST = "a_worker_that_panicked_accepts_again_within_a_tenth_of_a_second"
COMMAND = "cargo --config maturin.toml test --manifest-path rust_ext/Cargo.toml --locked --quiet --release -p l4proxy-engine --lib"
MOST_MS = 100.0


def main() -> int:
    """Run the test, judge its figures."""
    args = parser(__doc__).parse_args()
    command = [*COMMAND.split(), TEST, "--", "--ignored", "--nocapture"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    found = re.search(r"accepts again: panics=(\d+) median_us=(\d+) worst_us=(\d+)", done.stderr)
    if found is None:
        raise SystemExit(f"the test gave no figures:\n{done.stdout}{done.stderr}")
    panics, median_us, worst_us = map(int, found.groups())
    figures = {
        "panics": panics,
        "accepting_again_after_ms_median": median_us / 1000,
        "accepting_again_after_ms_worst": worst_us / 1000,
    }
    bound = (f"accepting again within {MOST_MS:.0f} ms", median_us / 1000 <= MOST_MS and done.returncode == 0)
    return report(args, "A worker that panics", figures, [bound])


if __name__ == "__main__":
    raise SystemExit(main())
