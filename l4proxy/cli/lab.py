"""`l4proxy lab …`: a whole network on one machine. Reads arguments and prints; `l4proxy.lab` does the work."""

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from l4proxy.cli import exits
from l4proxy.cli.options import JsonOption
from l4proxy.cli.output import console, milliseconds, note, print_json, print_table, ratio

if TYPE_CHECKING:
    from l4proxy.lab.network import Network
    from l4proxy.lab.privilege import Access
    from l4proxy.lab.state import Run

app = typer.Typer(add_completion=False, no_args_is_help=True, help="A whole network on one machine.")

LabOption = Annotated[
    str | None,
    typer.Option("--lab", metavar="RUN", help="Which lab, if several are up; default: the newest."),
]
OneWayOption = Annotated[bool, typer.Option("--one-way", help="Only from A to B.")]
FirstArgument = Annotated[
    str,
    typer.Argument(
        metavar="A", help="A host (`ams`), one of its transits (`ams/a`), or a link (`ams/a>iad/b`)."
    ),
]
SecondArgument = Annotated[
    str | None,
    typer.Argument(metavar="[B]", help="The other end; not with a link's name.", show_default=False),
]


@app.command()
def demo(
    once: Annotated[
        bool,
        typer.Option("--once", help="Tell the story and end, instead of leaving the lab up until Ctrl-C."),
    ] = False,
    json: JsonOption = False,
) -> None:
    """Three PoPs carry real flows: smart routing off, on, through a cut link, and after its repair. Takes about 90 s."""
    from l4proxy.lab import loopback, report, telling

    def told(document: dict[str, Any], run: str | None) -> None:
        if json:
            print_json(document)
        else:
            report.render(document, console())
        if run is not None and not once:
            sys.stdout.flush()
            _keep_up(run)

    access = _access()
    progress = _progress(time.monotonic())
    with _ended_by_signals():
        if access.mode is None:
            for line in access.missing:
                note(f"lab: {line}")
            progress("no network namespaces here: one PoP on loopback instead")
            document = loopback.tell(progress, told)
        else:
            _enter(access, ["demo", *(["--once"] if once else []), *(["--json"] if json else [])])
            document = telling.tell(access, progress, told)
    raise typer.Exit(exits.OK if document["ok"] else exits.FAILED)


@app.command()
def up(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The lab file.", exists=True, dir_okay=False)],
    precise: Annotated[
        bool,
        typer.Option(
            "--precise", help="Spin before packets are due: exact to some µs, for up to a whole core."
        ),
    ] = False,
) -> None:
    """Make the hosts and links of a lab file, start its daemons, and leave them running."""
    from l4proxy.lab import daemons
    from l4proxy.lab.load import load
    from l4proxy.lab.network import LabError, Network
    from l4proxy.lab.state import remove_dead_runs

    document = load(file)
    access = _access()
    if access.mode is None:
        raise LabError("no network namespaces here: " + "; ".join(access.missing))
    _enter(access, ["up", str(file.resolve()), *(["--precise"] if precise else [])])
    for run in remove_dead_runs():
        note(f"removed what the dead lab {run} had left")
    with _ended_by_signals():
        network = Network.up(document, mode=access.mode, wire=access.wire, precise=precise)
        try:
            daemons.start_fleet(network)
        except BaseException:
            network.down()
            raise
        network.leave()
    pops = " ".join(host.name for host in network.plan.pops) or "none"
    others = " ".join(host.name for host in network.plan.hosts.values() if not host.is_pop) or "none"
    note(f"lab {network.run.state.run} is up: PoPs {pops}; other hosts {others}")
    note(
        "look with `l4proxy lab status`, enter with `l4proxy lab exec HOST …`, remove with `l4proxy lab down`"
    )


