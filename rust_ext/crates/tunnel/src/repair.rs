//! Repairs of lost packets without a round trip. On a path that loses a packet now and then, QUIC packets are followed by the exclusive
//! or of the last few dozen of them; whoever has all but one of these makes the missing one of it. A stream that waits for a lost
//! packet then waits for milliseconds, where QUIC's own retransmission takes a round trip and what is behind it stands still meanwhile.
//!
//! [`Repairer`] is the sender's half, [`Heard`] the receiver's; both are per peer or connection, bounded, and know nothing of time but
//! what they are told. Whether a path is worth it, the congestion controller decides: it is the one that sees losses. QUIC is not told:
//! it takes a packet that was made for one that came late.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use l4proxy_wire::repair::{FINGERPRINT_LENGTH, MAX_COVERED, Repair};

use crate::options::MAX_PACKET;

/// Packets of a peer that are kept: those of a repair and as many as may come in between, out of order or of other connections.
const KEPT: usize = 4 * MAX_COVERED;

/// They are not kept for a peer that has sent no repair for so long.
const KEPT_FOR: Duration = Duration::from_secs(600);

/// The shortest packet that QUIC reads: its header has 1 byte and a connection id of 8, then come 4 and the 16 that are sampled
/// (RFC 9001, section 5.4.2), less those of the packet number.
const SHORTEST: usize = 21;

/// Packets that nothing follows are repaired after this much or an eighth of a round trip, whichever is more: much less than it would
/// take to send one again, and long enough for more packets to come.
const SHORTEST_WAIT: Duration = Duration::from_millis(10);

/// Each packet earns so many, and a repair costs as many as it should cover. So a flow that sends little has few repairs, and those go
/// to what came at the end of a burst.
const EARNED: usize = 2;

/// What may be saved up, in repairs.
const MAX_SAVED: usize = 4;

/// The packets since the last repair.
#[derive(Debug, Default)]
pub(crate) struct Repairer {
    fingerprints: Vec<u8>,
    lengths: u16,
    bytes: Vec<u8>,
    /// When the first of them has waited long enough.
    due: Option<Instant>,
    saved: usize,
    /// Packets that a repair should cover, as was said last.
    covers: usize,
}

impl Repairer {
    /// A packet goes out. `covers`: so many packets should share a repair. True: that is the last of them, [`Self::take`] the repair.
    pub(crate) fn add(&mut self, now: Instant, rtt: Duration, packet: &[u8], covers: usize) -> bool {
        let Some(fingerprint) = packet.last_chunk::<FINGERPRINT_LENGTH>().filter(|_| is_coverable(packet))
        else {
            return false;
        };
        self.covers = covers.clamp(1, MAX_COVERED);
        self.saved = (self.saved + EARNED).min(MAX_SAVED * self.covers);
        self.fingerprints.extend_from_slice(fingerprint);
        self.lengths ^= packet.len() as u16;
        if self.bytes.len() < packet.len() {
            self.bytes.resize(packet.len(), 0);
        }
        mix(&mut self.bytes, packet);
        let due = *self.due.get_or_insert(now + (rtt / 8).max(SHORTEST_WAIT));
        self.count() >= self.covers || (due <= now && self.has_saved())
    }

    fn count(&self) -> usize {
        self.fingerprints.len() / FINGERPRINT_LENGTH
    }

    fn has_saved(&self) -> bool {
        self.saved >= self.covers
    }

    /// When the packets so far should be repaired although others may follow.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        self.due.filter(|_| self.has_saved())
    }

    /// Writes the repair of the packets so far, if there are any, and begins anew.
    pub(crate) fn take(&mut self, write: impl FnOnce(Repair<'_>)) {
        if !self.fingerprints.is_empty() {
            self.saved = self.saved.saturating_sub(self.covers);
            write(Repair { fingerprints: &self.fingerprints, lengths: self.lengths, bytes: &self.bytes });
        }
        self.clear();
    }

    /// What has gone out so far gets no repair.
    pub(crate) fn clear(&mut self) {
        self.fingerprints.clear();
        self.bytes.clear();
        (self.lengths, self.due) = (0, None);
    }
}

/// A peer's newest packets, as they came.
#[derive(Debug)]
pub(crate) struct Heard {
    /// Oldest first.
    packets: VecDeque<([u8; FINGERPRINT_LENGTH], Vec<u8>)>,
    /// When the last repair came.
    used_at: Instant,
}

