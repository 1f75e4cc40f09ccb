//! Deadlines of many things on one worker: each thing, known by a small dense number, has at most one.
//!
//! An indexed binary heap. Unlike a heap of dead entries its size is exactly the number of things that have a deadline, so that
//! short flows with long timeouts cannot fill it. An idle timeout is set once when a thing begins; when it fires, the owner looks
//! at when the thing was last used and sets it again for the rest. So traffic costs nothing here.

use std::time::Instant;

/// A number that is in no heap.
const ABSENT: u32 = u32::MAX;

/// The deadlines of numbered things; the owner's slab gives the numbers.
#[derive(Debug, Default)]
pub struct Deadlines {
    /// A binary min-heap by time; equal times in no particular order.
    heap: Vec<(Instant, u32)>,
    /// Where in the heap a number stands.
    places: Vec<u32>,
}

impl Deadlines {
    /// No deadlines.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// How many things have a deadline.
    #[must_use]
    pub fn len(&self) -> usize {
        self.heap.len()
    }

    /// Whether nothing has one.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.heap.is_empty()
    }

    /// Give `number` this deadline instead of the one it may have.
    ///
    /// # Panics
    /// For a number of 2³² − 1, which no slab of ours can reach.
    pub fn set(&mut self, number: u32, at: Instant) {
        assert!(number != ABSENT, "numbers are dense");
        let index = number as usize;
        if index >= self.places.len() {
            self.places.resize(index + 1, ABSENT);
        }
        let place = self.places[index];
        if place == ABSENT {
            self.heap.push((at, number));
            self.rise(self.heap.len() - 1);
        } else {
            let place = place as usize;
            let before = std::mem::replace(&mut self.heap[place].0, at);
            if at < before { self.rise(place) } else { self.sink(place) }
        }
    }

    /// Take the deadline of `number` away, if it has one.
    pub fn remove(&mut self, number: u32) {
        if let Some(&place) = self.places.get(number as usize)
            && place != ABSENT
        {
            self.remove_at(place as usize);
        }
    }

    /// The deadline of `number`.
    #[must_use]
    pub fn get(&self, number: u32) -> Option<Instant> {
        let place = *self.places.get(number as usize)?;
        self.heap.get(place as usize).map(|entry| entry.0)
    }

    /// The earliest deadline.
    #[must_use]
    pub fn next(&self) -> Option<Instant> {
        self.heap.first().map(|entry| entry.0)
    }

    /// Take away the earliest deadline that has come, and say whose it was.
    pub fn pop_due(&mut self, now: Instant) -> Option<u32> {
        let &(at, number) = self.heap.first()?;
        if at > now {
            return None;
        }
        self.remove_at(0);
        Some(number)
    }

    fn remove_at(&mut self, place: usize) {
        let (_, number) = self.heap.swap_remove(place);
        self.places[number as usize] = ABSENT;
        if place < self.heap.len() {
            // The last entry now stands here; it may belong higher or lower.
            self.rise(place);
            self.sink(place);
        }
    }

    /// Move the entry at `place` up to where it belongs, and note its place.
    fn rise(&mut self, mut place: usize) {
        let entry = self.heap[place];
        while place > 0 {
            let parent = (place - 1) / 2;
            if self.heap[parent].0 <= entry.0 {
                break;
            }
            self.put(place, self.heap[parent]);
            place = parent;
        }
        self.put(place, entry);
    }

    /// Move the entry at `place` down to where it belongs, and note its place.
    fn sink(&mut self, mut place: usize) {
        let entry = self.heap[place];
        loop {
            let left = 2 * place + 1;
            let Some(&first) = self.heap.get(left) else { break };
            let (child, below) = match self.heap.get(left + 1) {
                Some(&second) if second.0 < first.0 => (left + 1, second),
                _ => (left, first),
            };
            if entry.0 <= below.0 {
                break;
            }
            self.put(place, below);
            place = child;
        }
        self.put(place, entry);
    }

    fn put(&mut self, place: usize, entry: (Instant, u32)) {
        self.heap[place] = entry;
        // A heap entry's number is below ABSENT and the heap no longer than there are numbers, so a place always fits.
        self.places[entry.1 as usize] = place as u32;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;
    use std::time::Duration;

    /// An arbitrary start of time.
    fn epoch() -> Instant {
        static EPOCH: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
        #[expect(
            clippy::disallowed_methods,
            reason = "an Instant can only be made from a clock; its value is never looked at"
        )]
        *EPOCH.get_or_init(Instant::now)
    }

    fn ms(value: u64) -> Instant {
        epoch() + Duration::from_millis(value)
    }

    #[test]
    fn deadlines_come_in_the_order_of_time_and_only_when_due() {
        let mut deadlines = Deadlines::new();
        for (number, at) in [(4, 30), (0, 10), (2, 20)] {
            deadlines.set(number, ms(at));
        }
        assert_eq!(deadlines.next(), Some(ms(10)));
        assert_eq!(deadlines.pop_due(ms(9)), None);
        assert_eq!(deadlines.pop_due(ms(20)), Some(0));
        assert_eq!(deadlines.pop_due(ms(20)), Some(2));
        assert_eq!(deadlines.pop_due(ms(20)), None);
        assert_eq!((deadlines.len(), deadlines.get(4)), (1, Some(ms(30))));
    }

    #[test]
    fn a_deadline_that_is_set_again_replaces_the_earlier_one() {
        let mut deadlines = Deadlines::new();
        deadlines.set(1, ms(10));
        deadlines.set(2, ms(20));
        deadlines.set(1, ms(30));
        assert_eq!(deadlines.len(), 2);
        assert_eq!(deadlines.pop_due(ms(25)), Some(2));
        assert_eq!(deadlines.pop_due(ms(25)), None);
        deadlines.set(1, ms(5));
        assert_eq!(deadlines.pop_due(ms(25)), Some(1));
        assert!(deadlines.is_empty());
    }

    #[test]
    fn short_things_with_long_deadlines_leave_nothing_behind() {
        let mut deadlines = Deadlines::new();
        for _ in 0..100_000 {
            deadlines.set(7, ms(3_600_000));
            deadlines.remove(7);
        }
        assert!(deadlines.is_empty());
        assert_eq!((deadlines.heap.capacity() < 16, deadlines.places.len()), (true, 8));
        deadlines.remove(7);
        deadlines.remove(1_000);
    }

    proptest! {
        #[test]
        fn it_behaves_as_a_sorted_map_would(steps in proptest::collection::vec((0..4u8, 0..40u32, 0..60u64), 1..400)) {
            let mut deadlines = Deadlines::new();
            let mut model: BTreeMap<u32, Instant> = BTreeMap::new();
            for (kind, number, time) in steps {
                match kind {
                    0 | 1 => {
                        deadlines.set(number, ms(time));
                        model.insert(number, ms(time));
                    }
                    2 => {
                        deadlines.remove(number);
                        model.remove(&number);
                    }
                    _ => while let Some(popped) = deadlines.pop_due(ms(time)) {
                        let at = model.remove(&popped).expect("only what is there comes out");
                        prop_assert!(at <= ms(time));
                        prop_assert!(model.values().all(|&other| other >= at));
                    },
                }
                prop_assert_eq!(deadlines.len(), model.len());
                prop_assert_eq!(deadlines.next(), model.values().min().copied());
                prop_assert!(model.iter().all(|(&number, &at)| deadlines.get(number) == Some(at)));
                if kind > 2 {
                    prop_assert!(model.values().all(|&at| at > ms(time)));
                }
            }
        }
    }
}
