"""`l4proxy bench`: the load generator and its other end."""

import signal
from enum import StrEnum
from typing import Annotated, Any

import typer

from l4proxy.cli import exits
from l4proxy.cli.bench_overlay import overlay
from l4proxy.cli.bench_relay import relay
from l4proxy.cli.bench_table import table
from l4proxy.cli.options import JsonOption
from l4proxy.cli.output import note, print_json, print_table, ratio
from l4proxy.cli.output import size as bytes_text

app = typer.Typer(
    add_completion=False, no_args_is_help=True, help="Measure latency, throughput and connects."
)
app.command()(relay)
app.command()(overlay)
app.command()(table)


class Protocol(StrEnum):
    """What carries the messages."""

    UDP = "udp"
    TCP = "tcp"


class Wait(StrEnum):
    """How the generator waits."""

    POLL = "poll"
    SLEEP = "sleep"


class Close(StrEnum):
    """How a connection ends."""

    RST = "rst"
    FIN = "fin"


TargetArgument = Annotated[
    str, typer.Argument(metavar="TARGET", help="HOST:PORT of a `bench reflect`, or of any echo.")
]
DurationOption = Annotated[float, typer.Option(metavar="SECONDS", help="How long to send.", min=0.001)]


WaitOption = Annotated[
    Wait,
    typer.Option(
        help="poll: exact, takes a core that nothing else in the test may need. sleep: with this machine's own wake-ups."
    ),
]


@app.command()
def rtt(
    target: TargetArgument,
    protocol: Annotated[Protocol, typer.Option(help="What carries the messages.")] = Protocol.UDP,
    rate: Annotated[float, typer.Option(metavar="PPS", help="Messages a second, over all flows.")] = 1000.0,
    size: Annotated[int, typer.Option(metavar="BYTES", help="Of one message, at least 16.")] = 160,
    duration: DurationOption = 10.0,
    flows: Annotated[int, typer.Option(metavar="N", help="Sockets that take turns.", min=1)] = 1,
    linger: Annotated[
        float, typer.Option(metavar="SECONDS", help="How long to wait for the last answers.", min=0)
    ] = 1.0,
    wait: WaitOption = Wait.POLL,
    json: JsonOption = False,
) -> None:
    """Measure round trips by a fixed schedule, each counted from when it was due: a system that stalls is seen to stall.

    `late_sends` are messages that left over 100 µs after that, because this machine or the connection was not fast
    enough. `from_send_us` counts from when they really left.
    """
    from l4proxy.bench import measure_rtt

    answer = _measured(
        lambda resolved: measure_rtt(
            resolved,
            protocol=protocol.value,
            rate_pps=rate,
            size=size,
            duration_s=duration,
            flows=flows,
            linger_s=linger,
            poll=wait is Wait.POLL,
        ),
        target,
    )
    if json:
        print_json(answer)
    else:
        _print_rtt(answer)
    if answer["received"] == 0:
        note(f"{target}: nothing came back")
        raise typer.Exit(exits.FAILED)


@app.command()
def throughput(
    target: TargetArgument,
    flows: Annotated[int, typer.Option(metavar="N", help="Connections.", min=1)] = 1,
    duration: DurationOption = 10.0,
    total_bytes: Annotated[
        int | None, typer.Option("--bytes", metavar="N", help="End when so many have arrived.", min=1)
    ] = None,
    reverse: Annotated[bool, typer.Option("--reverse", help="From the target to here.")] = False,
    json: JsonOption = False,
) -> None:
    """Measure TCP bytes a second to a `bench reflect`, counted where they arrive."""
    from l4proxy.bench import measure_throughput

    answer = _measured(
        lambda resolved: measure_throughput(
            resolved, flows=flows, duration_s=duration, total_bytes=total_bytes, reverse=reverse
        ),
        target,
    )
    if json:
        print_json(answer)
        return
    per_flow = f"{answer['mbit_s_min']:.1f} to {answer['mbit_s_max']:.1f}"
    print_table(
        (">MBIT/S", ">BYTES", ">SECONDS", ">FLOWS", ">PER FLOW", ">RETRANSMITS"),
        [
            (
                f"{answer['mbit_s']:.1f}",
                bytes_text(answer["bytes"]),
                f"{answer['seconds']:.2f}",
                answer["flows"],
                per_flow,
                answer["retransmits"],
            )
        ],
        "nothing",
    )