/// What a repair gives.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Repaired {
    /// Nothing was missing.
    Unneeded,
    /// The packet that was.
    Packet(Vec<u8>),
    /// More than one is missing.
    TooFew,
    /// It gives no packet that it may.
    Invalid,
}

impl Heard {
    pub(crate) fn new(now: Instant) -> Self {
        Self { packets: VecDeque::new(), used_at: now }
    }

    /// Keeps a packet as it came. False: there has been no repair for so long that nothing needs to be kept.
    pub(crate) fn keep(&mut self, now: Instant, packet: &[u8]) -> bool {
        if let Some(fingerprint) = packet.last_chunk().filter(|_| is_coverable(packet)) {
            let oldest = if self.packets.len() < KEPT { None } else { self.packets.pop_front() };
            let mut place = oldest.map_or_else(|| Vec::with_capacity(MAX_PACKET), |(_, bytes)| bytes);
            place.clear();
            place.extend_from_slice(packet);
            self.packets.push_back((*fingerprint, place));
        }
        now.saturating_duration_since(self.used_at) < KEPT_FOR
    }

    /// Makes the packet that is missing of those that a repair covers.
    pub(crate) fn repair(&mut self, now: Instant, repair: Repair<'_>) -> Repaired {
        self.used_at = now;
        let mut missing = 0;
        let mut places = [0; MAX_COVERED];
        let mut found = 0;
        for fingerprint in repair.fingerprints.chunks_exact(FINGERPRINT_LENGTH) {
            match self.packets.iter().rposition(|(known, _)| known == fingerprint) {
                Some(place) if found < MAX_COVERED => {
                    places[found] = place;
                    found += 1;
                }
                Some(_) | None => missing += 1,
            }
        }
        if missing != 1 {
            return if missing == 0 { Repaired::Unneeded } else { Repaired::TooFew };
        }
        let (mut bytes, mut length) = (repair.bytes.to_vec(), usize::from(repair.lengths));
        for place in &places[..found] {
            let (_, packet) = &self.packets[*place];
            length ^= packet.len();
            mix(&mut bytes, packet);
        }
        bytes.truncate(length);
        if bytes.len() == length && is_coverable(&bytes) {
            Repaired::Packet(bytes)
        } else {
            Repaired::Invalid
        }
    }
}

/// Packets of a connection that stands, in one of the two shapes that QUIC has: only these are repaired.
fn is_coverable(packet: &[u8]) -> bool {
    const LONG_AND_FIXED: u8 = 0xc0;
    const SHORT_HEADER: u8 = 0x40;
    (SHORTEST..=MAX_PACKET).contains(&packet.len())
        && packet.first().is_some_and(|first| first & LONG_AND_FIXED == SHORT_HEADER)
}

