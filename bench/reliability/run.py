"""What `make soak` runs: every reliability programme at its full size, one after the other. `--record` is handed to each."""

import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent

PROGRAMMES = (
    ["held.py"],
    ["held.py", "--silent"],
    ["reloads.py"],
    ["exact.py"],
    ["stalls.py"],
    ["panic.py"],
    ["udp_flood.py"],
    ["first_packets.py"],
    ["simulated.py"],
    ["cuts.py", "--cuts", "60"],
)

MOST_S = 1_800
"""A programme that takes longer hangs; each is bounded by itself as well."""


def main() -> int:
    """Run all, also after one that failed; exit code 1 when one did."""
    failed = 0
    for script, *options in PROGRAMMES:
        command = [sys.executable, str(HERE / script), *options, *sys.argv[1:]]
        try:
            failed += subprocess.run(command, check=False, timeout=MOST_S).returncode != 0
        except subprocess.TimeoutExpired:
            failed += 1
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
