//! The replay window of one direction of a channel: which of the newest 65,536 counters have been seen.
//!
//! Pure bookkeeping. The caller checks before it opens a packet and marks after, so that a forged counter moves nothing.

use l4proxy_wire::DropReason;

/// Counters that are remembered, RFC 6479 style. At 1 Mpps this is 65 ms of reordering, and duplicates over two paths
/// differ by less than that at any rate a flow reaches.
pub const WINDOW: u64 = 65_536;

const WORD_BITS: u64 = 64;
const WORDS: usize = (WINDOW / WORD_BITS) as usize;

/// A ring of bits; bit `counter % WINDOW` belongs to the newest counter of that residue.
pub struct ReplayWindow {
    /// One more than the highest counter marked; 0 when none was.
    next: u64,
    seen: Box<[u64; WORDS]>,
}

impl ReplayWindow {
    /// A window that has seen nothing.
    #[must_use]
    pub fn new() -> Self {
        Self { next: 0, seen: Box::new([0; WORDS]) }
    }

    /// One more than the highest counter that was marked.
    #[must_use]
    pub(crate) const fn next(&self) -> u64 {
        self.next
    }

    /// Whether `counter` is new.
    ///
    /// # Errors
    /// [`DropReason::ChannelOld`] when it lies before the window, [`DropReason::ChannelReplayed`] when it was marked.
    pub fn check(&self, counter: u64) -> Result<(), DropReason> {
        // One past the last counter could not be counted, so the last one is never valid; no sender gets there.
        if counter == u64::MAX {
            return Err(DropReason::ChannelOld);
        }
        if counter >= self.next {
            return Ok(());
        }
        if self.next - counter > WINDOW {
            return Err(DropReason::ChannelOld);
        }
        let (word, bit) = place(counter);
        if self.seen[word] & bit != 0 {
            return Err(DropReason::ChannelReplayed);
        }
        Ok(())
    }

    /// Marks a counter that [`Self::check`] called new and whose packet was authentic.
    pub fn mark(&mut self, counter: u64) {
        if counter >= self.next {
            self.forget(counter);
            self.next = counter + 1;
        }
        let (word, bit) = place(counter);
        self.seen[word] |= bit;
    }

    /// Clears the bits of the counters from `self.next` to `last`, which enter the window.
    fn forget(&mut self, last: u64) {
        if last - self.next >= WINDOW {
            self.seen.fill(0);
            return;
        }
        let mut counter = self.next;
        while counter <= last {
            let (word, bit) = place(counter);
            let rest_of_word = WORD_BITS - counter % WORD_BITS;
            if rest_of_word == WORD_BITS && last - counter >= WORD_BITS - 1 {
                self.seen[word] = 0;
                counter += WORD_BITS;
            } else {
                self.seen[word] &= !bit;
                counter += 1;
            }
        }
    }
}

impl Default for ReplayWindow {
    fn default() -> Self {
        Self::new()
    }
}

impl std::fmt::Debug for ReplayWindow {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ReplayWindow").field("next", &self.next).finish_non_exhaustive()
    }
}

fn place(counter: u64) -> (usize, u64) {
    let position = counter % WINDOW;
    ((position / WORD_BITS) as usize, 1 << (position % WORD_BITS))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    /// The same rule with a plain set.
    #[derive(Default)]
    struct Naive {
        highest: Option<u64>,
        seen: BTreeSet<u64>,
    }

    impl Naive {
        fn check(&self, counter: u64) -> Result<(), DropReason> {
            match self.highest {
                Some(highest) if counter + WINDOW <= highest => Err(DropReason::ChannelOld),
                Some(_) | None if self.seen.contains(&counter) => Err(DropReason::ChannelReplayed),
                Some(_) | None => Ok(()),
            }
        }

        fn mark(&mut self, counter: u64) {
            self.highest = self.highest.max(Some(counter));
            self.seen.insert(counter);
        }
    }

    #[test]
    fn a_counter_is_accepted_once() {
        let mut window = ReplayWindow::new();
        assert_eq!(window.check(0), Ok(()));
        window.mark(0);
        assert_eq!(window.check(0), Err(DropReason::ChannelReplayed));
        assert_eq!(window.check(1), Ok(()));
    }

    #[test]
    fn the_window_holds_exactly_its_size() {
        let mut window = ReplayWindow::new();
        window.mark(WINDOW + 9);
        assert_eq!(window.check(9), Err(DropReason::ChannelOld));
        assert_eq!(window.check(10), Ok(()));
    }

    #[test]
    fn the_last_counters_are_no_end_of_the_world() {
        let mut window = ReplayWindow::new();
        window.mark(u64::MAX - 1);
        assert_eq!(window.check(5), Err(DropReason::ChannelOld));
        assert_eq!(window.check(u64::MAX - 1), Err(DropReason::ChannelReplayed));
        assert_eq!(window.check(u64::MAX), Err(DropReason::ChannelOld));
    }

    proptest! {
        /// Steps forth and back, small and large, agree with the naive rule.
        #[test]
        fn it_agrees_with_a_set(steps in prop::collection::vec(
            prop_oneof![
                8 => -70i64..200,
                2 => -70_000i64..70_000,
                1 => -200_000i64..200_000,
            ],
            1..400,
        )) {
            let mut window = ReplayWindow::new();
            let mut naive = Naive::default();
            let mut counter = 0u64;
            for step in steps {
                counter = counter.saturating_add_signed(step);
                prop_assert_eq!(window.check(counter), naive.check(counter), "counter {}", counter);
                if window.check(counter).is_ok() {
                    window.mark(counter);
                    naive.mark(counter);
                }
            }
        }
    }
}
