//! What became of the messages of one flow: lost, duplicated, overtaken.

/// Marks each number that has come back, once.
#[derive(Debug, Clone)]
pub struct Sequence {
    seen: Vec<u64>,
    count: u32,
    highest: Option<u32>,
    received: u32,
    duplicates: u32,
    reordered: u32,
}

/// What a message that came back was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arrival {
    /// The first copy of it, and newer than all before it.
    InOrder,
    /// The first copy of it, but a newer one had come before (RFC 4737, type-P-reordered).
    Reordered,
    /// It had come before.
    Duplicate,
    /// No such message was ever due.
    Unknown,
}

impl Sequence {
    /// A flow of `count` messages, numbered from 0.
    #[must_use]
    pub fn new(count: u32) -> Self {
        let words = count.div_ceil(64) as usize;
        Self { seen: vec![0; words], count, highest: None, received: 0, duplicates: 0, reordered: 0 }
    }

    /// Notes that message `number` has come.
    pub fn note(&mut self, number: u32) -> Arrival {
        if number >= self.count {
            return Arrival::Unknown;
        }
        let (word, bit) = (&mut self.seen[number as usize / 64], 1 << (number % 64));
        if *word & bit != 0 {
            self.duplicates += 1;
            return Arrival::Duplicate;
        }
        *word |= bit;
        self.received += 1;
        if self.highest.is_some_and(|highest| number < highest) {
            self.reordered += 1;
            return Arrival::Reordered;
        }
        self.highest = Some(number);
        Arrival::InOrder
    }

    /// Different messages that have come.
    #[must_use]
    pub fn received(&self) -> u32 {
        self.received
    }

    /// Copies beyond the first.
    #[must_use]
    pub fn duplicates(&self) -> u32 {
        self.duplicates
    }

    /// First copies that came after a newer message.
    #[must_use]
    pub fn reordered(&self) -> u32 {
        self.reordered
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_message_is_counted_once_and_for_what_it_is() {
        let mut flow = Sequence::new(100);
        let arrivals = [0, 1, 3, 2, 3, 99, 64, 64, 100, u32::MAX].map(|number| flow.note(number));
        use Arrival::{Duplicate, InOrder, Reordered, Unknown};
        assert_eq!(
            arrivals,
            [
                InOrder, InOrder, InOrder, Reordered, Duplicate, InOrder, Reordered, Duplicate, Unknown,
                Unknown
            ]
        );
        assert_eq!((flow.received(), flow.duplicates(), flow.reordered()), (6, 2, 2));
    }

    #[test]
    fn a_late_message_does_not_make_the_next_ones_reordered() {
        let mut flow = Sequence::new(10);
        for number in [0, 5, 1, 6, 7] {
            flow.note(number);
        }
        assert_eq!(flow.reordered(), 1);
    }

    #[test]
    fn an_empty_flow_knows_no_message() {
        assert_eq!(Sequence::new(0).note(0), Arrival::Unknown);
    }
}