@app.command()
def status(lab: LabOption = None, json: JsonOption = False) -> None:
    """Hosts, links with what they did to packets, and how late the emulator is."""
    network = _network(lab)
    stats = network.stats()
    counters = {link["name"]: link for link in stats["links"]}
    properties = network.tell({"do": "properties", "links": list(network.plan.links)})["links"]
    hosts = [_host_row(network, name) for name in network.plan.hosts]
    links = [counters[name] | properties[name] for name in network.plan.links]
    if json:
        print_json(
            {"run": network.run.state.run, "hosts": hosts, "links": links}
            | {"emulator": _without_links(stats)}
        )
        return
    print_table(
        ("HOST", "ADDRESSES", "DAEMON", "SOCKET"),
        [(host["name"], ", ".join(host["addresses"]), host["daemon"], host["socket"]) for host in hosts],
        "no hosts",
    )
    rows = [
        (
            link["name"], "cut" if link["cut"] else "up", milliseconds(link["delay_ns"] / 1e6), milliseconds(link["jitter_ns"] / 1e6),
            ratio(link["loss_ratio"] + link["burst_loss_ratio"]), link["sent"], link["delivered"],
            link["lost_random"] + link["lost_burst"], link["dropped_queue"] + link["dropped_memory"], link["dropped_cut"],
        )
        for link in links
    ]  # fmt: skip
    columns = (
        "LINK",
        "STATE",
        ">DELAY MS",
        ">JITTER",
        ">LOSS",
        ">SENT",
        ">DELIVERED",
        ">LOST",
        ">QUEUE FULL",
        ">CUT",
    )
    console().print()
    print_table(columns, rows, "no links")
    late = stats["lateness"]
    note(
        f"emulator: {late['packets']} packets, p99 {late['p99_us']} µs late, {late['late_packets']} later than 1 ms"
    )


@app.command()
def cut(
    a: FirstArgument, b: SecondArgument = None, one_way: OneWayOption = False, lab: LabOption = None
) -> None:
    """Turn links into black holes: packets vanish, nobody is told."""
    _say("cut", _network(lab).cut(a, b, one_way=one_way))


@app.command()
def mend(
    a: FirstArgument, b: SecondArgument = None, one_way: OneWayOption = False, lab: LabOption = None
) -> None:
    """Undo `cut`."""
    _say("mended", _network(lab).mend(a, b, one_way=one_way))


@app.command("set")
def set_(
    a: FirstArgument,
    b: SecondArgument = None,
    rtt: Annotated[
        str | None, typer.Option(metavar="TIME", help="Half of it in each direction: 80ms.")
    ] = None,
    delay: Annotated[str | None, typer.Option(metavar="TIME", help="One-way delay.")] = None,
    jitter: Annotated[
        str | None, typer.Option(metavar="TIME", help="Mean difference between two packets' delays.")
    ] = None,
    loss: Annotated[
        str | None, typer.Option(metavar="SHARE", help="Packets lost each on its own: 2%.")
    ] = None,
    burst_loss: Annotated[str | None, typer.Option(metavar="SHARE", help="Packets lost in bursts.")] = None,
    burst: Annotated[float | None, typer.Option(metavar="N", help="Mean packets in a burst.")] = None,
    rate: Annotated[str | None, typer.Option(metavar="RATE", help="100Mbit/s.")] = None,
    queue: Annotated[
        str | None, typer.Option(metavar="SIZE", help="Bytes that may wait for the rate: 2MB.")
    ] = None,
    one_way: OneWayOption = False,
    lab: LabOption = None,
) -> None:
    """Change links while packets are under way."""
    from l4proxy.lab import units

    given: list[tuple[str, Any, Callable[[Any], Any]]] = [
        ("delay_ns", rtt, lambda text: units.duration_ns(text) // 2), ("delay_ns", delay, units.duration_ns),
        ("jitter_ns", jitter, units.duration_ns), ("loss_ratio", loss, units.ratio),
        ("burst_loss_ratio", burst_loss, units.ratio), ("burst_packets", burst, float),
        ("rate_bits_s", rate, units.rate_bits_s), ("queue_bytes", queue, units.size_bytes),
    ]  # fmt: skip
    if rtt is not None and delay is not None:
        raise typer.BadParameter("give --rtt or --delay, not both")
    try:
        properties = {name: parse(value) for name, value, parse in given if value is not None}
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    if not properties:
        raise typer.BadParameter("nothing to change: give at least one of --rtt, --loss, …")
    _say("changed", _network(lab).set(a, b, one_way=one_way, **properties))


@app.command("exec", context_settings={"allow_interspersed_args": False, "ignore_unknown_options": True})
def exec_(
    host: Annotated[str, typer.Argument(metavar="HOST", help="A host of the lab.")],
    command: Annotated[list[str], typer.Argument(metavar="CMD…", help="The program and its arguments.")],
    lab: LabOption = None,
) -> None:
    """Run a program in a host, as if you sat at it. Its exit code is ours."""
    network = _network(lab)
    done = subprocess.run(network.command(host, command), env=network.run.environment(), check=False)
    raise typer.Exit(done.returncode if done.returncode >= 0 else 128 - done.returncode)


@app.command()
def simulate(
    pops: Annotated[
        int,
        typer.Option(
            "--pops", min=2, max=400, metavar="N", help="PoPs: real sites first, then more beside them."
        ),
    ] = 8,
    hours: Annotated[
        float, typer.Option("--hours", min=0.001, max=720.0, metavar="H", help="Virtual time.")
    ] = 1.0,
    seed: Annotated[
        int, typer.Option("--seed", metavar="S", help="Same seed, same result, byte for byte.")
    ] = 1,
    links: Annotated[
        int, typer.Option("--links", min=1, max=4, metavar="L", help="Links that join each pair of PoPs.")
    ] = 2,
    faults: Annotated[
        Path | None,
        typer.Option(
            "--faults",
            metavar="FILE",
            help="What fails, where and when (docs/lab.md); default: faults of all kinds, chosen by the seed.",
            exists=True,
            dir_okay=False,
            show_default=False,
        ),
    ] = None,
    json: JsonOption = False,
) -> None:
    """The control plane of a whole fleet in virtual time, over a model network with faults. Exit code 1: an invariant broke."""
    from l4proxy.lab.simulate import report, running

    document = running.simulate(running.Options(pops, hours, seed, links, faults))
    if json:
        print_json(document)
    else:
        print_table(("WHAT", "RESULT"), report.rows(document), "nothing")
    raise typer.Exit(exits.OK if document["ok"] else exits.FAILED)


@app.command()
def down(
    lab: LabOption = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Every lab of this user, also those in use.")
    ] = False,
) -> None:
    """End a lab's processes and remove every trace of it. Also what killed labs have left."""
    from l4proxy.lab import state
    from l4proxy.lab.network import LabError

    for run in state.remove_dead_runs():
        note(f"removed what the dead lab {run} had left")
    chosen = list(state.runs()) if everything else [] if lab is None and _newest() is None else [_find(lab)]
    for each in chosen:
        if stuck := each.remove():
            raise LabError(f"lab {each.state.run}: these processes did not end: {stuck}")
        note(f"lab {each.state.run} is down")
    if not chosen:
        note("no lab is up")


