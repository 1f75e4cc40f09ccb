//! Packets that were sent and not acknowledged, kept as they went out. When a path dies, what was on its way is sent again at once over
//! the next one, byte for byte: the receiver knows packets by their numbers and drops those that it has. Left to itself QUIC would wait
//! for a timer, send a probe, and learn from its answer what to send again: two round trips more.
//!
//! Which packets are unacknowledged, only the congestion controller is told, packet by packet; it writes that into a [`Ledger`].
//! Packets of the handshake are not kept: QUIC numbers them anew, and they have timers of their own.
//!
//! The library's own `handle_network_change` must not be called beside this: it retires the connection id that the kept packets bear, and
//! whoever gets one of them afterwards answers with a reset of the whole connection.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::congestion::{Measured, PathHint};

/// Bytes that are sent again at once. A slow link's queue of 25 packets takes them; the rest is paced.
const BURST: u64 = 32_000;

/// Paced bytes go out in pieces of about this size: fewer are more wake-ups, more are a burst.
const PIECE: usize = 13_500;

/// What is assumed of a connection that has not measured a rate: 10 Mbit/s.
const SLOWEST: u64 = 1_250_000;

/// The pace, in terms of the rate that the connection had: until acknowledgements of the new path come, nothing is known of it, and
/// what follows the lost packets waits for them.
const HASTE: u64 = 2;

/// What the congestion controller of one connection has been told since this was looked at last.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    /// Numbers of the packets that were written, in order, but for those that want no acknowledgement.
    pub(crate) sent: Vec<u64>,
    /// Numbers of packets that were acknowledged, or given up: then their content is sent again under other numbers.
    pub(crate) settled: Vec<u64>,
    /// The last packet that was sent before the path died or was left: what becomes of those up to it says nothing of the path that is used now.
    pub(crate) last_before: Option<u64>,
    /// Packets take another path, of which this is known; the controller has not heard of it yet.
    pub(crate) path_change: Option<PathHint>,
    /// The path that was left delivers what is on its way on it.
    pub(crate) is_planned: bool,
    /// What the controller has measured last.
    pub(crate) measured: Option<Measured>,
    /// QUIC had nothing more that it might send when the newest acknowledgement came.
    pub(crate) is_dry: bool,
    /// How many packets should share a repair, says the controller; `None`: the path is not worth any.
    pub(crate) repair_covers: Option<usize>,
}

/// The ledger of one connection. Only one thread ever has both ends.
#[derive(Debug, Default, Clone)]
pub(crate) struct SharedLedger(Arc<Mutex<Ledger>>);

impl SharedLedger {
    pub(crate) fn lock(&self) -> MutexGuard<'_, Ledger> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A packet, or several that were written together and whose numbers are not known one by one.
#[derive(Debug)]
struct Kept {
    /// The last number.
    number: u64,
    /// Empty: settled.
    bytes: Box<[u8]>,
    segment_size: usize,
}

/// What is being sent again.
#[derive(Debug)]
struct Round {
    /// The first and the last number that are still to go.
    next: u64,
    last: u64,
    /// When the next piece may go.
    due: Instant,
    bytes_per_second: u64,
}

/// The unacknowledged packets of one connection.
#[derive(Debug)]
pub(crate) struct Resend {
    ledger: SharedLedger,
    /// By number, oldest first.
    kept: VecDeque<Kept>,
    bytes: usize,
    max_bytes: usize,
    round: Option<Round>,
}

/// What [`Resend::poll`] has to say.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Again {
    /// It wrote packets of this size each, the last one perhaps shorter.
    Packets { segment_size: usize },
    /// Not yet.
    Later,
    /// There is nothing to send again, or nothing more.
    Nothing,
}

impl Resend {
    pub(crate) fn new(ledger: SharedLedger, max_bytes: usize) -> Self {
        Self { ledger, kept: VecDeque::new(), bytes: 0, max_bytes, round: None }
    }

    /// QUIC has written these packets, each of `segment_size` bytes but the last; keep those that want an acknowledgement. False: there
    /// is no room, and a timer will have to do for them.
    pub(crate) fn keep(&mut self, packets: &[u8], segment_size: usize) -> bool {
        let newest = self.kept.back().map(|kept| kept.number);
        let numbers = std::mem::take(&mut self.ledger.lock().sent);
        let is_new = |number: &u64| newest.is_none_or(|newest| *number > newest);
        let has_room = self.bytes + packets.len() <= self.max_bytes;
        if numbers.first().is_some_and(is_new) && has_room {
            if numbers.len() == packets.chunks(segment_size).count() {
                for (number, packet) in numbers.iter().zip(packets.chunks(segment_size)) {
                    self.push(*number, packet, segment_size);
                }
            } else if let Some(&last) = numbers.last() {
                self.push(last, packets, segment_size);
            }
        }
        // The vector goes back, so that it is not allocated for every packet.
        let mut numbers = numbers;
        numbers.clear();
        self.ledger.lock().sent = numbers;
        has_room
    }

