"""The edge, side by side: l4proxy, HAProxy (with and without splice) and nginx relay the same flows, each on one core.

client (core 1) – proxy (core 0) – origin (core 1), three namespaces and two plain veth pairs. All proxies run at once on
ports of their own and take turns; medians of the repeats. Client and origin share a core, so the generator sleeps
(polling would take the origin's time), and round trips count from when a message left. CPU is what the scheduler
charged to the proxy's processes, all of them: for l4proxy the daemon and the engine. `unproxied` is the same way,
routed by the kernel.
"""

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from figures import interleaved, record, say, spread, table
from testbed import L4PROXY, BenchmarkError, Host, Program, Testbed, run, wait_for

CLIENT, PROXY_CLIENT_SIDE = "10.213.1.1", "10.213.1.2"
PROXY_ORIGIN_SIDE, ORIGIN = "10.213.2.1", "10.213.2.2"
ORIGIN_PORT = 4000

PING_PONG_BYTES, PING_PONG_PPS = 128, 5_000
UDP_BYTES, UDP_FLOWS, UDP_PPS = 160, 16, 20_000
CONNECTS_PER_S = 1_000

SLEEP = ["--wait", "sleep"]

NGINX_STREAM_MODULE = Path("/usr/lib/nginx/modules/ngx_stream_module.so")


@dataclass(frozen=True, slots=True)
class Peer:
    """One proxy: how it is configured and started, and whether it relays UDP."""

    port: int
    relays_udp: bool
    needs: str
    start: Callable[[Path, int], list[str]]
    """Write its configuration into a folder and return its command, for this port."""


def haproxy(splice: bool) -> Callable[[Path, int], list[str]]:
    """Return how HAProxy starts, with one thread."""

    def start(folder: Path, port: int) -> list[str]:
        config = folder / f"haproxy-{port}.cfg"
        options = "  option splice-request\n  option splice-response\n" if splice else ""
        config.write_text(
            "global\n  nbthread 1\n  maxconn 4000\n"
            "defaults\n  mode tcp\n  timeout connect 5s\n  timeout client 10m\n  timeout server 10m\n"
            f"listen relay\n  bind {PROXY_CLIENT_SIDE}:{port}\n{options}  server origin {ORIGIN}:{ORIGIN_PORT}\n"
        )
        return ["haproxy", "-db", "-f", str(config)]

    return start


def nginx(folder: Path, port: int) -> list[str]:
    """Return how nginx starts, with one worker and 64 kB buffers (its default of 16 kB doubles the CPU of bulk)."""
    config = folder / "nginx.conf"
    module = f"load_module {NGINX_STREAM_MODULE};\n" if NGINX_STREAM_MODULE.exists() else ""
    server = f"proxy_pass {ORIGIN}:{ORIGIN_PORT}; proxy_buffer_size 64k;"
    config.write_text(
        f"{module}daemon off;\nworker_processes 1;\npid {folder}/nginx.pid;\nerror_log stderr warn;\n"
        "worker_rlimit_nofile 20000;\nevents { worker_connections 9000; }\nstream {\n"
        f"  server {{ listen {PROXY_CLIENT_SIDE}:{port}; {server} }}\n"
        f"  server {{ listen {PROXY_CLIENT_SIDE}:{port} udp; {server} }}\n}}\n"
    )
    return ["nginx", "-c", str(config)]


def l4proxy(folder: Path, port: int) -> list[str]:
    """Return how l4proxy starts, with one worker."""
    app = folder / "relay.yaml"
    app.write_text(f"name: relay\nlisten: [tcp/{port}, udp/{port}]\norigins: ['{ORIGIN}:{ORIGIN_PORT}']\n")
    places = ["--state-dir", str(folder / "state"), "--socket", str(folder / "l4proxy.sock")]
    return [*L4PROXY, "run", str(app), "--workers", "1", "--metrics", "127.0.0.1:9400", *places]


PEERS = {
    "l4proxy": Peer(7001, True, sys.executable, l4proxy),
    "haproxy-splice": Peer(7002, False, "haproxy", haproxy(splice=True)),
    "haproxy": Peer(7003, False, "haproxy", haproxy(splice=False)),
    "nginx": Peer(7004, True, "nginx", nginx),
}
UNPROXIED = "unproxied"