# -- shared by the commands ------------------------------------------------------------------------------------------


def _access() -> "Access":
    from l4proxy.lab import privilege

    return privilege.detect()


def _enter(access: "Access", arguments: list[str]) -> None:
    """Go on in a user namespace of our own where that is how labs are made here."""
    from l4proxy.lab import privilege

    if access.mode == "userns":
        privilege.reenter(arguments)


def _newest() -> "Run | None":
    from l4proxy.lab import state

    live = [run for run in state.runs() if run.state.is_live()]
    return live[-1] if live else None


def _find(lab: str | None) -> "Run":
    from l4proxy.lab import state
    from l4proxy.lab.network import LabError

    found = _newest() if lab is None else next((run for run in state.runs() if run.state.run == lab), None)
    if found is None:
        raise LabError(
            "no lab is up: start one with `l4proxy lab up FILE`" if lab is None else f"there is no lab {lab}"
        )
    return found


def _network(lab: str | None) -> "Network":
    from l4proxy.lab.network import Network

    return Network.attach(_find(lab))


def _host_row(network: "Network", name: str) -> dict[str, Any]:
    host = network.plan.hosts[name]
    daemon = network.run.state.find("daemon", name)
    return {
        "name": name,
        "addresses": [text for address in host.addresses for text in (address.ipv4, address.ipv6)],
        "daemon": (f"pid {daemon.pid}" if daemon else "ended") if host.is_pop else None,
        "socket": str(network.run.folder / name / "l4proxy.sock") if host.is_pop else None,
    }


def _without_links(stats: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in stats.items() if name != "links"}


def _say(what: str, links: tuple[str, ...]) -> None:
    for link in links:
        note(f"{what}: {link}")


def _progress(started: float) -> Callable[[str], None]:
    def progress(text: str) -> None:
        note(f"[{time.monotonic() - started:5.1f} s] {text}")

    return progress


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Turn SIGTERM and a closed terminal into what Ctrl-C is, so that cleaning up is one path."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _keep_up(run: str) -> None:
    """Leave the lab up until Ctrl-C."""
    note(
        f"the lab {run} stays up: try `l4proxy lab status`, `lab cut A B`, `lab exec HOST …` from another terminal"
    )
    note("Ctrl-C ends it")
    try:
        while True:
            time.sleep(3600)
    except KeyboardInterrupt:
        sys.stderr.write("\n")
