"""What the engine says, as typed values: the "Up" table of docs/engine-protocol.md. No I/O.

`decode` is tolerant as the protocol asks: unknown keys are ignored; an unknown type or a body of the wrong
shape is a `MalformedMessage`, and the connection ends there.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

PROTOCOL_VERSION = 3
"""Rises whenever one side could misread the other; 2: apps with policies, origins with targets; 3: `outcomes`, candidates on trial."""

Role = Literal["listener", "overlay"]


class MalformedMessage(ValueError):  # noqa: N818 (a message that is wrong, said by its name)
    """A frame that is not what docs/engine-protocol.md says."""


@dataclass(frozen=True, slots=True, order=True)
class SocketKey:
    """What names a socket of the engine. `address` "::" is every address of both families."""

    role: Role
    protocol: Literal["tcp", "udp"]
    address: str
    port: int
    worker: int

    def to_message(self) -> dict[str, Any]:
        """Return the map that goes on the wire."""
        return {
            "role": self.role,
            "protocol": self.protocol,
            "address": self.address,
            "port": self.port,
            "worker": self.worker,
        }


@dataclass(frozen=True, slots=True)
class EngineHello:
    """Who the engine is and what it holds already."""

    protocol: int
    version: str
    pid: int
    workers: int
    generation: int
    pop: str
    sockets: frozenset[SocketKey]
    has_identity: bool
    access_lists: frozenset[int] = frozenset()
    """Numbers of the access lists that it holds whole."""


@dataclass(frozen=True, slots=True)
class ApplyResult:
    """The answer to a snapshot; `reason` None: it is in force."""

    generation: int
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class HandleState:
    """What the engine says of one route handle. `active_path` is a path id; None: not used yet."""

    peer: str
    policy: str
    active_path: int | None
    primary_alive: bool
    in_use: bool
    connections: int
    path_rtt_us: int | None


@dataclass(frozen=True, slots=True)
class PeerState:
    """Whether the pair connection to a PoP stands, and since when (wall clock, ns)."""

    name: str
    connected: bool
    since_ns: int


@dataclass(frozen=True, slots=True)
class TransitState:
    """What a previous hop has sent through this PoP: packets, their bytes with headers, and what was dropped, by reason."""

    packets: int
    bytes: int
    drops: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Counters:
    """Totals since the engine's start, said every second."""

    at_ns: int
    workers: int
    values: Mapping[str, int]
    apps: Mapping[str, Mapping[str, int]]
    drops: Mapping[str, int]
    handles: tuple[HandleState, ...]
    peers: tuple[PeerState, ...]
    ended: Mapping[tuple[str, str, int], int] = field(default_factory=dict)
    """Ended flows by app, transport and code."""
    transit: Mapping[str, TransitState] = field(default_factory=dict)
    """By the PoP that sent it."""


@dataclass(frozen=True, slots=True)
class PathState:
    """What the connections of a handle saw of a path; counts of the time that the message is about, round trip in microseconds."""

    peer: str
    policy: str
    path_id: int
    links: tuple[str, ...]
    rtt_us: int
    packets: int
    lost: int
    bytes_out: int
    bytes_in: int


@dataclass(frozen=True, slots=True)
class FlowCounts:
    """What became of flows of an app over a way; `egress` None: the origin was dialled here."""

    app: str
    egress: str | None
    links: tuple[str, ...]
    counts: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class EngineOutcomes:
    """What flows got since the message before. `elapsed_ms`: the time of `links` and `paths`, 0 if they are left out."""

    at_ns: int
    elapsed_ms: int
    links: Mapping[str, int]
    """Bytes sent over each own link that carried any."""
    paths: tuple[PathState, ...]
    flows: tuple[FlowCounts, ...]


@dataclass(frozen=True, slots=True)
class ProbeSample:
    """The result of one probe of an own link; `rtt_ns` None: no answer within a second. Wall clock."""

    link: str
    sequence: int
    sent_ns: int
    rtt_ns: int | None
    received_ns: int | None
    peer_received: int | None


@dataclass(frozen=True, slots=True)
class Samples:
    """Probe results since the last batch."""

    samples: tuple[ProbeSample, ...]


@dataclass(frozen=True, slots=True)
class Records:
    """Flows that ended, as maps with the fields of "Flow" in docs/engine-protocol.md."""

    records: tuple[Mapping[str, Any], ...]


@dataclass(frozen=True, slots=True)
class Events:
    """What happened: maps with `at_ns`, `kind` and what belongs to the kind."""

    events: tuple[Mapping[str, Any], ...]


@dataclass(frozen=True, slots=True)
class BusMessage:
    """One control message that a neighbour sent."""

    peer: str
    payload: bytes


@dataclass(frozen=True, slots=True)
class FlowPage:
    """The answer to `list_flows`: at most `limit` flows out of `total`."""

    request: int
    flows: tuple[Mapping[str, Any], ...]
    total: int


@dataclass(frozen=True, slots=True)
class Drained:
    """The engine has ended its flows and exits; `closed` of them were cut by the deadline."""

    closed: int


@dataclass(frozen=True, slots=True)
class Goodbye:
    """The engine closes the connection: what it was told makes no sense to it."""

    reason: str