@dataclass(frozen=True, slots=True)
class Running:
    """A way from the client to the origin: through a proxy, or routed."""

    client: Host
    target: str
    program: Program | None

    def measure(self, *arguments: str) -> tuple[dict[str, float], int]:
        """Run `l4proxy bench …` at the target; return its answer and the proxy's CPU time meanwhile, in ns."""
        name, *options = arguments
        before = self.program.cpu_ns() if self.program else 0
        answer = self.client.bench(name, self.target, *options)
        return answer, (self.program.cpu_ns() if self.program else 0) - before


def bulk_cpu(way: Running, seconds: float) -> float:
    """Return CPU seconds per GB of one TCP flow."""
    answer, cpu_ns = way.measure("throughput", "--duration", str(seconds))
    return cpu_ns / answer["bytes"]


def ping_pong(way: Running, seconds: float, quantile: str) -> float:
    """Return a quantile of the TCP round trip in µs."""
    rate, size = ["--rate", str(PING_PONG_PPS)], ["--size", str(PING_PONG_BYTES)]
    answer, _ = way.measure("rtt", "--protocol", "tcp", "--duration", str(seconds), *rate, *size, *SLEEP)
    return float(answer["from_send_us"][quantile])  # type: ignore[index]


def udp_cpu(way: Running, seconds: float) -> float:
    """Return CPU µs per datagram forwarded; each message is forwarded there and back."""
    answer, cpu_ns = way.measure(
        "rtt", "--rate", str(UDP_PPS), "--size", str(UDP_BYTES), "--flows", str(UDP_FLOWS),
        "--duration", str(seconds), *SLEEP,
    )  # fmt: skip
    if answer["loss_ratio"] > 0.01:
        say(f"    lost {answer['loss_ratio']:.1%}: this figure is of an overloaded proxy")
    return cpu_ns / 1e3 / (answer["sent"] + answer["received"])


def udp_round_trip(way: Running, seconds: float) -> float:
    """Return the median UDP round trip in µs."""
    size, rate = ["--size", str(UDP_BYTES)], ["--rate", str(PING_PONG_PPS)]
    answer, _ = way.measure("rtt", "--duration", str(seconds), *size, *rate, *SLEEP)
    return float(answer["from_send_us"]["p50"])  # type: ignore[index]


def connect_cpu(way: Running, seconds: float) -> float:
    """Return CPU µs per connection: connect, one byte each way, close by RST."""
    answer, cpu_ns = way.measure("connect", "--rate", str(CONNECTS_PER_S), "--duration", str(seconds), *SLEEP)
    return cpu_ns / 1e3 / max(1, answer["connections"])


@dataclass(frozen=True, slots=True)
class Metric:
    """One row of the result."""

    title: str
    measure: Callable[[Running, float], float]
    is_cpu: bool
    needs_udp: bool
    digits: int


METRICS = {
    "tcp_bulk_cpu_s_per_gb": Metric("TCP bulk, CPU s/GB", bulk_cpu, True, False, 3),
    "tcp_rtt_us_p50": Metric(
        f"TCP {PING_PONG_BYTES} B round trip p50, µs",
        lambda way, s: ping_pong(way, s, "p50"),
        False,
        False,
        1,
    ),
    "tcp_rtt_us_p99": Metric("the same, p99, µs", lambda way, s: ping_pong(way, s, "p99"), False, False, 1),
    "connect_cpu_us": Metric(f"{CONNECTS_PER_S}/s TCP connections, CPU µs each", connect_cpu, True, False, 1),
    "udp_cpu_us": Metric(
        f"UDP {UDP_BYTES} B, {UDP_FLOWS} flows, {UDP_PPS}/s, CPU µs per datagram", udp_cpu, True, True, 2
    ),
    "udp_rtt_us_p50": Metric(f"UDP {UDP_BYTES} B round trip p50, µs", udp_round_trip, False, True, 1),
}


def measure(
    names: list[str], seconds: float, repeats: int, realtime: bool
) -> dict[str, dict[str, list[float]]]:
    """Return, per metric and way, the figures of every repeat."""
    with Testbed(realtime) as bed, tempfile.TemporaryDirectory(prefix="l4proxy-bench-") as folder:
        ways = _start(bed, Path(folder), names)
        results = {}
        for key, metric in METRICS.items():
            say(metric.title)
            arms = {
                name: (lambda way=way, metric=metric: metric.measure(way, seconds))
                for name, way in ways.items()
                if (name != UNPROXIED or not metric.is_cpu)
                and (not metric.needs_udp or name == UNPROXIED or PEERS[name].relays_udp)
            }
            results[key] = interleaved(arms, repeats)
            for way in ways.values():
                if way.program:
                    way.program.check()
        return results