    fn push(&mut self, number: u64, bytes: &[u8], segment_size: usize) {
        self.bytes += bytes.len();
        self.kept.push_back(Kept { number, bytes: bytes.into(), segment_size });
    }

    /// Bytes that are on their way.
    pub(crate) fn unacknowledged(&self) -> usize {
        self.bytes
    }

    /// Forget what was written before there was anything to keep.
    pub(crate) fn skip(&mut self) {
        let mut ledger = self.ledger.lock();
        ledger.sent.clear();
        ledger.settled.clear();
    }

    /// Forget what has been acknowledged.
    pub(crate) fn settle(&mut self) {
        let mut ledger = self.ledger.lock();
        for number in ledger.settled.drain(..) {
            if let Ok(place) = self.kept.binary_search_by_key(&number, |kept| kept.number) {
                let bytes = std::mem::take(&mut self.kept[place].bytes);
                self.bytes -= bytes.len();
            }
        }
        drop(ledger);
        while self.kept.front().is_some_and(|kept| kept.bytes.is_empty()) {
            self.kept.pop_front();
        }
    }

    /// What was on its way is lost: it goes out again, at a pace that follows from the rate that the connection had.
    pub(crate) fn begin(&mut self, now: Instant, bytes_per_second: Option<u64>) {
        self.settle();
        let (Some(first), Some(last)) = (self.kept.front(), self.kept.back()) else { return };
        self.ledger.lock().last_before = Some(last.number);
        let bytes_per_second = bytes_per_second.unwrap_or(SLOWEST).max(SLOWEST) * HASTE;
        let due = ahead(now, bytes_per_second);
        self.round = Some(Round { next: first.number, last: last.number, due, bytes_per_second });
    }

    /// Packets take another path from now on; the controller hears of it before the next one is sent.
    pub(crate) fn tell_path(&mut self, hint: PathHint, is_planned: bool) {
        self.settle();
        let mut ledger = self.ledger.lock();
        (ledger.path_change, ledger.is_planned) = (Some(hint), is_planned);
        if let Some(last) = self.kept.back() {
            ledger.last_before = Some(last.number);
        }
    }

    /// What the path has carried since this was last asked.
    pub(crate) fn take_measured(&mut self) -> Option<Measured> {
        self.ledger.lock().measured.take()
    }

    /// Whether QUIC had nothing more that it might send when the newest acknowledgement came.
    pub(crate) fn is_dry(&self) -> bool {
        self.ledger.lock().is_dry
    }

    /// How many packets should share a repair; `None`: there should be none.
    pub(crate) fn repair_covers(&self) -> Option<usize> {
        self.ledger.lock().repair_covers
    }

    /// When the next packets are to go out again.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        self.round.as_ref().map(|round| round.due)
    }

    /// Write the next packets that go out again into `buf`, which is empty, at most `max_datagrams`.
    pub(crate) fn poll(&mut self, now: Instant, buf: &mut Vec<u8>, max_datagrams: usize) -> Again {
        let Some(round) = &mut self.round else { return Again::Nothing };
        if now < round.due {
            return Again::Later;
        }
        let mut place = self.kept.partition_point(|kept| kept.number < round.next);
        let mut segment_size = 0;
        while let Some(kept) = self.kept.get(place).filter(|kept| kept.number <= round.last) {
            if !kept.bytes.is_empty() {
                let count = kept.bytes.len().div_ceil(kept.segment_size);
                // Only the last packet of a batch may be shorter than the others.
                let is_even = buf.is_empty()
                    || (kept.segment_size == segment_size && buf.len().is_multiple_of(segment_size));
                let fits = buf.is_empty() || buf.len() / segment_size + count <= max_datagrams;
                if !is_even || !fits || buf.len() >= PIECE {
                    break;
                }
                segment_size = kept.segment_size;
                buf.extend_from_slice(&kept.bytes);
            }
            round.next = kept.number + 1;
            place += 1;
        }
        if buf.is_empty() {
            self.round = None;
            return Again::Nothing;
        }
        let earliest = ahead(now, round.bytes_per_second);
        round.due = round.due.max(earliest) + time_of(buf.len() as u64, round.bytes_per_second);
        Again::Packets { segment_size }
    }
}

/// When a piece that goes now would have been due at the earliest: so much may be ahead of the pace.
fn ahead(now: Instant, bytes_per_second: u64) -> Instant {
    now.checked_sub(time_of(BURST, bytes_per_second)).unwrap_or(now)
}

