"""Peers that stop: a window that stays shut for a minute costs no byte, and a peer that vanishes without a word is given up.

Two namespaces joined by a wire: one has the PoP, in the other live the peers that will vanish, by a route that swallows everything they
would still say. As root, or in a user namespace of one's own.
"""

import os
import socket
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).parent))

from harness import PATIENCE_S, app, free_port, parser, pop, report

from l4proxy.lab import namespaces

if TYPE_CHECKING:
    from pyroute2 import IPRoute

INSIDE = "L4PROXY_STALLS_INSIDE"
NEAR, FAR = "10.77.0.1", "10.77.0.2"
MAC_NEAR, MAC_FAR = "02:4c:34:51:00:01", "02:4c:34:51:00:02"

SHUT_S = 62.0
"""How long a receiver reads nothing: a player may be paused for a minute."""

GIVEN_UP_S = 150.0
"""Unacknowledged bytes end a connection after 75 s (TCP_USER_TIMEOUT), silence at the latest after 31 s and 75 s of questions."""

WARM = 2 << 20
"""Bytes that make a transfer a bulk one, which is spliced."""

FLOOD = 48 << 20
"""More than the buffers of all sockets on the way hold."""


def enter_namespace() -> None:
    """Go on in a network namespace of our own."""
    command = ["unshare", *(() if os.geteuid() == 0 else ("--user", "--map-root-user")), "--net", "--"]
    os.environ[INSIDE] = "1"
    os.execvp(command[0], [*command, sys.executable, *sys.argv])  # noqa: S606 (a fixed program, found on PATH)


def make_wire() -> int:
    """Join this namespace to a new one; return the process that holds it."""
    holder = namespaces.hold(os.environ, settings={}).pid

    def near(ip: "IPRoute") -> None:
        ip.link("set", index=ip.link_lookup(ifname="lo")[0], state="up")
        peer = {"ifname": "far", "net_ns_pid": holder, "address": MAC_FAR}
        ip.link("add", ifname="near", kind="veth", peer=peer, address=MAC_NEAR)
        bring_up(ip, "near", NEAR, FAR, MAC_FAR)

    def far(ip: "IPRoute") -> None:
        ip.link("set", index=ip.link_lookup(ifname="lo")[0], state="up")
        bring_up(ip, "far", FAR, NEAR, MAC_NEAR)

    namespaces.inside(os.getpid(), near)
    namespaces.inside(holder, far)
    return holder


def bring_up(ip: "IPRoute", device: str, own: str, other: str, mac: str) -> None:
    """Give a device its address, and the other end's hardware address for good: nobody is to be asked for it."""
    index = ip.link_lookup(ifname=device)[0]
    ip.addr("add", index=index, address=own, prefixlen=24)
    ip.link("set", index=index, state="up")
    ip.neigh("replace", dst=other, lladdr=mac, ifindex=index, state=0x80)  # NUD_PERMANENT


def vanish(ip: "IPRoute") -> None:
    """From now on nobody hears anything of this namespace, not even that something was received."""
    ip.route("add", dst=f"{NEAR}/32", type="blackhole")


def connect(place: tuple[str, int], holder: int | None = None) -> socket.socket:
    """Return a connection, made in the namespace of `holder`."""
    if holder is None:
        return socket.create_connection(place, 30)
    return namespaces.inside(holder, lambda _: socket.create_connection(place, 30))


def listen(address: str, holder: int | None = None) -> socket.socket:
    """Return a listener on a free port, in the namespace of `holder`."""
    if holder is None:
        return socket.create_server((address, 0))
    return namespaces.inside(holder, lambda _: socket.create_server((address, 0)))


def read(connection: socket.socket, count: int) -> bytes:
    """Return exactly so many bytes, fewer at the end."""
    found = bytearray()
    while len(found) < count and (piece := connection.recv(min(1 << 20, count - len(found)))):
        found += piece
    return bytes(found)


@dataclass
class Flow:
    """One flow through the PoP: the end that stops, and the end that is to notice."""

    stops: socket.socket
    other: socket.socket
    outcome: str = "nothing happened"
    seconds: float = 0.0
    sent: int = field(default=0)


def make_flow(place: tuple[str, int], origin: socket.socket, far_is_client: bool, holder: int | None) -> Flow:
    """Return a flow through the app at `place`."""
    client = connect(place, holder if far_is_client else None)
    word = os.urandom(8)
    client.sendall(word)
    accepted, _ = origin.accept()
    while read(accepted, len(word)) != word:  # the daemon's own check of the origin
        accepted.close()
        accepted, _ = origin.accept()
    for end in (client, accepted):
        end.settimeout(GIVEN_UP_S)
    return Flow(client, accepted) if far_is_client else Flow(accepted, client)


def warm(flow: Flow) -> None:
    """Make a flow one that is spliced, both ways."""
    for sender, receiver in ((flow.other, flow.stops), (flow.stops, flow.other)):
        thread = threading.Thread(target=sender.sendall, args=(bytes(WARM),), daemon=True)
        thread.start()
        if len(read(receiver, WARM)) < WARM:
            raise SystemExit("a flow ended before the test began")
        thread.join()


