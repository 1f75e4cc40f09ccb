"""Control messages of a PoP that is authentic and lies: any bytes and any records, in any order, against a model of the rules.

The messages in `KEPT` are tried each time, as they are and with a byte changed; hypothesis adds others.
"""

from dataclasses import dataclass, field

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from l4proxy.core.bus import BusError, LinkState, Message, OriginState, Record, decode, encode
from l4proxy.core.ids import AppName, LinkName, PopName
from l4proxy.core.records import EXPIRY_NS, MAX_EPOCH_AHEAD, MAX_SEQUENCE, RecordStore, is_sound

AMS, IAD, SIN, STRANGER = (PopName(name) for name in ("ams", "iad", "sin", "nobody"))
FLEET = (AMS, IAD, SIN)
NOW_S = 1_700_000_000
SECOND_NS = 1_000_000_000


def link(name: str, label: int = 1) -> LinkState:
    """Return the state of a link that is well."""
    return LinkState(LinkName(name), True, 10.0, 9.0, 0.5, 0.0, label)


WHOLE = encode(
    Message(
        (Record(IAD, 5, 6, (link("iad/a>ams/a"),), (OriginState(AppName("game"), "o", True, 1.0),)),),
        (),
        {IAD: (5, 6)},
    )
)
KEPT = {
    "whole": WHOLE,
    "cut": WHOLE[:-3],
    "nothing": b"",
    "not-a-map": bytes.fromhex("93010203"),
    "no-version": bytes.fromhex("80"),
    "version-2": bytes.fromhex("81a17602"),
    "records-a-number": bytes.fromhex("82a17601a77265636f72647305"),
    "record-too-short": bytes.fromhex("82a17601a77265636f7264739193a36961640506"),
    "digest-a-list": bytes.fromhex("82a17601a66469676573749101"),
    "array-of-four-billion": bytes.fromhex("82a17601a77265636f726473ddffffffff"),
    "map-of-four-billion": bytes.fromhex("dfffffffff"),
    "nested": b"\x91" * 2_000,
    "string-of-four-billion": bytes.fromhex("81dbffffffff76"),
    "not-utf-8": bytes.fromhex("82a17601a77265636f7264739195a2ff0105069090"),
    "extension": bytes.fromhex("82a17601a6646967657374c70400deadbeef"),
    "timestamp": bytes.fromhex("82a17601a6646967657374d6ff00000000"),
    "key-a-list": bytes.fromhex("82a176019100a17801"),
}


def check(payload: bytes) -> None:
    """A message is refused, or what it says can be written and read again."""
    try:
        message = decode(payload)
    except BusError:
        return
    assert decode(encode(message)) == message


@pytest.mark.parametrize("name", KEPT)
def test_a_kept_message_and_all_its_neighbours_are_read_or_refused(name: str) -> None:
    payload = KEPT[name]
    check(payload)
    for place in range(min(len(payload), 200)):
        for byte in (0, 0x7F, 0xC1, payload[place] ^ 1, payload[place] ^ 0x80):
            check(payload[:place] + bytes([byte]) + payload[place + 1 :])
            check(payload[:place] + bytes([byte]) + payload[place:])
        check(payload[:place])


numbers = st.integers(0, 4) | st.sampled_from([MAX_SEQUENCE, MAX_SEQUENCE + 1, 2**63 - 1])
epochs = st.integers(0, 3) | st.sampled_from(
    [NOW_S, NOW_S + MAX_EPOCH_AHEAD, NOW_S + MAX_EPOCH_AHEAD + 1, 2**63 - 1]
)
records = st.builds(
    Record,
    st.sampled_from([*FLEET, STRANGER]),
    epochs,
    numbers,
    st.lists(
        st.sampled_from(["iad/a>ams/a", "ams/a>iad/a", "sin/a>ams/a", "nobody"]).map(link), max_size=2
    ).map(tuple),
    st.just(()),
)


@dataclass
class Model:
    """The rules of docs/protocol.md section 8 with nothing but a dict."""

    newest: dict[PopName, Record] = field(default_factory=dict)

    def take(self, record: Record) -> bool:
        """Whether it is new here."""
        foreign = [state for state in record.links if not state.link.startswith(record.owner + "/")]
        ahead = record.epoch > NOW_S + MAX_EPOCH_AHEAD or record.sequence > MAX_SEQUENCE
        if record.owner not in (IAD, SIN) or foreign or ahead:
            return False
        before = self.newest.get(record.owner)
        if before is not None and (record.epoch, record.sequence) <= (before.epoch, before.sequence):
            return False
        self.newest[record.owner] = record
        return True


def story(told: list[Record]) -> None:
    """Play records to a store and to the model."""
    store, model = RecordStore(AMS, epoch=1), Model()
    now_ns = NOW_S * SECOND_NS
    assert store.write_own(now_ns, (link("ams/a>iad/a", 7),), ()) is not None
    for record in told:
        own = store.records[AMS]
        before = store.refused
        is_new = store.handle_record(now_ns, record, FLEET)
        assert is_new == model.take(record)
        assert not (is_new and store.refused > before)
        assert store.records[AMS] == own, "nobody else writes our record"
        assert {owner: of for owner, of in store.records.items() if owner != AMS} == model.newest
        # Told again, by another neighbour, it is not passed on again: else it would go round for ever.
        assert not store.handle_record(now_ns, record, FLEET)
    assert store.links()[LinkName("ams/a>iad/a")].label == 7, "nobody else speaks of our links"
    # Whatever was said in our name, the next record of our own is newer, and others can read it.
    after = store.write_own(now_ns + 10 * SECOND_NS, (link("ams/a>iad/a", 7),), ())
    assert after is not None
    assert decode(encode(Message((after,)))).records == (after,)
    said = [record.version for record in told if record.owner == AMS and is_sound(record, now_ns)]
    assert all(after.version > version for version in said)
    assert store.handle_time(now_ns + EXPIRY_NS + 1, FLEET) == bool(model.newest)
    assert set(store.records) == {AMS}


OURS = (link("ams/a>iad/a", 9),)


@given(st.lists(records, max_size=30))
@example([Record(AMS, NOW_S + MAX_EPOCH_AHEAD, MAX_SEQUENCE, (), ())])
@example([Record(AMS, 1, MAX_SEQUENCE + 1, (), ())])
@example([Record(IAD, 1, 1, OURS, ())])
@example([Record(SIN, 1, 1, OURS, ()), Record(SIN, 1, 2, (), ()), Record(SIN, 1, 1, (), ())])
@example([Record(STRANGER, 1, 1, (), ())])
@example([Record(IAD, NOW_S + MAX_EPOCH_AHEAD + 1, 1, (), ())])
def test_whatever_a_neighbour_tells_the_newest_of_each_owner_stands_and_our_own_is_ours(
    told: list[Record],
) -> None:
    story(told)
