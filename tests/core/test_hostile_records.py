"""Control messages of a PoP that is authentic and lies: any bytes and any records, in any order, against a model of the rules.

The messages in `KEPT` are tried each time, as they are and with a byte changed; hypothesis adds others.
"""

from dataclasses import dataclass, field

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from l4proxy.core.bus import (
    BusError,
    Delta,
    Heard,
    LinkChange,
    LinkState,
    Message,
    OriginState,
    Record,
    decode,
    encode,
)
from l4proxy.core.ids import AppName, LinkName, PopName
from l4proxy.core.records import EXPIRY_NS, MAX_EPOCH_AHEAD, MAX_SEQUENCE, RecordStore

AMS, IAD, SIN, STRANGER = (PopName(name) for name in ("ams", "iad", "sin", "nobody"))
FLEET = (AMS, IAD, SIN)
NOW_S = 1_700_000_000
SECOND_NS = 1_000_000_000


def link(name: str, label: int = 1) -> LinkState:
    """Return the state of a link that is well."""
    return LinkState(LinkName(name), True, 10.0, 9.0, 0.5, 0.0, label)


WHOLE = encode(
    Message(
        records=(Record(IAD, 5, 6, (link("iad/a>ams/a"),), (OriginState(AppName("game"), "o", True, 1.0),)),),
        digest={IAD: Heard(5, 6, 3, 0)},
    )
)
DELTA = encode(
    Message(
        deltas=(
            Delta(
                IAD,
                5,
                7,
                (LinkChange(0, True, 11.0, None, None, 0.001), LinkChange(1, False, label=77)),
                (link("iad/a>sin/a"),),
                (OriginState(AppName("game"), "o", False, 1.0),),
                (LinkName("iad/a>lhr/a"),),
                ((AppName("game"), "p"),),
            ),
        ),
        news={IAD: Heard(5, 7, 3, 12)},
        want={SIN: (0, 0)},
        follow=True,
    )
)
KEPT = {
    "whole": WHOLE,
    "cut": WHOLE[:-3],
    "delta": DELTA,
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
        if record.owner not in (IAD, SIN) or foreign or is_ahead(record):
            return False
        before = self.newest.get(record.owner)
        if (record.epoch, record.sequence) <= ((0, 0) if before is None else before.version):
            return False
        self.newest[record.owner] = record
        return True


def is_ahead(record: Record) -> bool:
    """Whether its numbers are none that an owner has come to."""
    return record.epoch > NOW_S + MAX_EPOCH_AHEAD or record.sequence > MAX_SEQUENCE


def write(store: RecordStore, now_ns: int) -> Record:
    """Let the store's PoP write its record."""
    change = store.change((link("ams/a>iad/a", 7),), ())
    if change is not None:
        store.write(now_ns, change)
    return store.records[AMS]


def story(told: list[Record]) -> None:
    """Play records to a store and to the model."""
    store, model = RecordStore(AMS, epoch=1), Model()
    now_ns = NOW_S * SECOND_NS
    write(store, now_ns)
    for owner in (IAD, SIN):
        store.handle_heard(now_ns, owner, Heard(0, 0, 1, 0), FLEET)
    for record in told:
        own = store.records[AMS]
        before = store.refused.total()
        is_new = store.handle_record(now_ns, record, FLEET)
        assert is_new == model.take(record)
        assert not (is_new and store.refused.total() > before)
        assert store.records[AMS] == own, "nobody else writes our record"
        assert {owner: of for owner, of in store.records.items() if owner != AMS} == model.newest
        # Told again, by another neighbour, it is not passed on again: else it would go round for ever.
        assert not store.handle_record(now_ns, record, FLEET)
    # Whatever was said in our name, the next record of our own is newer, and others can read it.
    after = write(store, now_ns + 10 * SECOND_NS)
    assert decode(encode(Message((after,)))).records == (after,)
    said = [record.version for record in told if record.owner == AMS and not is_ahead(record)]
    said = [r.version for r in told if r.owner == AMS and r.version in said and not foreign(r) and r != after]
    assert all(after.version > version for version in said)
    assert after.sequence <= MAX_SEQUENCE, "others must be able to take it"
    assert store.handle_time(now_ns + EXPIRY_NS + 1, FLEET) == bool(model.newest)
    assert set(store.records) == {AMS}


def foreign(record: Record) -> bool:
    """Whether it speaks of links of others."""
    return any(not state.link.startswith(record.owner + "/") for state in record.links)


OURS = (link("ams/a>iad/a", 9),)


@given(st.lists(records, max_size=30))
@example([Record(AMS, NOW_S + MAX_EPOCH_AHEAD, MAX_SEQUENCE, (), ())])
@example([Record(AMS, 1, MAX_SEQUENCE + 1, (), ())])
@example([Record(AMS, 1, 1, (), ())])
@example([Record(IAD, 1, 1, OURS, ())])
@example([Record(SIN, 1, 1, OURS, ()), Record(SIN, 1, 2, (), ()), Record(SIN, 1, 1, (), ())])
@example([Record(STRANGER, 1, 1, (), ())])
@example([Record(IAD, NOW_S + MAX_EPOCH_AHEAD + 1, 1, (), ())])
def test_whatever_a_neighbour_tells_the_newest_of_each_owner_stands_and_our_own_is_ours(
    told: list[Record],
) -> None:
    story(told)
