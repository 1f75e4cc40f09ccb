"""One edge with apps of every kind of TLS, for the tests that do not change its files."""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest

from tests.edge import Edge, edge
from tests.tls import origins
from tests.tls.authority import DAY, Authority, Pair
from tests.tls.origins import Origin, origin


@dataclass
class World:
    """An edge, its authority, what it shows, and the origins behind it."""

    edge: Edge
    authority: Authority
    first: Pair
    exact: Pair
    wild: Pair
    member: Pair
    expired: Pair
    stranger: Pair
    origins: dict[str, Origin]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    pytest.importorskip("l4proxy._native", reason="the extension is not built")
    folder = tmp_path_factory.mktemp("tls")
    authority, others = Authority(folder), Authority(folder, "other authority")
    first = authority.issue("first", ["first.test"])
    exact = authority.issue("exact", ["exact.wild.test"])
    wild = authority.issue("wild", ["*.wild.test"])
    at_origin = authority.issue("origin", ["127.0.0.1", "origin.test"])
    with ExitStack() as stack:
        running = {
            "echo": stack.enter_context(origin(origins.echo)),
            "late": stack.enter_context(origin(origins.answer_at_end)),
            "greets": stack.enter_context(origin(origins.greet)),
            "first": stack.enter_context(origin(origins.speak_first)),
            "sums": stack.enter_context(origin(origins.checksums, at_origin)),
            "plain sums": stack.enter_context(origin(origins.checksums)),
            "secure": stack.enter_context(origin(origins.echo, at_origin, ["two", "one"])),
            "silent": stack.enter_context(origin(origins.echo, at_origin)),
            "other": stack.enter_context(origin(origins.echo, others.issue("foreign", ["127.0.0.1"]))),
            "misnamed": stack.enter_context(origin(origins.echo, authority.issue("misnamed", ["no.test"]))),
        }

        def app(name: str, tls: str) -> str:
            return f"origins: ['127.0.0.1:{running[name].port}']\n{tls}"

        def tls(mode: str, more: str = "") -> str:
            pairs = ", ".join(
                f"{{certificate: {pair.certificate}, key: {pair.key}}}" for pair in (first, exact, wild)
            )
            return f"tls: {{mode: {mode}, certificates: [{pairs}]{more}}}\n"

        apps = {
            "flexible": app("echo", tls("flexible")),
            "late": app("late", tls("flexible")),
            "greets": app("greets", tls("flexible")),
            "first": app("first", tls("flexible")),
            "sums": app("sums", tls("full")),
            "plain-sums": app("plain sums", tls("flexible")),
            "full": app("secure", tls("full")),
            "full-silent": app("silent", tls("full")),
            "full-plain": app("echo", tls("full")),
            "strict": app("secure", tls("strict")),
            "strict-other": app("other", tls("strict")),
            "strict-misnamed": app("misnamed", tls("strict")),
            "members": app("echo", tls("flexible", f", client_ca: {authority.file}")),
            "members-full": app("secure", tls("full", f", client_ca: {authority.file}")),
            "off": app("secure", ""),
        }
        environment = {"SSL_CERT_FILE": str(authority.file)}
        subject = stack.enter_context(edge(folder / "edge", apps, environment))
        yield World(
            subject, authority, first, exact, wild,
            authority.issue("member", ["member.test"]),
            authority.issue("expired", ["member.test"], lasts=-DAY - timedelta(hours=1)),
            others.issue("stranger", ["member.test"]),
            running,
        )  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path
