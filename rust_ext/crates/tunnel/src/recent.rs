//! Packets of the datagram channel that went out a moment ago, as they went out. When a path turns out to be dead, or may be, they go out
//! once more over another one: a datagram that comes a fifth of a second late is worth more to most than one that never comes, and
//! whoever has no use for it has to expect such ones from any network. The peer drops those that it has by their counters.
//!
//! Nothing acknowledges a datagram, so what counts is age: [`WINDOW`]. What QUIC carries is kept by `resend` until it is acknowledged.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// A path is suspect some 120 ms and half a round trip after it died, and what was on its way then is half a round trip older.
const WINDOW: Duration = Duration::from_millis(300);

/// Kept bytes of one connection: 7 Mbit/s, a hundred players or calls. Beyond that the oldest are forgotten sooner.
const MAX_BYTES: usize = 256 << 10;

/// Bytes that go out again at once: a slow link's queue of 25 packets takes them.
const BURST: usize = 32_000;

/// What is more is spread over this time.
const SPREAD: Duration = Duration::from_millis(50);

/// A packet's length, and when it was sealed.
#[derive(Debug, Clone, Copy)]
struct Kept {
    at: Instant,
    length: usize,
}

/// Packets one after the other, without an allocation for each.
#[derive(Debug, Default)]
struct Queue {
    packets: VecDeque<Kept>,
    bytes: VecDeque<u8>,
}

impl Queue {
    fn push(&mut self, at: Instant, packet: &[u8]) {
        self.packets.push_back(Kept { at, length: packet.len() });
        self.bytes.extend(packet);
    }

    fn forget_oldest(&mut self) {
        if let Some(kept) = self.packets.pop_front() {
            self.bytes.drain(..kept.length);
        }
    }

    /// Take the oldest packet out and write it into `buf`; when it was sealed.
    fn pop_into(&mut self, buf: &mut Vec<u8>) -> Option<Instant> {
        let kept = self.packets.pop_front()?;
        buf.extend(self.bytes.drain(..kept.length));
        Some(kept.at)
    }

    fn append(&mut self, later: &mut Self) {
        self.packets.append(&mut later.packets);
        self.bytes.append(&mut later.bytes);
    }
}

/// The latest channel packets of one connection.
#[derive(Debug, Default)]
pub(crate) struct Recent {
    kept: Queue,
    /// Those that are to go out again, older than all that are kept and have not gone out again.
    again: Queue,
    /// When the next of them may go.
    due: Option<Instant>,
    /// The time that a byte of them takes.
    pace: Duration,
}

impl Recent {
    /// A packet has been sealed and goes out.
    pub(crate) fn keep(&mut self, now: Instant, packet: &[u8]) {
        self.forget(now);
        while !self.kept.packets.is_empty() && self.kept.bytes.len() + packet.len() > MAX_BYTES {
            self.kept.forget_oldest();
        }
        self.kept.push(now, packet);
    }

    fn forget(&mut self, now: Instant) {
        while self.kept.packets.front().is_some_and(|kept| now.saturating_duration_since(kept.at) > WINDOW) {
            self.kept.forget_oldest();
        }
    }

    /// The path that they took has died, or may have.
    pub(crate) fn begin(&mut self, now: Instant) {
        self.forget(now);
        // What has gone out again already is older than what has not.
        let mut rest = std::mem::take(&mut self.again);
        self.again = std::mem::take(&mut self.kept);
        self.again.append(&mut rest);
        let nanos = SPREAD.as_nanos() / (self.again.bytes.len() as u128).max(BURST as u128);
        self.pace = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        let ahead = self.pace * (BURST as u32);
        self.due = (!self.again.packets.is_empty()).then(|| now.checked_sub(ahead).unwrap_or(now));
    }

    /// When the next one goes out again.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        self.due
    }

    /// Write the next one that goes out again into `buf`, which is empty; false: there is none, or not yet.
    pub(crate) fn poll(&mut self, now: Instant, buf: &mut Vec<u8>) -> bool {
        let Some(due) = self.due.filter(|due| *due <= now) else { return false };
        let Some(at) = self.again.pop_into(buf) else {
            self.due = None;
            return false;
        };
        // It stays for the next path, as old as it is.
        self.kept.push(at, buf);
        self.due = Some(due + self.pace * u32::try_from(buf.len()).unwrap_or(u32::MAX));
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[expect(clippy::disallowed_methods, reason = "any moment will do as the beginning of virtual time")]
    fn epoch() -> Instant {
        Instant::now()
    }

    fn ms(count: u64) -> Duration {
        Duration::from_millis(count)
    }

    /// The first bytes of all that goes out again until `until`.
    fn again(recent: &mut Recent, mut now: Instant, until: Instant) -> Vec<u8> {
        let mut firsts = Vec::new();
        loop {
            let mut buf = Vec::new();
            while recent.poll(now, &mut buf) {
                firsts.push(buf[0]);
                buf.clear();
            }
            match recent.poll_timeout() {
                Some(due) if due <= until => now = due,
                _ => return firsts,
            }
        }
    }

    #[test]
    fn what_went_out_a_moment_ago_goes_out_again_once_and_in_order() {
        let now = epoch();
        let mut recent = Recent::default();
        for number in 0..10 {
            recent.keep(now + ms(u64::from(number) * 50), &[number; 200]);
        }

        recent.begin(now + ms(450));

        assert_eq!(
            again(&mut recent, now + ms(450), now + ms(450)),
            [3, 4, 5, 6, 7, 8, 9],
            "150 ms and later"
        );
        assert_eq!(again(&mut recent, now + ms(450), now + ms(900)), [0; 0]);
        assert_eq!(recent.poll_timeout(), None);
    }

    #[test]
    fn the_next_path_may_die_as_well() {
        let now = epoch();
        let mut recent = Recent::default();
        for number in 0..4 {
            recent.keep(now, &[number; 100]);
        }
        recent.begin(now + ms(100));
        let mut buf = Vec::new();
        assert!(recent.poll(now + ms(100), &mut buf), "one of the four is gone");

        recent.begin(now + ms(150));

        assert_eq!(again(&mut recent, now + ms(150), now + ms(150)), [0, 1, 2, 3]);
        recent.begin(now + ms(301));
        assert_eq!(again(&mut recent, now + ms(301), now + ms(400)), [0; 0], "they are as old as they are");
    }

    #[test]
    fn nothing_is_kept_beyond_its_bound_and_the_newest_stay() {
        let now = epoch();
        let mut recent = Recent::default();
        for number in 0..=255 {
            recent.keep(now, &[number; 1_400]);
        }

        recent.begin(now);

        let found = again(&mut recent, now, now + SPREAD);
        assert_eq!(found.len(), MAX_BYTES / 1_400);
        assert_eq!(found.last(), Some(&255));
        assert!(recent.kept.bytes.len() <= MAX_BYTES);
    }

    #[test]
    fn a_short_queue_is_not_flooded_and_all_is_out_in_time() {
        let now = epoch();
        let mut recent = Recent::default();
        for _ in 0..150 {
            recent.keep(now, &[1; 1_400]);
        }

        recent.begin(now);

        let at_once = again(&mut recent, now, now).len() * 1_400;
        assert!((BURST..BURST + 2 * 1_400).contains(&at_once), "{at_once}");
        let rest = again(&mut recent, now, now + SPREAD).len() * 1_400;
        assert_eq!(at_once + rest, 150 * 1_400);
    }
}
