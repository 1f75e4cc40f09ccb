"""What `make bench` runs: every benchmark, one after the other. Options are handed to each that knows them."""

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent


def main() -> int:
    """Run all; exit code 1 when one failed or missed its bound."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="short runs: a look, not a result")
    parser.add_argument(
        "--realtime", action="store_true", help="every program at real-time priority: for a busy machine"
    )
    parser.add_argument("--record", action="store_true", help="add the tables to RESULTS.md")
    options = parser.parse_args()
    if os.geteuid() != 0:
        sys.stderr.write("bench: network namespaces need root here\n")
        return 1
    shared = [f"--{name}" for name in ("realtime", "record") if getattr(options, name)]
    verify = ["--seconds", "1", "--repeats", "5"] if options.quick else []
    relay = ["--quick"] if options.quick else []
    codes = []
    if shutil.which("iperf3") and shutil.which("sockperf"):
        codes.append(_run("verify_generator.py", [*verify, *shared]))
    else:
        sys.stderr.write("bench: the generator is not verified, iperf3 or sockperf is not installed\n")
    codes.append(_command("bench", "relay", *relay, *shared))
    codes.append(_command("bench", "overlay", *relay, *(["--record"] if options.record else [])))
    record = ["--record"] if options.record else []
    codes.append(_run("level_shifts.py", record))
    codes.append(_run("idle.py", record))
    return 1 if any(codes) else 0


def _run(script: str, arguments: list[str]) -> int:
    return subprocess.run([sys.executable, str(HERE / script), *arguments], check=False).returncode


def _command(*arguments: str) -> int:
    program = [sys.executable, "-c", "from l4proxy.cli import main; main()"]
    return subprocess.run([*program, *arguments], check=False, cwd=HERE.parent).returncode


if __name__ == "__main__":
    raise SystemExit(main())
