"""How an app treats its clients: what words of the file mean, and what contradicts itself, with its place and what to write."""

from ipaddress import ip_network
from pathlib import Path

import pytest

from l4proxy.config.convert import to_app
from l4proxy.config.policies import client_address_of, dscp_of
from l4proxy.config.policy_checks import check_policies
from l4proxy.config.schema import AppModel
from l4proxy.config.yaml_source import scan
from l4proxy.core.access_list import AccessList
from l4proxy.core.app import App
from l4proxy.core.policy import AccessPolicy, CertificateFiles, ClientAddress, Limits, TlsPolicy

APP = "name: app\nlisten: {listen}\norigins: [203.0.113.10]\n"


def read(listen: str, text: str) -> tuple[App, list[str]]:
    """Return an app and what contradicts itself, whether or not the loader lets its features through yet."""
    (document,) = scan("f.yaml", (APP.format(listen=listen) + text).encode()).documents
    app = to_app(AppModel.model_validate(document.value, strict=True), Path("/etc/l4proxy"))
    faults = [f"{f.line}: {f.path}: {f.reason} [{f.hint}]" for f in check_policies(app, document)]
    return app, faults


@pytest.mark.parametrize(
    ("listen", "text", "fault"),
    [
        (
            "udp/1",
            "client_address: proxy-v1",
            (
                "4: client_address: proxy-v1 is for tcp, and the app listens on udp only "
                "[write spp, proxy-v2-first or proxy-v2-every]"
            ),
        ),
        (
            "tcp/1",
            "client_address: spp",
            "4: client_address: spp is for udp, and the app listens on tcp only [write proxy-v1 or proxy-v2]",
        ),
        (
            "tcp/1",
            "client_address: transparent\nsource: {pool: [203.0.113.1]}",
            (
                "4: client_address: transparent sends from the client's own address, and source.pool from others "
                "[leave one of the two out]"
            ),
        ),
        (
            "tcp/1",
            "limits:\n  amplification: 3",
            (
                "5: limits.amplification: is for udp, and the app listens on tcp only: "
                "a TCP client has proved its address [leave it out]"
            ),
        ),
        (
            "tcp/1",
            "duplication: always",
            (
                "4: duplication: is for udp, and the app listens on tcp only: "
                "what TCP loses is sent again [leave it out]"
            ),
        ),
        (
            "udp/1",
            "tls: {mode: full, certificate: c, key: k}",
            "4: tls: is for tcp, and the app listens on udp only [leave it out]",
        ),
        (
            "tcp/1",
            "tls: full",
            "4: tls: full needs a certificate and its key [write {mode: full, certificate: FILE, key: FILE}]",
        ),
        (
            "tcp/1",
            "tls: {mode: strict, certificates: []}",
            (
                "4: tls.mode: strict needs a certificate and its key "
                "[write {mode: strict, certificate: FILE, key: FILE}]"
            ),
        ),
        (
            "tcp/1",
            "tls:\n  mode: full\n  certificate: c",
            "6: tls.certificate: has no key [add tls.key]",
        ),
        (
            "tcp/1",
            "tls: {mode: full, certificates: [{certificate: c, key: k}], key: k}",
            "4: tls.key: has no certificate [add tls.certificate]",
        ),
        (
            "tcp/1",
            "tls:\n  client_ca: a",
            "5: tls.client_ca: does nothing while tls.mode is off [write mode: flexible, full or strict]",
        ),
    ],
)
def test_what_contradicts_itself(listen: str, text: str, fault: str) -> None:
    assert read(listen, text)[1] == [fault]


@pytest.mark.parametrize("word", ["off", "proxy-v1", "proxy-v2", "spp", "proxy-v2-first", "transparent"])
def test_any_word_is_right_for_both_protocols_together(word: str) -> None:
    assert read("[tcp/1, udp/1]", f"client_address: {word}")[1] == []


@pytest.mark.parametrize(
    ("word", "tcp", "udp"),
    [
        ("off", "off", "off"),
        ("proxy-v1", "proxy-v1", "off"),
        ("proxy-v2", "proxy-v2", "proxy-v2-every"),
        ("spp", "off", "spp"),
        ("proxy-v2-first", "off", "proxy-v2-first"),
        ("proxy-v2-every", "off", "proxy-v2-every"),
        ("transparent", "transparent", "transparent"),
    ],
)
def test_one_word_for_both_protocols(word: str, tcp: str, udp: str) -> None:
    both = client_address_of(word, {"tcp", "udp"})
    assert (both.tcp, both.udp) == (tcp, udp)
    assert client_address_of(word, {"tcp"}) == ClientAddress(tcp=both.tcp)
    assert client_address_of(word, {"udp"}) == ClientAddress(udp=both.udp)


@pytest.mark.parametrize(
    ("word", "value"),
    [("keep", None), ("ef", 46), ("cs0", 0), ("cs7", 56), ("af11", 10), ("af43", 38), ("0", 0), ("63", 63)],
)
def test_names_of_dscp(word: str, value: int | None) -> None:
    assert dscp_of(word) == value


def test_everything_comes_through() -> None:
    app, faults = read(
        "[tcp/1, udp/1]",
        "limits: {source_prefix_v6: 56, new_flows_per_second: 10k, new_flows_per_second_per_source: 20,\n"
        "  bandwidth_per_flow: 5MB/s, amplification: 3}\n"
        "access: {default: deny, allow: [10.0.0.0/8], deny: ['2001:db8::/32']}\n"
        "tls: {mode: strict, certificate: c, key: k, certificates: [{certificate: d, key: k}], client_ca: a}\n"
        "accept_client_address: [10.0.0.1]\ndscp: af41\nrecord_client: prefix\n",
    )
    assert faults == []
    assert app.limits == Limits(None, None, 56, 10_000, 20, 5_000_000, 3.0)
    assert app.access == AccessPolicy(
        False, AccessList.pack([ip_network("10.0.0.0/8")]), AccessList.pack([ip_network("2001:db8::/32")])
    )
    assert app.tls == TlsPolicy("strict", (CertificateFiles("c", "k"), CertificateFiles("d", "k")), "a")
    assert app.tls.files == ("c", "k", "d", "a")
    assert app.accept_client_address == ("10.0.0.1/32",)
    assert (app.dscp, app.record_client) == (34, "prefix")
