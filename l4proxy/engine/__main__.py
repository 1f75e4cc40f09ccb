"""Parses options and calls `_native.serve`, nothing else. The daemon ends it by word; SIGTERM ends it at once."""

import argparse
import signal

from l4proxy import _native


def main() -> None:
    """Be an engine until the daemon ends it."""
    parser = argparse.ArgumentParser(
        prog="l4proxy.engine", description="The data plane, started by `l4proxy run`."
    )
    parser.add_argument(
        "--fd", type=int, required=True, help="inherited Unix socket that listens for the daemon"
    )
    parser.add_argument("--workers", type=int, required=True, help="threads that carry flows, 1 to 256")
    parser.add_argument("--pop", required=True, help="name of this PoP")
    parser.add_argument(
        "--overlay-memory",
        type=int,
        default=1024,
        help="MiB that the tunnels of one worker may hold, from 64",
    )
    options = parser.parse_args()
    # Ctrl-C in the daemon's terminal is the daemon's business, and Python would only act on it after `serve` returned.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # The default action needs no Python: the process ends while `serve` runs.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    _native.serve(options.fd, options.workers, options.pop, options.overlay_memory)


if __name__ == "__main__":
    main()
