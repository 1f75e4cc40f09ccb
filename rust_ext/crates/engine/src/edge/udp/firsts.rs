//! First datagrams of UDP flows: copies that are kept until the egress PoP has answered, so that they can be sent again through another
//! one. A client that asks once, as of a name server, would otherwise pay for a PoP that died a moment ago. Keeps and counts; sends nothing.

use std::time::Instant;

use hashbrown::HashMap;
use l4proxy_proto::timers::Deadlines;
use l4proxy_wire::channel::Datagram;

/// Datagrams kept of one flow: what a client says before it waits for an answer.
const MAX_DATAGRAMS: usize = 8;

/// Bytes kept of one flow: those of a QUIC client's first flight, and to spare.
const MAX_BYTES: usize = 16 << 10;

/// Bytes kept of all flows of a worker.
const MAX_TOTAL: usize = 1 << 20;

/// What one flow has sent.
#[derive(Debug, Default)]
struct First {
    datagrams: Vec<(u8, Vec<u8>)>,
    bytes: usize,
}

/// First datagrams of the flows of one worker, by number of their sessions.
#[derive(Debug, Default)]
pub(super) struct Firsts {
    flows: HashMap<u32, First>,
    total: usize,
    /// Until when their egress PoPs may leave them without an answer.
    deadlines: Deadlines,
}

impl Firsts {
    /// Keep a copy until the answer comes, which is due at `deadline`. False: there is no room.
    pub(super) fn keep(&mut self, number: u32, datagram: Datagram<'_>, deadline: Instant) -> bool {
        let length = datagram.bytes.len();
        let (count, bytes) =
            self.flows.get(&number).map_or((0, 0), |first| (first.datagrams.len(), first.bytes));
        if count >= MAX_DATAGRAMS || bytes + length > MAX_BYTES || self.total + length > MAX_TOTAL {
            return false;
        }
        let first = self.flows.entry(number).or_default();
        first.datagrams.push((datagram.tos, datagram.bytes.to_vec()));
        first.bytes += length;
        self.total += length;
        self.deadlines.set(number, deadline);
        true
    }

    /// Take what was kept of a flow: mark and bytes of each, in order.
    pub(super) fn take(&mut self, number: u32) -> Vec<(u8, Vec<u8>)> {
        self.deadlines.remove(number);
        let Some(first) = self.flows.remove(&number) else { return Vec::new() };
        self.total -= first.bytes;
        first.datagrams
    }

    /// Its egress PoP has answered, or the flow is over.
    pub(super) fn forget(&mut self, number: u32) {
        if !self.flows.is_empty() {
            self.take(number);
        }
    }

    /// When [`Self::pop_due`] has something next.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.deadlines.next()
    }

    /// The next flow whose egress PoP has not answered in time; its datagrams are still kept.
    pub(super) fn pop_due(&mut self, now: Instant) -> Option<u32> {
        self.deadlines.pop_due(now)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn datagram(bytes: &[u8]) -> Datagram<'_> {
        Datagram { tos: 3, bytes }
    }

    #[test]
    fn what_is_kept_of_a_flow_and_of_all_is_bounded() {
        let now = Instant::now();
        let mut firsts = Firsts::default();
        for place in 0..MAX_DATAGRAMS {
            assert!(firsts.keep(1, datagram(&[place as u8]), now));
        }
        assert!(!firsts.keep(1, datagram(b"x"), now), "too many");
        assert!(firsts.keep(2, datagram(&[0; MAX_BYTES]), now));
        assert!(!firsts.keep(2, datagram(b"x"), now), "too long");
        let flows = (3u32..).find(|&number| !firsts.keep(number, datagram(&[0; MAX_BYTES]), now));
        assert_eq!(flows, Some(3 + (MAX_TOTAL / MAX_BYTES) as u32 - 2), "too much in all");

        firsts.forget(2);
        assert!(firsts.keep(9_999, datagram(&[0; MAX_BYTES]), now), "what is forgotten makes room");
        let taken: Vec<_> = firsts.take(1).into_iter().map(|(tos, bytes)| (tos, bytes[0])).collect();
        assert_eq!(taken, (0..MAX_DATAGRAMS as u8).map(|place| (3, place)).collect::<Vec<_>>());
        assert!(firsts.take(1).is_empty());
    }

    #[test]
    fn a_flow_is_due_once_and_keeps_its_datagrams() {
        let now = Instant::now();
        let mut firsts = Firsts::default();
        firsts.keep(1, datagram(b"one"), now + Duration::from_secs(1));
        firsts.keep(2, datagram(b"two"), now + Duration::from_secs(2));
        assert_eq!(firsts.pop_due(now), None);
        assert_eq!(firsts.poll_timeout(), Some(now + Duration::from_secs(1)));
        assert_eq!(firsts.pop_due(now + Duration::from_secs(1)), Some(1));
        assert_eq!(firsts.take(1).len(), 1);
        firsts.forget(2);
        assert_eq!(firsts.poll_timeout(), None);
    }
}
