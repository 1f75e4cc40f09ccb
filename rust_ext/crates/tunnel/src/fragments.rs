//! Frames that are larger than a packet: cut into fragments, and put together again in a bounded table.
//!
//! A frame is delivered when all its fragments have come, in any order. It does not ask for what is missing: a datagram
//! that lost a part is lost, as it would be in IP.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use l4proxy_wire::channel::{Fragment, MAX_FRAGMENTS};

use crate::error::DropReason;

/// Incomplete frames that one connection may keep; together at most 16 × 64 fragments, 1.4 MB.
pub const MAX_INCOMPLETE: usize = 16;

/// An incomplete frame is given up after this long: longer than two paths differ, shorter than a game waits.
const TIMEOUT: Duration = Duration::from_secs(1);

/// The incomplete frames of one connection, oldest first.
#[derive(Debug, Default)]
pub struct Reassembly {
    incomplete: VecDeque<Incomplete>,
}

#[derive(Debug)]
struct Incomplete {
    id: u32,
    expires: Instant,
    missing: u32,
    parts: Vec<Option<Box<[u8]>>>,
}

/// What became of a fragment.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Others are still missing.
    Kept,
    /// The last one: here is the frame.
    Complete(Vec<u8>),
    /// Not used.
    Dropped(DropReason),
}

impl Reassembly {
    /// Takes a fragment. `count_drop` is told of every incomplete frame that is given up on this occasion.
    pub fn handle_fragment(
        &mut self,
        now: Instant,
        fragment: Fragment<'_>,
        mut count_drop: impl FnMut(DropReason),
    ) -> Outcome {
        while self.incomplete.front().is_some_and(|oldest| oldest.expires <= now) {
            self.incomplete.pop_front();
            count_drop(DropReason::FragmentExpired);
        }
        let count = usize::from(fragment.count);
        if !(2..=MAX_FRAGMENTS).contains(&fragment.count) || fragment.index >= fragment.count {
            return Outcome::Dropped(DropReason::FragmentInvalid);
        }
        let position = self.incomplete.iter().position(|frame| frame.id == fragment.id);
        let position = position.unwrap_or_else(|| {
            if self.incomplete.len() >= MAX_INCOMPLETE {
                self.incomplete.pop_front();
                count_drop(DropReason::FragmentTableFull);
            }
            self.incomplete.push_back(Incomplete {
                id: fragment.id,
                expires: now + TIMEOUT,
                missing: u32::from(fragment.count),
                parts: vec![None; count],
            });
            self.incomplete.len() - 1
        });
        let frame = &mut self.incomplete[position];
        if frame.parts.len() != count {
            return Outcome::Dropped(DropReason::FragmentInvalid);
        }
        let part = &mut frame.parts[usize::from(fragment.index)];
        if part.is_some() {
            return Outcome::Dropped(DropReason::FragmentDuplicate);
        }
        *part = Some(fragment.bytes.into());
        frame.missing -= 1;
        if frame.missing > 0 {
            return Outcome::Kept;
        }
        let whole = frame.parts.iter().flatten().flat_map(|part| part.iter().copied()).collect();
        self.incomplete.remove(position);
        Outcome::Complete(whole)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn fragment(id: u32, index: u8, count: u8, bytes: &[u8]) -> Fragment<'_> {
        Fragment { id, index, count, bytes }
    }

    #[expect(clippy::disallowed_methods, reason = "any moment will do as the beginning of virtual time")]
    fn table() -> (Instant, Reassembly) {
        (Instant::now(), Reassembly::default())
    }

    fn nothing_dropped(reason: DropReason) {
        panic!("dropped: {}", reason.as_str());
    }

    #[test]
    fn two_frames_that_arrive_interleaved_do_not_mix() {
        let (now, mut table) = table();
        assert_eq!(table.handle_fragment(now, fragment(1, 1, 2, b"b"), nothing_dropped), Outcome::Kept);
        assert_eq!(table.handle_fragment(now, fragment(2, 0, 2, b"x"), nothing_dropped), Outcome::Kept);
        assert_eq!(
            table.handle_fragment(now, fragment(1, 0, 2, b"a"), nothing_dropped),
            Outcome::Complete(b"ab".to_vec())
        );
        assert_eq!(
            table.handle_fragment(now, fragment(2, 1, 2, b"y"), nothing_dropped),
            Outcome::Complete(b"xy".to_vec())
        );
    }

    #[test]
    fn a_contradicting_or_repeated_fragment_is_dropped() {
        let (now, mut table) = table();
        let mut put = |fragment| table.handle_fragment(now, fragment, nothing_dropped);
        assert_eq!(put(fragment(1, 0, 1, b"")), Outcome::Dropped(DropReason::FragmentInvalid));
        assert_eq!(put(fragment(1, 0, 65, b"")), Outcome::Dropped(DropReason::FragmentInvalid));
        assert_eq!(put(fragment(1, 2, 2, b"")), Outcome::Dropped(DropReason::FragmentInvalid));
        assert_eq!(put(fragment(1, 0, 3, b"a")), Outcome::Kept);
        assert_eq!(put(fragment(1, 1, 2, b"a")), Outcome::Dropped(DropReason::FragmentInvalid));
        assert_eq!(put(fragment(1, 0, 3, b"a")), Outcome::Dropped(DropReason::FragmentDuplicate));
    }

    #[test]
    fn a_full_table_gives_up_its_oldest_frame() {
        let (now, mut table) = table();
        let mut dropped = Vec::new();
        for id in 0..=MAX_INCOMPLETE as u32 {
            table.handle_fragment(now, fragment(id, 0, 2, b"a"), |reason| dropped.push(reason));
        }
        assert_eq!(dropped, [DropReason::FragmentTableFull]);
        assert_eq!(table.incomplete.len(), MAX_INCOMPLETE);
        assert_eq!(
            table.handle_fragment(now, fragment(1, 1, 2, b"b"), nothing_dropped),
            Outcome::Complete(b"ab".to_vec())
        );
    }

    #[test]
    fn a_frame_whose_rest_does_not_come_expires() {
        let (now, mut table) = table();
        let mut dropped = Vec::new();
        table.handle_fragment(now, fragment(1, 0, 2, b"a"), |reason| dropped.push(reason));
        table.handle_fragment(now + TIMEOUT, fragment(1, 1, 2, b"b"), |reason| dropped.push(reason));
        assert_eq!(dropped, [DropReason::FragmentExpired]);
    }

    proptest! {
        /// Whatever the order, the frame comes out as it went in, once.
        #[test]
        fn any_order_gives_the_frame(
            bytes in prop::collection::vec(any::<u8>(), 2..2000),
            count in 2usize..=64,
            seed in any::<u64>(),
        ) {
            let size = bytes.len().div_ceil(count).max(1);
            let pieces: Vec<&[u8]> = bytes.chunks(size).collect();
            prop_assume!(pieces.len() >= 2);
            let mut order: Vec<usize> = (0..pieces.len()).collect();
            order.sort_by_key(|index| (*index as u64 + 1).wrapping_mul(seed | 1) >> 7);
            let (now, mut table) = table();
            let mut whole = Vec::new();
            for index in order {
                let piece = fragment(9, index as u8, pieces.len() as u8, pieces[index]);
                if let Outcome::Complete(frame) = table.handle_fragment(now, piece, nothing_dropped) {
                    whole.push(frame);
                }
            }
            prop_assert_eq!(whole, vec![bytes]);
        }
    }
}