def _start(bed: Testbed, folder: Path, names: list[str]) -> dict[str, Running]:
    client, proxy, origin = bed.host("client", 1), bed.host("proxy", 0), bed.host("origin", 1)
    bed.cable(client, f"{CLIENT}/24", proxy, f"{PROXY_CLIENT_SIDE}/24")
    bed.cable(proxy, f"{PROXY_ORIGIN_SIDE}/24", origin, f"{ORIGIN}/24")
    client.run("ip", "route", "add", "default", "via", PROXY_CLIENT_SIDE)
    origin.run("ip", "route", "add", "default", "via", PROXY_ORIGIN_SIDE)
    reflect = [*L4PROXY, "bench", "reflect", "--listen", f"{ORIGIN}:{ORIGIN_PORT}"]
    programs = [bed.enter(origin.program(*reflect, log=folder / "reflect.log"))]
    ways = {}
    for name in names:
        if name == UNPROXIED:
            ways[name] = Running(client, f"{ORIGIN}:{ORIGIN_PORT}", None)
            continue
        peer = PEERS[name]
        own = folder / name
        own.mkdir()
        program = bed.enter(proxy.program(*peer.start(own, peer.port), log=own / "log"))
        programs.append(program)
        ways[name] = Running(client, f"{PROXY_CLIENT_SIDE}:{peer.port}", program)
    for name, way in ways.items():
        wait_for(f"{name}, a first connection", programs, lambda way=way: _answers(way))  # type: ignore[misc]
    return ways


def _answers(way: Running) -> bool:
    try:
        answer = way.client.bench(
            "connect", way.target, "--rate", "10", "--duration", "0.1", "--timeout", "2"
        )
    except BenchmarkError:
        return False
    return bool(answer["errors"] == 0)


def render(results: Mapping[str, Mapping[str, list[float]]], names: list[str]) -> str:
    """Return the table: a row a metric, a column a way."""
    rows = [
        [
            METRICS[key].title,
            *(spread(values[name], METRICS[key].digits) if name in values else "–" for name in names),
        ]
        for key, values in results.items()
    ]
    return table(["what", *names], rows)


def versions(names: list[str]) -> str:
    """Return the versions of the programs that take part."""
    found = [run([*L4PROXY, "--version"]).strip()]
    if {"haproxy", "haproxy-splice"} & set(names):
        found.append(" ".join(run(["haproxy", "-v"]).split()[:3]))
    if "nginx" in names:
        found.append("nginx " + run(["sh", "-c", "nginx -v 2>&1"]).strip().rpartition("/")[2])
    return ", ".join(found)


def main() -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--arms", default=",".join([*PEERS, UNPROXIED]), help="which ways, comma-separated")
    parser.add_argument("--seconds", type=float, default=3.0, help="of each measurement")
    parser.add_argument("--repeats", type=int, default=5, help="of each, interleaved")
    parser.add_argument("--quick", action="store_true", help="1 s and 3 repeats: a look, not a result")
    parser.add_argument(
        "--realtime", action="store_true", help="every program at real-time priority: for a busy machine"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument("--record", action="store_true", help="add the table to RESULTS.md")
    options = parser.parse_args()
    names = options.arms.split(",")
    if unknown := set(names) - {*PEERS, UNPROXIED}:
        parser.error(f"unknown arms {', '.join(sorted(unknown))}; there are {', '.join([*PEERS, UNPROXIED])}")
    for name in [name for name in names if name != UNPROXIED and shutil.which(PEERS[name].needs) is None]:
        say(f"{name}: {PEERS[name].needs} is not installed, left out")
        names.remove(name)
    seconds, repeats = (1.0, 3) if options.quick else (options.seconds, options.repeats)
    try:
        results = measure(names, seconds, repeats, options.realtime)
        body = (
            f"{render(results, names)}\n\nMedian (least–most) of {repeats} runs of {seconds:g} s each, interleaved; "
            f"each proxy on one core; {versions(names)}."
        )
    except BenchmarkError as error:
        sys.stderr.write(f"relay_peers: {error}\n")
        return 1
    sys.stdout.write((json.dumps(results, indent=2) if options.json else body) + "\n")
    if options.record:
        record("The edge against HAProxy and nginx", body)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