UpMessage = (
    EngineHello
    | ApplyResult
    | Counters
    | EngineOutcomes
    | Samples
    | Records
    | Events
    | BusMessage
    | FlowPage
    | Drained
    | Goodbye
)


def _socket_key(body: Mapping[str, Any]) -> SocketKey:
    return SocketKey(body["role"], body["protocol"], body["address"], int(body["port"]), int(body["worker"]))


def _hello(body: Mapping[str, Any]) -> EngineHello:
    return EngineHello(
        protocol=int(body["protocol"]),
        version=str(body["version"]),
        pid=int(body["pid"]),
        workers=int(body["workers"]),
        generation=int(body["generation"]),
        pop=str(body["pop"]),
        sockets=frozenset(_socket_key(key) for key in body["sockets"]),
        has_identity=bool(body["has_identity"]),
        access_lists=frozenset(int(number) for number in body.get("access_lists", ())),
    )


def _counters(body: Mapping[str, Any]) -> Counters:
    return Counters(
        at_ns=int(body["at_ns"]),
        workers=int(body["workers"]),
        values={str(name): int(value) for name, value in body["values"].items()},
        apps={str(app): {str(n): int(v) for n, v in values.items()} for app, values in body["apps"].items()},
        drops={str(name): int(value) for name, value in body["drops"].items()},
        handles=tuple(
            HandleState(
                peer=str(handle["peer"]),
                policy=str(handle["policy"]),
                active_path=handle["active_path"],
                primary_alive=bool(handle["primary_alive"]),
                in_use=bool(handle["in_use"]),
                connections=int(handle["connections"]),
                path_rtt_us=handle["path_rtt_us"],
            )
            for handle in body["handles"]
        ),
        peers=tuple(
            PeerState(str(peer["name"]), bool(peer["connected"]), int(peer["since_ns"]))
            for peer in body["peers"]
        ),
        ended={
            (str(entry["app"]), str(entry["protocol"]), int(entry["code"])): int(entry["flows"])
            for entry in body.get("ended", ())
        },
        transit={
            str(entry["previous_hop"]): TransitState(
                int(entry["packets"]),
                int(entry["bytes"]),
                {str(reason): int(count) for reason, count in entry["drops"].items()},
            )
            for entry in body.get("transit", ())
        },
    )


def _outcomes(body: Mapping[str, Any]) -> EngineOutcomes:
    return EngineOutcomes(
        at_ns=int(body["at_ns"]),
        elapsed_ms=int(body["elapsed_ms"]),
        links={str(load["link"]): int(load["bytes"]) for load in body["links"]},
        paths=tuple(
            PathState(
                peer=str(path["peer"]),
                policy=str(path["policy"]),
                path_id=int(path["path_id"]),
                links=tuple(str(name) for name in path["links"]),
                rtt_us=int(path["rtt_us"]),
                packets=int(path["packets"]),
                lost=int(path["lost"]),
                bytes_out=int(path["bytes_out"]),
                bytes_in=int(path["bytes_in"]),
            )
            for path in body["paths"]
        ),
        flows=tuple(
            FlowCounts(
                app=str(flow["app"]),
                egress=None if flow["egress"] is None else str(flow["egress"]),
                links=tuple(str(name) for name in flow["links"]),
                counts={str(name): int(count) for name, count in flow["counts"].items()},
            )
            for flow in body["flows"]
        ),
    )


def _samples(body: Mapping[str, Any]) -> Samples:
    return Samples(
        tuple(
            ProbeSample(
                link=str(sample["link"]),
                sequence=int(sample["sequence"]),
                sent_ns=int(sample["sent_ns"]),
                rtt_ns=sample["rtt_ns"],
                received_ns=sample.get("received_ns"),
                peer_received=sample.get("peer_received"),
            )
            for sample in body["samples"]
        )
    )


def _flows(body: Mapping[str, Any]) -> FlowPage:
    return FlowPage(int(body["request"]), tuple(body["flows"]), int(body["total"]))


_DECODERS: Mapping[str, Callable[[Mapping[str, Any]], UpMessage]] = {
    "hello": _hello,
    "applied": lambda body: ApplyResult(int(body["generation"])),
    "refused": lambda body: ApplyResult(int(body["generation"]), str(body["reason"])),
    "counters": _counters,
    "outcomes": _outcomes,
    "samples": _samples,
    "records": lambda body: Records(tuple(body["records"])),
    "events": lambda body: Events(tuple(body["events"])),
    "bus": lambda body: BusMessage(str(body["peer"]), bytes(body["payload"])),
    "flows": _flows,
    "drained": lambda body: Drained(int(body["closed"])),
    "goodbye": lambda body: Goodbye(str(body["reason"])),
}


def decode(message: object) -> UpMessage:
    """Return the typed value of one unpacked frame; MalformedMessage if it is not one."""
    if not isinstance(message, dict) or len(message) != 1:
        raise MalformedMessage("a frame is a map with one entry")
    kind, body = next(iter(message.items()))
    decoder = _DECODERS.get(kind) if isinstance(kind, str) else None
    if decoder is None:
        raise MalformedMessage(f"unknown type {kind!r}")
    if not isinstance(body, dict):
        raise MalformedMessage(f"{kind}: the body is not a map")
    try:
        return decoder(body)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise MalformedMessage(f"{kind}: {type(error).__name__}: {error}") from error
