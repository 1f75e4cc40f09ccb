//! Packets with an outer header at one PoP, under a tag that is right or not, against the rules of docs/protocol.md section 2 in so many
//! words. An input is `previous hop · what to do about the tag · the packet`.

use l4proxy_proto::forward::{ForwardTable, HopKeys, Outgoing, Verdict};
use l4proxy_wire::DropReason;
use l4proxy_wire::ids::{Label, LinkId, PopId};
use l4proxy_wire::keys::{Epoch, HopKey};

const OWN: u32 = 1;

/// Labels of this PoP, and where their links lead; with 5 there are no keys, from 4 none to send with.
const LABELS: [(u32, u32); 4] = [(0x0a, 2), (0x0b, 3), (0x0c, 4), (0x0d, 5)];

/// Previous hop, epoch and first byte of each key that is accepted. Those of 3 have one epoch.
const RECEIVE: [(u32, u8, u8); 4] = [(2, 5, 0x20), (3, 6, 0x30), (3, 6, 0x31), (4, 7, 0x40)];

/// Next hop, epoch and first byte of the keys to send with.
const SEND: [(u32, u8, u8); 2] = [(2, 9, 0x28), (3, 10, 0x38)];

fn key(first: u8) -> HopKey {
    HopKey::new(std::array::from_fn(|place| first ^ place as u8))
}

fn table() -> (ForwardTable, HopKeys) {
    let outgoing = |(label, next): (u32, u32)| {
        (Label(label), Outgoing { link: LinkId(0x100 + label), next: PopId(next) })
    };
    let table = ForwardTable::new(PopId(OWN), LABELS.map(outgoing)).expect("the labels are sound");
    let mut keys = HopKeys::new();
    for (peer, epoch, first) in RECEIVE {
        keys.add_receive(PopId(peer), key(first), Epoch::new(epoch));
        // It confirms the first key that is accepted; a second one waits to be confirmed, and is accepted, too.
        let send = SEND.into_iter().find(|send| send.0 == peer && keys.find_send(PopId(peer)).is_none());
        if let Some((_, epoch, first)) = send {
            keys.set_send(PopId(peer), key(first), Epoch::new(epoch), false);
        }
    }
    (table, keys)
}

/// Tag of the header of `packet`, which has `count` labels.
fn tag_of(packet: &[u8], count: usize, key: &HopKey) -> [u8; 8] {
    key.tag(&[&packet[..8], &packet[16..16 + 4 * count]])
}

/// What the rules say, and how the packet goes on.
fn model(packet: &[u8], previous: u32) -> (Verdict, Vec<u8>) {
    let mut sent = packet.to_vec();
    let verdict = rules(&mut sent, previous).unwrap_or_else(Verdict::Drop);
    (verdict, sent)
}

fn rules(packet: &mut [u8], previous: u32) -> Result<Verdict, DropReason> {
    if packet.len() < 16 {
        return Err(DropReason::OuterTruncated);
    }
    if packet[1] / 16 != 1 {
        return Err(DropReason::OuterVersion);
    }
    let (pointer, count) = (usize::from(packet[1] % 16), usize::from(packet[3] % 16));
    if count == 0 || count > 3 || pointer > count {
        return Err(DropReason::OuterLabels);
    }
    let inner = 16 + 4 * count;
    if packet.len() < inner + 1 {
        return Err(DropReason::OuterTruncated);
    }
    let epoch = packet[3] / 16;
    let known: Vec<_> = RECEIVE.iter().filter(|(peer, of, _)| (*peer, *of) == (previous, epoch)).collect();
    if known.is_empty() {
        return Err(DropReason::OuterNoKey);
    }
    if !known.iter().any(|(_, _, first)| tag_of(packet, count, &key(*first)) == packet[8..16]) {
        return Err(DropReason::OuterTag);
    }
    if matches!(packet[inner], 0x08 | 0x0b) {
        return Err(DropReason::OuterNested);
    }
    let word = |at: usize| u32::from_be_bytes(packet[at..at + 4].try_into().expect("four bytes"));
    let source = word(4);
    let labels: Vec<u32> = (0..count).map(|place| word(16 + 4 * place)).collect();
    let next_of = |label: u32| LABELS.iter().find(|(own, _)| *own == label).map(|(_, next)| *next);
    let is_elsewhere =
        labels.iter().enumerate().any(|(place, &label)| place != pointer && next_of(label).is_some());
    if source == OWN || is_elsewhere {
        return Err(DropReason::OuterLoop);
    }
    if pointer == count {
        return Ok(Verdict::Deliver { source: PopId(source), inner });
    }
    let next = next_of(labels[pointer]).ok_or(DropReason::OuterUnknownLabel)?;
    if [previous, source, OWN].contains(&next) {
        return Err(DropReason::OuterLoop);
    }
    let (_, epoch, first) = SEND.iter().find(|(peer, _, _)| *peer == next).ok_or(DropReason::OuterNoKey)?;
    packet[1] += 1;
    packet[3] = epoch << 4 | count as u8;
    let tag = tag_of(packet, count, &key(*first));
    packet[8..16].copy_from_slice(&tag);
    Ok(Verdict::Forward { link: LinkId(0x100 + labels[pointer]), next: PopId(next) })
}

/// One packet.
pub(crate) fn run(data: &[u8]) {
    let Some((&[previous, tagging], packet)) = data.split_first_chunk() else { return };
    let previous = 2 + u32::from(previous % 4);
    let mut packet = packet.to_vec();
    // The caller has looked at the type.
    if let Some(first) = packet.first_mut() {
        *first = 0x08;
    }
    let count = packet.get(3).map_or(0, |byte| usize::from(byte % 16));
    if tagging % 4 != 0 && (1..=3).contains(&count) && packet.len() >= 16 + 4 * count {
        // Nobody guesses 64 bits: what lies behind a right tag is only reached with the key.
        let keys: Vec<_> = RECEIVE.iter().filter(|(peer, _, _)| *peer == previous).collect();
        if let Some((_, epoch, first)) = keys.get(usize::from(tagging / 4) % keys.len().max(1)) {
            packet[3] = epoch << 4 | count as u8;
            let tag = tag_of(&packet, count, &key(*first));
            packet[8..16].copy_from_slice(&tag);
        }
    }
    let (table, keys) = table();
    let (expected, sent) = model(&packet, previous);
    let verdict = table.handle_outer(&mut packet, PopId(previous), &keys);
    assert_eq!(verdict, expected);
    assert_eq!(packet, sent, "only a packet that goes on is changed");
}
