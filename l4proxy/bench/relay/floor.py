"""A floor as a process of its own: parses options and runs it until SIGTERM, nothing else."""

import argparse
import signal

from l4proxy import _native


def main() -> None:
    """Relay until somebody ends it."""
    parser = argparse.ArgumentParser(prog="l4proxy.bench.relay.floor")
    parser.add_argument("--floor", required=True, choices=["splice", "copy", "udp"])
    parser.add_argument("--listen", required=True, metavar="ADDR:PORT")
    parser.add_argument("--origin", required=True, metavar="ADDR:PORT")
    parser.add_argument("--max-seconds", type=float, default=3600.0)
    options = parser.parse_args()
    floor = _native.BenchFloor(options.floor, options.listen, options.origin)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: floor.stop())
    floor.run(options.max_seconds)


if __name__ == "__main__":
    main()
