"""The control messages on the page: what msgpack alone makes of them is what the page says, and our code reads and writes them."""

import hashlib
import re

import msgpack
import pytest

from l4proxy.core import bus
from l4proxy.core.bus import (
    CertificateAnswer,
    CertificateRequest,
    Delta,
    Heard,
    LinkChange,
    LinkState,
    Message,
    OriginState,
    Record,
    ToggleState,
)
from l4proxy.core.ids import AppName, LinkName, PopName
from tests.protocol.test_vectors import PAGE

VECTORS = {
    name: bytes.fromhex(digits)
    for name, digits in re.findall(
        r"^(\w+): ([0-9a-f]+)$", PAGE.split("```bus")[1].split("```")[0], re.MULTILINE
    )
}

TOGGLES = [["mc", None, "on", 7, "ams"], ["mc", "iad", "default", 8, "iad"]]
BODIES = {
    "bus_records": {
        "v": 1,
        "records": [
            [
                "ams",
                5,
                9,
                [["a>iad/b", True, 8050, 7925, 50, 12_500, 0x1212]],
                [["mc", "mc:25565", True, 150]],
                [["mc", ["ams", "sin"]]],
            ]
        ],
    },
    "bus_deltas": {
        "v": 1,
        "deltas": [
            [
                "ams",
                5,
                10,
                [
                    [0, 0b10011, 9120, 0],
                    [2, 0b00000],
                    [3, 0b111101, 7925, 50, 100_000, 7],
                    ["b>iad/b", True, 8000, 8000, 0, 0, 8],
                ],
                [["mc", "mc:25565", False, 150]],
                ["a>sin/a", ["mc", "other:1"]],
                None,
            ],
            ["iad", 6, 300, [], [], [], [["mc", ["iad"]]]],
        ],
    },
    "bus_toggles": {"v": 1, "toggles": TOGGLES},
    "bus_digest": {
        "v": 1,
        "digest": {"ams": [5, 9, 77, 0], "iad": [6, 300, 1_000, 12]},
        "toggles_hash": hashlib.sha256(b"".join(sorted(map(msgpack.packb, TOGGLES)))).digest()[:16],
    },
    "bus_follow": {"v": 1, "digest": {}, "follow": True},
    "bus_news": {"v": 1, "news": {"iad": [7, 1, 0, 0]}},
    "bus_want": {"v": 1, "want": {"iad": [6, 300], "sin": [0, 0]}},
    "bus_request": {"v": 1, "certificate_request": [77, b"request"]},
    "bus_certificate": {"v": 1, "certificate": [77, b"certificate"]},
    "bus_refused": {"v": 1, "certificate_refused": [77, "rate"]},
}

AMS, IAD, SIN, MC = PopName("ams"), PopName("iad"), PopName("sin"), AppName("mc")
REGISTERS = (ToggleState(MC, None, "on", 7, AMS), ToggleState(MC, IAD, "default", 8, IAD))
MESSAGES = {
    "bus_records": Message(
        records=(
            Record(
                AMS,
                5,
                9,
                (LinkState(LinkName("ams/a>iad/b"), True, 80.5, 79.25, 0.5, 0.125, 0x1212),),
                (OriginState(MC, "mc:25565", True, 1.5),),
                ((MC, (AMS, SIN)),),
            ),
        )
    ),
    "bus_deltas": Message(
        deltas=(
            Delta(
                AMS,
                5,
                10,
                (
                    LinkChange(0, True, rtt_ms=91.2, loss_ratio=0.0),
                    LinkChange(2, False),
                    LinkChange(3, True, None, 79.25, 0.5, 1.0, 7),
                ),
                (LinkState(LinkName("ams/b>iad/b"), True, 80.0, 80.0, 0.0, 0.0, 8),),
                (OriginState(MC, "mc:25565", False, 1.5),),
                (LinkName("ams/a>sin/a"),),
                ((MC, "other:1"),),
            ),
            Delta(IAD, 6, 300, egresses=((MC, (IAD,)),)),
        )
    ),
    "bus_toggles": Message(toggles=REGISTERS),
    "bus_digest": Message(
        digest={AMS: Heard(5, 9, 77, 0), IAD: Heard(6, 300, 1_000, 12)},
        toggles_hash=bus.hash_of_toggles(REGISTERS),
    ),
    "bus_follow": Message(digest={}, follow=True),
    "bus_news": Message(news={IAD: Heard(7, 1, 0, 0)}),
    "bus_want": Message(want={IAD: (6, 300), SIN: (0, 0)}),
    "bus_request": Message(certificate_request=CertificateRequest(77, b"request")),
    "bus_certificate": Message(certificate_answer=CertificateAnswer(77, b"certificate")),
    "bus_refused": Message(certificate_answer=CertificateAnswer(77, None, "rate")),
}


def test_every_message_of_the_page_has_its_place_here() -> None:
    assert VECTORS.keys() == BODIES.keys() == MESSAGES.keys()


@pytest.mark.parametrize("name", BODIES)
def test_a_message_is_the_msgpack_that_the_page_describes(name: str) -> None:
    assert msgpack.unpackb(VECTORS[name]) == BODIES[name]
    assert msgpack.packb(BODIES[name]) == VECTORS[name]


@pytest.mark.parametrize("name", MESSAGES)
def test_a_message_of_the_page_is_read_and_written(name: str) -> None:
    assert bus.decode(VECTORS[name]) == MESSAGES[name]
    assert bus.encode(MESSAGES[name]) == VECTORS[name]