/// The exclusive or of both, as far as the shorter goes, into the first.
fn mix(into: &mut [u8], bytes: &[u8]) {
    for (into, byte) in into.iter_mut().zip(bytes) {
        *into ^= byte;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const RTT: Duration = Duration::from_millis(160);

    #[expect(clippy::disallowed_methods, reason = "any moment will do as the beginning of virtual time")]
    fn epoch() -> Instant {
        Instant::now()
    }

    fn packet(number: u32, length: usize) -> Vec<u8> {
        let mut packet = vec![0x40; length];
        let mut state = u64::from(number).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        for byte in &mut packet[1..] {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            *byte = state as u8;
        }
        packet
    }

    /// The repair of these packets, as its parts.
    fn repair_of(packets: &[Vec<u8>]) -> (Vec<u8>, u16, Vec<u8>) {
        let (start, mut repairer) = (epoch(), Repairer::default());
        for (number, packet) in packets.iter().enumerate() {
            assert_eq!(repairer.add(start, RTT, packet, packets.len()), number + 1 == packets.len());
        }
        let mut parts = None;
        repairer.take(|repair| {
            parts = Some((repair.fingerprints.to_vec(), repair.lengths, repair.bytes.to_vec()));
        });
        parts.unwrap()
    }

    fn repaired(kept: &[&Vec<u8>], (fingerprints, lengths, bytes): &(Vec<u8>, u16, Vec<u8>)) -> Repaired {
        let mut heard = Heard::new(epoch());
        for packet in kept {
            heard.keep(epoch(), packet);
        }
        heard.repair(epoch(), Repair { fingerprints, lengths: *lengths, bytes })
    }

    proptest! {
        #[test]
        fn any_one_packet_of_a_repair_can_be_made_of_the_others(
            lengths in prop::collection::vec(SHORTEST..=MAX_PACKET, 1..=MAX_COVERED), lost: prop::sample::Index, seed: u32,
        ) {
            let packets: Vec<_> =
                lengths.iter().enumerate().map(|(number, length)| packet(seed ^ number as u32, *length)).collect();
            let lost = lost.index(packets.len());
            let names: std::collections::BTreeSet<_> = packets.iter().map(|packet| packet[packet.len() - 2..].to_vec()).collect();
            prop_assume!(names.len() == packets.len());
            let repair = repair_of(&packets);
            // Whatever the order in which they came.
            let kept: Vec<_> = packets.iter().enumerate().filter(|(number, _)| *number != lost).map(|(_, packet)| packet).rev().collect();
            prop_assert_eq!(repaired(&kept, &repair), Repaired::Packet(packets[lost].clone()));
            prop_assert_eq!(repaired(&packets.iter().collect::<Vec<_>>(), &repair), Repaired::Unneeded);
        }
    }

    #[test]
    fn two_that_are_missing_cannot_be_made() {
        let packets: Vec<_> = (1..9).map(|number| packet(number, 1350)).collect();
        let kept: Vec<_> = packets[2..].iter().collect();
        assert_eq!(repaired(&kept, &repair_of(&packets)), Repaired::TooFew);
    }

    #[test]
    fn what_is_made_is_a_short_header_packet_or_nothing() {
        let packets: Vec<_> = (1..9).map(|number| packet(number, 1350)).collect();
        let kept: Vec<_> = packets[1..].iter().collect();
        let (fingerprints, lengths, bytes) = repair_of(&packets);
        let mut long_header = bytes.clone();
        long_header[0] ^= 0x80;
        assert_eq!(repaired(&kept, &(fingerprints.clone(), lengths, long_header)), Repaired::Invalid);
        // Longer than the bytes that are there, longer than any packet, shorter than any.
        for wrong in [lengths ^ 1351 ^ 1350, u16::MAX, lengths ^ 1350] {
            assert_eq!(repaired(&kept, &(fingerprints.clone(), wrong, bytes.clone())), Repaired::Invalid);
        }
    }

    #[test]
    fn what_is_kept_is_bounded_and_ends_when_no_repairs_come() {
        let start = epoch();
        let mut heard = Heard::new(start);
        let packets: Vec<_> = (0..2000).map(|number| packet(number, 1350)).collect();
        for packet in &packets {
            assert!(heard.keep(start, packet));
        }
        assert_eq!(heard.packets.len(), KEPT);
        let (fingerprints, lengths, bytes) = repair_of(&packets[..8]);
        let repair = Repair { fingerprints: &fingerprints, lengths, bytes: &bytes };
        assert_eq!(heard.repair(start, repair), Repaired::TooFew, "they have made room for newer ones");
        assert!(!heard.keep(start + KEPT_FOR, &packets[0]));
        assert_eq!(heard.repair(start + KEPT_FOR, repair), Repaired::TooFew);
        assert!(heard.keep(start + KEPT_FOR, &packets[0]), "it is in use again");
    }

    #[test]
    fn the_end_of_a_burst_is_repaired_as_far_as_repairs_were_earned() {
        let (start, covers) = (epoch(), 64);
        let mut repairer = Repairer::default();
        let mut repairs = 0;
        // A message a second: each would be a repair of its own.
        for number in 0..640_u32 {
            let now = start + Duration::from_secs(number.into());
            if repairer.add(now, RTT, &packet(number, 200), covers)
                || repairer.poll_timeout().is_some_and(|due| due <= now + RTT)
            {
                repairer.take(|_| repairs += 1);
            }
        }
        assert_eq!(repairs, 640 * EARNED / covers);
        for number in 0..100 {
            if repairer.add(start, RTT, &packet(number, 1350), covers) {
                repairer.take(|_| ());
            }
        }
        assert_eq!(repairer.count(), 36);
        assert_eq!(repairer.poll_timeout(), Some(start + RTT / 8));
    }

    #[test]
    fn packets_of_the_handshake_have_no_part_in_it() {
        let mut repairer = Repairer::default();
        let mut initial = packet(1, 1200);
        initial[0] = 0xc3;
        assert!(!repairer.add(epoch(), RTT, &initial, 1));
        assert!(!repairer.add(epoch(), RTT, &packet(1, SHORTEST - 1), 1));
        repairer.take(|_| panic!("there is nothing to repair"));
    }
}
