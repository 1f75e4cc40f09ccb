"""Thousands of TCP flows through one engine, held for minutes: none lost, and a clean refusal at the descriptor limit.

`--silent`: the flows never say anything (a slow-open attack), and honest clients must still be served. Everything is in two processes, the
PoP and this one, which is client and origin.
"""

import contextlib
import random
import socket
import time

from harness import Echo, Pop, app, ask, free_port, many_descriptors, parser, pop, report

SPARE = 400
"""Descriptors that the engine may have beyond those of the flows; so many more clients are certain to meet its limit."""

REFUSED_WITHIN_S = 30.0
"""A client that is not served learns it by then, even on a machine that is busy; one that hangs would take for ever."""


def connect(port: int) -> socket.socket:
    """Return a connected client."""
    return socket.create_connection(("127.0.0.1", port), timeout=60)


def talk(flows: list[socket.socket], seconds: float, active: float) -> tuple[int, int]:
    """Have a share of the flows, another one each second, send a message a second; return messages and failures."""
    dice, sent, failed = random.Random(1), 0, 0
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        began = time.monotonic()
        for flow in dice.sample(flows, max(1, round(active * len(flows)))):
            sent += 1
            failed += not ask(flow, b"%016d" % sent)
        time.sleep(max(0.0, began + 1 - time.monotonic()))
    return sent, failed


def is_lost(flow: socket.socket) -> bool:
    """Whether a flow that should be silent has ended."""
    flow.setblocking(False)
    try:
        return flow.recv(1) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True


def fate(client: socket.socket) -> str:
    """Return what became of a client beyond the limit: served, refused (an end or a reset), or left hanging."""
    client.settimeout(REFUSED_WITHIN_S)
    try:
        client.sendall(b"x")
        return "served" if client.recv(1) == b"x" else "refused"
    except TimeoutError:
        return "hanging"
    except OSError:
        return "refused"


def overflow(found: Pop, port: int) -> tuple[dict[str, int], float]:
    """Open more than there are descriptors for; return what became of them, and how long `status` takes meanwhile."""
    fates = {"served": 0, "refused": 0, "hanging": 0}
    more = []
    for _ in range(SPARE):
        try:
            more.append(connect(port))
        except TimeoutError:
            fates["hanging"] += 1
        except OSError:
            fates["refused"] += 1
    for client in more:
        fates[fate(client)] += 1
    began = time.monotonic()
    found.status()
    took_s = time.monotonic() - began
    for client in more:
        client.close()
    return fates, took_s


def served_again(port: int) -> bool:
    """Whether a new client is served when others have gone."""
    until = time.monotonic() + 60
    while time.monotonic() < until:
        # What closes is accepted no more at first, and the last of those may be refused still.
        with contextlib.suppress(OSError), connect(port) as client:
            if fate(client) == "served":
                return True
        time.sleep(0.1)
    return False


def counted(found: Pop) -> int:
    """Return how often the engine says that it met its limit; it says so once a second."""
    until = time.monotonic() + 30
    while (count := found.drops().get("fd_limit", 0)) == 0 and time.monotonic() < until:
        time.sleep(0.1)
    return count


def main() -> int:
    """Run it; exit code 1 when a bound does not hold."""
    options = parser(__doc__)
    options.add_argument("--flows", type=int, default=9_000)
    options.add_argument("--seconds", type=float, default=120.0)
    options.add_argument(
        "--active", type=float, default=0.05, help="share of the flows that speak each second"
    )
    options.add_argument(
        "--silent", action="store_true", help="no flow ever speaks; honest clients come meanwhile"
    )
    args = options.parse_args()
    wanted = 2 * args.flows + 2 * SPARE + 100
    if many_descriptors() < wanted:
        raise SystemExit(f"this needs {wanted} descriptors (ulimit -n); try --flows with less")
    origin, port = Echo(), free_port()
    with pop(app("held", f"tcp/127.0.0.1:{port}", origin.port), descriptors=2 * args.flows + SPARE) as found:
        flows = [connect(port) for _ in range(args.flows)]
        if args.silent:
            sent, failed = talk([connect(port) for _ in range(20)], args.seconds, 1.0)
        else:
            failed = sum(not ask(flow, b"hello") for flow in flows)
            sent, more = talk(flows, args.seconds, args.active)
            failed += more
        lost = sum(is_lost(flow) for flow in flows)
        fates, status_s = overflow(found, port)
        again = served_again(port)
        lost_after = sum(is_lost(flow) for flow in flows) - lost
        refused = counted(found)
    figures = {
        "flows": args.flows,
        "seconds": args.seconds,
        "messages": sent,
        "messages_failed": failed,
        "flows_lost": lost,
        "flows_lost_at_the_limit": lost_after,
        "beyond_the_limit_served": fates["served"],
        "beyond_the_limit_refused": fates["refused"],
        "beyond_the_limit_hanging": fates["hanging"],
        "counted_fd_limit": refused,
        "status_at_the_limit_ms": round(1000 * status_s, 1),
    }
    bounds = [
        ("no flow lost, no message failed", lost == lost_after == failed == 0),
        (
            "at the limit clients are refused, counted, none hangs",
            fates["refused"] > 0 == fates["hanging"] and refused > 0,
        ),
        ("served again when others have gone", again),
    ]
    kind = "silent TCP connections" if args.silent else "TCP flows held"
    return report(args, f"{args.flows:,} {kind} through one engine", figures, bounds)


if __name__ == "__main__":
    raise SystemExit(main())