fn time_of(bytes: u64, bytes_per_second: u64) -> Duration {
    Duration::from_secs_f64(bytes as f64 / bytes_per_second as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: usize = 1_350;

    #[expect(clippy::disallowed_methods, reason = "any moment will do as the beginning of virtual time")]
    fn epoch() -> Instant {
        Instant::now()
    }

    fn resend(max_bytes: usize) -> (Resend, SharedLedger) {
        let ledger = SharedLedger::default();
        (Resend::new(ledger.clone(), max_bytes), ledger)
    }

    /// Packets of these numbers are written, each full of its number.
    fn write(resend: &mut Resend, ledger: &SharedLedger, numbers: std::ops::Range<u64>) -> bool {
        ledger.lock().sent.extend(numbers.clone());
        let bytes: Vec<u8> = numbers.flat_map(|number| [number as u8; SIZE]).collect();
        resend.keep(&bytes, SIZE)
    }

    /// The numbers of what goes out again until `until`, polled as often as it wants to be.
    fn again(resend: &mut Resend, mut now: Instant, until: Instant) -> Vec<u8> {
        let mut numbers = Vec::new();
        loop {
            let mut buf = Vec::new();
            match resend.poll(now, &mut buf, 40) {
                Again::Packets { segment_size } => {
                    assert!(buf.len() <= PIECE + SIZE);
                    numbers.extend(buf.chunks(segment_size).map(|packet| packet[0]));
                }
                Again::Later => {
                    now = resend.poll_timeout().unwrap();
                    if now > until {
                        return numbers;
                    }
                }
                Again::Nothing => return numbers,
            }
        }
    }

    #[test]
    fn exactly_what_is_unacknowledged_goes_out_again_once_and_in_order() {
        let (mut resend, ledger) = resend(1 << 20);
        assert!(write(&mut resend, &ledger, 0..100));
        ledger.lock().settled.extend((0..100).filter(|number| number % 3 != 0));
        let now = epoch();
        resend.begin(now, Some(1_000_000_000));
        let expected: Vec<u8> = (0..100).filter(|number| number % 3 == 0).collect();
        assert_eq!(again(&mut resend, now, now + Duration::from_secs(1)), expected);
        assert_eq!(resend.poll(now, &mut Vec::new(), 40), Again::Nothing);
        assert_eq!(resend.poll_timeout(), None);
        // They are kept: the next path may die, too.
        resend.begin(now, None);
        assert_eq!(again(&mut resend, now, now + Duration::from_secs(1)), expected);
    }

    #[test]
    fn what_is_acknowledged_meanwhile_or_written_later_is_not_sent_again() {
        let (mut resend, ledger) = resend(1 << 20);
        write(&mut resend, &ledger, 0..100);
        let now = epoch();
        resend.begin(now, None);
        write(&mut resend, &ledger, 100..110);
        let first = again(&mut resend, now, now);
        assert_eq!(first, (0..first.len() as u8).collect::<Vec<_>>());
        assert!(
            (BURST as usize..BURST as usize + 2 * PIECE).contains(&(first.len() * SIZE)),
            "{}",
            first.len()
        );
        ledger.lock().settled.extend(0..90);
        resend.settle();
        let rest = again(&mut resend, now, now + Duration::from_secs(1));
        assert_eq!(rest, (90..100).collect::<Vec<_>>());
    }

    #[test]
    fn it_keeps_the_pace() {
        let (mut resend, ledger) = resend(1 << 20);
        write(&mut resend, &ledger, 0..250);
        let now = epoch();
        resend.begin(now, Some(5_000_000));
        let sent = again(&mut resend, now, now + Duration::from_millis(10)).len() * SIZE;
        // Twice the rate for 10 ms, and the burst.
        let most = 100_000 + BURST as usize + PIECE + SIZE;
        assert!((100_000..=most).contains(&sent), "{sent}");
    }

    #[test]
    fn nothing_is_kept_beyond_its_bound_and_room_comes_back() {
        let (mut resend, ledger) = resend(10 * SIZE);
        assert!(write(&mut resend, &ledger, 0..10));
        assert!(!write(&mut resend, &ledger, 10..11));
        ledger.lock().settled.extend(0..5);
        resend.settle();
        assert!(write(&mut resend, &ledger, 11..16));
        let now = epoch();
        resend.begin(now, Some(1_000_000_000));
        assert_eq!(
            again(&mut resend, now, now),
            [5, 6, 7, 8, 9, 11, 12, 13, 14, 15],
            "number 10 is left to a timer"
        );
    }

    #[test]
    fn packets_whose_numbers_are_not_known_one_by_one_are_kept_together() {
        let (mut resend, ledger) = resend(1 << 20);
        // Three packets, of which one only acknowledges.
        ledger.lock().sent.extend([1, 2]);
        assert!(resend.keep(&[[1; SIZE], [2; SIZE], [3; SIZE]].concat(), SIZE));
        ledger.lock().settled.push(1);
        let now = epoch();
        resend.begin(now, Some(1_000_000_000));
        assert_eq!(again(&mut resend, now, now), [1, 2, 3]);
        ledger.lock().settled.push(2);
        resend.begin(now, Some(1_000_000_000));
        assert_eq!(again(&mut resend, now, now), [0; 0]);
    }

    #[test]
    fn a_packet_that_wants_no_acknowledgement_is_not_kept_and_numbers_never_go_back() {
        let (mut resend, ledger) = resend(1 << 20);
        assert!(resend.keep(&[7; 40], 40));
        write(&mut resend, &ledger, 5..7);
        // A packet of the handshake, which has numbers of its own.
        write(&mut resend, &ledger, 0..1);
        let now = epoch();
        resend.begin(now, Some(1_000_000_000));
        assert_eq!(again(&mut resend, now, now), [5, 6]);
    }
}
