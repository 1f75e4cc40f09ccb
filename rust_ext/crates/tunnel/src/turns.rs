//! Whose turn it is to write, when the flows of one connection want more than its send window holds.
//!
//! QUIC tells every waiting stream at once that there is room, and the first to write takes it all. Here one stream after
//! the other is told, the one that has had least first, and gets a bounded share: a small flow waits for one round
//! trip beside any number of large ones, and large ones share alike (start-time fair queueing).

use std::collections::BTreeSet;

/// Bytes that one turn may write. A few turns fill a round trip's window; a small flow rarely needs more than one.
pub(crate) const QUANTUM: usize = 64 << 10;

/// The waiting streams of one connection, by their places in the table of streams.
#[derive(Debug, Default)]
pub(crate) struct Turns {
    /// What each has had, then who it is.
    waiting: BTreeSet<(u64, u32)>,
    /// What the stream whose turn was last had had: newcomers begin here, so that nobody saves up turns by being silent.
    now: u64,
    /// Whose turn it is, until it has written.
    current: Option<u32>,
    /// QUIC has no room at all; it will say when it has.
    pub(crate) is_full: bool,
}

impl Turns {
    /// Whether a stream that wants to write without a turn must wait.
    pub(crate) fn is_contended(&self) -> bool {
        self.is_full || self.current.is_some() || !self.waiting.is_empty()
    }

    /// Whether somebody can be told to write.
    pub(crate) fn can_grant(&self) -> bool {
        !self.is_full && self.current.is_none() && !self.waiting.is_empty()
    }

    /// The turn of a stream is over: it has written, has ended, or lets others go first.
    pub(crate) fn end_turn(&mut self, place: u32) {
        self.current.take_if(|current| *current == place);
    }

    /// Whoever has the turn did not use it at once.
    pub(crate) fn pass_turn(&mut self) -> bool {
        self.current.take().is_some()
    }

    /// Lets a stream that has had `served` bytes wait. Its position is needed to take it out again.
    pub(crate) fn wait(&mut self, place: u32, served: u64) -> u64 {
        let position = served.max(self.now);
        self.waiting.insert((position, place));
        position
    }

    /// Takes a stream out that does not want to write any more.
    pub(crate) fn leave(&mut self, place: u32, position: u64) {
        self.waiting.remove(&(position, place));
    }

    /// The stream whose turn it is, and its position.
    pub(crate) fn grant(&mut self) -> Option<(u32, u64)> {
        if !self.can_grant() {
            return None;
        }
        let (position, place) = self.waiting.pop_first()?;
        self.now = position;
        self.current = Some(place);
        Some((place, position))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everybody_gets_the_same_and_newcomers_come_soon() {
        let mut turns = Turns::default();
        for place in 0..3 {
            turns.wait(place, 0);
        }
        let mut served = [0u64; 4];
        for round in 0..11 {
            if round == 5 {
                turns.wait(3, 0);
            }
            let (place, position) = turns.grant().unwrap();
            assert_eq!(turns.grant(), None, "one at a time");
            turns.end_turn(place);
            served[place as usize] += 100;
            turns.wait(place, position + 100);
        }
        // The newcomer neither waits for the others nor makes up for what they had before.
        assert_eq!(served, [300, 300, 300, 200]);
    }

    #[test]
    fn nobody_is_told_while_there_is_no_room() {
        let mut turns = Turns { is_full: true, ..Turns::default() };
        let position = turns.wait(7, 50);
        assert!(turns.is_contended() && !turns.can_grant());
        assert_eq!(turns.grant(), None);
        turns.is_full = false;
        assert!(turns.can_grant());
        assert_eq!(turns.grant(), Some((7, position)));
        assert!(turns.is_contended() && turns.pass_turn());
        turns.wait(7, position);
        turns.leave(7, position);
        assert!(!turns.is_contended());
        assert_eq!(turns.grant(), None);
    }
}
