"""Control messages: what is encoded is decoded, and nothing that comes in can do more than be refused."""

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
    Delta,
    Heard,
    LinkChange,
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
times = st.integers(0, 2**32 - 1).map(lambda units: units / bus.UNITS_PER_MS)
ratios = st.integers(0, bus.UNITS_OF_LOSS).map(lambda units: units / bus.UNITS_OF_LOSS)
labels = st.integers(0, 2**32 - 1)
origins = st.builds(OriginState, names.map(AppName), names, st.booleans(), times)
counts = st.integers(0, 2**40)


@st.composite
def links_of(draw: st.DrawFn, owner: str) -> tuple[LinkState, ...]:
    """Draw links that begin at a PoP, in the order of their names."""
    found = draw(
        st.lists(
            st.builds(
                LinkState,
                names.map(lambda name: LinkName(f"{owner}/{name}")),
                st.booleans(),
                times,
                times,
                times,
                ratios,
                labels,
            ),
            unique_by=lambda state: state.link,
            max_size=5,
        )
    )
    return tuple(sorted(found, key=lambda state: state.link))


some_origins = st.lists(origins, unique_by=lambda state: state.key, max_size=5).map(
    lambda found: tuple(sorted(found, key=lambda state: state.key))
)
changes = st.builds(
    LinkChange,
    st.integers(0, 9_999),
    st.booleans(),
    *[st.none() | times] * 3,
    st.none() | ratios,
    st.none() | labels,
)
records = names.flatmap(
    lambda owner: st.builds(Record, st.just(PopName(owner)), counts, counts, links_of(owner), some_origins)
)
deltas = names.flatmap(
    lambda owner: st.builds(
        Delta,
        st.just(PopName(owner)),
        counts,
        counts,
        st.lists(changes, max_size=5).map(tuple),
        links_of(owner),
        some_origins,
        st.lists(names.map(lambda name: LinkName(f"{owner}/{name}")), max_size=3).map(tuple),
        st.lists(st.tuples(names.map(AppName), names), max_size=3).map(tuple),
    )
)
heard = st.dictionaries(names.map(PopName), st.builds(Heard, counts, counts, counts, st.integers(0, 99)))
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
    st.lists(records, max_size=3).map(tuple),
    st.lists(deltas, max_size=3).map(tuple),
    st.lists(toggles).map(tuple),
    st.none() | heard,
    heard,
    st.dictionaries(names.map(PopName), versions),
    st.booleans(),
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


@given(
    st.dictionaries(
        st.sampled_from(
            ["records", "deltas", "toggles", "digest", "news", "want", "follow", "toggles_hash", "more"]
        ),
        anything,
    )
)
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


LINK = ["a>b/a", True, 8050, 7925, 50, 125, 7]
"""A link of a record, or one that a delta adds."""
CHANGE = [0, 63, 8050, 7925, 50, 125, 7]


def refuses(body: dict[str, object]) -> None:
    """Such a message is malformed."""
    with pytest.raises(BusError):
        decode(msgpack.packb({"v": 1} | body))


@pytest.mark.parametrize("place", range(7))
@pytest.mark.parametrize("value", [-1, 1.5, float("nan"), None, 2**33, "x" * 201, ""])
def test_impossible_values_of_links_are_refused(place: int, value: object) -> None:
    broken: list[object] = [*LINK]
    broken[place] = value
    decode(msgpack.packb({"v": 1, "records": [["a", 1, 1, [LINK], [], []]]}))
    refuses({"records": [["a", 1, 1, [broken], [], []]]})
    changed: list[object] = [*CHANGE]
    changed[place] = value
    decode(msgpack.packb({"v": 1, "deltas": [["a", 1, 1, [CHANGE], [], [], None]]}))
    refuses({"deltas": [["a", 1, 1, [changed], [], [], None]]})


def test_a_ratio_above_one_and_a_name_that_stands_twice_are_refused() -> None:
    refuses({"records": [["a", 1, 1, [[*LINK[:5], 100_001, 7]], [], []]]})
    refuses({"records": [["a", 1, 1, [LINK, LINK], [], []]]})
    refuses({"records": [["a", 1, 1, [], [["mc", "o", True, 1], ["mc", "o", False, 1]], []]]})
    refuses({"deltas": [["a", 1, 1, [[]], [], [], None]]})
    for change in ([*CHANGE, 1], CHANGE[:-1], [0], [0, 64, 1], [0, 2], [0, 1, 8050]):
        refuses({"deltas": [["a", 1, 1, [change], [], [], None]]})


def test_nobody_can_speak_of_a_link_that_begins_elsewhere() -> None:
    (record,) = decode(
        msgpack.packb({"v": 1, "records": [["a", 1, 1, [["b/a>c/a", *LINK[1:]]], [], []]]})
    ).records
    assert record.links[0].link == "a/b/a>c/a"


def test_a_round_trip_that_was_measured_is_never_none() -> None:
    tiny = LinkState(LinkName("a/a>b/a"), True, 0.001, 0.0, 0.004, 0.123456789, 1).rounded()
    assert (tiny.rtt_ms, tiny.rtt_ms_min, tiny.jitter_ms, tiny.loss_ratio) == (0.01, 0.0, 0.01, 0.12346)


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
