//! The first packets of a connection that is dialled, and what is said in answer to the peer's until its `HELLO` is there. While nothing
//! comes back they go out again, byte for byte, every [`REPEAT_EVERY`]: QUIC's own timer doubles with each packet that is lost, and what it
//! waits out is often a PoP that was started a moment ago, or the time until a dead path is left. Whoever has the first copy knows the others
//! by their numbers.
//!
//! Only the dialling side: a listener may send no more than three times what it got from an address that it does not know.

use std::time::{Duration, Instant};

/// Some 30 packets in the time that a handshake may take. A round trip that is longer costs a copy or two.
pub(crate) const REPEAT_EVERY: Duration = Duration::from_millis(300);

/// A first flight is one packet, or two with a long certificate chain to come.
const MAX_PACKETS: usize = 4;

/// What a connection has sent since it last heard anything, in its handshake.
#[derive(Debug, Default)]
pub(crate) struct Flight {
    packets: Vec<Box<[u8]>>,
    /// The next to go out again.
    next: Option<usize>,
    due: Option<Instant>,
    /// Something has come since it was written: what is written next takes its place.
    is_answered: bool,
}

impl Flight {
    /// QUIC has written these packets, each of `segment_size` bytes but the last.
    pub(crate) fn keep(&mut self, now: Instant, packets: &[u8], segment_size: usize) {
        if std::mem::take(&mut self.is_answered) {
            *self = Self::default();
        }
        for packet in packets.chunks(segment_size.max(1)) {
            if self.packets.len() < MAX_PACKETS {
                self.packets.push(packet.into());
            }
        }
        self.due.get_or_insert(now + REPEAT_EVERY);
    }

    /// Something has come.
    pub(crate) fn answered(&mut self) {
        self.is_answered = true;
    }

    /// The handshake is over: QUIC's timers know what is needed from here on.
    pub(crate) fn end(&mut self) {
        *self = Self::default();
    }

    /// When [`Self::handle_timeout`] is due.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        self.due
    }

    /// Begin to send it again if it is time.
    pub(crate) fn handle_timeout(&mut self, now: Instant) -> bool {
        let is_due = self.due.is_some_and(|due| due <= now);
        if is_due {
            self.due = Some(now + REPEAT_EVERY);
            self.next = Some(0);
        }
        is_due
    }

    /// Write the next packet that goes out again into `buf`, which is empty; false: there is none.
    pub(crate) fn poll(&mut self, buf: &mut Vec<u8>) -> bool {
        let packet = self.next.and_then(|next| self.packets.get(next));
        self.next = self.next.filter(|_| packet.is_some()).map(|next| next + 1);
        packet.inspect(|packet| buf.extend_from_slice(packet)).is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[expect(clippy::disallowed_methods, reason = "virtual time has to begin somewhere")]
    fn start() -> Instant {
        Instant::now()
    }

    fn all(flight: &mut Flight) -> Vec<Vec<u8>> {
        let mut found = Vec::new();
        let mut buf = Vec::new();
        while flight.poll(&mut buf) {
            found.push(std::mem::take(&mut buf));
        }
        found
    }

    #[test]
    fn it_goes_out_again_whenever_it_is_due_and_is_bounded() {
        let now = start();
        let mut flight = Flight::default();
        assert_eq!(flight.poll_timeout(), None);
        flight.keep(now, &[1, 1, 2, 2, 3], 2);
        assert!(all(&mut flight).is_empty(), "not before its time");
        for round in 1..4 {
            let due = now + REPEAT_EVERY * round;
            assert_eq!(flight.poll_timeout(), Some(due));
            assert!(!flight.handle_timeout(due - Duration::from_millis(1)));
            assert!(flight.handle_timeout(due));
            assert_eq!(all(&mut flight), [vec![1, 1], vec![2, 2], vec![3]]);
        }
        flight.keep(now, &[9; 10], 1);
        flight.handle_timeout(now + REPEAT_EVERY * 4);
        assert_eq!(all(&mut flight).len(), MAX_PACKETS);
        flight.answered();
        assert!(flight.handle_timeout(now + REPEAT_EVERY * 5), "until there is something else to say");
        flight.keep(now, &[7], 1);
        flight.handle_timeout(now + REPEAT_EVERY);
        assert_eq!(all(&mut flight), [vec![7]]);
        flight.end();
        assert_eq!((flight.poll_timeout(), all(&mut flight).len()), (None, 0));
    }
}