def shut_a_minute(flow: Flow, seconds: float) -> None:
    """The one end sends without a break, the other reads nothing for a minute and then all of it."""
    pattern = os.urandom(FLOOD)
    failure: list[OSError] = []

    def send() -> None:
        try:
            flow.other.sendall(pattern)
            flow.other.shutdown(socket.SHUT_WR)
        except OSError as error:
            failure.append(error)

    flow.other.settimeout(seconds + GIVEN_UP_S)
    thread = threading.Thread(target=send, daemon=True)
    thread.start()
    time.sleep(seconds)
    try:
        received = read(flow.stops, FLOOD + 1)
    except OSError as error:
        flow.outcome = f"broke: {error}"
        return
    thread.join(GIVEN_UP_S)
    flow.outcome = (
        "exact" if received == pattern and not failure else f"{len(received)} bytes of {FLOOD}, {failure}"
    )


def wait_for_reset(flow: Flow, is_busy: bool) -> None:
    """What the end hears whose peer has vanished: only a reset is right."""
    began = time.monotonic()
    try:
        while is_busy:
            flow.sent += flow.other.send(bytes(65_536))
        flow.outcome = "a clean end" if not flow.other.recv(1) else "bytes from nowhere"
    except ConnectionResetError:
        flow.outcome = "reset"
    except OSError as error:
        flow.outcome = f"{type(error).__name__}: {error}"
    flow.seconds = time.monotonic() - began


def main() -> int:
    """Stop them all at once, wait, judge."""
    options = parser(__doc__)
    options.add_argument("--shut-seconds", type=float, default=SHUT_S, help="how long a window stays shut")
    options.add_argument("--no-vanishing", action="store_true", help="only the windows")
    args = options.parse_args()
    if INSIDE not in os.environ:
        enter_namespace()
    holder = make_wire()
    try:
        return run(args, holder)
    finally:
        os.kill(holder, 9)


def run(args: Any, holder: int) -> int:
    """Make the flows and let their ends stop."""
    near_origin, far_origin = listen("127.0.0.1"), listen(FAR, holder)
    ports = [free_port(), free_port()]
    apps = app("near", f"tcp/{NEAR}:{ports[0]}", near_origin.getsockname()[1])
    apps += app("far", f"tcp/127.0.0.1:{ports[1]}", far_origin.getsockname()[1]).replace(
        "'127.0.0.1:", f"'{FAR}:"
    )
    with pop(apps) as found:
        kinds: list[Callable[[], Flow]] = [
            lambda: make_flow((NEAR, ports[0]), near_origin, True, holder),
            lambda: make_flow(("127.0.0.1", ports[1]), far_origin, False, holder),
        ]
        shut, gone = [], []
        for make in kinds:
            for is_spliced in (False, True):
                shut.append(make())
                gone.append((make(), True))
                if is_spliced:
                    warm(shut[-1])
                    warm(gone[-1][0])
        gone += [(make(), False) for make in kinds]
        threads = [
            threading.Thread(target=shut_a_minute, args=(flow, args.shut_seconds), daemon=True)
            for flow in shut
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for flow in [*shut, *([flow for flow, _ in gone] if args.no_vanishing else [])]:
            flow.stops.close()
            flow.other.close()
        if not args.no_vanishing:
            namespaces.inside(holder, vanish)
            threads = [threading.Thread(target=wait_for_reset, args=pair, daemon=True) for pair in gone]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        until = time.monotonic() + PATIENCE_S
        while (left := found.status()["flows"]["tcp"]) > 0 and time.monotonic() < until:
            time.sleep(0.2)  # counters come every second
    return judge(args, [flow.outcome for flow in shut], [flow for flow, _ in gone], left)


def judge(args: Any, shut: list[str], gone: list[Flow], left: int) -> int:
    """Say what came of it."""
    figures: dict[str, Any] = {
        "windows_shut_for_s": args.shut_seconds,
        "of_them_exact": f"{shut.count('exact')} of {len(shut)}",
    }
    bounds = [
        (
            "a window that stays shut for a minute costs no byte, copied or spliced, either way",
            set(shut) == {"exact"},
        )
    ]
    if not args.no_vanishing:
        figures |= {
            "peers_vanished": len(gone),
            "the_other_end_heard": ", ".join(sorted({flow.outcome for flow in gone})),
            "first_given_up_after_s": round(min(flow.seconds for flow in gone), 1),
            "last_given_up_after_s": round(max(flow.seconds for flow in gone), 1),
            "flows_left": left,
        }
        is_over = {flow.outcome for flow in gone} == {"reset"} and left == 0
        bounds.append(
            (f"who vanished is given up within {GIVEN_UP_S:.0f} s, and the other end is reset", is_over)
        )
    figures["other_outcomes"] = ", ".join(sorted(set(shut) - {"exact"})) or "none"
    return report(args, "Windows shut for a minute, and peers that vanish", figures, bounds)


if __name__ == "__main__":
    sys.exit(main())
