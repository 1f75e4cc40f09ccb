"""Models of how an app treats its clients → `core.policy`. What each word of the file means stands here, once."""

import os
import re
from collections.abc import Collection, Iterable
from pathlib import Path

from l4proxy.config.schema import AccessItem, AccessModel, FileOfPrefixes, LimitsModel, TlsModel
from l4proxy.core.access_list import AccessList
from l4proxy.core.app import Protocol
from l4proxy.core.policy import (
    AccessPolicy,
    CertificateFiles,
    ClientAddress,
    Limits,
    TcpClientAddress,
    TlsPolicy,
    UdpClientAddress,
)

TCP_WORDS: dict[str, TcpClientAddress] = {
    "proxy-v1": "proxy-v1",
    "proxy-v2": "proxy-v2",
    "transparent": "transparent",
}
"""What a word of `client_address` means on TCP; a word that is not here means nothing there."""

UDP_WORDS: dict[str, UdpClientAddress] = {
    "proxy-v2": "proxy-v2-every",
    "spp": "spp",
    "proxy-v2-first": "proxy-v2-first",
    "proxy-v2-every": "proxy-v2-every",
    "transparent": "transparent",
}
"""The same on UDP."""

EXPEDITED = 46
"""DSCP `ef`, RFC 3246."""


def client_address_of(word: str, protocols: Collection[Protocol]) -> ClientAddress:
    """Return what a word means on each protocol that the app listens on."""
    return ClientAddress(
        TCP_WORDS.get(word, "off") if "tcp" in protocols else "off",
        UDP_WORDS.get(word, "off") if "udp" in protocols else "off",
    )


def limits_of(model: LimitsModel) -> Limits:
    """Return caps and rates; a bandwidth is written in bits and counted in bytes."""
    bits_s = model.bandwidth_per_flow
    return Limits(
        flows=model.flows,
        flows_per_source=model.flows_per_source,
        source_prefix_v6=model.source_prefix_v6,
        new_flows_per_second=model.new_flows_per_second,
        new_flows_per_second_per_source=model.new_flows_per_second_per_source,
        bandwidth_per_flow=None if bits_s is None else max(1, bits_s // 8),
        amplification=model.amplification,
    )


def access_of(model: AccessModel, folder: Path) -> AccessPolicy:
    """Return who may come. Paths are relative to the folder of the app file."""

    def files(items: Iterable[AccessItem]) -> tuple[str, ...]:
        named = (item.path for item in items if isinstance(item, FileOfPrefixes))
        return tuple(dict.fromkeys(os.path.normpath(folder.absolute() / path) for path in named))

    def prefixes(items: Iterable[AccessItem]) -> AccessList:
        return AccessList.pack(item for item in items if not isinstance(item, FileOfPrefixes))

    return AccessPolicy(
        model.default == "allow",
        prefixes(model.allow),
        prefixes(model.deny),
        files(model.allow),
        files(model.deny),
    )


def dscp_of(word: str) -> int | None:
    """Return a DSCP by its number or name (RFC 2474, 2597, 3246); None for `keep`."""
    if word == "keep":
        return None
    if word == "ef":
        return EXPEDITED
    if selector := re.fullmatch(r"cs([0-7])", word):
        return 8 * int(selector[1])
    if assured := re.fullmatch(r"af([1-4])([1-3])", word):
        return 8 * int(assured[1]) + 2 * int(assured[2])
    return int(word)


def tls_of(model: TlsModel) -> TlsPolicy | None:
    """Return which TLS ends at the edge; None for `off`."""
    if model.mode == "off":
        return None
    pairs = [(model.certificate, model.key)] if model.certificate is not None else []
    pairs += [(pair.certificate, pair.key) for pair in model.certificates]
    files = tuple(CertificateFiles(certificate, key) for certificate, key in pairs if key is not None)
    return TlsPolicy(model.mode, files, model.client_ca)
