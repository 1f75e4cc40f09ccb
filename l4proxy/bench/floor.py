"""A floor as a process of its own: parses options and runs it until SIGTERM, nothing else."""

import argparse
import signal

from l4proxy import _native

FLOORS = ("splice", "copy", "udp", "quic-ingress", "quic-egress")


def main() -> None:
    """Relay until somebody ends it."""
    parser = argparse.ArgumentParser(prog="l4proxy.bench.floor")
    parser.add_argument("--floor", required=True, choices=FLOORS)
    parser.add_argument("--listen", required=True, metavar="ADDR:PORT")
    parser.add_argument("--origin", required=True, metavar="ADDR:PORT")
    parser.add_argument("--identity", metavar="DIR", help="cert.pem and key.pem, for the two over QUIC")
    parser.add_argument("--max-seconds", type=float, default=3600.0)
    options = parser.parse_args()
    floor = _native.BenchFloor(options.floor, options.listen, options.origin, options.identity)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: floor.stop())
    floor.run(options.max_seconds)


if __name__ == "__main__":
    main()
