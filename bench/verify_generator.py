"""Is our own generator right? Against iperf3 (TCP throughput) and sockperf (UDP round trips) on plain veth pairs.

Both tools in turn, between the same two namespaces, client on one core and server on the other; medians of the
repeats, and for rates the median of the ratios of neighbours in time. Through a pair that is shaped to a rate both must
read that rate. Through an unshaped pair the rate is what two processors and the tool can do: there ours must not be
slower than iperf3, or it would be the bottleneck of other measurements; a few per cent more is no error, the bytes are
counted where they arrive. sockperf reports half of a round trip; so the half of ours is compared. Both clients poll for
the answer (ours always does for 250 µs), so that neither measures how long its own core takes to wake up.
"""

import argparse
import json
import re
import shlex
import statistics
import sys
import tempfile
from functools import partial
from pathlib import Path

from l4proxy.bench.figures import interleaved, record, spread, table
from l4proxy.bench.testbed import L4PROXY, BenchmarkError, Host, Testbed, run, wait_for

RESULTS = Path(__file__).with_name("RESULTS.md")

SERVER, SHAPED_SERVER = "10.213.0.2", "10.213.1.2"
SHAPED_RATE = "1gbit"
REFLECT_PORT, IPERF_PORT, SOCKPERF_PORT = 4000, 5201, 11111
MESSAGE_BYTES = 160
RATE_PPS = 10_000
"""Fixed for both: at its own pace sockperf sends the next message when the last is back, which no open-loop generator does."""

MAX_RATIO_ERROR = 0.05
MAX_DIFFERENCE_US = 10.0


def our_mbit_s(client: Host, server: str, seconds: float) -> float:
    """Measure throughput with `l4proxy bench throughput`."""
    answer = client.bench("throughput", f"{server}:{REFLECT_PORT}", "--duration", str(seconds))
    return float(answer["mbit_s"])


def iperf3_mbit_s(client: Host, server: str, seconds: float) -> float:
    """Measure throughput with iperf3: what its server has received."""
    output = client.run("iperf3", "-c", server, "-p", str(IPERF_PORT), "-t", f"{seconds:.0f}", "-J")
    return float(json.loads(output)["end"]["sum_received"]["bits_per_second"]) / 1e6


def our_half_rtt_us(client: Host, seconds: float, quantile: str) -> float:
    """Measure UDP round trips with `l4proxy bench rtt`, from when each message left, as sockperf does."""
    answer = client.bench(
        "rtt", f"{SERVER}:{REFLECT_PORT}", "--rate", str(RATE_PPS), "--size", str(MESSAGE_BYTES),
        "--duration", str(seconds),
    )  # fmt: skip
    if answer["loss_ratio"] > 0.001:
        raise BenchmarkError(f"lost {answer['loss_ratio']:.2%} of the messages on an idle veth pair")
    return float(answer["from_send_us"][quantile]) / 2


def sockperf_half_rtt_us(client: Host, seconds: float, percentile: str) -> float:
    """Measure UDP round trips with sockperf."""
    output = client.run(
        "sockperf", "ping-pong", "-i", SERVER, "-p", str(SOCKPERF_PORT), "-m", str(MESSAGE_BYTES),
        "-t", f"{seconds:.0f}", "--mps", str(RATE_PPS), "--nonblocked",
    )  # fmt: skip
    found = re.search(rf"percentile {re.escape(percentile)} =\s+([0-9.]+)", output)
    if found is None:
        raise BenchmarkError(f"sockperf printed no percentile {percentile}: {output[-300:]}")
    return float(found[1])


