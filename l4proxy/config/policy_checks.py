"""What must hold within one app between how it treats clients and what it listens on: no word that would do nothing, no half of a pair."""

from collections.abc import Iterator
from typing import Any

from l4proxy.config.render import shown
from l4proxy.config.yaml_source import Document, Path
from l4proxy.core.app import App
from l4proxy.core.policy import ClientAddress
from l4proxy.errors import Fault


def check_policies(app: App, document: Document) -> Iterator[Fault]:
    """Give everything that contradicts itself in how an app treats its clients."""
    yield from _client_address(app, document)
    yield from _one_protocol(app, document)
    yield from _tls_files(document)


def _client_address(app: App, document: Document) -> Iterator[Fault]:
    word = document.value.get("client_address", "off")
    path: Path = ("client_address",)
    if word != "off" and app.client_address == ClientAddress():
        (only,) = app.protocols
        other = "tcp" if only == "udp" else "udp"
        hint = (
            "write spp, proxy-v2-first or proxy-v2-every" if only == "udp" else "write proxy-v1 or proxy-v2"
        )
        reason = f"{word} is for {other}, and the app listens on {only} only"
        yield document.fault(path, reason, got=shown(word), hint=hint)
    if word == "transparent" and "source" in document.value:
        reason = "transparent sends from the client's own address, and source.pool from others"
        yield document.fault(path, reason, got=shown(word), hint="leave one of the two out")


def _one_protocol(app: App, document: Document) -> Iterator[Fault]:
    """Give each field that means something for one protocol only, on an app that listens on the other one only."""
    if app.protocols == ("udp",) and app.tls is not None:
        yield document.fault(
            ("tls",), "is for tcp, and the app listens on udp only", at_key=True, hint="leave it out"
        )
    if app.protocols == ("tcp",) and app.duplication != "off":
        reason = "is for udp, and the app listens on tcp only: what TCP loses is sent again"
        yield document.fault(("duplication",), reason, at_key=True, hint="leave it out")
    if app.protocols == ("tcp",) and app.limits.amplification is not None:
        reason = "is for udp, and the app listens on tcp only: a TCP client has proved its address"
        yield document.fault(("limits", "amplification"), reason, at_key=True, hint="leave it out")


def _tls_files(document: Document) -> Iterator[Fault]:
    tls = document.value.get("tls")
    given: dict[str, Any] = tls if isinstance(tls, dict) else {}
    mode = given.get("mode", "off") if isinstance(tls, dict) else tls
    if "certificate" in given and "key" not in given:
        yield document.fault(("tls", "certificate"), "has no key", at_key=True, hint="add tls.key")
    if "key" in given and "certificate" not in given:
        yield document.fault(("tls", "key"), "has no certificate", at_key=True, hint="add tls.certificate")
    if mode in (None, "off"):
        for name in ("certificate", "key", "certificates", "client_ca"):
            if name in given:
                reason = "does nothing while tls.mode is off"
                hint = "write mode: flexible, full or strict"
                yield document.fault(("tls", name), reason, at_key=True, hint=hint)
    elif "certificate" not in given and not given.get("certificates"):
        path: Path = ("tls", "mode") if "mode" in given else ("tls",)
        hint = "write {mode: " + str(mode) + ", certificate: FILE, key: FILE}"
        yield document.fault(path, f"{mode} needs a certificate and its key", got=shown(mode), hint=hint)
