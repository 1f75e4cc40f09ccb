//! The message that goes out and comes back: who sent it, its number, and when it left.

/// Bytes of the header; the shortest message.
pub(crate) const HEADER: usize = 16;

/// What tells the messages of one run from all others. Its first byte is never zero, so that a reflector takes no message for a mode header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RunId(u32);

/// A message that has come back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Echo {
    /// Its place in the schedule.
    pub(crate) index: u32,
    /// When it really left.
    pub(crate) sent_ns: u64,
}

impl RunId {
    pub(crate) fn new(seed: u32) -> Self {
        Self(seed | 0x8000_0000)
    }

    /// Writes the header; the rest of the buffer stays as it is.
    pub(crate) fn write(self, buffer: &mut [u8], index: u32, sent_ns: u64) {
        buffer[..4].copy_from_slice(&self.0.to_be_bytes());
        buffer[4..8].copy_from_slice(&index.to_be_bytes());
        buffer[8..HEADER].copy_from_slice(&sent_ns.to_be_bytes());
    }

    /// Reads a message of this run; `None` for anything else.
    pub(crate) fn read(self, bytes: &[u8]) -> Option<Echo> {
        let word = |at: usize| Some(u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
        let sent_ns = u64::from_be_bytes(bytes.get(8..HEADER)?.try_into().ok()?);
        (word(0)? == self.0).then_some(Echo { index: word(4)?, sent_ns })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mode::{Mode, Parsed};

    #[test]
    fn only_messages_of_the_same_run_are_read() {
        let mut buffer = [7; 40];
        let run = RunId::new(3);
        run.write(&mut buffer, 5, 6);
        assert_eq!(run.read(&buffer), Some(Echo { index: 5, sent_ns: 6 }));
        assert_eq!(buffer[HEADER..], [7; 24]);
        assert_eq!(RunId::new(4).read(&buffer), None);
        assert_eq!(run.read(&buffer[..HEADER - 1]), None);
        assert_eq!(Mode::parse(&buffer), Parsed::Plain);
    }
}