def verify(seconds: float, repeats: int, realtime: bool) -> tuple[dict[str, object], str]:
    """Run all of it; return the figures and a table."""
    with Testbed(realtime) as bed, tempfile.TemporaryDirectory() as folder:
        client, server = bed.host("client", core=0), bed.host("server", core=1)
        bed.cable(client, "10.213.0.1/24", server, f"{SERVER}/24")
        bed.cable(client, "10.213.1.1/24", server, f"{SHAPED_SERVER}/24", rate=SHAPED_RATE)
        logs = Path(folder)
        reflect = [*L4PROXY, "bench", "reflect", "--listen", f"0.0.0.0:{REFLECT_PORT}"]
        sockperf = ["sockperf", "server", "-i", SERVER, "-p", str(SOCKPERF_PORT)]
        programs = [
            bed.enter(server.program(*reflect, log=logs / "reflect")),
            bed.enter(server.program("iperf3", "-s", "-p", str(IPERF_PORT), log=logs / "iperf3")),
            bed.enter(server.program(*sockperf, log=logs / "sockperf")),
        ]
        listening = {REFLECT_PORT, IPERF_PORT, SOCKPERF_PORT}
        wait_for("servers", programs, lambda: listening <= _ports(server))
        throughput, shaped = (
            interleaved(
                {
                    "ours": partial(our_mbit_s, client, address, seconds),
                    "iperf3": partial(iperf3_mbit_s, client, address, seconds),
                },
                repeats,
            )
            for address in (SERVER, SHAPED_SERVER)
        )
        median = interleaved(
            {
                "ours": lambda: our_half_rtt_us(client, seconds, "p50"),
                "sockperf": lambda: sockperf_half_rtt_us(client, seconds, "50.000"),
            },
            repeats,
        )
        tail = interleaved(
            {
                "ours": lambda: our_half_rtt_us(client, seconds, "p99"),
                "sockperf": lambda: sockperf_half_rtt_us(client, seconds, "99.000"),
            },
            repeats,
        )
    ratio, shaped_ratio = _ratio(throughput), _ratio(shaped)
    difference = statistics.median(median["ours"]) - statistics.median(median["sockperf"])
    difference_tail = statistics.median(tail["ours"]) - statistics.median(tail["sockperf"])
    passed = {
        "throughput": ratio >= 1 - MAX_RATIO_ERROR,
        "throughput_shaped": abs(shaped_ratio - 1) <= MAX_RATIO_ERROR,
        "latency": abs(difference) <= MAX_DIFFERENCE_US,
    }
    rows = [
        ["TCP, one flow, Mbit/s", spread(throughput["ours"], 0), spread(throughput["iperf3"], 0),
         f"{ratio - 1:+.1%} of iperf3", _verdict(passed["throughput"], f"{MAX_RATIO_ERROR:.0%} below")],
        [f"the same, shaped to {SHAPED_RATE}", spread(shaped["ours"], 0), spread(shaped["iperf3"], 0),
         f"{shaped_ratio - 1:+.1%} of iperf3", _verdict(passed["throughput_shaped"], f"{MAX_RATIO_ERROR:.0%}")],
        [f"UDP {MESSAGE_BYTES} B, {RATE_PPS}/s, half RTT p50, µs", spread(median["ours"]), spread(median["sockperf"]),
         f"{difference:+.1f} µs to sockperf", _verdict(passed["latency"], f"{MAX_DIFFERENCE_US:.0f} µs")],
        ["the same, p99, µs", spread(tail["ours"]), spread(tail["sockperf"]), f"{difference_tail:+.1f} µs to sockperf", "–"],
    ]  # fmt: skip
    header = ["what", "l4proxy bench", "peer", "difference", "bound"]
    figures: dict[str, object] = {
        "throughput_mbit_s": throughput, "throughput_shaped_mbit_s": shaped,
        "half_rtt_us_p50": median, "half_rtt_us_p99": tail,
        "throughput_ratio": ratio, "throughput_shaped_ratio": shaped_ratio, "half_rtt_us_difference": difference,
        "passed": passed,
    }  # fmt: skip
    return figures, table(header, rows)


def _ratio(values: dict[str, list[float]]) -> float:
    """Return the median ratio of ours to the peer's, each pair measured one after the other."""
    return statistics.median(ours / peer for ours, peer in zip(values["ours"], values["iperf3"], strict=True))


def _verdict(passed: bool, bound: str) -> str:
    return f"within {bound}" if passed else f"NOT within {bound}"


def _ports(host: Host) -> set[int]:
    """Return the ports that something listens on, UDP and TCP."""
    lines = host.run("ss", "--no-header", "--numeric", "--listening", "--tcp", "--udp").splitlines()
    return {
        int(line.split()[4].rpartition(":")[2])
        for line in lines
        if line.split()[4].rpartition(":")[2].isdigit()
    }


def main() -> int:
    """Run from the command line; exit code 1 when a bound is missed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=3.0, help="of each measurement")
    parser.add_argument("--repeats", type=int, default=7, help="of each, interleaved")
    parser.add_argument(
        "--realtime", action="store_true", help="every program at real-time priority: for a busy machine"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument("--record", action="store_true", help="add the table to RESULTS.md")
    options = parser.parse_args()
    try:
        figures, text = verify(options.seconds, options.repeats, options.realtime)
    except BenchmarkError as error:
        sys.stderr.write(f"verify_generator: {error}\n")
        return 1
    versions = run(["iperf3", "--version"]).splitlines()[0] + ", sockperf " + _sockperf_version()
    body = f"{text}\n\nMedian (least–most) of {options.repeats} runs of {options.seconds:g} s each, interleaved; {versions}."
    sys.stdout.write((json.dumps(figures, indent=2) if options.json else body) + "\n")
    if options.record:
        command = shlex.join(["python", "bench/verify_generator.py", *sys.argv[1:]])
        record(RESULTS, "The generator against iperf3 and sockperf, plain veth", body, command)
    return 0 if all(figures["passed"].values()) else 1  # type: ignore[attr-defined]


def _sockperf_version() -> str:
    found = re.search(r"version ([0-9.]+)", run(["sockperf", "--version"]))
    return found[1] if found else "?"


if __name__ == "__main__":
    raise SystemExit(main())
