"""Control messages: what is encoded is decoded, and nothing that comes in can do more than be refused."""

from dataclasses import replace
from random import Random

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from l4proxy.core import bus
from l4proxy.core.bus import (
    BusError,
    CertificateAnswer,
    CertificateRequest,
    LinkState,
    Message,
    OriginState,
    Record,
    ToggleState,
    decode,
    encode,
)
from l4proxy.core.ids import AppName, LinkName, PopName

names = st.from_regex(r"[a-z0-9-]{1,48}", fullmatch=True)
numbers = st.floats(0, 1e6, allow_nan=False)
links = st.builds(
    LinkState,
    names.map(LinkName),
    st.booleans(),
    numbers,
    numbers,
    numbers,
    st.floats(0, 1),
    st.integers(0, 2**32 - 1),
)
origins = st.builds(OriginState, names.map(AppName), names, st.booleans(), numbers)
records = st.builds(
    Record,
    names.map(PopName),
    st.integers(0, 2**40),
    st.integers(0, 2**40),
    st.lists(links).map(tuple),
    st.lists(origins).map(tuple),
)
toggles = st.builds(
    ToggleState,
    names.map(AppName),
    st.none() | names.map(PopName),
    st.sampled_from(["on", "off", "default"]),
    st.integers(0, 2**40),
    names.map(PopName),
)
numbers_63 = st.integers(0, 2**63 - 1)
blobs = st.binary(min_size=1, max_size=bus.MAX_CERTIFICATE)
versions = st.tuples(st.integers(0, 2**40), st.integers(0, 2**40))
messages = st.builds(
    Message,
    st.lists(records).map(tuple),
    st.lists(toggles).map(tuple),
    st.none() | st.dictionaries(names.map(PopName), versions),
    st.none() | st.builds(CertificateRequest, numbers_63, blobs),
    st.none()
    | st.builds(CertificateAnswer, numbers_63, blobs)
    | st.builds(CertificateAnswer, numbers_63, st.none(), names),
    st.none() | st.binary(min_size=bus.TOGGLES_HASH_LENGTH, max_size=bus.TOGGLES_HASH_LENGTH),
)


@given(messages)
def test_what_is_encoded_is_decoded(message: Message) -> None:
    assert decode(encode(message)) == message


@given(st.lists(toggles, unique=True), st.randoms())
def test_a_hash_of_toggles_says_which_they_are_in_whatever_order(
    said: list[ToggleState], numbers: Random
) -> None:
    shuffled = numbers.sample(said, len(said))
    assert bus.hash_of_toggles(shuffled) == bus.hash_of_toggles(said)
    assert not said or bus.hash_of_toggles(said[1:]) != bus.hash_of_toggles(said)


@given(st.binary())
def test_any_bytes_are_read_or_refused(payload: bytes) -> None:
    try:
        decode(payload)
    except BusError:
        return


anything = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.integers(-5, 5), inner),
)


@given(st.dictionaries(st.sampled_from(["records", "toggles", "digest", "toggles_hash", "more"]), anything))
def test_any_shape_is_read_or_refused(body: dict[str, object]) -> None:
    try:
        decode(msgpack.packb({"v": 1} | body))
    except BusError:
        return


def test_unknown_keys_are_ignored_and_other_versions_refused() -> None:
    assert decode(msgpack.packb({"v": 1, "later": [1]})) == Message()
    with pytest.raises(BusError, match="version 1"):
        decode(msgpack.packb({"v": 2}))


def test_a_message_beyond_the_bound_is_refused_unread() -> None:
    with pytest.raises(BusError, match="at most"):
        decode(bytes(bus.MAX_MESSAGE + 1))


STATE = LinkState(LinkName("a/a>b/a"), True, 1.0, 1.0, 0.0, 0.0, 1)


@pytest.mark.parametrize(
    "state",
    [
        replace(STATE, rtt_ms=-1.0),
        replace(STATE, loss_ratio=1.5),
        replace(STATE, rtt_ms=float("nan")),
        replace(STATE, label=2**32),
    ],
    ids=["negative-rtt", "loss-above-one", "nan", "label-too-large"],
)
def test_impossible_numbers_are_refused(state: LinkState) -> None:
    with pytest.raises(BusError):
        decode(encode(Message(records=(Record(PopName("a"), 1, 1, (state,), ()),))))


@pytest.mark.parametrize(
    "body",
    [
        {"toggles_hash": b"short"},
        {"toggles_hash": "sixteen letters."},
        {"certificate_request": [1]},
        {"certificate_request": [1, b""]},
        {"certificate_request": [1, "text"]},
        {"certificate_request": [-1, b"x"]},
        {"certificate_request": [1 << 63, b"x"]},
        {"certificate_request": [1, bytes(bus.MAX_CERTIFICATE + 1)]},
        {"certificate": {"number": 1}},
        {"certificate": [1, b"x", b"y"]},
        {"certificate_refused": [1, ""]},
        {"certificate_refused": [1, "x" * 201]},
    ],
)
def test_a_request_or_certificate_that_is_none_is_refused(body: dict[str, object]) -> None:
    with pytest.raises(BusError):
        decode(msgpack.packb({"v": 1, **body}))