@app.command()
def connect(
    target: TargetArgument,
    rate: Annotated[float, typer.Option(metavar="PER SECOND", help="New connections a second.")] = 100.0,
    duration: DurationOption = 10.0,
    timeout: Annotated[
        float, typer.Option(metavar="SECONDS", help="A connection without its byte by then is an error.")
    ] = 5.0,
    close: Annotated[
        Close, typer.Option(help="How to end them; rst leaves no port in TIME_WAIT.")
    ] = Close.RST,
    wait: WaitOption = Wait.POLL,
    json: JsonOption = False,
) -> None:
    """Open TCP connections by a fixed schedule: connect, one byte each way, close."""
    from l4proxy.bench import measure_connect

    answer = _measured(
        lambda resolved: measure_connect(
            resolved,
            rate_per_s=rate,
            duration_s=duration,
            timeout_s=timeout,
            reset=close is Close.RST,
            poll=wait is Wait.POLL,
        ),
        target,
    )
    if json:
        print_json(answer)
    else:
        _print_connect(answer)
    if answer["connections"] == 0:
        note(f"{target}: no connection got its byte")
        raise typer.Exit(exits.FAILED)


@app.command()
def reflect(
    listen: Annotated[
        str, typer.Option(metavar="ADDR:PORT", help="Where to listen, UDP and TCP; port 0: any.")
    ],
    max_seconds: Annotated[
        float, typer.Option(metavar="SECONDS", help="End by itself after this.", min=0.001)
    ] = 3600.0,
    json: JsonOption = False,
) -> None:
    """Be the other end: echo UDP and TCP, be sink and source for `throughput`. Ends on Ctrl-C or SIGTERM."""
    from l4proxy.bench import Reflector
    from l4proxy.bench.target import parse_listen

    try:
        reflector = Reflector(parse_listen(listen))
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    note(f"reflecting on {reflector.address}, UDP and TCP")
    before = {
        number: signal.signal(number, lambda *_: reflector.stop())
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        answer = reflector.run(max_seconds)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if json:
        print_json(answer)
        return
    print_table(
        (">DATAGRAMS", ">DROPPED", ">CONNECTIONS", ">REFUSED", ">BYTES IN", ">BYTES OUT"),
        [
            (
                answer["datagrams"],
                answer["datagrams_dropped"],
                answer["connections"],
                answer["connections_refused"],
                bytes_text(answer["bytes_in"] + answer["datagram_bytes"]),
                bytes_text(answer["bytes_out"] + answer["datagram_bytes"]),
            )
        ],
        "nothing",
    )


# -- shared by the commands ------------------------------------------------------------------------------------------


def _measured(measure: Any, target: str) -> dict[str, Any]:
    """Resolve the target and measure; what is wrong with an option is a usage error."""
    from l4proxy.bench import parse_target

    try:
        answer: dict[str, Any] = measure(parse_target(target))
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    return answer


def _microseconds(value: float | None) -> str | None:
    return None if value is None else f"{value:.0f}" if value >= 1000 else f"{value:.1f}"


def _print_latencies(rows: list[tuple[str, dict[str, Any]]]) -> None:
    names = ("min", "mean", "p50", "p90", "p99", "p999", "max")
    print_table(
        ("µS", *(f">{name.upper()}" for name in names)),
        [(what, *(_microseconds(figures[name]) for name in names)) for what, figures in rows],
        "nothing",
    )


def _print_rtt(answer: dict[str, Any]) -> None:
    print_table(
        (">SENT", ">RECEIVED", ">PER SECOND", ">LOSS", ">REORDERED", ">DUPLICATES", ">LATE", ">ERRORS"),
        [
            (
                answer["sent"],
                answer["received"],
                f"{answer['rate_pps']:.1f}",
                ratio(answer["loss_ratio"]),
                answer["reordered"],
                answer["duplicates"],
                answer["late_sends"],
                answer["errors"],
            )
        ],
        "nothing",
    )
    _print_latencies([("rtt", answer["rtt_us"]), ("from send", answer["from_send_us"])])
    if answer["not_sent"]:
        note(f"{answer['not_sent']} messages of the schedule were not sent: this machine was not fast enough")


def _print_connect(answer: dict[str, Any]) -> None:
    reasons = ("refused", "closed", "timed_out", "too_many_open", "no_port")
    print_table(
        (">CONNECTIONS", ">PER SECOND", *(f">{reason.upper().replace('_', ' ')}" for reason in reasons)),
        [(answer["connections"], f"{answer['per_second']:.1f}", *(answer[reason] for reason in reasons))],
        "nothing",
    )
    _print_latencies([("handshake", answer["handshake_us"]), ("first byte", answer["latency_us"])])
